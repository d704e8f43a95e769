"""Rooms of the relay, without gRPC: bounds, order, ends, and two nodes that behave badly."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from audit.errors import IsthmusError
from coordinator.rooms import Attempt, RelayLimits, Room, Rooms

pytestmark = pytest.mark.timed

ATTEMPT: Attempt = ("ab" * 32, "align", 0, 0)
PARTIES = ("bank", "shop")
LIMITS = RelayLimits(buffer_bytes=1000, buffer_records=10, record_bytes=400, rooms=2, streams_of_one=2, check=0.05, linger=0.05)
WAIT = 5.0


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def rooms(
    clock: Callable[[], float] = time.monotonic, runs: Callable[[Attempt], bool] = lambda attempt: True, **limits: object
) -> Rooms:
    return Rooms(replace(LIMITS, **limits), runs=runs, clock=clock)  # type: ignore[arg-type]


def nothing() -> None:
    pass


def enter(found: Rooms, party: str, cancel: Callable[[], None] = nothing, attempt: Attempt = ATTEMPT) -> Room:
    return found.enter(attempt, party, PARTIES, cancel)


def both(found: Rooms) -> Room:
    room = enter(found, "bank")
    assert enter(found, "shop") is room
    return room


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(IsthmusError) as error:
        call()
    return error.value.code


def until(check: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def in_background(body: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        with contextlib.suppress(IsthmusError):  # the room was ended by the test
            body()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_records_cross_in_order_and_the_room_ends_when_both_finished() -> None:
    found = rooms()
    room = both(found)
    sent = [bytes([n]) * 100 for n in range(50)]
    got: dict[str, list[bytes]] = {}
    readers = [in_background(lambda party=party: got.update({party: list(room.records(party))})) for party in PARTIES]
    for record in sent:
        room.put("bank", record)
        room.put("shop", record[:1])
    room.finish("bank")
    assert all(reader.is_alive() for reader in readers)
    room.finish("shop")
    for reader in readers:
        reader.join(WAIT)
    assert got == {"shop": sent, "bank": [record[:1] for record in sent]}
    assert room.over
    assert found.relayed(ATTEMPT) == 50 * 101


def test_a_side_that_reads_nothing_stops_the_writer_and_holds_bounded_memory() -> None:
    room = both(rooms())
    put: list[int] = []
    writer = in_background(lambda: [put.append(n) for n in range(100) if room.put("bank", bytes(150)) is None])
    until(lambda: len(put) == 6)
    time.sleep(0.2)
    assert len(put) == 6  # 6 * 150 bytes <= 1000
    assert writer.is_alive()
    reader = room.records("shop")
    for _ in range(3):
        next(reader)
    until(lambda: len(put) == 9)
    room.fail("relay.stopping")
    writer.join(WAIT)
    assert not writer.is_alive()


def test_very_small_records_are_bounded_by_number() -> None:
    room = both(rooms())
    put: list[int] = []
    in_background(lambda: [put.append(n) for n in range(100) if room.put("bank", b"") is None])
    until(lambda: len(put) == 10)
    time.sleep(0.1)
    assert len(put) == 10
    room.fail("relay.stopping")


def test_a_side_that_takes_nothing_for_too_long_is_cut() -> None:
    clock, cut = Clock(), threading.Event()
    found = rooms(clock, stall=10.0)
    room = enter(found, "bank")
    enter(found, "shop", cut.set)
    room.put("bank", b"x")
    clock.now = 10.0
    room.check()
    assert not room.code
    clock.now = 10.5
    room.check()
    assert room.code == "relay.stalled"
    assert cut.wait(WAIT)
    assert code_of(lambda: room.put("bank", b"y")) == "relay.stalled"


def test_an_oversized_record_ends_both_sides() -> None:
    room = both(rooms())
    assert code_of(lambda: room.put("bank", bytes(401))) == "relay.oversized"
    assert code_of(lambda: list(room.records("shop"))) == "relay.oversized"


def test_when_one_leaves_the_other_is_told_and_what_waits_is_dropped() -> None:
    room = both(rooms())
    room.put("bank", b"last words")
    room.left("bank")
    assert code_of(lambda: list(room.records("shop"))) == "relay.left"


def test_who_finished_may_leave_and_the_other_still_takes_everything() -> None:
    room = both(rooms())
    room.put("bank", b"the end")
    room.finish("bank")
    room.left("bank")
    room.put("shop", b"to nobody")
    room.finish("shop")
    assert list(room.records("shop")) == [b"the end"]
    assert not room.code


def test_who_is_gone_after_its_end_ends_the_other_too() -> None:
    """A cut stream may look finished: the other node must notice at once that nothing more comes."""
    room = both(rooms())
    room.put("bank", b"something")
    room.finish("bank")
    reader = room.records("shop")
    assert next(reader) == b"something"
    room.left("bank")
    assert list(reader) == []


def test_a_peer_that_never_comes() -> None:
    clock = Clock()
    room = enter(rooms(clock, join=20.0), "bank")
    room.put("bank", b"x")
    clock.now = 19.0
    room.check()
    assert not room.code
    clock.now = 21.0
    assert code_of(lambda: list(room.records("bank"))) == "relay.absent"


def test_a_room_ends_with_its_attempt_but_not_at_the_first_look() -> None:
    clock, running = Clock(), [True]
    room = both(rooms(clock, lambda attempt: running[0], check=10.0))
    clock.now = 11.0
    room.check()
    running[0] = False
    clock.now = 22.0
    room.check()
    assert not room.code
    clock.now = 33.0
    room.check()
    assert room.code == "relay.not_running"


def test_no_room_lasts_for_ever() -> None:
    clock = Clock()
    room = both(rooms(clock, lifetime=100.0))
    clock.now = 101.0
    room.check()
    assert room.code == "relay.expired"


def test_coming_again_ends_the_room_before_and_the_other_meets_in_the_new_one() -> None:
    found = rooms()
    first = both(found)
    second = enter(found, "bank")
    assert second is not first
    assert first.code == "relay.superseded"
    first.left("shop")  # the end of an old stream does nothing to the new room
    assert enter(found, "shop") is second
    assert not second.code


def test_rooms_and_streams_are_counted_and_given_back() -> None:
    found = rooms()
    others = [("cd" * 32, "align", 0, 0), ("ef" * 32, "align", 0, 0)]
    room = both(found)
    enter(found, "bank", attempt=others[0])
    assert code_of(lambda: enter(found, "bank", attempt=others[1])) == "relay.busy"
    room.fail("relay.left")
    enter(found, "bank", attempt=others[1])
    with found.stream("bank"), found.stream("bank"):
        assert code_of(lambda: found.stream("bank").__enter__()) == "relay.busy"
        with found.stream("shop"):
            pass
    with found.stream("bank"):
        pass


def test_a_stuck_room_gives_its_place_up_when_it_is_needed() -> None:
    clock = Clock()
    found = rooms(clock, stall=10.0, rooms=1)
    both(found).put("bank", b"x")
    clock.now = 11.0
    enter(found, "bank", attempt=("cd" * 32, "align", 0, 0))


def test_a_room_is_no_faster_than_allowed() -> None:
    room = both(rooms(bytes_per_second=1000, least_record=100))
    reader = in_background(lambda: list(room.records("shop")))
    began = time.monotonic()
    for _ in range(15):
        room.put("bank", b"x")  # counts as 100 bytes
    taken = time.monotonic() - began
    assert 0.4 < taken < 2.0  # 1500 bytes, of which a second's worth comes at once
    room.finish("bank")
    room.finish("shop")
    reader.join(WAIT)


def test_stopping_ends_all() -> None:
    found = rooms()
    room = both(found)
    found.stop()
    assert code_of(lambda: list(room.records("bank"))) == "relay.stopping"
