"""A session: one attempt of one step, over as many streams as it takes.

    protocol   put -> Outbox --+                         +-- Inbox -> get
                               +--> Leg.frames()  ...  Leg.pump() --+
                               one stream, then the next, then the next

The *calling* node draws the session's token, begins every stream with ``Open`` and opens the next one when it breaks
(``node.transport.client.keep``); the *answering* node recognises the token, which is good only together with the certificate of
the partner that first used it (``node.transport.switchboard``).  Both ``Open`` say how much was received, and each side sends again
from there.  What carries a leg is not known here: it takes an iterator of frames and gives one (a gRPC call, or anything else).

A stream goes   Open -> Open -> (Data | Ack)* -> Fin or Abort,   both ways; before its answer the answering side sends Ack alone, as
a sign of life while its own step has not started.  Fin says that all was sent and taken.  A stream that ends otherwise was cut, and
so is one on which nothing comes for ``Timeouts.silence`` seconds: pings of the carrier are answered by the next machine on the way,
which need not be the peer.

The session lives in memory: a process that starts again has lost it, says ``transport.session_lost``, and the step begins again
with a fresh attempt.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable

from node.errors import IsthmusError, PeerError, TransportError
from node.limits import LIMITS, Limits
from node.transport.errors import closed, impatient, silent_peer, told_by
from node.transport.leg import Leg
from node.transport.opening import check_open
from node.transport.options import TIMEOUTS, Timeouts
from node.transport.outage import OnWait, Outage
from node.transport.windows import Inbox, Outbox, Part
from protos import peer_pb2

_POLL = 0.2
"""Seconds between two looks at an event that somebody else sets."""


class Session:
    """One side's end.  ``calls``: this side opens the streams, and ``token`` is the one it drew."""

    def __init__(
        self, *, peer: str, calls: bool, token: bytes = b"", limits: Limits = LIMITS, timeouts: Timeouts = TIMEOUTS
    ) -> None:
        self.peer, self.calls, self.token, self.timeouts = peer, calls, token, timeouts
        lock = threading.RLock()
        self.changed = threading.Condition(lock)
        self._to_send = threading.Condition(lock)  # apart, so that a message wakes one thread and not all
        self.outbox, self.inbox = Outbox(peer, limits), Inbox(peer, limits)
        self._ack_bytes = limits.window_bytes // 4
        self._opening: peer_pb2.Open | None = None  # this side's; an answering session has none before its step starts
        self._on_wait: OnWait = lambda outage: None
        self._stop: threading.Event | None = None
        self._leg: Leg | None = None
        self._established = False
        self._down_since: float | None = time.monotonic()
        self._cause: IsthmusError | None = None  # why the link is down
        self._owed_since: float | None = None
        self._finishing = False  # nothing more will be put
        self._peer_left = False  # the peer said Fin or Abort
        self._failure: IsthmusError | None = None  # why it ended; what came before can still be taken
        self._stopped: IsthmusError | None = None  # given up here: at once
        self._tell = ""
        self._ended_at: float | None = None

    # -- the step's side
    def claim(self, opening: peer_pb2.Open, *, on_wait: OnWait | None = None, stop: threading.Event | None = None) -> None:
        """This node's step has started: ``opening`` is what it says of itself; ``stop`` makes waiting for the link end."""
        with self.changed:
            self._opening, self._stop = opening, stop
            if on_wait is not None:
                self._on_wait = on_wait
            if self._down_since is not None:  # the patience is the step's, not the stream's that came before it
                self._down_since = time.monotonic()
            self.wake()

    @property
    def claimed(self) -> bool:
        """Whether a step of this node has taken it."""
        return self._opening is not None

    def wait_established(self) -> None:
        """Wait for the first stream.  Raises why there is none."""
        with self.changed:
            self._await(lambda: self._established, "did not answer")
            if self._stopped or not self._established:
                self._raise_if_ended()

    def put(self, part: Part) -> None:
        """Send a part; blocks while the window is full.  Raises why the session ended, or ``transport.timeout``."""
        with self.changed:
            self._await(lambda: self.outbox.has_room(len(part.payload)), "did not take a message")
            self._raise_if_ended()
            if self._finishing:
                raise closed(self.peer)
            self.outbox.put(part)
            self._to_send.notify_all()

    def get(self) -> Part:
        """The next part.  Raises why the session ended, or ``transport.timeout``."""
        with self.changed:
            self._await(lambda: bool(self.inbox), "said nothing")
            if self._stopped:
                raise self._stopped
            if not self.inbox:
                self._raise_if_ended()
            owed = self.inbox.owed
            part = self.inbox.get()
            if not owed:
                self._owed_since = time.monotonic()
            if not owed or owed < self._ack_bytes <= self.inbox.owed:
                self._to_send.notify_all()
            return part

    def finish(self) -> None:
        """Nothing more will be sent: wait until the peer has taken all, as long as for any message.  Never raises."""
        with self.changed:
            self._finishing = True
            self.wake()
            try:
                self._await(lambda: self.outbox.empty, "did not take the last message")
            except IsthmusError as error:
                self.fail(error)
            if self._failure:
                self.stop(self._failure)
            self._end()
            if self.calls:  # a peer that never heard of the last acknowledgement would wait for it
                self.changed.wait_for(lambda: self._peer_left or self._failure or self._stopped, self.timeouts.close)

    def stop(self, error: IsthmusError, *, tell: str = "") -> None:
        """Give up: the protocol raises ``error`` from now on, and the peer is told the code ``tell``."""
        with self.changed:
            if self._stopped is None:
                self._stopped, self._tell = error, tell
            self._finishing = True
            self._end()

    def depths(self) -> tuple[int, int]:
        """Frames not acknowledged yet, and frames waiting for the protocol; none once the session has ended."""
        with self.changed:
            return (0, 0) if self._ended_at is not None else (len(self.outbox), len(self.inbox))

    def wait_said(self, seconds: float) -> None:
        """After :meth:`stop`: wait a little until the peer has been told."""
        with self.changed:
            self.changed.wait_for(lambda: self._peer_left or self._leg is None or self._leg.over, seconds)

    def _end(self) -> None:
        self._ended_at = self._ended_at or time.monotonic()
        if self._stopped:
            self.outbox.clear()
        self.inbox.clear()
        self.wake()

    def wake(self) -> None:
        """Something changed that any thread may wait for."""
        with self.changed:
            self.changed.notify_all()
            self._to_send.notify_all()

    def _raise_if_ended(self) -> None:
        error = self._stopped or self._failure
        if error is not None:
            raise error
        if self._peer_left:
            raise closed(self.peer)

    def _await(self, ready: Callable[[], bool], what: str) -> None:
        """Wait until ``ready`` or the session's end, with the lock held; says so while the link is down.

        Raises:
            TransportError: ``transport.timeout``: the peer was silent for ``timeouts.peer`` seconds in which the link was up;
                ``transport.stopping``.
        """
        patient = self.timeouts.peer
        told: float | None = None
        while not (ready() or self.settled):
            if self._stop is not None and self._stop.is_set() and not self._established:
                raise TransportError(
                    "transport.stopping", "This node is stopping.", remedy="Start it again; the step is tried again."
                )
            now = time.monotonic()
            if self._down_since is None:
                if told is not None:
                    told = None
                    self._say(None)
                    continue  # the lock was free meanwhile
                if patient <= 0:
                    raise silent_peer(self.peer, self.timeouts.peer, what)
                self.changed.wait(patient)
                patient -= time.monotonic() - now
                continue
            if self.check_patience():
                break
            down = now - self._down_since
            if down >= self.timeouts.announce and (told is None or now - told >= self.timeouts.announce_again):
                told = now
                self._say(Outage(self.peer, down, self.timeouts.patience, self._cause_code()))
                continue
            left = min(self.timeouts.patience - down, self.timeouts.announce)
            self.changed.wait(left if self._established or self._stop is None else min(left, _POLL))
        if told is not None and self._down_since is None:
            self._say(None)

    def _say(self, outage: Outage | None) -> None:
        """Tell the step, without holding the lock meanwhile."""
        self.changed.release()
        try:
            self._on_wait(outage)
        finally:
            self.changed.acquire()

    def _cause_code(self) -> str:
        return self._cause.code if self._cause else "transport.not_started" if self.calls else "transport.no_stream"

    # -- the keeper's side: who opens streams, and who recognises them
    def begin(self) -> Leg:
        """A new leg; one that was there before is over."""
        with self.changed:
            if self._leg is not None:
                self._leg.end(closed(self.peer))
            self._leg = Leg(self, time.monotonic())
            self.wake()
            return self._leg

    def lost(self, leg: Leg, cause: IsthmusError) -> None:
        """A leg is over."""
        with self.changed:
            if leg is self._leg:
                self._leg = None
                self.note(cause)
                if leg.joined and self._down_since is None:
                    # A link that comes back only to be cut again at once has not been back.
                    now = time.monotonic()
                    stood = leg.moved or now - leg.began > self.timeouts.silence
                    self._down_since = now if stood else leg.down_before
            self.wake()

    def relink(self) -> None:
        """Let go of the stream that stands; whoever keeps one under this session begins the next."""
        with self.changed:
            if self._leg is not None:
                self._leg.end(closed(self.peer))

    def note(self, cause: IsthmusError) -> None:
        """Why the link is down."""
        with self.changed:
            self._cause = cause

    def fail(self, error: IsthmusError) -> None:
        """The session cannot go on."""
        with self.changed:
            self._failure = self._failure or error
            self._ended_at = self._ended_at or time.monotonic()
            self.wake()

    def check_patience(self) -> bool:
        """Give up if the link has been down for too long; returns whether the session has ended."""
        with self.changed:
            down, patience = self._down_since, self.timeouts.patience
            if not self.settled and down is not None and time.monotonic() - down >= patience:
                self.fail(impatient(self.peer, patience, self._cause, calls=self.calls))
            return self.settled

    @property
    def settled(self) -> bool:
        """Whether no further stream is needed."""
        return bool(self._stopped or self._failure or self._peer_left)

    def ended_before(self, when: float) -> bool:
        """Whether it ended before a moment of the monotonic clock."""
        return self._ended_at is not None and self._ended_at < when

    def owes_word(self) -> bool:
        """Whether the peer should still be told why this side gave up."""
        with self.changed:
            due = self._ended_at is not None and time.monotonic() < self._ended_at + self.timeouts.close
            return bool(self._tell and due and not self._peer_left)

    def rest(self, seconds: float) -> None:
        """A pause between two streams; short if the session ends."""
        with self.changed:
            self.changed.wait_for(lambda: self.settled, seconds)

    # -- the leg's side
    def next(self, leg: Leg) -> peer_pb2.Frame | None:
        """What goes out next on ``leg``; blocks.  None when nothing more will."""
        with self.changed:
            while leg is self._leg and not leg.over and not leg.said_last:
                now = time.monotonic()
                frame = self._choose(leg, now)
                if frame is not None:
                    leg.spoke = now
                    return frame
                if leg.said_last:
                    break
                due = leg.spoke + self.timeouts.heartbeat
                if self.inbox.owed and self._owed_since is not None:
                    due = min(due, self._owed_since + self.timeouts.ack_delay)
                self._to_send.wait(max(due - now, 0.001))
            return None

    def _choose(self, leg: Leg, now: float) -> peer_pb2.Frame | None:
        if self._tell or self._stopped or (self._peer_left and self._failure):
            leg.say_last(now)
            code = self._tell if not self._peer_left else ""
            return peer_pb2.Frame(abort=peer_pb2.Abort(code=code)) if code else None
        if not leg.opened and self._opening is not None and (self.calls or leg.joined):
            leg.opened = True
            return peer_pb2.Frame(open=self._own_open())
        outbox = self.outbox
        if leg.opened and leg.joined and self._failure is None:
            if self._peer_left or (self._finishing and outbox.empty):
                leg.say_last(now)
                return peer_pb2.Frame(fin=peer_pb2.Fin(taken=self._told()))
            if leg.cursor < outbox.put_count:
                leg.cursor += 1
                return outbox.frame(leg.cursor - 1, self._told())
            due = self._owed_since is not None and now >= self._owed_since + self.timeouts.ack_delay
            if self.inbox.owed >= self._ack_bytes or (self.inbox.owed and due):
                return peer_pb2.Frame(ack=peer_pb2.Ack(taken=self._told()))
        if now >= leg.spoke + self.timeouts.heartbeat and not (self.calls and not leg.opened):
            return peer_pb2.Frame(ack=peer_pb2.Ack(taken=self.inbox.taken))
        return None

    def _told(self) -> int:
        self.inbox.owed, self._owed_since = 0, None
        return self.inbox.taken

    def _own_open(self) -> peer_pb2.Open:
        own = peer_pb2.Open()
        own.MergeFrom(self._opening or own)
        own.session, own.received, own.resumed = self.token, self.inbox.received, self.calls and self._established
        return own

    def take(self, leg: Leg, frame: peer_pb2.Frame) -> bool:
        """A frame came in on ``leg``; returns whether more may."""
        with self.changed:
            if leg is not self._leg or self.settled:
                return False
            leg.heard, leg.heard_any = time.monotonic(), True
            try:
                self._take(leg, frame)
            except IsthmusError as error:
                self.fail(error)
            if self.settled:
                self._ended_at = self._ended_at or leg.heard
            if self.settled or self._finishing or not frame.HasField("data"):
                self._to_send.notify_all()
            self.changed.notify_all()
            return not self.settled

    def _take(self, leg: Leg, frame: peer_pb2.Frame) -> None:
        kind = frame.WhichOneof("body")
        if kind == "open" and not leg.joined:
            self._join(leg, frame.open)
        elif kind == "abort":
            self._peer_left = True
            raise told_by(self.peer, frame.abort.code)
        elif kind == "ack" and not leg.joined:
            self._cause = None  # the peer is there; its step has not started
        elif kind == "data" and leg.joined and leg.opened:
            self.outbox.acknowledge(frame.data.taken)
            self.inbox.put(frame.data)
            leg.moved = True
        elif kind == "ack" and leg.joined:
            leg.moved |= frame.ack.taken > self.outbox.taken
            self.outbox.acknowledge(frame.ack.taken)
        elif kind == "fin" and leg.joined and leg.opened:
            self.outbox.acknowledge(frame.fin.taken)
            self._peer_left = True
        else:
            raise PeerError(
                "protocol.unexpected_message",
                f"{self.peer} sent a frame that is not due ({kind or 'unknown'}).",
                remedy="Check that both nodes run the same version.",
            )

    def _join(self, leg: Leg, theirs: peer_pb2.Open) -> None:
        check_open(self._opening or theirs, theirs, peer=self.peer)
        if not hmac.compare_digest(theirs.session, self.token):
            raise PeerError("transport.wrong_session", f"{self.peer} answered for another session.", remedy="Run one node there.")
        self.outbox.check_resume(theirs.received)
        leg.cursor, leg.joined, self._established = theirs.received, True, True
        leg.down_before, self._down_since, self._cause = self._down_since, None, None
        if self.inbox.taken:  # what was told on the leg before may be lost
            self.inbox.owed, self._owed_since = max(self.inbox.owed, 1), leg.heard
