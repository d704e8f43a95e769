"""What a node makes of an offer: what its policy and a person decide, the decisions of both sides, and crashes between the two."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from audit.identity import Identity
from audit.orders import NODE_ORDER
from node.errors import IsthmusError, PolicyError, UsageError
from node.policy import AutoApprove
from node.runtime.jobs import Jobs
from node.runtime.journal import StepLabels
from protos import control_pb2
from tests.nodes import CARDS, TestNode, approvals_of, approved, identities, jobs_of, node, offer, refusal, spec_of, write_node


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    return identities(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def bank(tmp_path: Path, known: dict[str, Identity]) -> Iterator[TestNode]:
    with node(write_node(tmp_path, "bank", CARDS), known, {}) as found:
        yield found


def test_offers_beyond_the_limit_are_not_taken_in(bank: TestNode) -> None:
    jobs = Jobs(
        replace(bank.parts, limits=replace(bank.parts.limits, jobs_open=2)),
        report=bank.heard.report,
        progress=lambda **_: None,
        notify=bank.heard.lines.append,
    )
    specs = [spec_of(nonce=f"{number:032x}") for number in range(3)]
    offers = [control_pb2.Offer(job=spec.identity(), spec=spec.canonical().decode()) for spec in specs]
    jobs.decisions.offer(offers[0])
    jobs.decisions.offer(offers[1])
    before = bank.entries()
    with pytest.raises(PolicyError) as refused:
        jobs.decisions.offer(offers[2])
    assert refused.value.code == "job.too_many"
    assert bank.store.job(offers[2].job) is None
    assert bank.entries() == before
    jobs.decisions.offer(offers[1])  # one that is known is no further one
    jobs.decisions.decide(offers[0].job, decision="reject", by="Ana")
    jobs.decisions.offer(offers[2])
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
        bank.jobs.decisions.approvals(good)
    assert refused.value.code in ("job.not_approved", "audit.bad_signature", "approval.other_job")
    assert refusal(bank, StepLabels(job, "align", 0, 0)) == "job.not_approved"


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


def test_nothing_is_decided_after_the_end(bank: TestNode, known: dict[str, Identity]) -> None:
    """A person approves while the other side's rejection ends the job: the end stays the job's last entry."""
    spec = spec_of()
    job = spec.identity()
    bank.jobs.handle(control_pb2.Directive(offer=control_pb2.Offer(job=job, spec=spec.canonical().decode())))
    bank.store.request(job, decision="approve", by="Ana")
    bank.jobs.handle(control_pb2.Directive(job_end=control_pb2.JobEnd(job=job, outcome="rejected", code="coordinator.rejected")))
    with pytest.raises(UsageError) as caught:
        bank.jobs.decisions.decide(job, decision="approve", by="Ana")
    assert caught.value.code == "job.ended"
    bank.jobs.poll()
    bank.jobs.handle(control_pb2.Directive(approvals=approvals_of(spec, known)))
    assert [entry["kind"] for entry in bank.entries() if entry["job"] == job] == ["spec", "job"]


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
    offered = control_pb2.Directive(offer=control_pb2.Offer(job=job, spec=spec.canonical().decode()))
    owner, method = CRASHES[where]
    honest = getattr(getattr(parts, owner), method)

    def dies(*arguments: Any, **named: Any) -> Any:
        if owner == "log" and arguments[0] != "approval":
            return honest(*arguments, **named)
        raise SystemError("the process dies here")

    with monkeypatch.context() as patch:
        patch.setattr(getattr(parts, owner), method, dies)
        with pytest.raises(SystemError):
            jobs_of(parts, bank).handle(offered)
    again = jobs_of(parts, bank)
    again.handle(offered)
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
