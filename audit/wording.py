"""The report's plain language: what was disclosed and why, what each check means, what a log proves and what it does not.

Names, titles and values come out of logs and may hold anything: the sentences here are plain text, and the page's template escapes
them like everything else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Literal

from audit.accuracy import Accuracy, auc_standard_error
from audit.spec import JobSpec

PROTOCOL, SPEC = "protocols.md: ", "spec: "
KEY_BITS_SOUND = 2048
"""Keys with fewer bits are for tests alone."""

Verdict = Literal["good", "open", "bad", "unusable"]

VERDICTS: dict[int, tuple[Verdict, str, str]] = {
    0: (
        "good",
        "Whole and lawful",
        "The logs are complete and unaltered, agree with each other, and show what was approved and nothing else, as far as the "
        "checks below go.",
    ),
    1: (
        "bad",
        "Tampered with, or contradictory",
        "A log was altered, or the logs contradict each other, the job or the protocol. The first fault found is named below.",
    ),
    2: (
        "open",
        "Lawful so far, but incomplete",
        "Nothing unlawful was found, but something is missing before the record is whole. What is missing is listed below.",
    ),
    3: (
        "unusable",
        "Unusable input",
        "The logs could not be checked. That says nothing about what happened: a usable copy is needed first.",
    ),
}
"""By the exit status of ``isthmus-audit verify``: kind, headline, what it means."""

MARKS = {
    "passed": ("✓", "passed"),
    "warning": ("!", "passed with a warning"),
    "open": ("…", "incomplete"),
    "failed": ("✗", "failed"),
    "unchecked": ("–", "not checked"),
    "not reached": ("–", "not reached"),
}
"""A check's mark and word: the meaning never hangs on the colour or the mark alone."""

CHECKS = (
    "It is clear whose logs these are, and where the keys come from that they are checked under.",
    "Every checkpoint, the seal that a log's owner sets at the end of each step, bears the owner's signature.",
    "The logs continue those that the auditor saw last time.",
    "No entry was changed, removed, added or moved since the seals were set.",
    "Both parties approved this very job before anything was done for it.",
    "What one party recorded as sent, the other recorded as received, the same bytes.",
    "Both parties signed the same account of each step's conversation.",
    "Steps, rounds and messages came in the order that the protocol lays down; nothing is missing and nothing came after the end.",
    "Key sizes, the number of shared customers and the number of rounds are within what the job and the parties' rules allow.",
    "Each party's own account of what it disclosed is what its messages carried, and the approved job allows each item.",
)
"""What each check of ``isthmus-audit verify`` means, by its number."""


# ---- what was learned -----------------------------------------------------------------------------------------------------------


def learned(what: str, *, by: str, to: str, count: int, values: Sequence[str]) -> str:
    """A sentence: what ``to`` learned from ``by``.  A kind that is not known here is named as the log names it."""
    tell = _SENTENCES.get(what)
    if tell is None:
        return f"{count:,} values that the log calls “{what}”; this version of the report has no description of them."
    return tell(by, to, count, values)


def _said(values: Sequence[str]) -> str:
    """The values themselves where the log gives them, after a colon.  Repeated attempts may have given several."""
    return f": {', then '.join(figure(value) for value in values)}" if values else ""


def figure(text: str) -> str:
    """A whole number with thousands set apart; any other text as it is."""
    return f"{int(text):,}" if text.isascii() and text.isdigit() and len(text) < 19 else text


def _rows(by: str, to: str, count: int, values: Sequence[str]) -> str:
    shown = []
    for value in values:
        match parsed(value):
            case [shared, train, holdout]:
                numbers = [figure(str(part)) for part in (shared, train, holdout)]
                left = _left_over(shared, train, holdout)
                shown.append("{} shared, {} to train on, {} to test with".format(*numbers) + left)
    return "How many customers both share, and how many of them serve for training and for testing" + _said(shown) + "."


def _by_key(value: str) -> str:
    shown = []
    for pair in found if isinstance(found := parsed(value), list) else []:
        match pair:
            case [int(size), int(count)]:
                shown.append(f"{count:,} of {size:,}")
    return ", ".join(shown) or value


def _left_over(*sizes: object) -> str:
    """How many shared customers serve for neither, where a sample was drawn."""
    match sizes:
        case (int(shared), int(train), int(holdout)) if shared > train + holdout:
            return f" ({shared - train - holdout:,} not drawn)"
    return ""


def _aggregates(by: str, to: str, count: int, values: Sequence[str]) -> str:
    text = "Figures on how good the model is, over all held-out customers together"
    match parsed(values[-1]) if values else None:
        case {"auc": str(auc), "ks": str(ks), "log_loss": str(loss), "base_rate": str(base), "rows": str(rows), **more}:
            first = f"AUC {_rounded(auc)}{_auc_error(auc, rows, base)}"
            figures = f"{first}, KS {_rounded(ks)}, log-loss {_rounded(loss)}, base rate {_rounded(base)}, {rows} rows"
            groups = more.get("gains")
            table = f", and customers and defaults in {len(groups)} groups by score" if isinstance(groups, list) else ""
            return f"{text}: {figures}{table}."
    return f"{text}: {count:,} values."


def _auc_error(auc: str, rows: str, base_rate: str) -> str:
    """The AUC's standard error, which follows from the figures told."""
    try:
        error = auc_standard_error(float(auc), rows=int(rows), base_rate=float(base_rate))
    except (ValueError, OverflowError):
        return ""
    return f" (standard error {error:.4f})" if error is not None else ""


def _rounded(text: str) -> str:
    try:
        return f"{float(text):.4f}"
    except ValueError:
        return text


def parsed(text: str) -> object:
    """A value that the log holds as JSON text, or None."""
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found


_SENTENCES: dict[str, Callable[[str, str, int, Sequence[str]], str]] = {
    "set_size": lambda by, to, n, v: f"How many customers {by} brought to the job" + _said(v) + ".",
    "shared_customers": lambda by, to, n, v: f"Which of its own customers are also customers of {by}: {n:,}. Nothing about others.",
    "shared_customers_at_most": lambda by, to, n, v: (
        f"Which of its own customers are among {n:,} of {by}: from an alignment that failed late, and led to nothing."
    ),
    "shared_number": lambda by, to, n, v: "How many customers are shared: from an alignment that failed then, and led to nothing.",
    "filter_version": lambda by, to, n, v: (
        f"A list of all customers of {by} under its secret key, or what changed in it. {to} can find only its own customers in it,"
        f" and only by asking {by}; of the other entries it sees which, whoever they are, come and go from job to job."
    ),
    "rows": _rows,
    "by_key": lambda by, to, n, v: (
        f"By which identifier each shared customer was found, and how many customers of {by} that were not found before have each"
        + (f": {'; '.join(_by_key(value) for value in v)}" if v else "") + "."
    ),
    "intersection_size": lambda by, to, n, v: (
        f"How many customers both share, exactly; not which. It is not in this log: {by} does not know it."
    ),
    "rounded_size": lambda by, to, n, v: (
        f"How many customers both share, as {by} told it: rounded down" + _said(v) + ". Not which."
    ),
    "columns": lambda by, to, n, v: f"How many columns of numbers the features of {by} became" + _said(v) + ". Not their contents.",
    "base_rate": lambda by, to, n, v: "The share of customers with a positive label, rounded to two digits" + _said(v) + ".",
    "inner_products": lambda by, to, n, v: (
        f"{n:,} numbers that say how the training’s directions lie to each other. Each is a sum over all columns together; the "
        "coordinator needs them to choose the next step."
    ),
    "weights_of_the_receiver": lambda by, to, n, v: (
        f"The model's weights for {to}’s own columns: {n:,} numbers, the result of the job. {by} does not know them."
    ),
    "score_bands": lambda by, to, n, v: (
        f"A coarse score for each of {n:,} held-out customers: the band that the score falls into, never the score itself."
    ),
    "aggregates": _aggregates,
}  # fmt: skip


_YES_OR_NO = ("disclose", "count")
"""Tables of the job whose settings say yes or no to telling something."""

UNLISTED = "Not in the giver’s own list: the step was cut before it could be written, and the messages had gone."


def allowed(clause: str, spec: JobSpec | None) -> tuple[str, bool | None]:
    """Why it was allowed, and whether the approved job can be seen to allow it (None: cannot be told from here)."""
    if clause.startswith(PROTOCOL):
        row = clause.removeprefix(PROTOCOL)
        return f"In the protocol’s fixed list ({row}), which approving the job accepts.", True
    if clause.startswith(SPEC):
        setting = clause.removeprefix(SPEC)
        section, _, name = setting.partition(".")
        plain = name.replace("_", " ") if section in _YES_OR_NO else setting
        if spec is None:
            return f"The job’s setting “{plain}”, which the logs given do not show.", None
        given = getattr(getattr(spec, section), name, None) if section in _YES_OR_NO else None
        if given is True:
            return f"The approved job says so: “{plain}” is yes.", True
        return f"The log names the job’s setting “{plain}”, but the approved job does not allow it.", False
    return f"The log names “{clause}”, which this version does not know.", None


# ---- the job --------------------------------------------------------------------------------------------------------------------

STEPS = {
    "count": "Count: how many customers both share",
    "align": "Align: find the shared customers",
    "prepare": "Prepare: encode and exchange sealed columns",
    "round": "Training round",
    "finish": "Finish: hand each side its own weights",
    "evaluate": "Evaluate on held-out customers",
}

OUTCOMES = {
    "finished": "finished",
    "failed": "failed",
    "cancelled": "cancelled",
    "rejected": "rejected by a party",
    "submitted": "waiting for approvals",
    "approved": "approved, not begun",
    "running": "not ended yet",
}

COMMITMENTS = {
    "seed": "the seed of its randomness",
    "dataset": "its data set as loaded",
    "encoded": "the shared customers’ rows as encoded",
    "paillier key": "its encryption key",
    "filter key": "the key of the published filter",
    "filter": "the version of the published filter",
}

KEY_KINDS = {"standard": "", "short-order": ", whose randomness has a short secret order (quicker; one assumption more)"}
NORMALISE = {
    "exact": "as they are",
    "casefold": "ignoring upper and lower case",
    "digits": "digits alone",
    "sha256": "hashed beforehand by both parties (SHA-256)",
    "email": "as e-mail addresses",
}


MATCHING = {
    "auto": "by the quicker method for the sizes of the two sets",
    "curve": "by masking them twice on a curve",
    "ot": "by oblivious transfer",
}
"""How the shared customers are found, by the method that a job or a log names."""


def chosen(method: str, reason: str) -> str:
    """A choice of the alignment's method as a sentence."""
    return f"Customers were matched {MATCHING.get(method, f'by {method}')}, because {reason}."


def _how(spec: JobSpec) -> str:
    return "" if spec.publisher is not None else f", {MATCHING[spec.align_method]}"


def _published(spec: JobSpec) -> list[tuple[str, str]]:
    if spec.publisher is None:
        return []
    querier = spec.peer_of(spec.publisher.name).name
    return [("Published filter", f"of {spec.publisher.name}, kept by {querier} from job to job as long as both allow")]


def terms(spec: JobSpec) -> list[tuple[str, str]]:
    """What was approved, as (term, meaning) in a reader's order."""
    if spec.kind == "count":
        return _count_terms(spec)
    model, disclose = spec.model, spec.disclose
    drawn = "drawn by a public coin that no party can sway"
    sample = f"at most {model.train_rows:,} of the others, {drawn}" if model.train_rows else "all others"
    tested = f"; at most {model.evaluate_rows:,} of them serve, {drawn}" if model.evaluate_rows else ""
    lookup = "chosen by the number of rows" if model.lookup_entries == "auto" else str(model.lookup_entries)
    return [
        ("Predicted", f"column “{spec.label_column}” of {spec.label_holder.name}"),
        ("Model", f"logistic regression, penalty (L2) {model.l2}"),
        ("Customers matched", f"{_matched(spec)}, by private set intersection{_how(spec)}"),
        *_published(spec),
        ("Fewest shared customers", f"{spec.align.minimum:,}; with fewer the job stops before anything else happens"),
        ("Encryption", f"Paillier keys of {model.key_bits:,} bits{KEY_KINDS[model.key_kind]}"),
        ("Training", f"at most {model.rounds} rounds, until within {model.tolerance} of the optimum"),
        ("Held out for testing", f"{model.holdout} of the shared customers{tested}"),
        ("Customers to train on", sample),
        ("Score bands", f"at most {model.bands}"),
        ("Lookup tables", f"entries: {lookup}"),
        ("Figures of the evaluation to the feature holder", "yes" if disclose.aggregates_to_feature_holder else "no"),
        ("Figures of the evaluation to the coordinator", "yes" if disclose.aggregates_to_coordinator else "no"),
    ]


def _compared(rule: str) -> str:
    return NORMALISE.get(rule, f"by the rule {rule}")


def _matched(spec: JobSpec) -> str:
    """By which identifiers, and how they are compared."""
    keys = spec.align.keys
    if not keys:
        return f"identifiers compared {_compared(spec.align.normalise)}"
    order = ", then ".join(f"{key.name} ({_compared(key.normalise)})" for key in keys)
    return f"by {order}" + ("; who is found by one is not looked for by the next" if len(keys) > 1 else "")


def _count_terms(spec: JobSpec) -> list[tuple[str, str]]:
    """What was approved of a count."""
    count, other = spec.count, spec.peer_of(spec.learner).name
    rounded = f"rounded down to a multiple of {count.step:,}" if count.step > 1 else "exactly"
    return [
        ("Question", "how many customers both share, and nothing else"),
        ("Customers counted", f"{_matched(spec)}, by private intersection cardinality"),
        ("Learns the exact number", spec.learner),
        ("What is told onwards", f"the number {rounded}; below {spec.align.minimum:,} only that it is below"),
        (f"Told to {other}", "yes" if count.tell_partner else "no"),
        ("Told to the coordinator", "yes" if count.tell_coordinator else "no"),
    ]


def given_up(accuracy: Accuracy) -> str:
    """What a training can be expected to give up for the rows it left out, in a sentence."""
    rows, available = accuracy.rows, accuracy.available
    excess = f"on others the mean log-loss is expected to lie {accuracy.excess:.1e} above that of the best weights"
    if rows == available:
        return f"Trained on all {rows:,} rows there were: {excess} ({accuracy.columns:,} columns)."
    return (
        f"Trained on {rows:,} of {available:,} rows: {excess} ({accuracy.columns:,} columns; {accuracy.excess_of_all:.1e} with all "
        f"rows), so that the sample gives up {accuracy.given_up:.1e}; standard errors of weights are {accuracy.error_ratio:.2f} "
        "times those of all rows."
    )


# ---- limits ---------------------------------------------------------------------------------------------------------------------

PROVES = (
    "The record is whole and unaltered since its checkpoints were signed, as far as the checks above passed.",
    "The parties’ logs tell the same story: neither can later claim another conversation.",
    "Both parties approved the very terms shown here. A change of one character would have given another job.",
    "What each party disclosed in readable form is what its log lists, as far as check 9 passed.",
)

DOES_NOT_PROVE = (
    "That a party’s data are true. A log binds a party to the data it used; it cannot tell whether these describe the real world.",
    "That a party computed its messages as the protocol says. That takes a replay on the party’s own premises, message by message.",
    "What happened outside isthmus: copies of files, other channels, other systems.",
    "Who a person is. A name in an approval is what was typed at the node; the signature is the node’s.",
    "Exact times. Times are those of each party’s own clock.",
    "That many jobs together are harmless. Each job is judged by itself; nothing here counts what similar jobs reveal in sum.",
)

MODEL_OF_TRUST = (
    "isthmus protects against parties that follow the protocol and study everything they see (“semi-honest” parties). A party that "
    "deviates is not stopped by the cryptography; the signed logs make it possible to show it afterwards. Identifiers of "
    "customers that are not shared, features, labels, single scores and the other party’s weights are protected by cryptography "
    "whose strength depends on the key size of the job."
)
