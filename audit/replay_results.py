"""How a replay went: a verdict for each attempt, the node's exit status, and in words what a step does and what a message says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from audit.replay_record import AttemptName

STEPS = {
    "count": "counts the shared customers: the teller masks the learner's identifiers once more and returns them sorted",
    "align": "finds the shared customers: by masked identifiers, or by tags that one side evaluates blindly",
    "prepare": "exchanges keys and sizes, and prepares masked products of the features and the base oblivious transfers",
    "round": "shares of scores, the residuals by lookup, shares of the gradient and the direction, and the inner products",
    "finish": "each side sends its share of the other's weights",
    "evaluate": "score bands of the held-out rows by oblivious transfer, and the aggregates",
}
MESSAGES = {
    "PsiStart": "how many identifiers this node brings",
    "MaskedPoints": "its identifiers, hashed to the curve and masked by its secret scalar",
    "DoublyMasked": "the other side's masked identifiers, masked once more, in the order received",
    "BasePoint": "a point for the base transfers of the alignment",
    "BaseChoices": "a point for each base transfer, which hides what it chooses",
    "TreeSums": "sums of its key trees, each under the key of a base transfer",
    "StoreColumns": "columns of the oblivious transfer extension: what its identifiers are looked for by, hidden",
    "ItemTags": "the tags of its identifiers, padded, in ascending order",
    "SharedMarks": "which of the other side's tags it has too",
    "CommonOrder": "its random part in the order of the shared rows",
    "FilterAsk": "which key and version of the other side's filter it holds, and how long it may use them",
    "FilterState": "the key, version and digest of its filter, and how it follows from the one the other side holds",
    "FilterQueries": "how many of its identifiers it asks about",
    "FilterIndex": "the prefixes of its masked customers, in order",
    "FilterRemainders": "the 61 bits after each prefix",
    "FilterRemoved": "masked customers that left since the version the other side holds",
    "FilterAdded": "masked customers that came since",
    "BlindedPoints": "its identifiers, hashed to the curve and masked by its secret scalar of this attempt",
    "EvaluatedPoints": "the other side's masked identifiers under the filter's key, in the order received",
    "SharedCount": "how many of its identifiers it found in the filter",
    "SharedValues": "their values under the filter's key, ascending",
    "SharedConfirmed": "which of these are its own customers",
    "SortedDoublyMasked": "the other side's masked identifiers, masked once more, in ascending order",
    "IntersectionSize": "the number of shared customers, rounded down, or that it is below the minimum",
    "PaillierKey": "the public key it drew for this attempt",
    "JobFigures": "its rows and columns and, from the label holder, the base rate",
    "ColumnMasks": "encrypted masks of the residuals, for the gradient's products",
    "ColumnProducts": "products of its features with the other side's masks, hidden",
    "RowMasks": "encrypted masks of the weights, for the scores' products",
    "RowProducts": "products of its rows with the other side's masks, hidden",
    "PreconditionerMasks": "encrypted masks of the gradient, for the direction's products",
    "PreconditionerProducts": "products of its preconditioner with the other side's masks, hidden",
    "BaseOtChoices": "encrypted choice bits of the base oblivious transfers",
    "BaseOtReplies": "the keys chosen by the other side's encrypted bits",
    "OtColumns": "columns of the oblivious transfer extension: which table entries it takes, hidden",
    "LookupTables": "a masked table of residuals for each row",
    "DirectiveEcho": "the numbers that the coordinator gave it",
    "FirstResiduals": "the residuals at the start, under its mask",
    "MaskedWeights": "its share of the other block's weights, less a prepared mask",
    "MaskedResiduals": "its share of the residuals, less a prepared mask",
    "MaskedGradients": "its share of the other block's gradient, less a prepared mask",
    "DotOperands": "its share of the direction, encrypted",
    "DotResults": "products of its gradient share with the other side's direction share, hidden",
    "InnerProductParts": "its part of the inner products that both disclose",
    "WeightShares": "its share of the other side's weights",
    "BandTables": "a masked table of score bands for each held-out row",
    "Aggregates": "the evaluation's aggregates, where the job allows",
}
"""What each message says (protocols.md)."""

Verdict = Literal["reproduced", "differs", "missing"]


@dataclass(frozen=True)
class AttemptResult:
    """How the replay of one attempt, or of the job's commitments before any (``name`` None), went."""

    name: AttemptName | None
    state: str
    sent: int
    reproduced: int
    verdict: Verdict
    detail: str = ""
    code: str = ""
    seq: int | None = None
    type: str = ""

    @property
    def explanation(self) -> str:
        """What the step does, and what the message in question says."""
        step = f"{self.name.step}: {STEPS.get(self.name.step, 'a step unknown here')}" if self.name else ""
        return step + (f"; {self.type}: {MESSAGES[self.type]}" if self.type in MESSAGES else "")


@dataclass
class JobResult:
    """The replay of one job."""

    job: str
    state: str
    sent: int
    results: list[AttemptResult] = field(default_factory=list)

    @property
    def reproduced(self) -> int:
        """Sent messages that came out the same."""
        return sum(result.reproduced for result in self.results)


@dataclass
class Replay:
    """The replay of a node: the tree head of the log it was held against, and its jobs.

    ``other_software`` says what ran live where that was other software than here; empty where it was the same, or is not known.
    """

    name: str
    size: int
    root: str
    served: bool
    other_software: str = ""
    jobs: list[JobResult] = field(default_factory=list)

    @property
    def sent(self) -> int:
        """Messages that the log says this node sent."""
        return sum(job.sent for job in self.jobs)

    @property
    def reproduced(self) -> int:
        """Those that came out the same."""
        return sum(job.reproduced for job in self.jobs)

    def first(self, verdict: Verdict) -> AttemptResult | None:
        """The first attempt with this verdict."""
        return next((result for job in self.jobs for result in job.results if result.verdict == verdict), None)

    @property
    def exit_status(self) -> int:
        """0 all reproduced; 1 something differs; 2 something cannot be reproduced, or there is nothing to reproduce."""
        if self.first("differs"):
            return 1
        return 2 if self.first("missing") or not self.sent else 0
