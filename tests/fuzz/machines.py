"""Targets: streams and state machines, driven by sequences of what a peer or the coordinator may say."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from audit.errors import IsthmusError
from audit.signing import SigningKey
from coordinator.rooms import RelayLimits, Rooms
from node.crypto.curve import Blinder, check_canonical
from node.limits import Limits
from node.transport.channel import MESSAGE_TYPES, GrpcChannel, parse
from node.transport.errors import told_by
from node.transport.opening import check_open
from node.transport.options import Timeouts
from node.transport.relay import Carrier
from node.transport.sealing import Handshake, Kind, Meeting, Opener, Sealer, Side
from node.transport.session import Session
from node.transport.windows import Inbox, Outbox, Part
from protos import peer_pb2
from tests.fuzz import halves
from tests.fuzz.messages import mutate
from tests.fuzz.reader import Reader

TINY = Limits(message_bytes=4096, chunk_bytes=512, window_bytes=2048, window_frames=8)
AT_ONCE = Timeouts(patience=0.0, peer=0.0, open=0.0, close=0.0, silence=0.0)
_TYPES = sorted(MESSAGE_TYPES)


# ---- the peer's stream -----------------------------------------------------------------------------------------------------------


def message(data: bytes) -> None:
    """Every type of message that a protocol takes."""
    reader = Reader(data)
    kind = getattr(peer_pb2, reader.pick(_TYPES))
    payload = reader.rest()
    assert parse(kind, payload).SerializeToString(deterministic=True) == payload


def opening(data: bytes) -> None:
    """An ``Open`` that is nearly right."""
    reader = Reader(data)
    mine = peer_pb2.Open(protocol=2, party="bank", job="ab" * 32, step="align", session=bytes(16))
    theirs = peer_pb2.Open.FromString(mine.SerializeToString())
    mutate(theirs, reader)
    check_open(mine, theirs, peer="bank")


def frames(data: bytes) -> None:
    """A whole session, its frames and both windows, as a peer's stream brings them; the protocol asks for what is there."""
    reader = Reader(data)
    session = Session(peer="bank", calls=True, token=bytes(16), limits=TINY, timeouts=AT_ONCE)
    mine = peer_pb2.Open(protocol=2, party="shop", job="ab" * 32, step="align", session=bytes(16))
    session.claim(mine)
    leg = session.begin()
    assert session.next(leg) is not None  # our own Open
    session.put(Part("PsiStart", b"\x08\x05", more=False))
    channel = GrpcChannel(session, limits=TINY)
    while reader.left:
        frame = peer_pb2.Frame()
        way = reader.byte()
        if way < 32:
            frame.open.CopyFrom(mine)
            frame.open.party = "bank"
        elif way < 160:
            frame.data.type, frame.data.seq = reader.pick(_TYPES), session.inbox.received
            frame.data.payload, frame.data.more = reader.take(reader.byte()), bool(way & 1)
        elif way < 224:
            mutate(frame, reader)
        else:
            try:
                frame = peer_pb2.Frame.FromString(reader.take(reader.byte()))
            except DecodeError:
                continue
        if not session.take(leg, frame):
            break
        if leg.joined and not session.settled and leg.cursor < session.outbox.put_count:
            session.next(leg)  # our message goes out, and may be acknowledged
        if way & 2 and len(session.inbox):
            channel.recv_payload(reader.pick(_TYPES))
        assert session.inbox.held <= TINY.window_bytes + TINY.chunk_bytes
        assert len(session.inbox) <= TINY.window_frames
    if session._failure is not None:
        raise session._failure


def windows(data: bytes) -> None:
    """Both ends of one direction, told anything."""
    reader = Reader(data)
    outbox, inbox = Outbox("bank", TINY), Inbox("bank", TINY)
    while reader.left:
        way = reader.byte() % 6
        if way == 0 and outbox.has_room(64):
            outbox.put(Part("PsiStart", bytes(64), more=False))
        elif way == 1 and outbox.put_count > outbox.taken:
            outbox.frame(outbox.taken, 0)
        elif way == 2:
            outbox.acknowledge(reader.integer(64))
        elif way == 3:
            outbox.check_resume(reader.integer(64))
        elif way == 4:
            inbox.put(peer_pb2.Data(type="PsiStart", seq=inbox.received + (reader.byte() == 255), payload=reader.take(64)))
        elif len(inbox):
            inbox.get()
        assert 0 <= outbox.taken <= outbox.sent <= outbox.put_count
        assert inbox.held <= TINY.window_bytes


def points(data: bytes) -> None:
    """Points of the peer: refused, or masked to something that is not zero."""
    whole = data[: len(data) // 32 * 32]
    check_canonical(whole)
    assert len(Blinder(b"s" * 32).blind(whole)) == len(whole)


def abort_code(data: bytes) -> None:
    """What a peer says when it gives up is never repeated unless it is a code."""
    text = data.decode("utf-8", "replace")
    raise told_by("bank", text)


# ---- the relay -------------------------------------------------------------------------------------------------------------------

_KEYS = {name: SigningKey(f"isthmus.log/{name}", bytes([place]) * 32) for place, name in enumerate(("bank", "shop"), start=1)}
_SIDES = {name: Side(name, key.verifier) for name, key in _KEYS.items()}


def _meeting() -> Meeting:
    return Meeting("ab" * 32, "align", 0, 0, _SIDES["bank"], _SIDES["shop"])


def sealed(data: bytes) -> None:
    """Sealed by the true peer, but of any content: kinds, lengths, padding and frames that lie."""
    reader = Reader(data)
    sealer, opener = Sealer(b"k" * 32), Opener(b"k" * 32, peer="bank", frame_bytes=2**20)
    taken = 0
    while reader.left:
        way = reader.byte()
        content = reader.take(reader.byte())
        if way < 128:
            record = sealer.seal(reader.pick(tuple(Kind)), content)
        elif way < 200:  # a header that lies, in a record that opens
            record = sealer._cipher.encrypt(sealer._nonce(), content, None)
        else:
            record = content
        kind, frame = opener.take(record)
        taken += len(frame)
        if kind is Kind.FRAME:
            try:
                peer_pb2.Frame.FromString(frame)
            except DecodeError:
                return
    assert taken <= len(data)


def carried(data: bytes) -> None:
    """The records that a relay hands over, before anyone has proven anything."""
    reader = Reader(data)
    records = []
    while reader.left:
        records.append(reader.take(32 if reader.byte() < 128 else reader.byte()))
    handshake = Handshake(_meeting(), me="bank", key=_KEYS["bank"], frame_bytes=2**16)
    for _ in Carrier(handshake, [], peer="shop").frames(iter(records)):
        raise AssertionError("a frame came out of a session that nobody proved")


def rooms(data: bytes) -> None:
    """Rooms of the relay: streams that come, send, leave and come again in any order."""
    reader = Reader(data)
    clock = [0.0]
    limits = RelayLimits(buffer_bytes=1000, buffer_records=8, record_bytes=400, rooms=2, streams_of_one=2, check=0.0, linger=0.0)
    found = Rooms(limits, runs=lambda attempt: bool(reader.byte() & 1), clock=lambda: clock[0])
    open_rooms: list[Any] = []
    while reader.left:
        way, party = reader.byte() % 6, reader.pick(("bank", "shop"))
        attempt = ("ab" * 32, "align", 0, reader.byte() % 3)
        try:
            if way == 0:
                with found.stream(party):
                    open_rooms.append(found.enter(attempt, party, ("bank", "shop"), lambda: None))
            elif open_rooms and way == 1:
                room = reader.pick(open_rooms)
                if room._fits(room.other(party), 64) or reader.byte() > 200:
                    room.put(party, reader.take(64) if room._fits(room.other(party), 64) else bytes(401))
            elif open_rooms and way == 2:
                reader.pick(open_rooms).left(party)
            elif open_rooms and way == 3:
                reader.pick(open_rooms).finish(party)
            elif open_rooms and way == 4:
                reader.pick(open_rooms).check()
            else:
                clock[0] += reader.byte() * 100
        except IsthmusError as error:
            if not error.code.startswith("relay."):  # nothing else may come of it
                raise
        assert len(found._rooms) <= limits.rooms
        assert all(sum(map(len, room._for[p])) <= limits.buffer_bytes for room in open_rooms for p in ("bank", "shop"))


# ---- seeds ----------------------------------------------------------------------------------------------------------------------


def seeds(name: str) -> list[bytes]:
    """Valid inputs of a target."""
    if name == "message":
        return [bytes([_TYPES.index(kind)]) + payload for kind, payload in sorted(_recorded().items())]
    if name == "frames":
        return [bytes([0, 32, 5, 2, 1, 2, 36, 5, 2, 1, 2]), bytes([0, 33, 0, 9]) + b"x" * 9 + bytes([34, 0, 3, 1, 2, 3, 0])]
    if name == "sealed":
        return [bytes([0, 4]) + b"abcd" + bytes([2, 0, 0, 3])]
    if name == "points":
        return [Blinder(b"t" * 32).blind((9).to_bytes(32, "little")) * 2]
    if name == "abort-code":
        return [b"psi.too_few_shared", b"<script>"]
    return [bytes(40), bytes(range(60))]


def _recorded() -> dict[str, bytes]:
    """One message of each type that an honest job sends."""
    runs = [
        halves.aligning(),
        halves.aligning_by_ot(),
        halves.counting(),
        halves.filtering(),
        halves.filtering_again(),
        halves.preparing(),
        halves.rounding(1),
        halves.rounding(2),
        halves.finishing(),
        halves.evaluating(),
    ]
    return {kind: payload for run in runs for sent in run.sent.values() for kind, payload in sent}
