"""The coordinator over real gRPC and TLS with two scripted nodes: a job's course, its faults and restarts."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from audit.receipts import verify_approval
from coordinator import jobs
from coordinator.client import connect
from coordinator.errors import UsageError
from coordinator.job_log import JobLog
from coordinator.reports import StepReport
from protos import control_pb2
from tests.coordinator_world import METRICS, WAIT, World, on_both, poll, report, world_on

pytestmark = pytest.mark.timed


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    with world_on(getattr(request, "param", "sqlite"), tmp_path) as made:
        yield made


@on_both
def test_a_whole_job(world: World) -> None:
    world.serve()
    bank, platform = world.node("bank"), world.node("platform")
    job = world.submit()
    view = world.until(job, "finished", "failed")
    assert (view.state, view.code, view.converged, view.base_rate) == ("finished", "", True, "0.21")
    assert view.metrics == METRICS
    steps = [(s.step, s.round) for s in view.steps]
    rounds = len([s for s in steps if s[0] == "round"])
    assert steps == [("align", 0), ("prepare", 0), *(("round", t + 1) for t in range(rounds)), ("finish", 0), ("evaluate", 0)]
    poll(lambda: "job_end" in bank.kinds() and "job_end" in platform.kinds(), "both nodes hear of the end")
    for node in (bank, platform):
        assert [k for k in node.kinds() if k != "step_start"] == ["welcome", "offer", "approvals", "job_end"]
        approvals = next(d.approvals for d in node.seen if d.WhichOneof("body") == "approvals")
        for decision, party in zip(approvals.decisions, ("bank", "platform"), strict=False):
            names = {json.loads(d.statement)["party"] for d in approvals.decisions}
            assert names == {"bank", "platform"}
            signer = json.loads(decision.statement)["party"]
            key = world.identities[signer].log_key.verifier
            verify_approval(decision.statement.encode(), bytes.fromhex(decision.signature), key=key, job=job, party=signer)
            assert party in names
    starts = [d.step_start for d in bank.seen if d.WhichOneof("body") == "step_start"]
    assert starts == [d.step_start for d in platform.seen if d.WhichOneof("body") == "step_start"]
    assert [len(s.coefficients) for s in starts if s.step == "round"] == list(range(rounds))
    assert [len(s.coefficients) for s in starts if s.step in ("finish", "evaluate")] == [rounds, rounds]
    _check_log(world, job, rounds)


def _check_log(world: World, job: str, rounds: int) -> None:
    entries = world.log()
    assert entries[0]["kind"] == "software"
    own = [e for e in entries if e["job"] == job]
    assert [e["state"] for e in own if e["kind"] == "job"] == ["submitted", "approved", "running", "finished"]
    assert len([e for e in own if e["kind"] == "approval"]) == 2
    directives = [e for e in own if e["kind"] == "directive"]
    assert [e["step"] for e in directives] == ["align", "prepare", *["round"] * rounds, "finish", "evaluate"]
    assert all(isinstance(value, str) for e in directives for value in [e["lookup_range"], *e["coefficients"]])
    assert len([e for e in own if e["kind"] == "report"]) == 2 * len(directives)
    disclosed = {(e["party"], e["what"]) for e in own if e["kind"] == "disclosure"}
    both = {(party, what) for party in ("bank", "platform") for what in ("set_size", "rows", "columns", "inner_products")}
    assert disclosed == both | {("bank", "base_rate"), ("bank", "aggregates")}
    summary = next(e for e in own if e["kind"] == "disclosures")["items"]
    assert {(item["party"], item["what"]) for item in summary} == disclosed
    assert len(list((world.home / "state" / "log" / "checkpoints").iterdir())) >= len(directives)


def test_no_holdout_and_no_metrics_for_the_coordinator(world: World) -> None:
    world.serve()
    world.node("bank"), world.node("platform")
    view = world.until(world.submit(holdout="0"), "finished", "failed")
    assert view.state == "finished"
    assert not view.HasField("metrics")


@on_both
def test_one_rejection_rejects(world: World) -> None:
    world.serve()
    bank, platform = world.node("bank"), world.node("platform", decision="reject")
    view = world.until(world.submit(), "rejected")
    assert [p.decision for p in view.parties if p.party == "platform"] == ["rejected"]
    poll(lambda: "job_end" in bank.kinds() and "job_end" in platform.kinds(), "both nodes hear of the rejection")
    assert bank.starts() == platform.starts() == []


@on_both
def test_a_failed_step_fails_the_job_at_both(world: World) -> None:
    def fails(start: control_pb2.StepStart) -> control_pb2.Report:
        body = control_pb2.StepFailed(
            job=start.job, step=start.step, attempt=start.attempt, round=start.round, code="psi.too_few_shared"
        )
        return control_pb2.Report(step_failed=body)

    world.serve()
    bank, platform = world.node("bank", script=lambda start: None), world.node("platform", script=fails)
    view = world.until(world.submit(), "failed")
    assert view.code == "psi.too_few_shared"
    for node in (bank, platform):
        end = poll(lambda node=node: next((d.job_end for d in node.seen if d.WhichOneof("body") == "job_end"), None), "the end")
        assert (end.outcome, end.code) == ("failed", "psi.too_few_shared")


def test_reports_that_differ(world: World) -> None:
    def other(start: control_pb2.StepStart) -> control_pb2.Report:
        return report("platform", start, **({"transcript_sha256": "cd" * 32} if start.step == "prepare" else {}))

    world.serve()
    world.node("bank"), world.node("platform", script=other)
    view = world.until(world.submit(), "failed", "finished")
    assert (view.state, view.code) == ("failed", "coordinator.reports_differ")


@on_both
def test_cancel(world: World) -> None:
    world.serve()
    bank = world.node("bank", script=lambda start: None)
    world.node("platform")
    job = world.submit()
    world.until(job, "align")
    with connect(world.config) as client:
        assert client.cancel(job[:10]).state == "cancelled"
        with pytest.raises(UsageError) as caught:
            client.cancel(job)
    assert caught.value.code == "coordinator.illegal_transition"
    poll(lambda: "job_end" in bank.kinds(), "the node hears of it")


@on_both
def test_a_node_that_comes_back_starts_the_step_again(world: World) -> None:
    world.serve(grace=WAIT)
    silent = world.node("bank", script=lambda start: None if start.step == "round" else report("bank", start))
    platform = world.node("platform")
    job = world.submit()
    world.until(job, "round")
    silent.hang_up()
    poll(lambda: not next(p for p in world.show(job).parties if p.party == "bank").attached, "the bank is away")
    again = world.node("bank")
    view = world.until(job, "finished", "failed")
    assert view.state == "finished"
    assert again.starts()[0] == ("round", 1, 1)
    assert [s for s in platform.starts() if s[0] == "round"][:2] == [("round", 1, 0), ("round", 1, 1)]
    assert {s.attempt for s in view.steps if s.step in ("finish", "evaluate")} == {1}
    assert [s.state for s in view.steps if s.step == "round"][:2] == ["restarted", "done"]


def test_a_cut_link_is_not_a_failure_while_the_other_node_is_away(world: World) -> None:
    """A node that dies takes the link between the nodes with it: what the survivor reports then is no reason to give the job up."""

    def cut(start: control_pb2.StepStart) -> control_pb2.Report:
        if start.step == "prepare" and start.attempt == 0:
            body = control_pb2.StepFailed(job=start.job, step="prepare", attempt=0, code="transport.closed")
            return control_pb2.Report(step_failed=body)
        return report("platform", start)

    world.serve(grace=WAIT)
    dying = world.node("bank", script=lambda start: None if start.step == "prepare" else report("bank", start))
    world.node("platform", script=cut)
    job = world.submit()
    world.until(job, "prepare")
    dying.hang_up()
    time.sleep(0.1)
    world.node("bank")
    view = world.until(job, "finished", "failed")
    assert (view.state, view.code) == ("finished", "")


def test_a_cut_link_between_attached_nodes_is_a_failure(world: World) -> None:
    def cut(start: control_pb2.StepStart) -> control_pb2.Report:
        body = control_pb2.StepFailed(job=start.job, step=start.step, attempt=0, code="transport.closed")
        return control_pb2.Report(step_failed=body)

    world.serve()
    world.node("bank", script=lambda start: None), world.node("platform", script=cut)
    view = world.until(world.submit(), "failed")
    assert view.code == "transport.closed"


@on_both
def test_a_node_that_stays_away_fails_the_job(world: World) -> None:
    world.serve(grace=0.2)
    gone = world.node("bank", script=lambda start: None)
    platform = world.node("platform")
    job = world.submit()
    world.until(job, "align")
    gone.hang_up()
    view = world.until(job, "failed")
    assert view.code == "coordinator.node_lost"
    poll(lambda: "job_end" in platform.kinds(), "the other node hears of it")
    late = world.node("bank")
    end = poll(lambda: next((d.job_end for d in late.seen if d.WhichOneof("body") == "job_end"), None), "told on return")
    assert (end.outcome, end.code) == ("failed", "coordinator.node_lost")


@on_both
def test_the_coordinator_restarts_in_the_middle(world: World) -> None:
    world.serve()
    nodes = [
        world.node("bank", script=lambda start: None if start.step == "round" else report("bank", start)),
        world.node("platform"),
    ]
    job = world.submit()
    waiting = world.submit(rounds=3)
    world.until(job, "round")
    world.stop()
    for node in nodes:
        node.hang_up()
    world.serve()
    assert world.show(job).state == "round"
    bank, platform = world.node("bank"), world.node("platform")
    assert world.until(job, "finished", "failed").state == "finished"
    assert world.until(waiting, "finished", "failed").state == "finished"
    assert ("round", 1, 1) in bank.starts()
    assert ("round", 1, 1) in platform.starts()
    assert len([e for e in world.log() if e["kind"] == "software"]) == 2


def test_what_a_crash_kept_out_of_the_log_is_logged_at_the_next_start(world: World) -> None:
    """The database is written first; the process dies before the log is, at a submission and at an end."""
    runner = world.serve().runner
    with mock.patch.object(JobLog, "submission", side_effect=SystemError), pytest.raises(SystemError):
        runner.submit(world.spec().canonical())
    world.stop()

    def states() -> list[str]:
        return [e.get("state", e["kind"]) for e in world.log() if e["job"]]

    assert states() == []
    runner = world.serve().runner
    assert states() == ["spec", "submitted"]
    [job] = runner.recent()
    with mock.patch.object(JobLog, "_end", side_effect=SystemError), pytest.raises(SystemError):
        runner.cancel(job.identity)
    world.stop()
    assert states() == ["spec", "submitted"]
    for _ in range(2):  # once is enough
        world.serve()
        assert states() == ["spec", "submitted", "disclosures", "cancelled"]
        world.stop()


def test_the_receipt_counts_what_was_told_even_if_a_crash_lost_it(world: World) -> None:
    """A report is logged, the process dies before it is stored, and the step runs again: it was told twice."""
    world.serve()
    bank, platform = world.node("bank"), world.node("platform")
    honest = jobs.report
    crashed = threading.Event()

    def dies(job: jobs.Job, party: str, done: StepReport) -> jobs.Outcome:
        if done.step == "prepare" and not crashed.is_set():
            crashed.set()
            raise SystemError("the process dies here")
        return honest(job, party, done)

    with mock.patch.object(jobs, "report", dies):
        job = world.submit()
        assert crashed.wait(WAIT)
        world.stop()
    for node in (bank, platform):
        node.hang_up()
    world.serve()
    for name in ("bank", "platform"):
        world.node(name)
    assert world.until(job, "finished", "failed").state == "finished"
    entries = [entry for entry in world.log() if entry["job"] == job]
    told = Counter[tuple[str, str]]()
    for entry in entries:
        if entry["kind"] == "disclosure":
            told[entry["party"], entry["what"]] += entry["count"]
    receipt = next(entry["items"] for entry in entries if entry["kind"] == "disclosures")
    assert {(item["party"], item["what"]): item["count"] for item in receipt} == dict(told)
    assert 2 in (told["bank", "columns"], told["platform", "columns"])


def test_a_cut_link_that_is_reported_without_end_starts_one_timer(world: World) -> None:
    world.serve()
    nodes = {name: world.node(name, script=lambda start: None) for name in ("bank", "platform")}
    job = world.submit()
    poll(lambda: nodes["bank"].starts(), "the first step")
    failed = control_pb2.Report(step_failed=control_pb2.StepFailed(job=job, step="align", code="transport.silent"))
    timers = lambda: sum(isinstance(thread, threading.Timer) for thread in threading.enumerate())  # noqa: E731
    before = timers()
    for _ in range(200):
        nodes["bank"].say(failed)
    deadline, most = time.monotonic() + 1.5, 0
    while time.monotonic() < deadline:
        most = max(most, timers() - before)
        time.sleep(0.01)
    assert 1 <= most <= 2
    assert world.until(job, "failed").code == "transport.silent"
