"""The accepting side: parks each incoming stream until this node's own step claims it; translation only."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import grpc

from node.errors import IsthmusError, TransportError, UsageError
from node.limits import LIMITS, Limits
from node.transport.channel import GrpcChannel, Link
from node.transport.client import check_open
from node.transport.errors import INTERNAL, from_tls, status_of
from node.transport.options import TIMEOUTS, Timeouts
from protos import peer_pb2, peer_pb2_grpc, tls

_log = logging.getLogger("isthmus.node.transport")

Key = tuple[str, str, str, int, int]  # peer, job, step, round, attempt
STREAMS_PER_PEER = 8


class Switchboard:
    """Where incoming streams and the steps that want them meet."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._parked: dict[Key, Link] = {}
        self._closed = False

    def close(self) -> None:
        """Let every parked stream go, and hold none from now on: the process could not end while one is held."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def park(self, key: Key, link: Link, seconds: float) -> None:
        """Hold a stream until its step claims it.

        Raises:
            TransportError: ``transport.too_many_streams``; ``transport.superseded`` when the peer dialled again for the same
                attempt; ``transport.not_started`` after ``seconds``; ``transport.stopping`` once the switchboard is closed.
        """
        with self._changed:
            if sum(1 for other in self._parked if other[0] == key[0]) >= STREAMS_PER_PEER:
                raise TransportError(
                    "transport.too_many_streams", f"{key[0]} holds {STREAMS_PER_PEER} streams that no step has claimed."
                )
            self._parked[key] = link
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or self._parked.get(key) is not link, seconds)
            if self._parked.get(key) is link:
                del self._parked[key]
                if self._closed:
                    raise TransportError("transport.stopping", "This node is stopping.")
                raise TransportError(
                    "transport.not_started", f"The step that {key[0]} opened a stream for did not start here in time."
                )
            if not link.claimed:
                raise TransportError("transport.superseded", f"{key[0]} opened the same stream again.")

    def claim(self, key: Key, timeouts: Timeouts, stop: threading.Event) -> Link:
        """Wait for the stream of one attempt of one step.  Raises ``transport.no_stream`` after ``timeouts.dial``,
        ``transport.stopping``.
        """
        deadline = time.monotonic() + timeouts.dial + timeouts.open
        with self._changed:
            while key not in self._parked:  # a stream that ended while parked is taken too: it says why the attempt is over
                if stop.is_set():
                    raise TransportError(
                        "transport.stopping", "This node is stopping.", remedy="Start it again; the step is tried again."
                    )
                if time.monotonic() > deadline:
                    raise TransportError(
                        "transport.no_stream",
                        f"{key[0]} did not open its stream for the step.",
                        remedy=f"Check that {key[0]} is serving and can reach this node's address through the firewall.",
                    )
                self._changed.wait(0.2)
            link = self._parked.pop(key)
            link.claimed = True
            self._changed.notify_all()
            return link


class PeerServicer(peer_pb2_grpc.PeerServicer):
    """``Peer.Exchange``.

    Args:
        pinned: certificates (PEM) by partner name: who may connect at all.
        permit: raises ``IsthmusError`` unless this node knows the job, approved it, and the named partner is its other party.
    """

    def __init__(
        self,
        *,
        pinned: Mapping[str, bytes],
        permit: Callable[[str, str], None],
        board: Switchboard,
        limits: Limits = LIMITS,
        timeouts: Timeouts = TIMEOUTS,
    ) -> None:
        self.refused: Callable[[IsthmusError], None] = lambda error: None
        """Told why a stream was refused."""
        self._pinned, self._permit, self._board = pinned, permit, board
        self._limits, self._timeouts = limits, timeouts

    def _authenticate(self, context: grpc.ServicerContext) -> str:
        try:
            return tls.authenticate(context, self._pinned)
        except tls.TlsError as error:
            raise from_tls(error) from None

    def Exchange(self, frames: Iterator[peer_pb2.Frame], context: grpc.ServicerContext) -> Iterator[peer_pb2.Frame]:
        """One stream, one attempt of one step.  A refusal ends it with a status whose details are the code alone."""
        try:
            peer = self._authenticate(context)
            link = Link(peer=peer, limits=self._limits, timeouts=self._timeouts)
            if not context.add_callback(link.over):
                link.over()
            threading.Thread(target=link.pump, args=(frames,), name=f"read-{peer}", daemon=True).start()
            first = link.get(self._timeouts.open)
            if first.WhichOneof("body") != "open":
                raise UsageError("protocol.unexpected_message", f"{peer} did not say what its stream is for.")
            opening = first.open
            check_open(opening, opening, peer=peer)  # version and name; the step is compared by the switchboard's key
            self._permit(peer, opening.job)
            self._board.park((peer, opening.job, opening.step, opening.round, opening.attempt), link, self._timeouts.park)
        except IsthmusError as error:
            self.refused(error)
            context.abort(status_of(error), error.code)
        except Exception:  # noqa: BLE001 - gRPC would tell the peer the exception's text
            _log.exception("a stream ended with a fault of isthmus")
            context.abort(grpc.StatusCode.INTERNAL, INTERNAL)
        yield from link.frames()


def accept(
    board: Switchboard, peer: str, opening: peer_pb2.Open, *, limits: Limits, timeouts: Timeouts, stop: threading.Event
) -> GrpcChannel:
    """The accepting side's counterpart of :func:`node.transport.client.dial`: wait for the peer's stream and answer its
    ``Open``.
    """
    link = board.claim((peer, opening.job, opening.step, opening.round, opening.attempt), timeouts, stop)
    link.put(peer_pb2.Frame(open=opening))
    return GrpcChannel(link, limits=limits)
