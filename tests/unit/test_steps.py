"""What a job needs before a step runs, who dials for it, and what a step leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from audit.identity import Identity
from audit.spec import JobSpec
from node.config import RelaySection
from node.crypto.drbg import Drbg
from node.data.load import load_table
from node.errors import IsthmusError
from node.policy import CountSection
from node.runtime.context import StepContext, StepResult
from node.runtime.disclosures import Facts
from node.runtime.files import texts_from_arrays, texts_to_arrays
from node.runtime.journal import StepLabels
from node.runtime.serve import route
from node.runtime.step_order import ATTEMPTS_MAX
from node.runtime.steps import store_result
from protos import control_pb2
from tests.nodes import CARDS, TestNode, approvals_of, approved, identities, jobs_of, node, offer, refusal, spec_of, write_node


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    return identities(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def bank(tmp_path: Path, known: dict[str, Identity]) -> Iterator[TestNode]:
    with node(write_node(tmp_path, "bank", CARDS), known, {}) as found:
        yield found


# ---- before a step


def test_a_step_runs_only_with_both_signatures_over_this_very_hash(bank: TestNode, known: dict[str, Identity]) -> None:
    spec = spec_of()
    job = offer(bank, spec)
    align = StepLabels(job, "align", 0, 0)
    assert refusal(bank, align) == "job.not_approved"
    bank.store.request(job, decision="approve", by="Ana")
    bank.jobs.poll()
    assert refusal(bank, align) == "job.not_approved"  # the platform has not approved
    bank.jobs.decisions.approvals(approvals_of(spec, known))
    assert bank.jobs.check_start(align) == spec


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


def test_after_a_reconnect_decisions_and_outcomes_are_said_again(bank: TestNode, known: dict[str, Identity]) -> None:
    job = approved(bank, known, spec_of())
    bank.store.begin_step(job, "align", 0, 0, now="")
    bank.jobs.recover()
    bank.heard.reports.clear()
    bank.jobs.on_attach()
    assert [r.WhichOneof("body") for r in bank.heard.reports] == ["decision", "step_failed"]
    assert bank.heard.of("step_failed")[0].code == "job.interrupted"
    assert bank.entries("step")[-1]["code"] == "job.interrupted"


def test_counts_are_refused_once_the_period_s_are_used_up(bank: TestNode, known: dict[str, Identity]) -> None:
    """When one is offered, and when a step is to begin: attempts count, whatever came of them."""
    section = CountSection(allow=True, partner_learns=True, step=10, per_period=2)
    parts = replace(bank.parts, policy=bank.parts.policy.model_copy(update={"count": section}))
    bank.jobs = jobs_of(parts, bank)
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
