"""The answering side: recognises the session a stream belongs to, or parks it until this node's own step starts."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping

import grpc

from node.errors import IsthmusError, UsageError
from node.limits import LIMITS, Limits
from node.transport.channel import GrpcChannel
from node.transport.errors import INTERNAL, from_tls, status_of
from node.transport.opening import check_open
from node.transport.options import TIMEOUTS, Timeouts
from node.transport.outage import OnWait
from node.transport.switchboard import Switchboard
from operations.gate import Gate
from protos import peer_pb2, peer_pb2_grpc, tls
from protos.callers import Callers

_log = logging.getLogger("isthmus.node.transport")


class PeerServicer(peer_pb2_grpc.PeerServicer):
    """``Peer.Exchange``.

    Args:
        pinned: certificates (PEM, one or more) by partner name, as they are at each look: who may connect at all.
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
        self._permit, self._board = permit, board
        self.callers = Callers(pinned)
        self._limits, self._timeouts = limits, timeouts
        self._gate = Gate("transport", streams=limits.streams_of_one)

    def _authenticate(self, context: grpc.ServicerContext) -> str:
        try:
            return self.callers.enter(context)
        except tls.TlsError as error:
            raise from_tls(error) from None

    def Exchange(self, frames: Iterator[peer_pb2.Frame], context: grpc.ServicerContext) -> Iterator[peer_pb2.Frame]:
        """One stream of one session.  A refusal ends it with a status whose details are the code alone."""
        try:
            peer = self._authenticate(context)
            with self._gate.passing(peer):
                yield from self.answer(peer, frames, context.cancel)
        except IsthmusError as error:
            if error.code != "transport.too_often":  # what led to it was told
                _log.info("a stream was refused: %s", error)
                self.refused(error)
            context.abort(status_of(error), error.code)
        except Exception:  # noqa: BLE001 - gRPC would tell the peer the exception's text
            _log.exception("a stream ended with a fault of isthmus")
            context.abort(grpc.StatusCode.INTERNAL, INTERNAL)

    def answer(self, peer: str, frames: Iterator[peer_pb2.Frame], cancel: Callable[[], object]) -> Iterator[peer_pb2.Frame]:
        """What goes back on a stream of ``peer``, whatever carries it; ``cancel`` cuts the stream.

        Raises:
            IsthmusError: the stream is refused, and why.
        """
        first = self._first(peer, frames, cancel)
        check_open(first.open, first.open, peer=peer)  # version, name and form; the step is compared by the switchboard's key
        self._permit(peer, first.open.job)
        session = self._board.admit(peer, first.open, limits=self._limits, timeouts=self._timeouts)
        leg = session.begin()
        threading.Thread(target=leg.pump, args=(itertools.chain([first], frames),), name=f"read-{peer}", daemon=True).start()

        given = threading.Event()

        def watch() -> None:
            leg.watch()
            if not leg.said_last or not given.wait(self._timeouts.close):  # the last word must not be cut off by its own end
                cancel()

        threading.Thread(target=watch, name=f"watch-{peer}", daemon=True).start()
        yield from leg.frames()
        given.set()

    def _first(self, peer: str, frames: Iterator[peer_pb2.Frame], cancel: Callable[[], object]) -> peer_pb2.Frame:
        timer = threading.Timer(self._timeouts.open, cancel)
        timer.start()
        try:
            first = next(frames, None)
        except grpc.RpcError:
            first = None
        finally:
            timer.cancel()
        if first is None or first.WhichOneof("body") != "open":
            raise UsageError("protocol.unexpected_message", f"{peer} did not say what its stream is for.")
        return first


def accept(
    board: Switchboard,
    peer: str,
    opening: peer_pb2.Open,
    *,
    limits: Limits,
    timeouts: Timeouts,
    stop: threading.Event,
    on_wait: OnWait | None = None,
) -> GrpcChannel:
    """The answering side's counterpart of :func:`node.transport.client.dial`: wait for the peer's stream and answer its ``Open``.

    Raises:
        TransportError: ``transport.no_stream`` after ``timeouts.patience`` seconds, ``transport.stopping``.
        PeerAborted: the peer gave the step up before.
    """
    session = board.claim(peer, opening, limits=limits, timeouts=timeouts, stop=stop, on_wait=on_wait)
    try:
        session.wait_established()
    except IsthmusError as error:
        session.stop(error, tell=error.code)
        raise
    return GrpcChannel(session, limits=limits)
