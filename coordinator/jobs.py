"""Jobs and steps: one table of legal transitions, and pure functions that take an event and return the job as it is afterwards.

No clock, no input or output.  What is to be said to the nodes comes back as orders; ``coordinator.runner`` stores the job, logs
what happened and only then sends them.

    submitted --both approve--> approved --both attached--> align --> prepare --> round 1 .. T --> finish --> evaluate --> finished
        |                                                                ^--no mask left--'       (holdout 0: no evaluate)
        |                   +--a count--> count --> finished
        +--one rejects--> rejected         any open state --cancel--> cancelled         approved and every step --fault--> failed

A step is done when both nodes reported the same (``coordinator.reports``): transcript, inner products to the last bit,
intersection and base rate.  ``attempt`` counts restarts over the whole job and never goes down, so no attempt of any step repeats
another's random streams.  A round takes prepared masks, and fresh ones when it starts again; when none are left, `prepare` runs
once more before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from types import MappingProxyType
from typing import Literal

from audit.layout import SPARE_SLOTS
from audit.spec import JobSpec
from coordinator.errors import PeerError, UsageError
from coordinator.optimizer import Lookup, Next, first_range, plan_next
from coordinator.reports import Metrics, StepReport, check_agreement, check_alone

State = Literal[
    "submitted", "approved", "align", "count", "prepare", "round", "finish", "evaluate", "finished", "failed", "cancelled",
    "rejected",
]  # fmt: skip
Event = Literal["approve", "reject", "start", "count", "done", "again", "refill", "end", "fail", "cancel"]

TRANSITIONS: Mapping[State, Mapping[Event, State]] = MappingProxyType(
    {
        "submitted": {"approve": "approved", "reject": "rejected", "cancel": "cancelled"},
        "approved": {"start": "align", "count": "count", "fail": "failed", "cancel": "cancelled"},
        "align": {"done": "prepare", "fail": "failed", "cancel": "cancelled"},
        "count": {"end": "finished", "fail": "failed", "cancel": "cancelled"},
        "prepare": {"done": "round", "fail": "failed", "cancel": "cancelled"},
        "round": {"again": "round", "refill": "prepare", "done": "finish", "fail": "failed", "cancel": "cancelled"},
        "finish": {"done": "evaluate", "end": "finished", "fail": "failed", "cancel": "cancelled"},
        "evaluate": {"end": "finished", "fail": "failed", "cancel": "cancelled"},
        "finished": {},
        "failed": {},
        "cancelled": {},
        "rejected": {},
    }
)
STEPS: tuple[State, ...] = ("align", "count", "prepare", "round", "finish", "evaluate")
ENDED: tuple[State, ...] = tuple(state for state, events in TRANSITIONS.items() if not events)


@dataclass(frozen=True)
class Decision:
    """A party's signed decision, already verified."""

    decision: Literal["approve", "reject"]
    statement: str
    signature: str


@dataclass(frozen=True)
class Step:
    """One attempt of one step: what was directed, and what each party reported."""

    step: State
    round: int
    attempt: int
    state: Literal["running", "done", "failed", "restarted"] = "running"
    coefficients: tuple[float, ...] = ()
    lookup_range: float = 0.0
    reports: Mapping[str, StepReport] = field(default_factory=dict)
    decrement: float = 0.0

    @property
    def seconds(self) -> float:
        """The slower party's time."""
        return max((report.seconds for report in self.reports.values()), default=0.0)


@dataclass(frozen=True)
class Job:
    """A job and its whole course so far."""

    identity: str
    spec: JobSpec
    state: State = "submitted"
    code: str = ""
    attempt: int = 0
    offered: tuple[str, ...] = ()
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    converged: bool = False
    submitted: str = ""
    updated: str = ""

    @property
    def parties(self) -> tuple[str, str]:
        """The label holder's name, then the feature holder's."""
        return self.spec.label_holder.name, self.spec.feature_holder.name

    @property
    def ended(self) -> bool:
        """Whether nothing can happen to it any more."""
        return self.state in ENDED

    @property
    def running(self) -> Step | None:
        """The step that is under way."""
        return self.steps[-1] if self.steps and self.steps[-1].state == "running" else None

    @property
    def rounds_done(self) -> tuple[Step, ...]:
        """The rounds that both parties completed, in order."""
        return tuple(step for step in self.steps if step.step == "round" and step.state == "done")

    @property
    def base_rate(self) -> str:
        """As disclosed in `prepare`; empty before."""
        return self._agreed("prepare").base_rate if self._has("prepare") else ""

    @property
    def metrics(self) -> Metrics | None:
        """The label holder's aggregates, where they were disclosed."""
        for step in self.steps:
            if step.step == "evaluate" and step.state == "done":
                return step.reports[self.parties[0]].metrics
        return None

    @property
    def alignment(self) -> StepReport | None:
        """The label holder's report of `align`."""
        return self._agreed("align") if self._has("align") else None

    @property
    def counted(self) -> int | None:
        """What the learner of a count told the coordinator; 0 for "below the minimum", None where nothing was told yet or ever."""
        if not self._has("count") or not self.spec.count.tell_coordinator:
            return None
        done = next(step for step in self.steps if step.step == "count" and step.state == "done")
        return done.reports[self.spec.learner].intersection

    def _has(self, name: str) -> bool:
        return any(step.step == name and step.state == "done" for step in self.steps)

    def _agreed(self, name: str) -> StepReport:
        done = next(step for step in self.steps if step.step == name and step.state == "done")
        return done.reports[self.parties[0]]


@dataclass(frozen=True)
class SendApprovals:
    """Pass both signed approvals on to both nodes."""


@dataclass(frozen=True)
class SendStep:
    """Start a step on both nodes."""

    step: Step


@dataclass(frozen=True)
class SendEnd:
    """Tell both nodes that the job is over."""


Order = SendApprovals | SendStep | SendEnd
Outcome = tuple[Job, tuple[Order, ...]]


def next_state(state: State, event: Event) -> State:
    """The state that follows.

    Raises:
        UsageError: ``coordinator.illegal_transition``.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise UsageError(
            "coordinator.illegal_transition",
            f"A job that is {state} cannot {event}.",
            remedy="`isthmus-coordinator show JOB` tells how it stands.",
        ) from None


def offer(job: Job, party: str) -> Outcome:
    """A party is shown the specification: from then on it must also hear how the job ends."""
    return (job if party in job.offered else replace(job, offered=(*job.offered, party))), ()


def decide(job: Job, party: str, decision: Decision) -> Outcome:
    """A party approved or rejected.  What was decided before is not decided again: a node repeats itself after a reconnect."""
    if job.state != "submitted" or job.decisions.get(party) == decision:
        return job, ()
    job = replace(job, decisions={**job.decisions, party: decision})
    if decision.decision == "reject":
        return _close(job, "reject", "coordinator.rejected")
    if all(name in job.decisions for name in job.parties):
        return replace(job, state=next_state(job.state, "approve")), (SendApprovals(),)
    return job, ()


def start(job: Job) -> Outcome:
    """Both nodes approved and are attached: the first step."""
    return _begin(job, next_state(job.state, "count" if job.spec.kind == "count" else "start"))


def report(job: Job, party: str, done: StepReport) -> Outcome:
    """A party reported its half of a step done.

    A report of another attempt than the running one is an echo and changes nothing.  The job fails with
    ``coordinator.reports_differ`` when the two disagree, ``coordinator.bad_report`` when a report cannot be true,
    ``coordinator.undisclosed_metrics`` when it tells what the specification does not allow, or the optimizer's code.
    """
    step = job.running
    if step is None or (step.step, step.round, step.attempt) != (done.step, done.round, done.attempt):
        return job, ()
    if party in step.reports:
        return (job, ()) if step.reports[party] == done else fail(job, "coordinator.reports_differ")
    step = replace(step, reports={**step.reports, party: done})
    job = _with_step(job, step)
    try:
        check_alone(done, party, spec=job.spec, base_rate=job.base_rate)
        if len(step.reports) < 2:
            return job, ()
        first, second = (step.reports[name] for name in job.parties)
        check_agreement(first, second)
        return _complete(job, step)
    except PeerError as error:
        return fail(job, error.code)


def fail(job: Job, code: str) -> Outcome:
    """A step failed on either node, or between them."""
    if step := job.running:
        job = _with_step(job, replace(step, state="failed"))
    return _close(job, "fail", code)


def cancel(job: Job) -> Outcome:
    """The platform's operators gave the job up."""
    if step := job.running:
        job = _with_step(job, replace(step, state="failed"))
    return _close(job, "cancel", "coordinator.cancelled")


def restart(job: Job) -> Outcome:
    """The running step once more, with the next attempt: a node had gone, or the coordinator had."""
    step = job.running
    if step is None:
        return job, ()
    job = _with_step(job, replace(step, state="restarted"))
    if step.step == "round" and not _masks_left(job, step.round, job.attempt + 1):
        return _refill(job)
    again = replace(step, attempt=job.attempt + 1, reports={}, state="running")
    return replace(job, attempt=again.attempt, steps=(*job.steps, again)), (SendStep(again),)


def _masks_left(job: Job, round: int, attempt: int) -> bool:
    """Whether this attempt of a round finds masks among those last prepared, one a round and one to spare, as the nodes count."""
    prepared = [step.attempt for step in job.steps if step.step == "prepare" and step.state == "done"]
    return round - 1 + attempt - prepared[-1] < job.spec.model.rounds + SPARE_SLOTS


def _refill(job: Job) -> Outcome:
    """Prepare once more, as an attempt of its own, before the round that found no mask."""
    return _begin(replace(job, attempt=job.attempt + 1), next_state(job.state, "refill"))


def _close(job: Job, event: Event, code: str) -> Outcome:
    return replace(job, state=next_state(job.state, event), code=code), (SendEnd(),)


def _begin(job: Job, state: State, *, round: int = 0, coefficients: tuple[float, ...] = (), lookup_range: float = 0.0) -> Outcome:
    step = Step(step=state, round=round, attempt=job.attempt, coefficients=coefficients, lookup_range=lookup_range)
    return replace(job, state=state, steps=(*job.steps, step)), (SendStep(step),)


def _with_step(job: Job, step: Step) -> Job:
    return replace(job, steps=(*job.steps[:-1], step))


def _complete(job: Job, step: Step) -> Outcome:
    """Both reports agree: the step is done and the next one follows."""
    job = _with_step(job, replace(step, state="done"))
    if step.step == "align":
        return _begin(job, next_state(job.state, "done"))
    if step.step == "prepare":
        return _after_prepare(job)
    if step.step == "round":
        return _after_round(job)
    if step.step == "finish" and Decimal(job.spec.model.holdout) > 0:
        following = next_state(job.state, "done")
        return _begin(job, following, coefficients=step.coefficients, lookup_range=step.lookup_range)
    return replace(job, state=next_state(job.state, "end")), (SendEnd(),)


def _after_prepare(job: Job) -> Outcome:
    """The first round, or the one that found no mask left, on the numbers it had or would have had."""
    state, number = next_state(job.state, "done"), len(job.rounds_done) + 1
    begun = [step for step in job.steps if (step.step, step.round) == ("round", number)]
    if begun:
        return _begin(job, state, round=number, coefficients=begun[-1].coefficients, lookup_range=begun[-1].lookup_range)
    if number == 1:
        return _begin(job, state, round=1, lookup_range=first_range(float(job.base_rate)))
    plan = _plan(job)
    return _begin(job, state, round=number, coefficients=plan.coefficients, lookup_range=plan.lookup_range)


def _lookup(job: Job) -> Lookup:
    """What the reports of the earlier steps tell of the lookups' noise."""
    done = {step.step: step.reports for step in job.steps if step.state == "done"}
    rows = done["align"][job.parties[0]].rows_train
    columns = sum(report.columns for report in done["prepare"].values())
    return Lookup(rows=rows, columns=columns, entries=job.spec.model.lookup_entries_of(rows))


def _plan(job: Job) -> Next:
    """What follows from the rounds that are done: the same however often it is asked."""
    rounds, label_holder = job.rounds_done, job.parties[0]
    return plan_next(
        [step.reports[label_holder].inner_products for step in rounds],
        [step.coefficients for step in rounds],
        base_rate=float(job.base_rate),
        rounds=job.spec.model.rounds,
        tolerance=float(job.spec.model.tolerance),
        lookup=_lookup(job),
    )


def _after_round(job: Job) -> Outcome:
    plan = _plan(job)
    job = _with_step(job, replace(job.steps[-1], decrement=plan.decrement))
    if plan.stop:
        job = replace(job, converged=plan.converged)
        return _begin(job, next_state(job.state, "done"), coefficients=plan.coefficients, lookup_range=plan.lookup_range)
    following = len(job.rounds_done) + 1
    if not _masks_left(job, following, job.attempt):
        return _refill(job)
    return _begin(
        job, next_state(job.state, "again"), round=following, coefficients=plan.coefficients, lookup_range=plan.lookup_range
    )
