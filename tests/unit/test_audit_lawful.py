"""Steps (4) and (7): logs that are whole, signed and in agreement with each other, and tell of orders that are not lawful."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from audit.verify import verify_logs
from tests.unit.audit_world import (
    BANK,
    COORDINATOR,
    JOB,
    PLATFORM,
    Event,
    approvals,
    attempt,
    events,
    index,
    of,
    opening,
    policy,
    refused,
    write,
)


def without_step(told: list[Event], step: str, logs: tuple[str, ...] = (BANK, PLATFORM, COORDINATOR)) -> None:
    told[:] = [e for e in told if not (e.log in logs and e.fields.get("step") == step)]


def no_prepare(told: list[Event]) -> None:
    without_step(told, "prepare")


def no_align(told: list[Event]) -> None:
    without_step(told, "align")


def finished_without_finish(told: list[Event]) -> None:
    without_step(told, "finish")


def steps_in_another_order(told: list[Event]) -> None:
    begin, end = index(told, COORDINATOR, "directive", step="prepare"), index(told, COORDINATOR, "directive", step="round")
    at = index(told, COORDINATOR, "directive", step="align")
    told[at:end] = told[begin:end] + told[at:begin]


def a_message_after_the_end(told: list[Event]) -> None:
    late = of(told, BANK, "message", step="finish", direction="sent")
    told.insert(index(told, BANK, "job") + 1, late)


def an_unknown_kind_after_the_end(told: list[Event]) -> None:
    told.insert(index(told, BANK, "job") + 1, Event(BANK, "remark", {"job": JOB}))


def ends_twice_otherwise(told: list[Event]) -> None:
    told.insert(index(told, BANK, "job") + 1, Event(BANK, "job", {"job": JOB, "state": "failed", "code": "job.failed"}))


def commitment_after_the_first_message(told: list[Event]) -> None:
    late = of(told, BANK, "commitment", what="encoded")
    told.remove(late)
    told.insert(index(told, BANK, "message", step="prepare") + 1, late)


def no_commitment_to_the_data_set(told: list[Event]) -> None:
    told.remove(of(told, PLATFORM, "commitment", what="dataset"))


def no_commitment_to_the_key(told: list[Event]) -> None:
    told.remove(of(told, BANK, "commitment", what="paillier key"))


def committed_to_more_rows(told: list[Event]) -> None:
    of(told, BANK, "commitment", what="dataset").fields["rows"] += 1


def committed_to_another_number_of_columns(told: list[Event]) -> None:
    of(told, BANK, "commitment", what="encoded").fields["columns"] += 1


def message_before_the_start(told: list[Event]) -> None:
    start, message = of(told, BANK, "step", step="align", state="start"), of(told, BANK, "message", step="align")
    told.remove(start)
    told.insert(told.index(message) + 1, start)


def started_twice(told: list[Event]) -> None:
    at = index(told, BANK, "step", step="align", state="start")
    told.insert(at, told[at])


def done_twice(told: list[Event]) -> None:
    at = index(told, BANK, "step", step="align", state="done")
    told.insert(at, told[at])


def failed_twice(told: list[Event]) -> None:
    told[:] = events(before_finish=attempt("finish", outcome="failed"))
    at = index(told, BANK, "step", step="finish", state="failed")
    told.insert(at, told[at])


def message_after_a_failure(told: list[Event]) -> None:
    told[:] = events(before_finish=attempt("finish", outcome="failed"))
    late = of(told, BANK, "message", step="finish", direction="sent", seq=2)
    told.remove(late)
    told.insert(index(told, BANK, "step", step="finish", state="failed") + 1, late)


def seed_after_the_approval(told: list[Event]) -> None:
    seed = of(told, BANK, "commitment", what="seed")
    told.remove(seed)
    told.insert(index(told, BANK, "step", step="align", state="start"), seed)


def no_seed(told: list[Event]) -> None:
    told.remove(of(told, BANK, "commitment", what="seed"))


def no_specification_in_one_log(told: list[Event]) -> None:
    told.remove(of(told, PLATFORM, "spec"))


def no_directive(told: list[Event]) -> None:
    told.remove(of(told, COORDINATOR, "directive", step="finish"))


def another_directive(told: list[Event]) -> None:
    of(told, COORDINATOR, "directive", step="finish").fields["coefficients"] = ["0.75"]


def nodes_on_other_numbers(told: list[Event]) -> None:
    told[:] = [event for event in told if event.log != COORDINATOR or not event.kind]
    of(told, BANK, "step", step="finish", state="start").fields["coefficients"] = ["0.75"]


def too_many_coefficients(told: list[Event]) -> None:
    for event in told:
        if event.fields.get("step") == "finish" and "coefficients" in event.fields:
            event.fields["coefficients"] = ["1.0", "0.5"]


def directed_before_the_reports(told: list[Event]) -> None:
    directive, report = (
        of(told, COORDINATOR, "directive", step="prepare"),
        of(told, COORDINATOR, "report", step="align", party=BANK),
    )
    told.remove(directive)
    told.insert(told.index(report), directive)


def report_of_a_stranger(told: list[Event]) -> None:
    at = index(told, COORDINATOR, "report", step="align")
    told.insert(at, Event(COORDINATOR, "report", {**told[at].fields, "party": "somebody"}))


def other_inner_products(told: list[Event]) -> None:
    of(told, COORDINATOR, "disclosure", what="inner_products", party=PLATFORM).fields["value"] = '["0.5"]'


def too_many_inner_products(told: list[Event]) -> None:
    for event in told:
        if event.fields.get("what") == "inner_products":
            event.fields["value"] = '["0.125", "0.125"]'


def evaluated_without_rows(told: list[Event]) -> None:
    labels = {"job": JOB, "step": "evaluate", "round": 0, "attempt": 0}
    at = index(told, BANK, "disclosures")
    for log in (BANK, PLATFORM):
        start = {**labels, "state": "start", "coefficients": ["1.0"], "lookup_range": "8.0"}
        told[at:at] = [Event(log, "step", start), Event(log, "step", {**labels, "state": "failed", "code": "job.failed"})]


def attempts_that_count_down(told: list[Event]) -> None:
    told[:] = events(before_finish=attempt("finish", again=2, outcome="failed"))


def attempts_that_go_back_with_the_next_step(told: list[Event]) -> None:
    at = index(told, COORDINATOR, "directive", step="round")
    told[:] = [*opening(), *approvals(), *attempt("align", again=1), *attempt("prepare", again=1), *told[at:]]


def repeated_on_other_numbers(told: list[Event]) -> None:
    told[:] = events(before_finish=attempt("finish", outcome="failed"))
    for event in told:
        if event.fields.get("attempt") == 1 and "coefficients" in event.fields:
            event.fields["coefficients"] = ["0.75"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (no_prepare, "audit.step_order"),
        (no_align, "audit.step_order"),
        (finished_without_finish, "audit.unfinished"),
        (steps_in_another_order, "audit.step_order"),
        (a_message_after_the_end, "audit.after_end"),
        (an_unknown_kind_after_the_end, "audit.after_end"),
        (ends_twice_otherwise, "audit.after_end"),
        (commitment_after_the_first_message, "audit.commitment_late"),
        (no_commitment_to_the_data_set, "audit.commitment_missing"),
        (no_commitment_to_the_key, "audit.commitment_missing"),
        (committed_to_more_rows, "audit.commitment_sizes"),
        (committed_to_another_number_of_columns, "audit.commitment_sizes"),
        (message_before_the_start, "audit.order"),
        (started_twice, "audit.order"),
        (done_twice, "audit.order"),
        (failed_twice, "audit.order"),
        (message_after_a_failure, "audit.order"),
        (seed_after_the_approval, "audit.order"),
        (no_seed, "audit.order"),
        (no_specification_in_one_log, "audit.order"),
        (no_directive, "audit.report_order"),
        (another_directive, "audit.directive_differs"),
        (nodes_on_other_numbers, "audit.directive_differs"),
        (too_many_coefficients, "audit.coefficients"),
        (directed_before_the_reports, "audit.step_order"),
        (report_of_a_stranger, "audit.report_order"),
        (other_inner_products, "audit.inner_products"),
        (too_many_inner_products, "audit.inner_products"),
        (evaluated_without_rows, "audit.step_order"),
        (repeated_on_other_numbers, "audit.directive_changed"),
        (attempts_that_count_down, "audit.step_order"),
        (attempts_that_go_back_with_the_next_step, "audit.step_order"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_orders_that_are_not_legal(tmp_path: Path, change: Callable[[list[Event]], None], code: str) -> None:
    told = events()
    change(told)
    error = refused(tmp_path, told)
    assert (error.step, error.code) == (7, code), error.message


def test_what_a_crash_writes_twice_is_lawful(tmp_path: Path) -> None:
    """A specification, a seed, the disclosure receipt and the job's end may each stand once more, the same."""
    told = events()
    for event in (of(told, BANK, "spec"), of(told, BANK, "commitment", what="seed")):
        told.insert(told.index(event), event)
    at = index(told, BANK, "job") + 1
    told[at:at] = [of(told, BANK, "disclosures"), of(told, BANK, "job")]
    assert verify_logs(list(write(tmp_path, told).values()), policy=policy(tmp_path)).whole


def test_a_job_without_its_specification_is_incomplete(tmp_path: Path) -> None:
    told = [event for event in events() if event.kind != "spec"]
    verified = verify_logs(list(write(tmp_path, told).values()), policy=policy(tmp_path))
    assert verified.exit_status == 2
    assert {point.step for point in verified.open_points} == {7, 8, 9}
    assert all("specification" in point.text for point in verified.open_points)


def test_the_coordinators_log_may_be_older(tmp_path: Path) -> None:
    told = events()
    at = index(told, COORDINATOR, "directive", step="finish")
    told = told[:at] + [event for event in told[at:] if event.log != COORDINATOR]
    verified = verify_logs(list(write(tmp_path, told).values()), policy=policy(tmp_path))
    assert verified.exit_status == 2
    assert any("the log of coordinator ends before finish" in point.text for point in verified.open_points)


def test_another_specification_than_the_approved_one(tmp_path: Path) -> None:
    told = events()
    spec = of(told, PLATFORM, "spec")
    spec.fields["document"] = spec.fields["document"].replace('"holdout":"0"', '"holdout":"0.5"')
    error = refused(tmp_path, told)
    assert (error.step, error.code, error.log) == (4, "audit.spec_mismatch", PLATFORM)
