"""What is told of a fault of isthmus itself, and of a refusal: the other side hears a code, and no text comes out."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.identity import Identity
from coordinator.client import connect as connect_operator
from coordinator.errors import UsageError
from node.errors import DataError, PeerAborted, TransportError
from protos import control_pb2
from protos.peer_pb2 import Frame
from tests.coordinator_world import World
from tests.integration.test_control_link import Coordinator, client
from tests.integration.test_peer_transport import TOKEN, Acceptor, connect, opening, raw
from tests.nodes import CARDS, identities, node, write_node

SECRET = "SECRET"


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    return identities(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path / "world")
    yield found
    found.stop()


def fault(*_: object) -> None:
    raise RuntimeError(f"{SECRET} text of a database")


def test_a_fault_while_a_stream_is_let_in_tells_the_peer_a_code(known: dict[str, Identity]) -> None:
    more = known | {"stranger": known["coordinator"]}
    acceptor = Acceptor(more, fault)
    try:
        with pytest.raises(PeerAborted) as told:
            connect(acceptor, known["platform"])
        assert told.value.code == "internal.error"
        assert SECRET not in str(told.value)
    finally:
        acceptor.server.stop(None).wait()


def test_a_fault_of_the_coordinator_tells_a_node_a_code_and_an_operator_its_kind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = world.serve()
    monkeypatch.setattr(server.runner, "attach", fault)
    monkeypatch.setattr(server.runner, "recent", fault)
    assert world.node("bank").ended() == "internal.error"
    with connect_operator(world.config) as operator, pytest.raises(UsageError) as caught:
        operator.jobs()
    assert caught.value.code == "internal.error"
    assert "RuntimeError" in caught.value.message
    assert SECRET not in str(caught.value)


def test_a_fault_in_a_report_ends_that_stream_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    server = world.serve()
    job = world.submit()
    monkeypatch.setattr(server.runner, "_decision", fault)
    bank = world.node("bank")
    assert SECRET not in bank.ended()
    monkeypatch.undo()
    world.node("bank"), world.node("platform")
    world.until(job, "finished")


def test_a_node_goes_on_after_a_fault_in_a_directive(known: dict[str, Identity]) -> None:
    running = Coordinator(known)
    attached = threading.Semaphore(0)
    lines: list[str] = []
    link = client(running.partner, known, handle=fault, on_attach=attached.release, notify=lines.append)
    link.start()
    try:
        assert attached.acquire(timeout=5)
        running.script.say.put(control_pb2.Directive(job_end=control_pb2.JobEnd()))
        assert attached.acquire(timeout=5)
        assert any("internal error: RuntimeError" in line for line in lines)
        assert SECRET not in "".join(lines)
    finally:
        link.stop()
        running.script.say.put(None)  # one for each stream that was opened
        running.stop()


def test_a_checkpoint_that_cannot_be_written_is_an_error_of_the_log(known: dict[str, Identity], tmp_path: Path) -> None:
    config = write_node(tmp_path, "bank", CARDS)
    with node(config, known, {}) as bank:
        (bank.config.state_folder / "log" / "checkpoint.partial").mkdir()
        with pytest.raises(DataError, match="cannot be written") as caught:
            bank.log.checkpoint()
        assert caught.value.code == "log.write_failed"
        (bank.config.state_folder / "log" / "checkpoint.partial").rmdir()


def test_a_stream_that_names_another_node_is_refused(known: dict[str, Identity]) -> None:
    acceptor = Acceptor(known | {"stranger": known["coordinator"]})
    try:
        with pytest.raises((PeerAborted, TransportError)) as told:
            connect(acceptor, known["platform"], party="bank")
        assert told.value.code == "transport.party_mismatch"
    finally:
        acceptor.server.stop(None).wait()


def test_a_node_cannot_report_for_the_other(world: World) -> None:
    world.serve()
    as_platform = control_pb2.Hello(protocol=1, party="platform", software="0.1.0")
    assert world.node("bank", hello=as_platform).ended() == "control.party_mismatch"
    job = world.submit()
    bank = world.node("bank", decision=None)
    platform = world.identities["platform"]
    assert bank.attached.wait(5)
    statement = json.dumps(
        {
            "by": "x", "decision": "approve", "job": job, "kind": "isthmus.approval", "party": "platform", "peer": "bank",
            "time": "t", "v": 1,
        },
        separators=(",", ":"),
    )  # fmt: skip
    signature = platform.log_key.sign(statement.encode()).hex()
    bank.say(control_pb2.Report(decision=control_pb2.Decision(job=job, statement=statement, signature=signature)))
    assert bank.ended() == "audit.bad_signature"
    assert world.show(job).parties[1].decision == "waiting"


def test_the_status_of_a_refusal_holds_no_text(known: dict[str, Identity]) -> None:
    acceptor = Acceptor(known | {"stranger": known["coordinator"]}, fault)
    try:
        peer = raw(acceptor, known["platform"], [Frame(open=opening("platform", session=TOKEN))])
        peer.wait()
        assert peer.ended is not None
        assert peer.ended.details() == "internal.error"
    finally:
        acceptor.server.stop(None).wait()
