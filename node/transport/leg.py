"""One leg of a session: one stream, whatever carries it.

The carrier sends what :meth:`Leg.frames` gives and hands what arrives to :meth:`Leg.pump`; :meth:`Leg.watch` notices that nothing
arrives any more.  Three threads, one each.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import grpc

from node.errors import IsthmusError, TransportError
from node.transport.errors import closed, from_rpc
from protos import peer_pb2

if TYPE_CHECKING:
    from node.transport.session import Session


class Leg:
    """State of one stream; everything but the methods belongs to the session, under its lock."""

    def __init__(self, session: Session, now: float) -> None:
        self.session = session
        self.cursor = 0
        """The part that goes out next."""
        self.joined = False
        """The peer's ``Open`` came and fits."""
        self.opened = False
        """Our ``Open`` went out."""
        self.said_last = False
        """Nothing more goes out: ``Fin`` or ``Abort`` did, or the peer left."""
        self.over = False
        self.cause: IsthmusError | None = None
        self.moved = False
        """A message or news of one came."""
        self.down_before: float | None = None
        """Since when the link had been down when this leg joined."""
        self.spoke = float("-inf")
        self.heard = self.began = now
        self.heard_any = False
        self._last_at = now
        self._read_all = False
        self._stir = threading.Event()

    def frames(self) -> Iterator[peer_pb2.Frame]:
        """What goes out, until the leg's end."""
        while (frame := self.session.next(self)) is not None:
            yield frame
        if self._read_all:
            self.end(closed(self.session.peer))

    def pump(self, frames: Iterable[peer_pb2.Frame]) -> None:
        """Take in what arrives, until it ends.  What comes after a violation or the peer's last word is dropped."""
        wanted = True
        cause: IsthmusError = closed(self.session.peer)
        try:
            for frame in frames:
                wanted = wanted and self.session.take(self, frame)
        except grpc.RpcError as error:
            cause = from_rpc(error, peer=self.session.peer)
        except IsthmusError as error:
            cause = error
        else:
            with self.session.changed:  # the peer has ended its half of the stream, and may still be owed our last word
                if not self.session.calls and self.session.settled and not self.said_last:
                    self._read_all = True
                    return
        self.end(cause)

    def say_last(self, now: float) -> None:
        """Nothing goes out after this."""
        self.said_last, self._last_at = True, now
        self._stir.set()

    def end(self, cause: IsthmusError) -> None:
        """The stream is over, for the first ``cause`` given."""
        with self.session.changed:
            if not self.over:
                self.over, self.cause = True, cause
                self._stir.set()
                self.session.lost(self, cause)

    def watch(self) -> None:
        """Wait for the leg's end, and bring it about when the peer is silent, or does not end the stream after the last word."""
        peer, timeouts = self.session.peer, self.session.timeouts
        while not self.over:
            self._stir.clear()
            bound = timeouts.close if self.said_last else timeouts.silence if self.heard_any else timeouts.open
            left = (self._last_at if self.said_last else self.heard) + bound - time.monotonic()
            if left <= 0:
                self.end(closed(peer) if self.said_last else _silent(peer, bound))
            elif not self.over:
                self._stir.wait(min(left, timeouts.silence))


def _silent(peer: str, seconds: float) -> TransportError:
    return TransportError(
        "transport.silent",
        f"Nothing came from {peer} for {seconds:g} seconds, not even a sign of life: the link counts as cut.",
        remedy="If this repeats, ask whether a firewall between the nodes drops connections.",
    )
