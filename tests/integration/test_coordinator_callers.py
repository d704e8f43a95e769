"""Who may call the coordinator, over real gRPC and TLS: the nodes and reports that it refuses, and what it tells its operators."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from audit.identity import create_identity
from coordinator import service
from coordinator.client import connect
from coordinator.errors import IsthmusError, TransportError, UsageError
from coordinator.server import Server
from protos import control_pb2, control_pb2_grpc, tls
from tests.coordinator_world import WAIT, World, on_both, poll, report, world_on

pytestmark = pytest.mark.timed


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    with world_on(getattr(request, "param", "sqlite"), tmp_path) as made:
        yield made


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
