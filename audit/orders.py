"""The legal run of a job as tables: which entry of a log, which step and which commitment may follow which, and on what numbers.

What the two parties say within a step is :mod:`audit.protocol`'s; that a job's logs keep to both is checked in :mod:`audit.lawful`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import frexp
from types import MappingProxyType

from audit.history import Directive
from audit.layout import COEFFICIENT_MAX, RANGE_MAX, RANGE_MIN, SPARE_SLOTS

ORDER = ("align", "prepare", "round", "finish", "evaluate")
ORDERS: Mapping[str, tuple[str, ...]] = MappingProxyType({"train": ORDER, "count": ("count",)})
"""The steps of each kind of job."""

Table = Mapping[str, Mapping[str, str]]

NODE_ORDER: Table = MappingProxyType(
    {
        "new": {"spec": "offered"},
        "offered": {"spec": "offered", "seed": "seeded", "rejects": "rejected", "job": "ended"},
        "seeded": {"seed": "seeded", "approves": "approved", "rejects": "rejected", "job": "ended"},
        "approved": {
            "seed": "approved",
            "approves": "approved",
            "rejects": "rejected",
            "other approves": "agreed",
            "job": "ended",
        },
        "agreed": {"other approves": "agreed", "start": "step", "failed": "agreed", "disclosures": "closing", "job": "ended"},
        "step": {"commitment": "step", "choice": "step", "disclosure": "step", "done": "agreed", "failed": "agreed"},
        "rejected": {"job": "ended"},
        "closing": {"disclosures": "closing", "job": "ended"},
        "ended": {"disclosures": "ended", "job": "ended"},
    }
)
"""The entries of one job in a node's log.  What stands twice in a row is what a node writes once more after a crash."""

COORDINATOR_ORDER: Table = MappingProxyType(
    {
        "new": {"spec": "offered"},
        "offered": {"spec": "offered", "submitted": "submitted"},
        "submitted": {
            "approves": "submitted",
            "rejects": "submitted",
            "approved": "approved",
            "directive": "running",
            "disclosures": "closing",
        },
        "approved": {"directive": "running", "disclosures": "closing"},
        "running": {
            "running": "running",
            "directive": "running",
            "report": "running",
            "disclosure": "running",
            "disclosures": "closing",
        },
        "closing": {"disclosures": "closing", "job": "ended"},
        "ended": {},
    }
)
"""The entries of one job in the coordinator's log.  What a crash kept out of it is logged at the next start."""

NEXT_STEPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "": ("align", "count"),
        "count": (),
        "align": ("prepare",),
        "prepare": ("round",),
        "round": ("round", "finish"),
        "finish": ("evaluate",),
        "evaluate": (),
    }
)
"""Which step follows which, once it is done, within the steps of the job's kind (:data:`ORDERS`); any step may be tried again
before the next begins.  A round that has to start again and finds no mask left (:func:`masks_left`) is followed by a second
preparation, and that by the same round.
"""


COMMITTED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"align": ("dataset",), "count": ("dataset",), "prepare": ("encoded", "paillier key")}
)
"""What a node commits to before the first message of each attempt of a step."""

FILTER_COMMITTED = ("filter key", "filter")
"""What both nodes commit to besides, as soon as they have it, in an alignment by a published filter."""


def follows(step: str, round: int, after: tuple[str, int], kind: str = "train") -> bool:
    """Whether a step is the one, or one of the two, that come after another in a job of a kind."""
    if step not in NEXT_STEPS[after[0]] or step not in ORDERS[kind]:
        return False
    return round == (after[1] + 1 if step == "round" and after[0] == "round" else int(step == "round"))


def bad_numbers(step: str, round: int, directive: Directive) -> tuple[str, str] | None:
    """What is wrong with the numbers that a step ran on, as a code and a reason: no node runs on others.

    Coefficients are finite and of reasonable size; where scores are looked up, the range is a power of two.
    """
    place = f"{step} {round or ''}".strip()
    if not all(abs(float(value)) <= COEFFICIENT_MAX for value in directive.coefficients):
        return "audit.coefficients", f"{place} ran on a coefficient that is no number of reasonable size"
    if not (step == "evaluate" or (step == "round" and round > 1)):
        return None
    value = float(directive.lookup_range)
    if not RANGE_MIN <= value <= RANGE_MAX or frexp(value)[0] != 0.5:
        return "audit.lookup_range", f"{place} ran on a lookup range that is no power of two in bounds"
    return None


def masks_left(round: int, attempt: int, *, prepared: int, rounds: int) -> bool:
    """Whether an attempt of a round finds fresh masks: attempts count over the whole job, masks from the one that prepared them."""
    return round - 1 + attempt - prepared < rounds + SPARE_SLOTS
