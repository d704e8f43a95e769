"""The two ends of one direction of a session: what was sent and may have to be sent again, and what came and was not asked for yet.

Pure bookkeeping, with neither threads nor clock.  Frames are counted from 0 over the whole session:

    Outbox   taken <= received (told on resumption) <= sent <= put      kept: [taken, put)
    Inbox    taken <= received                                          kept: [taken, received)

The receiver's count of what its protocol has *taken* is the acknowledgement: a frame's room is free again on both sides only then.
So neither side ever holds more than one window, and the receiver never has to stop reading, which would hide acknowledgements and
signs of life behind bulk data.  Whatever a peer counts is checked against what can be.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from node.errors import PeerError
from node.limits import Limits
from node.transport.options import chunk_bytes
from protos import peer_pb2

_REMEDY = "The step is given up; check that both nodes run the same version, and that nothing between them alters messages."


@dataclass(frozen=True)
class Part:
    """A message, or a part of one (``more``: it goes on in the next); ``kind`` is empty in all parts but the first."""

    kind: str
    payload: bytes = field(repr=False)
    more: bool


class Outbox:
    """The sender's end: a bounded window of parts that the peer's protocol has not taken."""

    def __init__(self, peer: str, limits: Limits) -> None:
        self._peer, self._limits = peer, limits
        self._kept: deque[Part] = deque()
        self.held = 0
        """Bytes kept."""
        self.taken = self.sent = self.put_count = 0

    @property
    def empty(self) -> bool:
        """Whether the peer has taken all there was."""
        return not self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def has_room(self, size: int) -> bool:
        """Whether a part of ``size`` bytes fits into the window."""
        fits = self.held + size <= self._limits.window_bytes and len(self._kept) < self._limits.window_frames
        return fits or self.empty

    def put(self, part: Part) -> None:
        """Take a part in; the caller has asked for room."""
        self._kept.append(part)
        self.held += len(part.payload)
        self.put_count += 1

    def frame(self, seq: int, taken: int) -> peer_pb2.Frame:
        """Part ``seq`` as it goes out; ``taken`` is what our own protocol has taken of the other direction."""
        part = self._kept[seq - self.taken]
        self.sent = max(self.sent, seq + 1)
        frame = peer_pb2.Frame()  # filled in place: handing a message to another's constructor copies it
        data = frame.data
        data.type, data.seq, data.payload, data.more, data.taken = part.kind, seq, part.payload, part.more, taken
        return frame

    def acknowledge(self, taken: int) -> None:
        """The peer's protocol has taken so many parts: forget them.

        Raises:
            PeerError: ``transport.bad_ack``: fewer than before, or more than were sent.
        """
        if not self.taken <= taken <= self.sent:
            raise PeerError(
                "transport.bad_ack",
                f"{self._peer} acknowledged {taken} frames; {self.sent} were sent and {self.taken} acknowledged before.",
                remedy=_REMEDY,
            )
        while self.taken < taken:
            self.held -= len(self._kept.popleft().payload)
            self.taken += 1

    def check_resume(self, received: int) -> None:
        """Whether the peer can have received so many parts.  Raises ``PeerError`` ``transport.bad_resume``."""
        if not self.taken <= received <= self.sent:
            raise PeerError(
                "transport.bad_resume",
                f"{self._peer} says that it has received {received} frames; {self.sent} were sent and {self.taken} acknowledged.",
                remedy=_REMEDY,
            )

    def clear(self) -> None:
        """Nothing will be sent again."""
        self._kept.clear()
        self.held, self.taken = 0, self.put_count


class Inbox:
    """The receiver's end: what came in order and waits for the protocol."""

    def __init__(self, peer: str, limits: Limits) -> None:
        self._peer, self._limits, self._chunk = peer, limits, chunk_bytes(limits)
        self._waiting: deque[Part] = deque()
        self.held = 0
        """Bytes kept."""
        self.received = self.taken = 0
        self.owed = 0
        """Bytes and parts taken since the peer was last told."""
        self._repeats = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, data: peer_pb2.Data) -> None:
        """A frame came.  One that came before is dropped: after a cut it may be on its way twice.

        Raises:
            PeerError: ``transport.out_of_order`` (a gap), ``transport.repeats`` (more repeats than can have been on their way),
                ``transport.oversized``, ``transport.window_exceeded``.
        """
        if data.seq < self.received:
            self._repeats += 1
            if self._repeats > self._limits.window_frames:
                raise PeerError("transport.repeats", f"{self._peer} sends the same frames again and again.", remedy=_REMEDY)
            return
        if data.seq > self.received:
            raise PeerError(
                "transport.out_of_order",
                f"{self._peer} sent frame {data.seq} where {self.received} was due.",
                remedy=_REMEDY,
            )
        payload = data.payload  # a new object at every look
        size = len(payload)
        if size > self._chunk:
            raise PeerError(
                "transport.oversized",
                f"{self._peer} sent {size} bytes in one frame; at most {self._chunk} are accepted.",
                remedy="Both nodes must use the same message limit.",
            )
        if self.held + size > self._limits.window_bytes or len(self._waiting) >= self._limits.window_frames:
            raise PeerError(
                "transport.window_exceeded",
                f"{self._peer} sends on although {len(self._waiting)} frames ({self.held} bytes) were not taken yet.",
                remedy=_REMEDY,
            )
        self._waiting.append(Part(data.type, payload, data.more))
        self.held += size
        self.received += 1

    def get(self) -> Part:
        """The next part, for the protocol."""
        part = self._waiting.popleft()
        self.held -= len(part.payload)
        self.owed += len(part.payload) + 1
        self.taken += 1
        return part

    def clear(self) -> None:
        """Nobody will ask for what waits."""
        self._waiting.clear()
        self.held = 0
