"""The state machine of jobs: every legal and every illegal pair, and the course of a job event by event."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import get_args

import pytest

from audit.spec import JobSpec
from coordinator import jobs
from coordinator.errors import UsageError
from coordinator.jobs import Decision, Event, Job, SendApprovals, SendEnd, SendStep, State, Step
from coordinator.reports import Gain, Metrics, StepReport

APPROVE = Decision("approve", "{}", "00")
REJECT = Decision("reject", "{}", "00")
PARTIES = ("bank", "platform")
METRICS = Metrics(auc=0.75, ks=0.4, log_loss=0.5, base_rate=0.21, rows=400, gains=(Gain(1, 40, 20),))


def a_spec(nonce: str = "0" * 32, *, holdout: str = "0.2", rounds: int = 8, to_coordinator: bool = True, **model: int) -> JobSpec:
    return JobSpec.model_validate(
        {
            "nonce": nonce,
            "coordinator": "coordinator",
            "label_holder": {"name": "bank", "role": "bank", "dataset": "cards", "features": ["limit", "age"]},
            "feature_holder": {"name": "platform", "role": "platform", "dataset": "shop", "features": ["spend"]},
            "label": {"column": "default"},
            "model": {"holdout": holdout, "rounds": rounds, **model},
            "disclose": {"aggregates_to_coordinator": to_coordinator},
        }
    )


def new_job(**options: object) -> Job:
    spec = a_spec(**options)  # type: ignore[arg-type]
    return Job(spec.identity(), spec)


def new_count() -> Job:
    spec = a_spec().model_dump(exclude={"kind", "label", "model", "disclose"})
    for party in ("label_holder", "feature_holder"):
        spec[party]["features"] = []
    counting = JobSpec.model_validate(spec | {"kind": "count"})
    return Job(counting.identity(), counting)


def done(step: Step, **fields: object) -> StepReport:
    """An honest report of ``step``."""
    own: dict[str, dict[str, object]] = {
        "align": {"set_size": 3000, "intersection": 2000, "rows_train": 1600, "rows_holdout": 400},
        "count": {"set_size": 3000},
        "prepare": {"columns": 3, "base_rate": "0.21"},
        "round": {"inner_products": tuple([0.0] * (step.round - 1) + [0.1 / 10**step.round])},
    }
    values: dict[str, object] = {"transcript_sha256": "ab" * 32, "seconds": 1.5, **own.get(step.step, {}), **fields}
    return StepReport(step=step.step, attempt=step.attempt, round=step.round, **values)  # type: ignore[arg-type]


def approved(job: Job) -> Job:
    for party in PARTIES:
        job, _ = jobs.decide(job, party, APPROVE)
    return job


def started(**options: object) -> Job:
    return jobs.start(approved(new_job(**options)))[0]


def both(job: Job, **fields: object) -> Job:
    step = job.running
    assert step is not None
    for party in PARTIES:
        job, _ = jobs.report(job, party, done(step, **fields))
    return job


def until(state: State, **options: object) -> Job:
    job = started(**options)
    while job.state != state:
        assert not job.ended
        job = both(job, **({"metrics": METRICS} if job.state == "evaluate" else {}))
    return job


def finished_job() -> Job:
    return until("finished")


def test_every_pair_of_state_and_event() -> None:
    states, events = get_args(State), get_args(Event)
    assert set(jobs.TRANSITIONS) == set(states)
    legal = {(state, event) for state, follows in jobs.TRANSITIONS.items() for event in follows}
    assert len(legal) == 28  # of 120: the other 92 must raise
    for state, event in itertools.product(states, events):
        if (state, event) in legal:
            assert jobs.next_state(state, event) in states
        else:
            with pytest.raises(UsageError) as caught:
                jobs.next_state(state, event)
            assert caught.value.code == "coordinator.illegal_transition"


def test_every_state_is_reached_and_every_end_is_final() -> None:
    reached, frontier = {"submitted"}, ["submitted"]
    while frontier:
        for state in jobs.TRANSITIONS[frontier.pop()].values():  # type: ignore[index]
            if state not in reached:
                reached.add(state)
                frontier.append(state)
    assert reached == set(get_args(State))
    assert set(jobs.ENDED) == {"finished", "failed", "cancelled", "rejected"}


def test_events_in_the_wrong_state_change_nothing_or_are_refused() -> None:
    """Each public event on a job in each state: either the table allows it, or it raises, or (an echo) the job stays as it is."""
    open_states: list[State] = ["submitted", "approved", "align", "prepare", "round", "finish", "evaluate"]
    samples = {
        state: new_job() if state == "submitted" else approved(new_job()) if state == "approved" else until(state)
        for state in open_states
    }
    samples |= {"finished": finished_job(), "rejected": jobs.decide(new_job(), "bank", REJECT)[0]}
    samples |= {"cancelled": jobs.cancel(new_job())[0], "failed": jobs.fail(started(), "psi.too_few_shared")[0]}
    for state, job in samples.items():
        assert job.state == state
        echo = StepReport(step="align", attempt=99, round=0, transcript_sha256="ab" * 32)
        assert jobs.report(job, "bank", echo) == (job, ())
        if state != "submitted":
            assert jobs.decide(job, "bank", REJECT) == (job, ())
        if state != "approved":
            with pytest.raises(UsageError):
                jobs.start(job)
        if job.ended:
            for event in (lambda j: jobs.cancel(j), lambda j: jobs.fail(j, "x.y")):
                with pytest.raises(UsageError):
                    event(job)
            assert jobs.restart(job) == (job, ())


def test_approvals() -> None:
    job, orders = jobs.decide(new_job(), "bank", APPROVE)
    assert (job.state, orders) == ("submitted", ())
    assert jobs.decide(job, "bank", APPROVE) == (job, ())
    job, orders = jobs.decide(job, "platform", APPROVE)
    assert (job.state, orders) == ("approved", (SendApprovals(),))
    job, orders = jobs.decide(jobs.decide(new_job(), "bank", APPROVE)[0], "platform", REJECT)
    assert (job.state, job.code, orders) == ("rejected", "coordinator.rejected", (SendEnd(),))
    changed_mind, _ = jobs.decide(jobs.decide(new_job(), "bank", APPROVE)[0], "bank", REJECT)
    assert changed_mind.state == "rejected"


def test_the_whole_course() -> None:
    job = started()
    course = [("align", 0)]
    while not job.ended:
        job = both(job, **({"metrics": METRICS} if job.state == "evaluate" else {}))
        if job.running:
            course.append((job.running.step, job.running.round))
    assert job.state == "finished"
    rounds = [r for s, r in course if s == "round"]
    assert rounds == list(range(1, len(rounds) + 1))
    assert [s for s, _ in course] == ["align", "prepare", *["round"] * len(rounds), "finish", "evaluate"]
    assert job.converged
    assert len(rounds) < 8
    assert (job.base_rate, job.metrics) == ("0.21", METRICS)
    assert job.alignment is not None
    assert job.alignment.intersection == 2000
    by_round = [step for step in job.steps if step.step == "round"]
    assert [len(step.coefficients) for step in by_round] == list(range(len(rounds)))
    assert by_round[0].lookup_range == 2.0
    ending = [step for step in job.steps if step.step in ("finish", "evaluate")]
    assert all(len(step.coefficients) == len(rounds) for step in ending)
    assert ending[0].coefficients == ending[1].coefficients
    assert [step.decrement > 0 for step in by_round] == [True] * len(rounds)


def test_rounds_end_without_convergence() -> None:
    job = until("finish", rounds=2)
    assert not job.converged
    assert len(job.rounds_done) == 2


def test_no_holdout_no_evaluation() -> None:
    job = both(until("finish", holdout="0"))
    assert job.state == "finished"
    assert all(step.step != "evaluate" for step in job.steps)


def test_one_report_alone_moves_nothing() -> None:
    job = started()
    assert job.running is not None
    reported, orders = jobs.report(job, "bank", done(job.running))
    assert (reported.state, orders) == ("align", ())
    assert jobs.report(reported, "bank", done(job.running)) == (reported, ())


@pytest.mark.parametrize(
    ("state", "change"),
    [
        ("align", {"transcript_sha256": "cd" * 32}),
        ("align", {"intersection": 1999, "rows_train": 1599}),
        ("align", {"rows_train": 1599, "rows_holdout": 401}),
        ("prepare", {"base_rate": "0.22"}),
        ("round", {"inner_products": (0.010000000000000002,)}),
        ("finish", {"transcript_sha256": "cd" * 32}),
        ("evaluate", {"metrics": replace(METRICS, auc=0.76)}),
    ],
)
def test_reports_that_differ_fail_the_job(state: State, change: dict[str, object]) -> None:
    job = until(state)
    assert job.running is not None
    extra = {"metrics": METRICS} if state == "evaluate" else {}
    job, _ = jobs.report(job, "bank", done(job.running, **extra))
    job, orders = jobs.report(job, "platform", done(job.running, **(extra | change)))  # type: ignore[arg-type]
    assert (job.state, job.code, orders) == ("failed", "coordinator.reports_differ", (SendEnd(),))
    assert job.steps[-1].state == "failed"


def test_negative_zero_is_not_zero() -> None:
    job = until("round")
    assert job.running is not None
    job, _ = jobs.report(job, "bank", done(job.running, inner_products=(0.0,)))
    job, _ = jobs.report(job, "platform", done(job.running, inner_products=(-0.0,)))
    assert job.code == "coordinator.reports_differ"


def test_a_second_report_that_contradicts_the_first() -> None:
    job = started()
    assert job.running is not None
    job, _ = jobs.report(job, "bank", done(job.running))
    job, _ = jobs.report(job, "bank", done(job.steps[-1], transcript_sha256="cd" * 32))
    assert (job.state, job.code) == ("failed", "coordinator.reports_differ")


@pytest.mark.parametrize(
    ("model", "sizes", "possible"),
    [
        ({}, (1600, 400), True),
        ({}, (1500, 400), False),
        ({"train_rows": 1500}, (1500, 400), True),
        ({"train_rows": 1500}, (1499, 400), False),
        ({"train_rows": 1500}, (1501, 400), False),
        ({"train_rows": 1500}, (1600, 400), False),
        ({"train_rows": 1700}, (1600, 400), True),
        ({"train_rows": 1700}, (1599, 400), False),
        ({"evaluate_rows": 300}, (1600, 300), True),
        ({"evaluate_rows": 300}, (1701, 300), False),
        ({"evaluate_rows": 300}, (1600, 301), False),
        ({"evaluate_rows": 300}, (1600, 299), False),
        ({"evaluate_rows": 300}, (1701, 299), True),
        ({"train_rows": 1500, "evaluate_rows": 300}, (1500, 300), True),
        ({"train_rows": 1500, "evaluate_rows": 300}, (1501, 300), False),
    ],
)
def test_the_rows_reported_are_those_that_the_job_draws(model: dict[str, int], sizes: tuple[int, int], possible: bool) -> None:
    job = started(**model)
    assert job.running is not None
    train, held_out = sizes
    job, _ = jobs.report(job, "bank", done(job.running, rows_train=train, rows_holdout=held_out))
    assert job.code == ("" if possible else "coordinator.bad_report")


@pytest.mark.parametrize(
    ("state", "change", "code"),
    [
        ("align", {"rows_train": 1601}, "coordinator.bad_report"),
        ("align", {"set_size": 1999}, "coordinator.bad_report"),
        ("align", {"rows_train": 0, "rows_holdout": 2000}, "coordinator.bad_report"),
        ("prepare", {"base_rate": ""}, "coordinator.bad_report"),
        ("prepare", {"base_rate": "0.00"}, "coordinator.bad_report"),
        ("round", {"inner_products": (0.1, 0.1)}, "coordinator.bad_report"),
        ("round", {"inner_products": (-0.1,)}, "optimizer.bad_inner_products"),
    ],
)
def test_reports_that_cannot_be_true(state: State, change: dict[str, object], code: str) -> None:
    job = until(state)
    for party in PARTIES:
        assert job.state == state or job.ended
        step = job.steps[-1]
        job, _ = jobs.report(job, party, done(step, **change))
    assert (job.state, job.code) == ("failed", code)


def test_aggregates_that_the_specification_keeps_back() -> None:
    job = until("evaluate", to_coordinator=False)
    assert job.running is not None
    told, _ = jobs.report(job, "bank", done(job.running, metrics=METRICS))
    assert told.code == "coordinator.undisclosed_metrics"
    kept = both(job)
    assert (kept.state, kept.metrics) == ("finished", None)


def test_restart_counts_attempts_over_the_whole_job() -> None:
    job = until("round")
    assert job.running is not None
    stale = done(job.running)
    job, _ = jobs.report(job, "bank", stale)
    job, orders = jobs.restart(job)
    assert isinstance(orders[0], SendStep)
    assert (orders[0].step.attempt, orders[0].step.round, orders[0].step.reports) == (1, 1, {})
    assert orders[0].step.lookup_range == job.steps[-2].lookup_range
    assert job.steps[-2].state == "restarted"
    assert jobs.report(job, "platform", stale) == (job, ())
    job = both(job)
    job, _ = jobs.restart(job)
    assert job.running is not None
    assert (job.running.round, job.running.attempt) == (2, 2)
    assert job.running.coefficients == job.steps[-2].coefficients
    attempts = [step.attempt for step in both(job).steps]
    assert attempts == sorted(attempts)


def test_a_round_without_masks_left_is_prepared_again_and_goes_on() -> None:
    """As many masks as rounds and one to spare, counted from the attempt that prepared them."""
    job = both(both(until("round", rounds=4)))
    assert job.running is not None
    interrupted = job.running
    assert interrupted.round == 3
    for expected in ("round", "round", "prepare"):  # 4 rounds and one to spare: places 2, 3 and 4, and then none
        job, orders = jobs.restart(job)
        step = orders[0].step  # type: ignore[union-attr]
        assert step.step == expected
    assert (job.state, step.attempt, step.round, step.coefficients) == ("prepare", 3, 0, ())
    job, _ = jobs.restart(job)
    assert job.running is not None
    assert (job.running.step, job.running.attempt) == ("prepare", 4)
    job = both(job)
    again = job.running
    assert again is not None
    assert (again.step, again.round, again.attempt) == ("round", 3, 4)
    assert (again.coefficients, again.lookup_range) == (interrupted.coefficients, interrupted.lookup_range)
    assert len(job.rounds_done) == 2
    steps = [(step.step, step.round) for step in both(job).steps if step.state == "done"]
    assert steps == [("align", 0), ("prepare", 0), ("round", 1), ("round", 2), ("prepare", 0), ("round", 3)]
    other = both(until("round", rounds=4))
    for _ in range(4):
        other, orders = jobs.restart(other)
    assert other.state == "prepare"
    assert other.running is not None
    told, _ = jobs.report(other, "bank", done(other.running, base_rate="0.5"))
    assert (told.state, told.code) == ("failed", "coordinator.bad_report")


def test_a_next_round_without_masks_left_is_prepared_for_too() -> None:
    """Restarts of earlier rounds take the later ones' masks; the numbers after the preparation are those that follow anyway."""
    undisturbed = both(both(both(until("round", rounds=4))))
    job = until("round", rounds=4)
    job, _ = jobs.restart(jobs.restart(job)[0])
    job = both(both(both(job)))
    assert (job.state, len(job.rounds_done)) == ("prepare", 3)
    assert job.running is not None
    assert job.running.attempt == 3
    job = both(job)
    assert job.running is not None
    assert undisturbed.running is not None
    assert (job.running.step, job.running.round, job.running.attempt) == ("round", 4, 3)
    assert job.running.coefficients == undisturbed.running.coefficients
    assert job.running.lookup_range == undisturbed.running.lookup_range


def test_a_failure_names_its_code_and_ends_the_step() -> None:
    job, orders = jobs.fail(until("prepare"), "paillier.key_size")
    assert (job.state, job.code, job.steps[-1].state, orders) == ("failed", "paillier.key_size", "failed", (SendEnd(),))
