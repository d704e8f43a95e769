"""Rooms of the relay: where the streams of a job's two nodes meet for one attempt of one step.  No gRPC here.

    node A's stream -> reader -> [ <= BUFFER_BYTES ] -> node B's stream
    node A's stream <- [ <= BUFFER_BYTES ] <- reader <- node B's stream

A full buffer stops the reader, and through the network the sender.  A room ends when both sides finished sending and everything was
taken, or fails for both sides at once with a code.  Records are held only until they are passed on; of each attempt the number of
bytes is remembered, nothing else.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from coordinator.errors import PeerError, TransportError

Attempt = tuple[str, str, int, int]  # job, step, round, attempt


@dataclass(frozen=True)
class RelayLimits:
    """Bounds of the relay; times in seconds.

    Attributes:
        record_bytes: largest record: 256 KiB and the seal's 16 bytes.
        buffer_bytes, buffer_records: what may wait for one side; a record larger than what is left waits for room.
        rooms: open at once.
        streams_of_one: streams of one node at once, those that have not named a room counted.
        open: the first message of a stream.
        join: the other node's coming; nodes come again, and hear why earlier than they lose patience with a silent stream.
        stall: a side that takes nothing while there is something for it; longer than a node computes between messages.
        lifetime: of one room.
        check: how often a room asks whether its attempt still runs.
        linger: between a room's failure and the cutting of a stream that does not take it.
        bytes_per_second: of one room, both directions together; 0 for no limit.
        least_record: what the smallest record counts as, so that very many small ones are slowed down too.
    """

    record_bytes: int = 256 * 2**10 + 16
    buffer_bytes: int = 2**20
    buffer_records: int = 64
    rooms: int = 16
    streams_of_one: int = 8
    open: float = 10.0
    join: float = 10.0
    stall: float = 900.0
    lifetime: float = 24 * 3600.0
    check: float = 15.0
    linger: float = 5.0
    bytes_per_second: int = 0
    least_record: int = 4096


def _failure(code: str, party: str) -> PeerError:
    return PeerError(code, f"The relayed stream of {party} ended: {code}.")


class Room:
    """Two parties' streams.

    Args:
        runs: whether the attempt is still running; called with no lock held.
        count: told the size of every record passed on.
    """

    def __init__(
        self,
        parties: tuple[str, str],
        *,
        limits: RelayLimits,
        runs: Callable[[], bool],
        count: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.parties, self._limits, self._runs, self._count, self._clock = parties, limits, runs, count, clock
        self._changed = threading.Condition()
        self._for: dict[str, deque[bytes]] = {party: deque() for party in parties}
        self._bytes = dict.fromkeys(parties, 0)
        self._cancels: dict[str, Callable[[], object]] = {}
        self._joined: set[str] = set()
        self._finished: set[str] = set()  # will send nothing more
        self._gone: set[str] = set()
        self._began = self._checked = self._free_at = clock()
        self._taken = dict.fromkeys(parties, self._began)  # when each side last took something, or had nothing to take
        self._not_running = 0
        self.code = ""
        """Why the room failed."""

    def other(self, party: str) -> str:
        """The party that is not this one."""
        return self.parties[1] if party == self.parties[0] else self.parties[0]

    def has(self, party: str) -> bool:
        """Whether a party's stream is or was here."""
        return party in self._joined

    @property
    def over(self) -> bool:
        """Whether nothing more can happen: it failed, or both sides finished and took everything."""
        return bool(self.code) or (len(self._finished) == 2 and not any(self._for.values()))

    def join(self, party: str, cancel: Callable[[], object]) -> None:
        """A party's stream arrived; ``cancel`` ends it by force."""
        with self._changed:
            self._joined.add(party)
            self._cancels[party] = cancel
            self._taken[party] = self._clock()
            self._changed.notify_all()

    def fail(self, code: str) -> None:
        """End both sides; what waits is dropped.  A stream that takes nothing, not even its end, is cut a little later."""
        with self._changed:
            if self.code:
                return
            self.code = code
            for waiting in self._for.values():
                waiting.clear()
            self._changed.notify_all()
        timer = threading.Timer(self._limits.linger, self._cut)
        timer.daemon = True
        timer.start()

    def _cut(self) -> None:
        with self._changed:
            left = [cancel for party, cancel in self._cancels.items() if party not in self._gone]
        for cancel in left:
            cancel()

    def finish(self, party: str) -> None:
        """A party will send nothing more."""
        with self._changed:
            self._finished.add(party)
            self._changed.notify_all()

    def left(self, party: str) -> None:
        """A party's stream is over: in order if it had finished, a failure otherwise."""
        with self._changed:
            self._gone.add(party)
            broken = not self.over and party not in self._finished
            self._for[party].clear()
            self._changed.notify_all()
        if broken:
            self.fail("relay.left")

    def put(self, party: str, record: bytes) -> None:
        """Take one record from ``party``, waiting while the other side's buffer is full or the room is too fast.

        Raises:
            PeerError: ``relay.oversized``, or why the room failed.
        """
        to, size = self.other(party), len(record)
        if size > self._limits.record_bytes:
            self.fail("relay.oversized")
        with self._changed:
            self._pace(max(size, self._limits.least_record))
            while not self.code and to not in self._gone and not self._fits(to, size):
                self._changed.wait(self._limits.check)
            if self.code:
                raise _failure(self.code, party)
            if to in self._gone:
                return  # it had finished, and needs nothing more
            if not self._for[to]:
                self._taken[to] = self._clock()
            self._for[to].append(record)
            self._bytes[to] += size
            self._changed.notify_all()

    def _fits(self, to: str, size: int) -> bool:
        waiting = self._for[to]
        return not waiting or (len(waiting) < self._limits.buffer_records and self._bytes[to] + size <= self._limits.buffer_bytes)

    def _pace(self, size: int) -> None:
        if not self._limits.bytes_per_second:
            return
        now = self._clock()
        free_at = self._free_at = max(self._free_at, now) + size / self._limits.bytes_per_second
        wait = free_at - now - 1.0  # a second's worth may come at once
        if wait > 0:
            self._changed.wait_for(lambda: self.code, wait)

    def records(self, party: str) -> Iterator[bytes]:
        """What the other side sent to ``party``, until both have finished or the other is gone.

        gRPC may show a stream that was cut as one that ended, so a side that is gone ends this one too: whether it had said its
        end, only the node here can tell.

        Raises:
            PeerError: why the room failed.
        """
        while True:
            record = None
            with self._changed:
                if not self._for[party] and not self._ends(party):
                    self._changed.wait(min(self._limits.check, self._limits.join) / 4)
                if self._for[party]:
                    record = self._for[party].popleft()
                    self._bytes[party] -= len(record)
                    self._taken[party] = self._clock()
                    self._changed.notify_all()
                elif self._ends(party) and not self.code:
                    return
            if record is not None:
                self._count(len(record))
                yield record
            self.check()
            if self.code:
                raise _failure(self.code, party)

    def _ends(self, party: str) -> bool:
        return self.over or self.other(party) in self._gone

    def check(self) -> None:
        """Fail the room if it has lasted too long in one of its ways."""
        now, limits = self._clock(), self._limits
        with self._changed:
            if self.over:
                return
            stalled = any(waiting and now - self._taken[party] > limits.stall for party, waiting in self._for.items())
            met, ask = len(self._joined) == 2, now - self._checked >= limits.check
            if ask:
                self._checked = now
        if now - self._began > limits.lifetime:
            self.fail("relay.expired")
        elif not met and now - self._began > limits.join:
            self.fail("relay.absent")
        elif stalled and met:
            self.fail("relay.stalled")
        elif ask:
            # Twice in a row: at a step's end both nodes report it before their streams have ended.
            self._not_running = 0 if self._runs() else self._not_running + 1
            if self._not_running >= 2:
                self.fail("relay.not_running")


class Rooms:
    """All open rooms.

    Args:
        runs: whether an attempt of a job is running at present.
    """

    REMEMBERED = 4096
    """Attempts whose relayed bytes are remembered."""

    def __init__(
        self, limits: RelayLimits, *, runs: Callable[[Attempt], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits, self._runs, self._clock = limits, runs, clock
        self._lock = threading.Lock()
        self._rooms: dict[Attempt, Room] = {}
        self._streams: dict[str, int] = {}
        self._relayed: OrderedDict[Attempt, int] = OrderedDict()

    @contextmanager
    def stream(self, party: str) -> Iterator[None]:
        """Count one stream of ``party`` while it lasts.

        Raises:
            TransportError: ``relay.busy``.
        """
        with self._lock:
            if self._streams.get(party, 0) >= self.limits.streams_of_one:
                raise TransportError("relay.busy", f"{party} holds {self.limits.streams_of_one} streams of the relay already.")
            self._streams[party] = self._streams.get(party, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._streams[party] -= 1
                if not self._streams[party]:
                    del self._streams[party]

    def enter(self, attempt: Attempt, party: str, parties: tuple[str, str], cancel: Callable[[], object]) -> Room:
        """The room of an attempt, with ``party`` in it; a party that comes again ends the room it was in before.

        Raises:
            TransportError: ``relay.busy``.
        """
        with self._lock:
            others = list(self._rooms.values())
        for other in others:  # one whose streams are both stuck looks after itself no more
            other.check()
        with self._lock:
            self._rooms = {key: room for key, room in self._rooms.items() if not room.over}
            room = self._rooms.get(attempt)
            if room is not None and room.has(party):
                room.fail("relay.superseded")
                del self._rooms[attempt]
                room = None
            if room is None:
                if len(self._rooms) >= self.limits.rooms:
                    raise TransportError("relay.busy", f"All {self.limits.rooms} rooms of the relay are taken.")
                room = self._rooms[attempt] = Room(
                    parties,
                    limits=self.limits,
                    runs=lambda: self._runs(attempt),
                    count=lambda size: self._counted(attempt, size),
                    clock=self._clock,
                )
            room.join(party, cancel)
            return room

    def _counted(self, attempt: Attempt, size: int) -> None:
        with self._lock:
            self._relayed[attempt] = self._relayed.get(attempt, 0) + size
            while len(self._relayed) > self.REMEMBERED:
                self._relayed.popitem(last=False)

    def relayed(self, attempt: Attempt) -> int:
        """Bytes passed on in an attempt since this process started, both directions together."""
        with self._lock:
            return self._relayed.get(attempt, 0)

    def stop(self) -> None:
        """End all rooms."""
        with self._lock:
            for room in self._rooms.values():
                room.fail("relay.stopping")
