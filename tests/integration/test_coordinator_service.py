"""The coordinator over real gRPC and TLS with two scripted nodes: a job's course, its faults and restarts, and who may call."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import pytest

from audit.identity import create_identity
from audit.receipts import verify_approval
from coordinator import jobs, service
from coordinator.client import connect
from coordinator.errors import IsthmusError, TransportError, UsageError
from coordinator.job_log import JobLog
from coordinator.reports import StepReport
from coordinator.server import Server
from protos import control_pb2, control_pb2_grpc, tls
from tests import postgres
from tests.coordinator_world import METRICS, WAIT, World, poll, report

pytestmark = pytest.mark.timed

on_both = pytest.mark.parametrize("world", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """On SQLite, or where a test asks for it on PostgreSQL."""
    kind = getattr(request, "param", "sqlite")
    made = World(tmp_path, store=postgres.server().new_database() if kind == "postgresql" else "")
    yield made
    for node in made.nodes:
        node.hang_up()
    made.stop()


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


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (control_pb2.Hello(protocol=2, party="bank", software="0.1.0"), "control.protocol_version"),
        (control_pb2.Hello(protocol=1, party="platform", software="0.1.0"), "control.party_mismatch"),
        (control_pb2.Hello(protocol=1, party="Bank!", software="0.1.0"), "control.bad_field"),
        (control_pb2.Hello(protocol=1, party="bank", software="a b c"), "control.bad_field"),
    ],
)
def test_a_hello_that_is_refused(world: World, hello: control_pb2.Hello, code: str) -> None:
    world.serve()
    node = world.node("bank", hello=hello)
    assert node.ended() == code
    assert not node.attached.is_set()


def test_a_stranger_is_refused(world: World, tmp_path: Path) -> None:
    world.serve()
    stranger = create_identity(tmp_path / "stranger", name="bank", role="bank")
    node = world.node("bank", identity=stranger)
    node.ended()
    assert not node.attached.is_set()


def test_a_second_stream_takes_over(world: World) -> None:
    world.serve()
    first = world.node("bank")
    assert first.attached.wait(WAIT)
    second = world.node("bank")
    assert second.attached.wait(WAIT)
    assert first.ended() == "control.superseded"
    assert world.until(world.submit(), "submitted").parties[0].attached


def _progress(job: str, phase: str) -> control_pb2.Report:
    return control_pb2.Report(progress=control_pb2.StepProgress(job=job, step="align", phase=phase, done=1, total=2))


@pytest.mark.parametrize(
    "kind", ["phase", "unknown field", "second hello", "unknown job", "forged approval", "other peer", "foreign key"]
)
def test_a_report_out_of_form_ends_the_stream_and_leaves_no_trace(world: World, kind: str) -> None:
    canary = "CANARY-7f3a-customer"
    world.serve()
    node = world.node("bank", decision=None)
    job = world.submit()
    poll(lambda: "offer" in node.kinds(), "the offer")
    smuggled = control_pb2.Report.FromString(_progress(job, "psi").SerializeToString() + b"\x7a\x14" + canary.encode()[:20])
    forged = node.sign(job, "approve", identity=world.identities["platform"])
    cases: dict[str, tuple[control_pb2.Report, str]] = {
        "phase": (_progress(job, canary), "control.bad_field"),
        "unknown field": (smuggled, "control.bad_field"),
        "second hello": (control_pb2.Report(hello=control_pb2.Hello(protocol=1, party="bank", software="1")), "control.unexpected"),
        "unknown job": (_progress("0" * 64, "psi"), "control.unknown_job"),
        "forged approval": (forged, "audit.bad_signature"),
        "other peer": (node.sign(job, "approve", peer="elsewhere"), "approval.other_peer"),
        "foreign key": (
            node.sign(job, "approve", identity=create_identity(world.folder / "x", name="bank", role="bank")),
            "audit.bad_signature",
        ),
    }
    bad, code = cases[kind]
    node.say(bad)
    assert node.ended() == code
    view = world.show(job)
    assert (view.state, view.parties[0].decision, view.parties[0].phase) == ("submitted", "waiting", "")
    world.stop()
    for path in world.home.rglob("*"):
        if path.is_file():
            assert canary[:20].encode() not in path.read_bytes()


def test_operators_need_the_coordinators_own_certificate(world: World) -> None:
    world.serve()
    identity = world.identities["platform"]
    with tls.channel(
        f"127.0.0.1:{world.port}",
        server_name="coordinator",
        server_certificate_pem=world.own.tls_certificate_pem,
        key_pem=identity.tls_key_pem,
        certificate_pem=identity.tls_certificate_pem,
    ) as channel:
        stub = control_pb2_grpc.OperatorStub(channel)
        calls: list[Callable[[], Any]] = [
            lambda: stub.Submit(control_pb2.SubmitRequest(spec="{}"), timeout=5),
            lambda: stub.Jobs(control_pb2.JobsRequest(), timeout=5),
            lambda: stub.Show(control_pb2.ShowRequest(job="0000"), timeout=5),
            lambda: list(stub.Watch(control_pb2.ShowRequest(job="0000"), timeout=5)),
            lambda: stub.Cancel(control_pb2.CancelRequest(job="0000"), timeout=5),
        ]
        for call in calls:
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert caught.value.details() == "control.not_an_operator"


def test_the_coordinator_itself_is_no_node(world: World) -> None:
    world.serve()
    node = world.node("bank", identity=world.own)
    assert node.ended() == "transport.wrong_certificate"


@on_both
def test_operators_are_told_what_is_wrong(world: World) -> None:
    world.serve()
    with connect(world.config) as client:
        for call, code in (
            (lambda: client.show("0000"), "coordinator.unknown_job"),
            (lambda: client.show("0"), "coordinator.unknown_job"),
            (lambda: client.submit(b"{}"), "spec.invalid"),
            (lambda: list(client.watch("abcd")), "coordinator.unknown_job"),
        ):
            with pytest.raises(UsageError) as caught:
                call()
            assert caught.value.code == code
            assert caught.value.remedy
    job = world.submit()
    spec = world.show(job).spec
    with connect(world.config) as client:
        with pytest.raises(UsageError) as caught:
            client.submit(spec.encode())
        assert caught.value.code == "coordinator.job_exists"
        for old, new, code in (
            ('"coordinator":"coordinator"', '"coordinator":"other"', "coordinator.other_coordinator"),
            ('"name":"platform"', '"name":"shop"', "coordinator.unknown_party"),
        ):
            with pytest.raises(UsageError) as caught:
                client.submit(spec.replace(old, new).encode())
            assert caught.value.code == code


def test_watch_tells_every_change_and_ends(world: World) -> None:
    world.serve()
    seen: list[str] = []
    job = world.submit()

    def watch() -> None:
        with connect(world.config) as client:
            seen.extend(view.state for view in client.watch(job[:8]))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    poll(lambda: seen, "the first view")
    world.node("bank"), world.node("platform")
    watcher.join(WAIT)
    assert not watcher.is_alive()
    assert (seen[0], seen[-1]) == ("submitted", "finished")


def test_no_server_another_server_and_a_taken_port(world: World, tmp_path: Path) -> None:
    with connect(world.config) as client, pytest.raises(TransportError) as caught:
        client.jobs()
    assert caught.value.code == "transport.unreachable"
    assert "serve" in caught.value.remedy
    world.serve()
    with pytest.raises(TransportError) as taken:
        Server(world.config)
    assert taken.value.code == "transport.port_in_use"
    assert taken.value.remedy
    other = World(tmp_path / "other")
    other.config = other.config.model_copy(
        update={"coordinator": other.config.coordinator.model_copy(update={"listen": f"127.0.0.1:{world.port}"})}
    )
    other.config._path = other.home / "coordinator.toml"
    with connect(other.config) as client, pytest.raises(TransportError) as wrong:
        client.jobs()
    assert wrong.value.code == "transport.wrong_certificate"


def test_a_step_report_out_of_form_fails_the_job_at_once(world: World) -> None:
    """A node that reports nonsense would only report it again: the job does not wait for its retries."""
    world.serve()

    def nonsense(start: control_pb2.StepStart) -> control_pb2.Report:
        products = {"inner_products": [float("nan")]} if start.step == "round" else {}
        return report("bank", start, **products)

    bank, platform = world.node("bank", script=nonsense), world.node("platform")
    view = world.until(world.submit(), "failed", "finished")
    assert (view.state, view.code) == ("failed", "control.bad_field")
    assert bank.ended() == "control.bad_field"
    poll(lambda: "job_end" in platform.kinds(), "the other node hears of the end")


def test_jobs_beyond_the_limit_are_not_taken_in(world: World) -> None:
    world.serve()
    assert world.server is not None
    world.server.runner._jobs.most = 2
    first = world.submit()
    world.submit()
    with pytest.raises(IsthmusError) as refused:
        world.submit()
    assert refused.value.code == "coordinator.too_many_jobs"
    with connect(world.config) as client:
        client.cancel(first)
    world.submit()


def test_a_node_that_reports_without_end_is_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "REPORTS_AT_ONCE", 20)
    monkeypatch.setattr(service, "REPORTS_PER_SECOND", 0.0)
    world.serve()
    job = world.submit()
    node = world.node("bank", decision=None)
    for number in range(40):
        progress = control_pb2.StepProgress(job=job, step="align", phase="align", done=number, total=40)
        node.say(control_pb2.Report(progress=progress))
    assert node.ended() == "control.too_many_reports"


def test_a_node_that_is_refused_without_end_is_not_read_for_a_while(world: World) -> None:
    world.serve()
    wrong = control_pb2.Hello(protocol=99, party="bank", software="0.1.0")
    codes = [world.node("bank", hello=wrong).ended() for _ in range(40)]
    assert codes[:10] == ["control.protocol_version"] * 10
    assert codes[-1] == "control.too_often"
    assert world.node("platform").attached.wait(10)


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
