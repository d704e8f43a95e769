"""What a job needs before a step runs, and what a step is said to have disclosed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from audit.identity import Identity
from audit.orders import NODE_ORDER
from audit.spec import JobSpec
from node.config import RelaySection
from node.crypto.drbg import Drbg
from node.data.load import load_table
from node.errors import IsthmusError, PolicyError, UsageError
from node.policy import AutoApprove, CountSection
from node.protocols.metrics import Metrics
from node.runtime.context import StepContext, StepResult
from node.runtime.disclosures import Facts, of_step, receipt
from node.runtime.files import texts_from_arrays, texts_to_arrays
from node.runtime.jobs import Jobs, NodeParts
from node.runtime.journal import StepLabels
from node.runtime.serve import route
from node.runtime.step_order import ATTEMPTS_MAX
from node.runtime.steps import store_result
from protos import control_pb2
from tests.nodes import TestNode, approvals_of, identities, node, spec_of, write_node

CARDS = """
[[dataset]]
name = "cards"
source = "csv"
path = "cards.csv"
identifier = "id"
[dataset.columns.a]
kind = "number"
[dataset.columns.b]
kind = "number"
[dataset.columns.y]
kind = "label"
"""


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    return identities(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def bank(tmp_path: Path, known: dict[str, Identity]) -> Iterator[TestNode]:
    with node(write_node(tmp_path, "bank", CARDS), known, {}) as found:
        yield found


def offer(one: TestNode, spec: JobSpec) -> str:
    job = spec.identity()
    one.jobs.handle(control_pb2.Directive(offer=control_pb2.Offer(job=job, spec=spec.canonical().decode())))
    return job


def approved(one: TestNode, known: dict[str, Identity], spec: JobSpec) -> str:
    job = offer(one, spec)
    one.store.request(job, decision="approve", by="Ana")
    one.jobs.poll()
    one.jobs.approvals(approvals_of(spec, known))
    return job


def refusal(one: TestNode, labels: StepLabels) -> str:
    with pytest.raises(IsthmusError) as refused:
        one.jobs.check_start(labels)
    assert refused.value.message
    return refused.value.code


# ---- offers and decisions


def test_offers_beyond_the_limit_are_not_taken_in(bank: TestNode) -> None:
    jobs = Jobs(
        replace(bank.parts, limits=replace(bank.parts.limits, jobs_open=2)),
        report=bank.heard.report,
        progress=lambda **_: None,
        notify=bank.heard.lines.append,
    )
    specs = [spec_of(nonce=f"{number:032x}") for number in range(3)]
    offers = [control_pb2.Offer(job=spec.identity(), spec=spec.canonical().decode()) for spec in specs]
    jobs.offer(offers[0])
    jobs.offer(offers[1])
    before = bank.entries()
    with pytest.raises(PolicyError) as refused:
        jobs.offer(offers[2])
    assert refused.value.code == "job.too_many"
    assert bank.store.job(offers[2].job) is None
    assert bank.entries() == before
    jobs.offer(offers[1])  # one that is known is no further one
    jobs.decide(offers[0].job, decision="reject", by="Ana")
    jobs.offer(offers[2])
    assert bank.store.job(offers[2].job).state == "waiting"


def test_a_job_waits_for_a_person_and_the_signed_decision_goes_out(bank: TestNode, known: dict[str, Identity]) -> None:
    job = offer(bank, spec_of())
    assert bank.store.job(job).state == "waiting"
    assert bank.heard.reports == []
    bank.store.request(job, decision="approve", by="Ana Ruiz")
    bank.jobs.poll()
    (decision,) = bank.heard.of("decision")
    statement = json.loads(decision.statement)
    assert (statement["decision"], statement["by"], statement["peer"]) == ("approve", "Ana Ruiz", "platform")
    known["bank"].log_key.verifier.verify(decision.statement.encode(), bytes.fromhex(decision.signature))
    assert bank.store.job(job).state == "approved"
    kinds = [entry["kind"] for entry in bank.entries()]
    assert kinds.index("commitment") < kinds.index("approval")
    assert (bank.config.state_folder / "jobs" / job / "seed.sealed").exists()


def test_the_same_offer_again_only_repeats_the_decision(bank: TestNode) -> None:
    job = offer(bank, spec_of())
    offer(bank, spec_of())
    assert bank.heard.reports == []
    bank.store.request(job, decision="reject", by="Ana", reason="wrong column")
    bank.jobs.poll()
    offer(bank, spec_of())
    first, second = bank.heard.of("decision")
    assert first == second
    assert b"wrong column" not in first.SerializeToString()  # a person's reason stays here


def test_an_offer_whose_hash_is_not_the_specifications_is_refused(bank: TestNode) -> None:
    spec, other = spec_of(), spec_of(title="another")
    altered = control_pb2.Offer(job=spec.identity(), spec=other.canonical().decode())
    bank.jobs.handle(control_pb2.Directive(offer=altered))
    assert bank.store.jobs() == []
    assert any("job.spec_mismatch" in line for line in bank.heard.lines)


def test_what_the_policy_does_not_allow_is_rejected_without_a_person(bank: TestNode) -> None:
    job = offer(bank, spec_of(align={"minimum": 2}))
    row = bank.store.job(job)
    assert (row.state, row.code) == ("rejected", "policy.minimum_intersection")
    (decision,) = bank.heard.of("decision")
    assert json.loads(decision.statement)["decision"] == "reject"
    assert "minimum" not in decision.statement  # the reason stays here


# ---- before a step


def test_a_step_runs_only_with_both_signatures_over_this_very_hash(bank: TestNode, known: dict[str, Identity]) -> None:
    spec = spec_of()
    job = offer(bank, spec)
    align = StepLabels(job, "align", 0, 0)
    assert refusal(bank, align) == "job.not_approved"
    bank.store.request(job, decision="approve", by="Ana")
    bank.jobs.poll()
    assert refusal(bank, align) == "job.not_approved"  # the platform has not approved
    bank.jobs.approvals(approvals_of(spec, known))
    assert bank.jobs.check_start(align) == spec


@pytest.mark.parametrize("kind", ["other job", "other key", "rejection", "one missing", "not hexadecimal"])
def test_a_forged_approval_is_refused(bank: TestNode, known: dict[str, Identity], kind: str) -> None:
    spec = spec_of()
    job = offer(bank, spec)
    bank.store.request(job, decision="approve", by="Ana")
    bank.jobs.poll()
    good = approvals_of(spec, known)
    if kind == "other job":
        other = approvals_of(spec_of(title="another"), known)
        good.decisions[1].CopyFrom(other.decisions[1])
    elif kind == "other key":
        good = approvals_of(spec, known | {"platform": known["coordinator"]})
    elif kind == "rejection":
        good = approvals_of(spec, known, decision="reject")
    elif kind == "one missing":
        del good.decisions[1]
    else:
        good.decisions[1].signature = "zz"
    with pytest.raises(IsthmusError) as refused:
        bank.jobs.approvals(good)
    assert refused.value.code in ("job.not_approved", "audit.bad_signature", "approval.other_job")
    assert refusal(bank, StepLabels(job, "align", 0, 0)) == "job.not_approved"


def test_a_specification_altered_between_approval_and_start_is_refused(bank: TestNode, known: dict[str, Identity]) -> None:
    spec = spec_of()
    job = approved(bank, known, spec)
    altered = spec_of(disclose={"aggregates_to_coordinator": False}).canonical().decode()
    database = sa.create_engine(f"sqlite:///{bank.config.state_folder / 'state.db'}")
    with database.begin() as db:
        db.execute(sa.text("UPDATE jobs SET spec = :spec"), {"spec": altered})
    database.dispose()
    assert refusal(bank, StepLabels(job, "align", 0, 0)) == "job.spec_mismatch"
    bank.heard.reports.clear()
    bank.jobs.handle(control_pb2.Directive(step_start=control_pb2.StepStart(job=job, step="align")))
    assert bank.heard.of("step_failed")[0].code == "job.spec_mismatch"
    assert bank.store.steps(job) == []


@pytest.mark.parametrize(
    ("step", "number", "attempt", "code"),
    [
        ("prepare", 0, 0, "job.step_order"),
        ("round", 1, 0, "job.step_order"),
        ("finish", 0, 0, "job.step_order"),
        ("align", 1, 0, "job.step_order"),
        ("round", 0, 0, "job.step_order"),
        ("round", 3, 0, "job.step_order"),  # the job allows two rounds
        ("dance", 0, 0, "job.unknown_step"),
        ("align", 0, ATTEMPTS_MAX + 1, "job.too_many_attempts"),
    ],
)
def test_steps_out_of_order_are_refused(
    bank: TestNode, known: dict[str, Identity], step: str, number: int, attempt: int, code: str
) -> None:
    job = approved(bank, known, spec_of())
    assert refusal(bank, StepLabels(job, step, number, attempt)) == code


def test_a_step_before_the_furthest_one_is_not_run_again(bank: TestNode, known: dict[str, Identity]) -> None:
    job = approved(bank, known, spec_of())
    for step, number in (("align", 0), ("prepare", 0), ("round", 1)):
        assert bank.jobs.check_start(StepLabels(job, step, number, 0))
        bank.store.begin_step(job, step, number, 0, now="")
        bank.store.end_step(job, step, number, 0, state="done", now="")
    assert refusal(bank, StepLabels(job, "align", 0, 1)) == "job.step_order"
    assert bank.jobs.check_start(StepLabels(job, "prepare", 0, 1)), "fresh masks for a round that has to start again"
    assert refusal(bank, StepLabels(job, "evaluate", 0, 1)) == "job.step_order"
    assert bank.jobs.check_start(StepLabels(job, "round", 2, 0))
    assert bank.jobs.check_start(StepLabels(job, "finish", 0, 0))  # training may stop early
    assert bank.jobs.check_start(StepLabels(job, "round", 1, 1))
    bank.store.begin_step(job, "finish", 0, 2, now="")
    assert refusal(bank, StepLabels(job, "prepare", 0, 3)) == "job.step_order"


def test_an_ended_job_runs_nothing_and_an_end_that_cannot_be_is_a_failure(bank: TestNode, known: dict[str, Identity]) -> None:
    job = approved(bank, known, spec_of())
    bank.jobs.handle(control_pb2.Directive(job_end=control_pb2.JobEnd(job=job, outcome="finished")))
    row = bank.store.job(job)
    assert (row.state, row.code) == ("failed", "job.illegal_end")  # no step ever ran here
    assert refusal(bank, StepLabels(job, "align", 0, 0)) == "job.ended"


def test_nothing_is_decided_after_the_end(bank: TestNode, known: dict[str, Identity]) -> None:
    """A person approves while the other side's rejection ends the job: the end stays the job's last entry."""
    spec = spec_of()
    job = spec.identity()
    bank.jobs.handle(control_pb2.Directive(offer=control_pb2.Offer(job=job, spec=spec.canonical().decode())))
    bank.store.request(job, decision="approve", by="Ana")
    bank.jobs.handle(control_pb2.Directive(job_end=control_pb2.JobEnd(job=job, outcome="rejected", code="coordinator.rejected")))
    with pytest.raises(UsageError) as caught:
        bank.jobs.decide(job, decision="approve", by="Ana")
    assert caught.value.code == "job.ended"
    bank.jobs.poll()
    bank.jobs.handle(control_pb2.Directive(approvals=approvals_of(spec, known)))
    assert [entry["kind"] for entry in bank.entries() if entry["job"] == job] == ["spec", "job"]


def test_after_a_reconnect_decisions_and_outcomes_are_said_again(bank: TestNode, known: dict[str, Identity]) -> None:
    job = approved(bank, known, spec_of())
    bank.store.begin_step(job, "align", 0, 0, now="")
    bank.jobs.recover()
    bank.heard.reports.clear()
    bank.jobs.on_attach()
    assert [r.WhichOneof("body") for r in bank.heard.reports] == ["decision", "step_failed"]
    assert bank.heard.of("step_failed")[0].code == "job.interrupted"
    assert bank.entries("step")[-1]["code"] == "job.interrupted"


# ---- who dials


@pytest.mark.parametrize(
    ("own", "theirs", "me", "expected"),
    [
        ("", "h:1", "bank", "dial"),
        ("h:1", "", "bank", "accept"),
        ("h:1", "h:2", "bank", "accept"),
        ("h:1", "h:2", "platform", "dial"),
        ("", "", "bank", "relay"),
        ("", "", "platform", "relay"),
    ],
)
def test_who_dials(bank: TestNode, own: str, theirs: str, me: str, expected: str) -> None:
    peer = replace(bank.parts.partners["platform"], address=theirs)
    assert route(spec_of(), me=me, own_address=own, peer=peer, relay=RelaySection(always_with=["other"])) == expected
    assert route(spec_of(), me=me, own_address=own, peer=peer, relay=RelaySection(always_with=["platform"])) == "relay"


def test_no_route_is_an_error_on_both_sides(bank: TestNode) -> None:
    never = RelaySection(use="never")
    for me in ("bank", "platform"):
        with pytest.raises(IsthmusError) as refused:
            route(spec_of(), me=me, own_address="", peer=bank.parts.partners["platform"], relay=never)
        assert refused.value.code == "transport.no_route"


def test_counts_are_refused_once_the_period_s_are_used_up(bank: TestNode, known: dict[str, Identity]) -> None:
    """When one is offered, and when a step is to begin: attempts count, whatever came of them."""
    section = CountSection(allow=True, partner_learns=True, step=10, per_period=2)
    parts = replace(bank.parts, policy=bank.parts.policy.model_copy(update={"count": section}))
    bank.jobs = _jobs_of(parts, bank)
    plain = spec_of().model_dump(exclude={"kind", "label", "model", "disclose"})
    holders = {name: plain[name] | {"features": []} for name in ("label_holder", "feature_holder")}
    first, second, third = (
        JobSpec.model_validate(plain | holders | {"kind": "count", "nonce": digit * 32, "count": {"step": 10}}) for digit in "012"
    )
    job, other = approved(bank, known, first), approved(bank, known, second)
    assert refusal(bank, StepLabels(job, "align", 0, 0)) == "job.unknown_step"
    for attempt in range(2):
        assert bank.jobs.check_start(StepLabels(job, "count", 0, attempt)) == first
        bank.store.begin_step(job=job, step="count", round=0, attempt=attempt, now=parts.now())
    assert refusal(bank, StepLabels(job, "count", 0, 2)) == "policy.count_period"
    assert refusal(bank, StepLabels(other, "count", 0, 0)) == "policy.count_period"
    bank.heard.reports.clear()
    last = bank.store.job(offer(bank, third))
    assert last is not None
    assert (last.state, last.code) == ("rejected", "policy.count_period")


# ---- what crossed

METRICS = Metrics(auc=0.75, ks=0.4, log_loss=0.5, base_rate=0.2, rows=60, gains=[(d, 6, 1) for d in range(1, 11)])


def crossed(step: str, me: str, sent: dict[str, int], facts: Facts | None, **spec: object) -> list[tuple[str, str, int]]:
    return [(d.what, d.to, d.count) for d in of_step(step, spec=spec_of(**spec), me=me, sent=sent, facts=facts)]


def test_the_rows_of_the_table_step_by_step() -> None:
    facts = Facts(set_size=250, intersection=200, rows_train=140, rows_holdout=60)
    assert crossed("align", "bank", {"PsiStart": 1, "DoublyMasked": 300}, facts) == [
        ("set_size", "platform", 1),
        ("shared_customers", "platform", 200),
        ("set_size", "coordinator", 1),
        ("rows", "coordinator", 3),
    ]
    facts = Facts(columns=3, base_rate="0.22")
    assert crossed("prepare", "bank", {"JobFigures": 1}, facts) == [
        ("columns", "platform", 1),
        ("base_rate", "platform", 1),
        ("columns", "coordinator", 1),
        ("base_rate", "coordinator", 1),
    ]
    assert crossed("prepare", "platform", {"JobFigures": 1}, facts) == [("columns", "bank", 1), ("columns", "coordinator", 1)]
    facts = Facts(inner_products=[0.5, 0.25])
    assert crossed("round", "platform", {"InnerProductParts": 2}, facts) == [
        ("inner_products", "bank", 2),
        ("inner_products", "coordinator", 2),
    ]
    assert crossed("finish", "bank", {"WeightShares": 3}, Facts()) == [("weights_of_the_receiver", "platform", 3)]
    assert crossed("evaluate", "platform", {"BandTables": 60}, Facts()) == [("score_bands", "bank", 60)]
    assert crossed("evaluate", "bank", {"Aggregates": 1}, Facts(metrics=METRICS)) == [
        ("aggregates", "platform", 5),
        ("aggregates", "coordinator", 35),
    ]


def test_aggregates_go_only_where_the_specification_says() -> None:
    closed = {"aggregates_to_feature_holder": False, "aggregates_to_coordinator": False}
    assert crossed("evaluate", "bank", {}, Facts(metrics=METRICS), disclose=closed) == []
    assert crossed("evaluate", "platform", {"BandTables": 60}, Facts(metrics=METRICS)) == [("score_bands", "bank", 60)]


def test_a_failed_attempt_disclosed_what_it_had_sent() -> None:
    assert crossed("align", "bank", {}, None) == []
    assert crossed("align", "bank", {"PsiStart": 1}, None) == [("set_size", "platform", 1)]
    assert crossed("align", "bank", {"PsiStart": 1, "DoublyMasked": 300}, None) == [
        ("set_size", "platform", 1),
        ("shared_customers_at_most", "platform", 300),
    ]
    assert crossed("prepare", "bank", {"JobFigures": 1}, None) == [("columns", "platform", 1), ("base_rate", "platform", 1)]
    assert crossed("round", "bank", {"InnerProductParts": 2}, None) == [("inner_products", "platform", 2)]


def test_the_receipt_adds_up() -> None:
    rows = [{"what": "k", "to": "c", "count": n, "clause": "x", "value": ""} for n in (1, 2, 3)]
    assert receipt(rows) == [{"what": "k", "to": "c", "count": 6, "clause": "x"}]


# ---- what a step leaves


def test_texts_survive_as_bytes_and_offsets() -> None:
    texts = ["", "plain", "Łódź 🙂", "with\nnewline", "x" * 1000]
    arrays = texts_to_arrays(texts)
    assert texts_from_arrays(arrays) == texts
    assert not any(np.asarray(array).dtype.hasobject for array in arrays.values())
    assert texts_from_arrays(texts_to_arrays([])) == []


def test_secrets_show_in_no_representation(bank: TestNode, known: dict[str, Identity]) -> None:
    seed = bytes(range(32))
    result = StepResult(Facts(), {"prepared.npz": {"p": np.frombuffer(seed, dtype=np.uint8)}})
    context = StepContext(
        spec=spec_of(),
        job="a" * 64,
        me="bank",
        dataset=bank.config.dataset[0],
        files=bank.store.files("a" * 64),
        drbg=Drbg(seed, job="a" * 64, step="align"),
        engine=bank.parts.engine,
        limits=bank.parts.limits,
        minimum_shared=10,
        minimum_key_bits=512,
        round=0,
        attempt=0,
        coefficients=[],
        lookup_range=0.0,
        progress=lambda *_: None,
        commit=lambda *_, **__: None,
        choose=lambda *_, **__: None,
        load=lambda: load_table(bank.config.dataset[0], features=["a"], label="y", normalise="exact"),
        keep=lambda _: None,
    )
    for shown in (repr(result), str(result), repr(context), repr(bank.parts)):
        assert repr(seed)[2:-1] not in shown
        assert seed.hex() not in shown
        assert "31]" not in shown
        assert known["bank"].tls_key_pem.decode() not in shown
        assert known["bank"].log_key.private_text() not in shown
    store_result(bank.store.files("a" * 64), result)
    assert bank.store.files("a" * 64).has("prepared.npz")


def test_a_decision_altered_in_the_nodes_own_database_is_refused(bank: TestNode, known: dict[str, Identity]) -> None:
    job = approved(bank, known, spec_of())
    align = StepLabels(job, "align", 0, 0)
    assert bank.jobs.check_start(align)
    database = sa.create_engine(f"sqlite:///{bank.config.state_folder / 'state.db'}")
    rejected = approvals_of(spec_of(), known, decision="reject").decisions[1]
    with database.begin() as db:
        change = sa.text("UPDATE decisions SET statement = :statement, signature = :signature WHERE party = 'platform'")
        db.execute(change, {"statement": rejected.statement, "signature": rejected.signature})
    assert refusal(bank, align) == "job.not_approved"
    with database.begin() as db:
        db.execute(sa.text("UPDATE decisions SET statement = replace(statement, 'reject', 'approve')"))
    database.dispose()
    assert refusal(bank, align) == "audit.bad_signature"


CRASHES = {
    "before the offer is stored": ("store", "add_job"),
    "before the decision is logged": ("log", "append"),
    "before the decision is stored": ("store", "put_decision"),
    "before the job moves on": ("store", "move"),
}


@pytest.mark.parametrize("where", CRASHES)
def test_a_crash_between_an_offer_and_its_decision_loses_neither(
    bank: TestNode, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A rule approves; the process dies at some point of it; the coordinator offers the job again to the next one."""
    rule = {"name": "nightly", "partner": "platform", "dataset": "cards", "coordinator": "coordinator"}
    parts = replace(bank.parts, policy=bank.parts.policy.model_copy(update={"auto_approve": [AutoApprove(**rule)]}))
    spec = spec_of()
    job = spec.identity()
    offer = control_pb2.Directive(offer=control_pb2.Offer(job=job, spec=spec.canonical().decode()))
    owner, method = CRASHES[where]
    honest = getattr(getattr(parts, owner), method)

    def dies(*arguments: Any, **named: Any) -> Any:
        if owner == "log" and arguments[0] != "approval":
            return honest(*arguments, **named)
        raise SystemError("the process dies here")

    with monkeypatch.context() as patch:
        patch.setattr(getattr(parts, owner), method, dies)
        with pytest.raises(SystemError):
            _jobs_of(parts, bank).handle(offer)
    again = _jobs_of(parts, bank)
    again.handle(offer)
    row = bank.store.job(job)
    assert row is not None
    assert row.state == "approved"
    kinds = [entry["kind"] for entry in bank.entries() if entry["job"] == job]
    assert kinds[0] == "spec"
    assert "approval" in kinds
    named = {"spec": "spec", "commitment": "seed", "approval": "approves"}
    state = "new"
    for kind in kinds:
        state = NODE_ORDER[state][named[kind]]
    assert state == "approved"
    statement = bank.store.decisions(job)["bank"].statement
    assert statement in [entry["statement"] for entry in bank.entries("approval")]


def _jobs_of(parts: NodeParts, bank: TestNode) -> Jobs:
    return Jobs(parts, report=bank.heard.report, progress=lambda **_: None, notify=bank.heard.lines.append)
