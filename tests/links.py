"""Two ends of a peer session over real gRPC and TLS with a proxy between that cuts, and a peer that sends what it likes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc

from audit.identity import Identity, create_identity
from audit.partner import partner_of
from node.errors import IsthmusError
from node.limits import Limits
from node.transport.channel import PROTOCOL_VERSION, GrpcChannel
from node.transport.client import dial
from node.transport.options import Timeouts, server_options
from node.transport.outage import OnWait
from node.transport.servicer import PeerServicer, accept
from node.transport.switchboard import Switchboard
from protos import peer_pb2, peer_pb2_grpc, tls
from protos.peer_pb2 import Frame
from tests.cutter import Cutter

JOB = "a" * 64
TOKEN = b"\x07" * 16
LIMITS = Limits(message_bytes=2 * 2**20, chunk_bytes=32 * 2**10, window_bytes=2**20, window_frames=256)
TIMES = Timeouts(
    patience=8.0, peer=8.0, open=2.0, close=2.0, heartbeat=0.2, silence=0.8, announce=0.2, announce_again=0.2, backoff=0.05,
    backoff_max=0.2,
)  # fmt: skip
"""Half a minute of an operator's time in half a second."""


def opening(name: str, **changes: Any) -> peer_pb2.Open:
    fields = {"protocol": PROTOCOL_VERSION, "party": name, "job": JOB, "step": "align", "attempt": 0, "round": 0}
    return peer_pb2.Open(**(fields | changes))


def link_identities(folder: Path) -> dict[str, Identity]:
    """The two ends, and another partner of the bank's."""
    return {name: create_identity(folder / name, name=name, role="bank") for name in ("bank", "platform", "other")}


class Half:
    """One side's function over its channel, in a thread."""

    def __init__(self, connect: Callable[[], GrpcChannel], body: Callable[[GrpcChannel], Any]) -> None:
        self._connect, self._body = connect, body
        self.channel: GrpcChannel | None = None
        self.result: Any = None
        self.error: IsthmusError | None = None
        self.crash: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.channel = self._connect()
            self.result = self._body(self.channel)
            self.channel.close()
        except IsthmusError as error:
            self.error = error
            if self.channel is not None:
                self.channel.abort(error.code)
        except Exception as error:  # noqa: BLE001 - shown by the assertion in join
            self.crash = error
            if self.channel is not None:
                self.channel.abort("internal.error")

    def join(self, seconds: float = 30.0) -> Half:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the step did not end"
        assert self.crash is None, self.crash
        return self


class Ends:
    """The bank listens behind a cutter; the platform dials."""

    def __init__(self, known: dict[str, Identity], *, limits: Limits = LIMITS, times: Timeouts = TIMES, **cutter: Any) -> None:
        self.known, self.limits, self.times = known, limits, times
        self.board = Switchboard()
        pinned = {name: known[name].tls_certificate_pem for name in ("platform", "other")}
        self.server = grpc.server(futures.ThreadPoolExecutor(16), options=server_options(limits))
        self.servicer = PeerServicer(pinned=pinned, permit=lambda peer, job: None, board=self.board, limits=limits, timeouts=times)
        peer_pb2_grpc.add_PeerServicer_to_server(self.servicer, self.server)
        bank = known["bank"]
        credentials = tls.server_credentials(bank.tls_key_pem, bank.tls_certificate_pem, pinned.values())
        self.port = tls.bind(self.server, "127.0.0.1:0", credentials)
        self.server.start()
        self.cutter = Cutter(self.port, **cutter)
        self.partner = partner_of(bank, address=self.cutter.address)
        self.stop = threading.Event()

    def close(self) -> None:
        self.cutter.close()
        self.server.stop(None).wait()

    def bank(self, body: Callable[[GrpcChannel], Any], *, on_wait: OnWait | None = None, **times: Any) -> Half:
        waits = replace(self.times, **times)
        return Half(
            lambda: accept(
                self.board, "platform", opening("bank"), limits=self.limits, timeouts=waits, stop=self.stop, on_wait=on_wait
            ),
            body,
        )

    def platform(self, body: Callable[[GrpcChannel], Any], *, on_wait: OnWait | None = None, **times: Any) -> Half:
        waits = replace(self.times, **times)
        identity = self.known["platform"]
        return Half(
            lambda: dial(self.partner, identity, opening("platform"), limits=self.limits, timeouts=waits, on_wait=on_wait), body
        )

    def raw(self, first: peer_pb2.Open | None = None, *frames: Frame, name: str = "platform", after: str = "open") -> Raw:
        return Raw(self, self.known[name], first or opening(name, session=TOKEN), frames, after)


@contextmanager
def making_ends(known: dict[str, Identity]) -> Iterator[Callable[..., Ends]]:
    """A function that makes :class:`Ends` with whatever options it is given; all are closed at the end."""
    made: list[Ends] = []

    def make(**options: Any) -> Ends:
        made.append(Ends(known, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


class Raw:
    """A peer that sends whatever frames it likes: ``Open`` at once, the others when a frame of the kind ``after`` came."""

    def __init__(self, ends: Ends, identity: Identity, first: peer_pb2.Open, frames: tuple[Frame, ...], after: str) -> None:
        self.channel = tls.channel(
            f"127.0.0.1:{ends.port}",
            server_name="bank",
            server_certificate_pem=ends.partner.certificate_pem,
            key_pem=identity.tls_key_pem,
            certificate_pem=identity.tls_certificate_pem,
        )
        self._first, self._frames, self._after = first, frames, after
        self._hold, self.answered = threading.Event(), threading.Event()
        self.answers: list[Frame] = []
        self.ended = ""
        self.call = peer_pb2_grpc.PeerStub(self.channel).Exchange(self._stream())
        self.call.add_callback(self._hold.set)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _stream(self) -> Iterator[Frame]:
        yield Frame(open=self._first)
        if self.answered.wait(3.0):
            yield from self._frames
        self._hold.wait(6.0)

    def _read(self) -> None:
        try:
            for frame in self.call:
                self.answers.append(frame)
                if frame.HasField(self._after):  # type: ignore[arg-type]
                    self.answered.set()
        except grpc.RpcError as error:
            self.ended = error.details() or ""

    def wait(self) -> list[Frame]:
        """All the other side sent, heartbeats aside, once it has ended the stream."""
        self._reader.join(10)
        assert not self._reader.is_alive()
        return [frame for frame in self.answers if not frame.HasField("ack")]

    def cut(self) -> None:
        self.call.cancel()
        self._reader.join(5)
