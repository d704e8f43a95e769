"""The two ends of one direction of a session: what is kept, what is dropped, and which counts of a peer cannot be."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import PeerError
from node.limits import Limits
from node.transport.windows import Inbox, Outbox, Part
from protos.peer_pb2 import Data

LIMITS = Limits(message_bytes=1000, chunk_bytes=100, window_bytes=400, window_frames=6)


def part(size: int = 10, kind: str = "PsiStart") -> Part:
    return Part(kind, bytes(size), more=False)


def sent_box(count: int = 4, size: int = 10) -> Outbox:
    box = Outbox("bank", LIMITS)
    for seq in range(count):
        box.put(part(size))
        box.frame(seq, 0)
    return box


def test_the_window_is_full_by_bytes_and_by_frames() -> None:
    box = Outbox("bank", LIMITS)
    for _ in range(4):
        assert box.has_room(100)
        box.put(part(100))
    assert not box.has_room(1)
    assert box.has_room(0)
    small = Outbox("bank", LIMITS)
    for _ in range(6):
        assert small.has_room(0)
        small.put(part(0))
    assert not small.has_room(0)
    small.frame(0, 0)
    small.acknowledge(1)
    assert small.has_room(0)


@pytest.mark.parametrize(
    ("say", "code"),
    [
        (lambda box: box.acknowledge(5), "transport.bad_ack"),
        (lambda box: (box.acknowledge(3), box.acknowledge(2)), "transport.bad_ack"),
        (lambda box: box.acknowledge(2**63), "transport.bad_ack"),
        (lambda box: box.check_resume(5), "transport.bad_resume"),
        (lambda box: (box.acknowledge(2), box.check_resume(1)), "transport.bad_resume"),
    ],
)
def test_a_count_that_cannot_be_is_refused(say: Callable[[Outbox], object], code: str) -> None:
    box = sent_box()
    box.put(part())  # put, and not sent yet: not to be acknowledged either
    with pytest.raises(PeerError) as refused:
        say(box)
    assert refused.value.code == code
    assert "bank" in refused.value.message


def test_what_the_receiver_refuses() -> None:
    cases: dict[str, list[Data]] = {
        "transport.out_of_order": [Data(seq=1)],
        "transport.oversized": [Data(payload=bytes(101))],
        "transport.window_exceeded": [Data(seq=k, payload=bytes(100)) for k in range(5)],
        "transport.repeats": [Data()] * 8,
    }
    cases["transport.window_exceeded "] = [Data(seq=k) for k in range(7)]
    for code, frames in cases.items():
        box = Inbox("bank", LIMITS)
        for data in frames[:-1]:
            box.put(data)
        held = box.held
        with pytest.raises(PeerError) as refused:
            box.put(frames[-1])
        assert refused.value.code == code.strip()
        assert box.held == held <= LIMITS.window_bytes


@given(st.lists(st.binary(max_size=100), max_size=40), st.randoms(use_true_random=False))
def test_whatever_is_cut_arrives_once_and_in_order(payloads: list[bytes], rng: random.Random) -> None:
    """A link that loses a tail of what was sent, again and again, and repeats a little of what arrived."""
    out, into = Outbox("b", LIMITS), Inbox("a", LIMITS)
    waiting, got, repeats = list(payloads), [], 0
    while len(got) < len(payloads):
        out.check_resume(into.received)
        cursor = max(out.taken, into.received - rng.randint(0, LIMITS.window_frames - repeats))
        while waiting and out.has_room(len(waiting[0])):
            out.put(Part("PsiStart", waiting.pop(0), more=False))
        arrives = rng.randint(0, out.put_count - cursor)
        for seq in range(cursor, out.put_count):
            frame = out.frame(seq, 0)
            if seq < cursor + arrives:
                repeats += seq < into.received
                into.put(frame.data)
        for _ in range(rng.randint(0, 6)):
            if into:
                got.append(into.get().payload)
        out.acknowledge(rng.randint(out.taken, into.taken))
        assert max(out.held, into.held) <= LIMITS.window_bytes
    assert got == payloads
