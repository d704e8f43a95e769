"""Callers that open streams in a loop or begin them with something else, and what node and coordinator tell whoever they refuse:
the code alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from coordinator import relay as coordinator_relay
from coordinator import service as coordinator_service
from coordinator.observe import SILENT
from node.errors import IsthmusError, PeerError, UsageError
from node.transport.options import Timeouts
from node.transport.servicer import PeerServicer
from node.transport.switchboard import Switchboard
from protos import control_pb2, relay_pb2
from protos import peer_pb2 as pb
from tests.fuzz.halves import SMALL


class Aborted(Exception):
    """As gRPC's own."""


class Call:
    """One call of the partner ``bank``."""

    def __init__(self) -> None:
        self.code, self.details = None, ""

    def cancel(self) -> None:
        pass

    def abort(self, code: Any, details: str) -> None:
        self.code, self.details = code, details
        raise Aborted


def servicer(permit: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> PeerServicer:
    made = PeerServicer(pinned={}, permit=permit, board=Switchboard(), limits=SMALL, timeouts=Timeouts(open=0.2))
    monkeypatch.setattr(made, "_authenticate", lambda context: "bank")
    return made


def details(method: Callable[..., Any], *messages: Any) -> str:
    """What the caller is told when its stream is refused."""
    context = Call()
    with pytest.raises(Aborted):
        list(method(iter(messages), context))
    return context.details


def call(service: PeerServicer, *frames: pb.Frame) -> str:
    return details(service.Exchange, *frames)


OPEN = pb.Frame(open=pb.Open(protocol=2, party="bank", job="ab" * 32, step="align", session=bytes(16)))


def test_a_partner_that_opens_streams_in_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(peer: str, job: str) -> None:
        raise UsageError("job.unknown", f"{peer} knows nothing of /srv/secret.csv", remedy="a secret remedy")

    service, told = servicer(unknown, monkeypatch), []
    refusals: list[str] = []
    service.refused = lambda error: refusals.append(error.code)
    before = threading.active_count()
    for _ in range(300):
        told.append(call(service, OPEN))
        assert threading.active_count() <= before + 8  # timers that were cancelled a moment ago among them
    assert told[:20] == ["job.unknown"] * 20
    assert told[-200:] == ["transport.too_often"] * 200
    assert len(refusals) < 60, "what is refused too often fills no log"


ERRORS = [
    PeerError("psi.low_order_point", "a secret text", remedy="a secret remedy"),
    UsageError("job.unknown", "a secret text"),
    ZeroDivisionError("a secret text"),
    MemoryError("a secret text"),
    RecursionError("a secret text"),
]


@pytest.mark.parametrize("error", ERRORS)
def test_the_peer_learns_the_code_alone(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(peer: str, job: str) -> None:
        raise error

    expected = error.code if isinstance(error, IsthmusError) else "internal.error"
    assert call(servicer(fails, monkeypatch), OPEN) == expected


@pytest.mark.parametrize("body", [pb.Frame(), pb.Frame(ack=pb.Ack(taken=1)), pb.Frame(abort=pb.Abort(code="x")), None])
def test_a_stream_that_does_not_begin_with_open(body: pb.Frame | None, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = () if body is None else (body,)
    assert call(servicer(lambda peer, job: None, monkeypatch), *frames) == "protocol.unexpected_message"


class Runner:
    """A coordinator's runner that fails at the first thing asked of it."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.observer = SILENT
        self.changed = threading.Condition()

    def attach(self, party: str) -> Any:
        raise self._error

    def running(self, job: str) -> Any:
        raise self._error


@pytest.mark.parametrize("error", ERRORS)
def test_a_node_learns_the_code_alone_from_the_coordinator(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = error.code if isinstance(error, IsthmusError) else "internal.error"
    for module in (coordinator_service, coordinator_relay):
        monkeypatch.setattr(module, "enter", lambda context, callers: "bank")
    hello = control_pb2.Report(hello=control_pb2.Hello(protocol=1, party="bank", software="0.1.0"))
    attach = coordinator_service.ControlService(Runner(error), {}).Attach  # type: ignore[arg-type]
    assert details(attach, hello) == expected
    relay = coordinator_relay.RelayService(pinned={}, running=Runner(error).running)
    room = relay_pb2.Sealed(room=relay_pb2.Room(protocol=1, job="ab" * 32, step="align", peer="shop"))
    assert details(relay.Exchange, room) == expected


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (control_pb2.Report(), "control.bad_field"),
        (control_pb2.Report(hello=control_pb2.Hello(protocol=1, party="a secret\n", software="0.1.0")), "control.bad_field"),
        (control_pb2.Report(hello=control_pb2.Hello(protocol=1, party="shop", software="0.1.0")), "control.party_mismatch"),
        (control_pb2.Report(hello=control_pb2.Hello(protocol=7, party="bank", software="0.1.0")), "control.protocol_version"),
        (control_pb2.Report(cosignature=control_pb2.Cosignature(log="bank", witness="shop")), "control.no_hello"),
    ],
)
def test_a_node_that_begins_with_something_else(report: control_pb2.Report, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator_service, "enter", lambda context, callers: "bank")
    attach = coordinator_service.ControlService(Runner(MemoryError()), {}).Attach  # type: ignore[arg-type]
    assert details(attach, report) == code
