"""Where incoming streams and the steps that want them meet, and where a stream finds its session again."""

from __future__ import annotations

import hmac
import threading
import time

from node.errors import PeerError, TransportError
from node.limits import Limits
from node.transport.options import Timeouts
from node.transport.outage import OnWait
from node.transport.session import Session
from protos import peer_pb2

Key = tuple[str, str, str, int, int]  # peer, job, step, round, attempt
STREAMS_PER_PEER = 8
"""Sessions of one peer that no step has claimed."""
ENDED_KEPT = 64
"""Ended sessions that are remembered, so that a peer which did not hear of the end can still be told."""


def _key(peer: str, opening: peer_pb2.Open) -> Key:
    return peer, opening.job, opening.step, opening.round, opening.attempt


class Switchboard:
    """The answering side's sessions, by the peer's certificate name and the attempt: nobody else's stream finds them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[Key, Session] = {}
        self._parked: dict[Key, float] = {}
        """Since when a session waits for its step."""
        self._closed = False

    def close(self) -> None:
        """Let every session go that no step has claimed, and take none from now on: the process could not end meanwhile."""
        with self._lock:
            self._closed = True
            waiting = [self._sessions[key] for key in self._parked if key in self._sessions]
        error = TransportError("transport.stopping", "This node is stopping.")
        for session in waiting:
            session.stop(error, tell=error.code)

    def admit(self, peer: str, opening: peer_pb2.Open, *, limits: Limits, timeouts: Timeouts) -> Session:
        """The session of an incoming stream: one that is known, or a new one that waits for its step.

        Args:
            peer: the name under which the caller's certificate is pinned.

        Raises:
            TransportError: ``transport.session_lost`` (a stream of a session that is not known here: this node has started
                again), ``transport.too_many_streams``, ``transport.stopping``.
            PeerError: ``transport.wrong_session`` (the attempt has another session already), ``transport.foreign_session`` (the
                token is that of another peer's session).
        """
        key = _key(peer, opening)
        with self._lock:
            if self._closed:
                raise TransportError("transport.stopping", "This node is stopping.")
            self._prune(timeouts)
            known = self._sessions.get(key)
            if known is not None and not known.token and not opening.resumed:  # a step here waits for its first stream
                known.token = bytes(opening.session)
                return known
            if known is not None and known.token and hmac.compare_digest(known.token, opening.session):
                return known
            if known is not None and known.claimed and known.token:
                raise PeerError("transport.wrong_session", f"{peer} opened a second session for one attempt of {opening.step}.")
            if opening.resumed:
                raise self._unknown(peer, opening)
            if sum(1 for other in self._parked if other[0] == peer and other != key) >= STREAMS_PER_PEER:
                raise TransportError(
                    "transport.too_many_streams", f"{peer} holds {STREAMS_PER_PEER} streams that no step has claimed."
                )
            if known is not None:
                error = TransportError("transport.superseded", f"{peer} opened the same stream again.")
                known.stop(error, tell=error.code)
            session = Session(peer=peer, calls=False, token=bytes(opening.session), limits=limits, timeouts=timeouts)
            self._sessions[key], self._parked[key] = session, time.monotonic()
        threading.Thread(target=self._expire, args=(key, session), name=f"park-{peer}", daemon=True).start()
        return session

    def _unknown(self, peer: str, opening: peer_pb2.Open) -> PeerError | TransportError:
        for other, session in self._sessions.items():
            if other[0] != peer and session.token and hmac.compare_digest(session.token, opening.session):
                return PeerError("transport.foreign_session", f"{peer} tried to join a session of {other[0]}.")
        return TransportError(
            "transport.session_lost",
            f"{peer} would go on with a session of {opening.step} that is not known here: this node has started again since.",
            remedy="The coordinator starts the step again on both nodes.",
        )

    def _expire(self, key: Key, session: Session) -> None:
        """A stream whose step does not start here is told so when the patience is at an end."""
        with session.changed:
            session.changed.wait_for(lambda: session.claimed or session.settled, session.timeouts.patience)
        with self._lock:
            if self._parked.get(key) is not None and self._sessions.get(key) is session and not session.claimed:
                if session.settled:  # it says why the attempt is over; kept for the step until pruned
                    return
                del self._parked[key]
                error = TransportError("transport.not_started", f"The step that {key[0]} opened a stream for did not start here.")
                session.stop(error, tell=error.code)

    def claim(
        self,
        peer: str,
        opening: peer_pb2.Open,
        *,
        limits: Limits,
        timeouts: Timeouts,
        stop: threading.Event,
        on_wait: OnWait | None,
    ) -> Session:
        """The session for a step that starts here: the one that waits for it, or a new one that waits for its first stream.

        A stream that ended while it waited is taken too: it says why the attempt is over.
        """
        key = _key(peer, opening)
        with self._lock:
            self._prune(timeouts)
            session = self._sessions.get(key) if key in self._parked else None
            if session is None:
                session = Session(peer=peer, calls=False, limits=limits, timeouts=timeouts)
                self._sessions[key] = session
            self._parked.pop(key, None)
            session.claim(opening, on_wait=on_wait, stop=stop)
            return session

    def _prune(self, timeouts: Timeouts) -> None:
        """Forget what ended, and what nobody claimed, long ago."""
        oldest = time.monotonic() - timeouts.patience
        ended = [key for key, session in self._sessions.items() if session.ended_before(time.monotonic())]
        for key in ended[: max(0, len(ended) - ENDED_KEPT)] + [key for key in ended if self._sessions[key].ended_before(oldest)]:
            self._sessions.pop(key, None)
            self._parked.pop(key, None)
