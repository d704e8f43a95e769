"""Steps (7), (8) and (9): logs that are whole, signed and in agreement with each other, and tell something that is not lawful."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from audit.history import Shape
from audit.ledger import LogRejected
from audit.protocol import legal_messages
from audit.sequence import Unlawful, check_sequence
from audit.spec import JobSpec
from audit.verify import verify_logs
from tests.unit import audit_world
from tests.unit.audit_world import (
    BANK,
    COORDINATOR,
    JOB,
    NUMBERS,
    PLATFORM,
    POLICY,
    SPEC,
    Event,
    approvals,
    attempt,
    ending,
    events,
    opening,
    policy,
    write,
)

Message = tuple[str, int, int]


def verify(folder: Path, told: list[Event], **arguments: object) -> LogRejected:
    with pytest.raises(LogRejected) as caught:
        verify_logs(list(write(folder, told).values()), policy=policy(folder), **arguments)  # type: ignore[arg-type]
    assert caught.value.exit_status == 1
    assert caught.value.remedy
    return caught.value


def of(told: list[Event], log: str, kind: str, **fields: object) -> Event:
    return next(e for e in told if e.log == log and e.kind == kind and all(e.fields.get(k) == v for k, v in fields.items()))


def index(told: list[Event], log: str, kind: str, **fields: object) -> int:
    return told.index(of(told, log, kind, **fields))


# ---- (7) messages: both nodes tell the same and signed for it, but the protocol has no such message ------------------------------


def told_with(change: Callable[[list[Message]], None], step: str, sender: str) -> list[Event]:
    """The honest job but for what one party says in one step; receipts and disclosures are over what it says then."""
    honest = audit_world.messages_of

    def said(name: str, number: int, who: str, **more: object) -> list[Message]:
        messages = honest(name, number, who, **more)  # type: ignore[arg-type]
        if (name, who) == (step, sender):
            change(messages)
        return messages

    with mock.patch.object(audit_world, "messages_of", said):
        return events()


def place(messages: list[Message], kind: str) -> int:
    return next(i for i, message in enumerate(messages) if message[0] == kind)


def one_item_more(messages: list[Message], kind: str) -> None:
    at = place(messages, kind)
    messages[at] = (kind, messages[at][1] + 1, messages[at][2])


def one_byte_more(messages: list[Message], kind: str) -> None:
    at = place(messages, kind)
    messages[at] = (kind, messages[at][1], messages[at][2] + 1)


def left_out(messages: list[Message], kind: str) -> None:
    del messages[place(messages, kind)]


def twice(messages: list[Message], kind: str) -> None:
    at = place(messages, kind)
    messages.insert(at, messages[at])


def first(messages: list[Message], kind: str) -> None:
    messages.insert(0, messages.pop(place(messages, kind)))


def last(messages: list[Message], kind: str) -> None:
    messages.append(messages.pop(place(messages, kind)))


KINDS = [
    ("align", BANK, "PsiStart"),
    ("align", PLATFORM, "MaskedPoints"),
    ("align", PLATFORM, "DoublyMasked"),
    ("prepare", BANK, "PaillierKey"),
    ("prepare", PLATFORM, "JobFigures"),
    ("prepare", BANK, "ColumnMasks"),
    ("prepare", PLATFORM, "ColumnProducts"),
    ("prepare", PLATFORM, "RowMasks"),
    ("prepare", BANK, "RowProducts"),
    ("prepare", BANK, "PreconditionerMasks"),
    ("prepare", PLATFORM, "PreconditionerProducts"),
    ("prepare", BANK, "BaseOtChoices"),
    ("prepare", PLATFORM, "BaseOtReplies"),
    ("round", BANK, "DirectiveEcho"),
    ("round", BANK, "FirstResiduals"),
    ("round", PLATFORM, "MaskedResiduals"),
    ("round", BANK, "MaskedGradients"),
    ("round", PLATFORM, "DotOperands"),
    ("round", BANK, "DotResults"),
    ("round", BANK, "InnerProductParts"),
    ("finish", PLATFORM, "WeightShares"),
]


@pytest.mark.parametrize(("step", "sender", "kind"), KINDS)
def test_no_kind_of_message_may_be_changed(step: str, sender: str, kind: str) -> None:
    """Left out, told twice, moved, or with an item or a byte more: each is refused, whichever kind it is."""
    number = int(step == "round")
    honest = audit_world.messages_of(step, number, sender, sets=audit_world.SETS, batch=3)
    parts = legal_messages(step, audit_world.figures(sender, audit_world.SETS), round=number, directive=NUMBERS[step])
    check_sequence(parts, [(Shape(*message), 1) for message in honest], complete=True)
    refused = 0
    for change in (one_item_more, one_byte_more, left_out, twice, first, last):
        messages = list(honest)
        change(messages, kind)
        if messages != honest:  # what stands first or last already cannot be moved there
            with pytest.raises(Unlawful):
                check_sequence(parts, [(Shape(*message), 1) for message in messages], complete=True)
            refused += 1
    assert refused >= 5


@pytest.mark.parametrize(("step", "sender", "kind"), KINDS)
def test_no_message_carries_more_than_its_items(tmp_path: Path, step: str, sender: str, kind: str) -> None:
    error = verify(tmp_path, told_with(lambda messages: one_byte_more(messages, kind), step, sender))
    assert (error.step, error.code) == (7, "audit.message_order"), error.message
    assert b'"type":"%s"' % kind.encode() in (tmp_path / error.log / "log.jsonl").read_bytes().splitlines()[error.seq or 0]


def test_a_message_of_another_step(tmp_path: Path) -> None:
    error = verify(tmp_path, told_with(lambda messages: messages.append(("WeightShares", 2, 52)), "round", BANK))
    assert (error.step, error.code) == (7, "audit.message_order")
    assert "WeightShares after the step's last message" in error.message


# ---- (7) entries and steps -----------------------------------------------------------------------------------------------------


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
    error = verify(tmp_path, told)
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


# ---- (4) the specification -------------------------------------------------------------------------------------------------------


def test_another_specification_than_the_approved_one(tmp_path: Path) -> None:
    told = events()
    spec = of(told, PLATFORM, "spec")
    spec.fields["document"] = spec.fields["document"].replace('"holdout":"0"', '"holdout":"0.5"')
    error = verify(tmp_path, told)
    assert (error.step, error.code, error.log) == (4, "audit.spec_mismatch", PLATFORM)


# ---- (8) ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "value", "code"),
    [
        ("key_bits_min", 4096, "audit.key_bits"),
        ("minimum_intersection", 6, "audit.intersection"),
        ("rounds_max", 0, "audit.rounds"),
        ("bands_max", 39, "audit.bands"),
    ],
)
def test_beyond_a_nodes_policy(tmp_path: Path, bound: str, value: int, code: str) -> None:
    with mock.patch.dict(POLICY, {bound: value}):
        told = events()
    error = verify(tmp_path, told)
    assert (error.step, error.code) == (8, code)
    assert error.log == BANK


def _of_job(defaults: Any, job: str) -> Any:
    """A function's defaults, for another job."""
    if isinstance(defaults, dict):
        return {name: job if value == JOB else value for name, value in defaults.items()}
    return defaults and tuple(job if value == JOB else value for value in defaults)


def test_short_order_keys_only_where_a_nodes_policy_names_them(tmp_path: Path) -> None:
    """The specification asks for them; the nodes' policies, as their logs tell them, decide."""
    document = SPEC.model_dump()
    document["model"]["key_kind"] = "short-order"
    spec = JobSpec.model_validate(document)
    for allowed, code in ((0, "audit.key_kind"), (1, None)):
        with ExitStack() as stack:
            stack.enter_context(mock.patch.multiple(audit_world, SPEC=spec, JOB=spec.identity()))
            stack.enter_context(mock.patch.dict(POLICY, {"short_order_keys": allowed}))
            for function in (audit_world.approvals, audit_world.attempt):
                for kind in ("__defaults__", "__kwdefaults__"):
                    stack.enter_context(mock.patch.object(function, kind, _of_job(getattr(function, kind), spec.identity())))
            told = events()
        (folder := tmp_path / str(allowed)).mkdir()
        if code is None:
            assert verify_logs(list(write(folder, told).values()), policy=policy(folder)).exit_status == 0
        else:
            error = verify(folder, told)
            assert (error.step, error.code, error.log) == (8, code, BANK)


def test_small_keys_are_a_warning_where_they_are_allowed(tmp_path: Path) -> None:
    with mock.patch.dict(POLICY, {"key_bits_min": 4096, "small_keys": 1}):
        told = events()
    verified = verify_logs(list(write(tmp_path, told).values()), policy=policy(tmp_path))
    assert verified.exit_status == 0
    assert verified.steps[8].state == "warning"
    assert "keys of 3072 bits, which bank allows as unsafe" in verified.steps[8].detail


@pytest.mark.parametrize(
    ("bounds", "code"),
    [
        ("key_bits_min = 4096", "audit.key_bits"),
        ("minimum_intersection = 6", "audit.intersection"),
    ],
)
def test_beyond_the_auditors_bounds(tmp_path: Path, bounds: str, code: str) -> None:
    trusted = policy(tmp_path)
    trusted.write_text(f"{trusted.read_text()}\n[limits]\n{bounds}\n")
    with pytest.raises(LogRejected) as caught:
        verify_logs(list(write(tmp_path, events()).values()), policy=trusted)
    error = caught.value
    assert (error.step, error.code) == (8, code)


def test_a_policy_that_names_no_bounds_is_incomplete(tmp_path: Path) -> None:
    told = events()
    of(told, BANK, "policy").fields = {"sha256": "11" * 32}
    verified = verify_logs(list(write(tmp_path, told).values()), policy=policy(tmp_path))
    assert verified.exit_status == 2
    assert verified.steps[8].state == "open"


def test_fewer_shared_customers_than_the_job_asks_for(tmp_path: Path) -> None:
    with mock.patch.object(audit_world, "SHARED", 4):
        told = events()
    error = verify(tmp_path, told)
    assert (error.step, error.code) == (8, "audit.intersection")


def test_a_disclosure_to_a_stranger(tmp_path: Path) -> None:
    told = events()
    of(told, BANK, "disclosure", what="columns", to=PLATFORM).fields["to"] = "somebody"
    error = verify(tmp_path, told)
    assert (error.step, error.code, error.log) == (8, "audit.recipient", BANK)


def test_a_key_of_another_size_than_the_jobs(tmp_path: Path) -> None:
    told = events()
    of(told, BANK, "commitment", what="paillier key").fields["bits"] = 2048
    error = verify(tmp_path, told)
    assert (error.step, error.code) == (8, "audit.key_bits")


# ---- (9) ----------------------------------------------------------------------------------------------------------------------


def every_disclosure() -> list[tuple[str, str, str]]:
    return [
        (event.log, event.fields["step"], f"{event.fields['what']} {event.fields['to']} {event.fields.get('party', '')}")
        for event in events()
        if event.kind == "disclosure"
    ]


def disclosure(told: list[Event], log: str, step: str, name: str) -> Event:
    what, to, party = name.split(" ")
    more = {"party": party} if party else {}
    return of(told, log, "disclosure", step=step, what=what, to=to, **more)


SOME = [d for d in every_disclosure() if d[1:] in (("align", "rows coordinator bank"), ("finish", "weights_of_the_receiver bank "))]
CASES = [(*d, change) for d in every_disclosure() for change in ("omitted", "value")]
CASES += [(*d, change) for d in SOME for change in ("twice", "count", "clause", "what")]


@pytest.mark.parametrize(("log", "step", "name", "change"), CASES)
def test_no_disclosure_can_be_left_out_added_or_changed(tmp_path: Path, log: str, step: str, name: str, change: str) -> None:
    told = events()
    event = disclosure(told, log, step, name)
    if change == "omitted":
        told.remove(event)
    elif change == "twice":
        told.insert(told.index(event), event)
    elif change == "count":
        event.fields["count"] += 1
    elif change == "value":
        event.fields["value"] += "1"
    elif change == "clause":
        event.fields["clause"] = "spec: disclose.aggregates_to_coordinator"
    else:
        event.fields["what"] = "aggregates"
    # The liar's receipt agrees with its entries.
    told = [event for event in told if event.kind != "disclosures" and not (event.kind == "job" and event.log != COORDINATOR)]
    told = [event for event in told if not (event.kind == "job" and event.fields["state"] == "finished")]
    error = verify(tmp_path, told + ending(told))
    if "inner_products" in name and change == "value":
        assert (error.step, error.code) == (7, "audit.inner_products")
    else:
        assert error.step == 9, error.message
        assert error.log in (log, COORDINATOR)


@pytest.mark.parametrize("log", [BANK, PLATFORM, COORDINATOR])
@pytest.mark.parametrize("change", ["omitted", "twice", "count", "clause", "to", "all"])
def test_the_receipt_is_the_sum_of_the_entries(tmp_path: Path, log: str, change: str) -> None:
    told = events()
    event = of(told, log, "disclosures")
    items = event.fields["items"]
    if change == "omitted":
        del items[2]
    elif change == "twice":
        items.append(items[2])
    elif change == "count":
        items[0]["count"] += 1
    elif change == "clause":
        items[0]["clause"] = "protocols.md: weights"
    elif change == "to":
        items[0]["to"] = "somebody"
    elif log == COORDINATOR:
        items.clear()
    else:
        told.remove(event)
    error = verify(tmp_path, told)
    assert (error.step, error.code, error.log) == (9, "audit.receipt_items", log)


def test_what_the_coordinator_leaves_out_shows_without_the_nodes_log(tmp_path: Path) -> None:
    """Of each report it is known what it told; the log of the node that sent it is not needed for that."""
    told = [event for event in events() if not (event.kind in ("disclosures", "job") and event.fields.get("state") != "submitted")]
    told.remove(of(told, COORDINATOR, "disclosure", what="columns", party=BANK))
    folders = write(tmp_path, told + ending(told))
    with pytest.raises(LogRejected) as caught:
        verify_logs([folders[PLATFORM], folders[COORDINATOR]], policy=policy(tmp_path))
    assert (caught.value.step, caught.value.code) == (9, "audit.disclosure_missing")


def test_aggregates_that_the_job_keeps_from_the_coordinator(tmp_path: Path) -> None:
    told = events()
    at = index(told, BANK, "disclosure", what="columns", to=COORDINATOR)
    forbidden = {"what": "aggregates", "to": COORDINATOR, "count": 5, "clause": "spec: disclose.aggregates_to_coordinator"}
    labels = {"job": JOB, "step": "prepare", "round": 0, "attempt": 0}
    told.insert(at, Event(BANK, "disclosure", {**labels, **forbidden, "value": "{}"}))
    error = verify(tmp_path, told)
    assert (error.step, error.code, error.log) == (9, "audit.disclosure_forbidden", BANK)


def test_a_failed_attempt_disclosed_what_it_had_sent(tmp_path: Path) -> None:
    told = [*opening(), *approvals(), *attempt("align", outcome="failed")]
    verified = verify_logs(list(write(tmp_path / "a", told + ending(told, "failed")).values()), policy=policy(tmp_path))
    assert verified.whole
    assert {fact.what for fact in verified.jobs[0].disclosures} == {"set_size", "shared_customers_at_most"}
    told.remove(of(told, BANK, "disclosure", what="shared_customers_at_most"))
    error = verify(tmp_path, told + ending(told, "failed"))
    assert (error.step, error.code, error.log) == (9, "audit.disclosure_missing", BANK)


def test_what_a_crash_kept_from_being_written_down_is_told(tmp_path: Path) -> None:
    """The node crashes after its messages: no disclosure entry, but they were carried, and the facts say so."""
    cut = [e for e in attempt("align", outcome="crashed") if e.kind != "disclosure"]
    labels = {"job": JOB, "step": "align", "round": 0, "attempt": 0}
    cut += [Event(log, "step", {**labels, "state": "failed", "code": "job.interrupted"}) for log in (BANK, PLATFORM)]
    told = [*opening(), *approvals(), *cut]
    verified = verify_logs(list(write(tmp_path, told + ending(told, "failed")).values()), policy=policy(tmp_path))
    assert verified.whole
    found = {(fact.by, fact.what, fact.listed) for fact in verified.jobs[0].disclosures}
    assert found == {(by, what, False) for by in (BANK, PLATFORM) for what in ("set_size", "shared_customers_at_most")}
