"""Which step of a job is due: align, prepare, the rounds, finish, evaluate, each once and again only after a failure.

A count has one step.
"""

from __future__ import annotations

from collections.abc import Sequence

from audit.spec import JobSpec
from node.errors import UsageError
from node.runtime.journal import StepLabels
from node.runtime.steps import ORDER, ORDERS
from node.runtime.store import StepRow

ATTEMPTS_MAX = 16
"""Highest attempt number accepted: a coordinator cannot make a node repeat a disclosure without end."""


def check_order(labels: StepLabels, spec: JobSpec, rows: Sequence[StepRow]) -> None:
    """Whether a step is due in a job whose attempts so far are ``rows``.

    Raises:
        UsageError: ``job.unknown_step``, ``job.step_order``, ``job.too_many_attempts``.
    """
    if labels.step not in ORDERS[spec.kind]:
        raise UsageError(
            "job.unknown_step", f"This node knows no step {labels.step!r} of a {spec.kind} job.", remedy="Update the older side."
        )
    in_round = labels.step == "round"
    if not (1 <= labels.round <= spec.model.rounds if in_round else labels.round == 0):
        raise UsageError("job.step_order", f"{labels.step} cannot have the round {labels.round}.")
    if labels.attempt > ATTEMPTS_MAX:
        raise UsageError(
            "job.too_many_attempts", f"{labels.step} is not tried more than {ATTEMPTS_MAX} times.", remedy="Submit a new job."
        )
    if spec.kind == "count":
        return  # its only step
    place = _place(labels.step, labels.round)
    done = {_place(row.step, row.round) for row in rows if row.state == "done"}
    furthest = max((_place(row.step, row.round) for row in rows), default=(0, 0))
    # Between rounds the preparation may run again: no mask was left for a round that has to start once more.
    refill = labels.step == "prepare" and ORDER[furthest[0]] == "round"
    if (place < furthest and not refill) or (place != (0, 0) and _before(place, done) not in done):
        raise UsageError(
            "job.step_order",
            f"{labels.step}, round {labels.round}, is not due in job {labels.job[:12]}.",
            remedy="The coordinator must run the steps in order: align, prepare, rounds, finish, evaluate.",
        )


def _place(step: str, round: int) -> tuple[int, int]:
    return ORDER.index(step), round


def _before(place: tuple[int, int], done: set[tuple[int, int]]) -> tuple[int, int]:
    """The place that must be done before ``place``: training may stop after any round."""
    index, round = place
    if ORDER[index] == "round" and round > 1:
        return index, round - 1
    if ORDER[index] == "finish":
        return max((p for p in done if p[0] == index - 1), default=(index - 1, 1))
    return index - 1, 0
