"""What a hostile partner does to its session: frames out of order, without end or without room, sessions not its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from audit.identity import Identity
from node.errors import IsthmusError, PeerError
from node.transport.channel import GrpcChannel
from protos.peer_pb2 import Ack, Data, Fin, Frame, PsiStart
from tests.links import LIMITS, TOKEN, Ends, link_identities, making_ends, opening

pytestmark = pytest.mark.timed


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    return link_identities(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def ends(known: dict[str, Identity]) -> Iterator[Callable[..., Ends]]:
    with making_ends(known) as make:
        yield make


def _data(seq: int, payload: bytes = b"", **more: Any) -> Frame:
    return Frame(data=Data(type="PsiStart", seq=seq, payload=payload, **more))


def _two(ch: GrpcChannel) -> None:
    """Send one message, then take more than will come."""
    ch.send(PsiStart(elements=1))
    for _ in range(300):
        ch.recv(PsiStart)


HOSTILE: dict[str, tuple[list[Frame], str]] = {
    "acknowledges what was never sent": ([Frame(ack=Ack(taken=2))], "transport.bad_ack"),
    "acknowledges it in a message": ([_data(0, taken=2)], "transport.bad_ack"),
    "acknowledges it in the last word": ([Frame(fin=Fin(taken=2**40))], "transport.bad_ack"),
    "leaves a gap": ([_data(1)], "transport.out_of_order"),
    "repeats without end": ([_data(0)] * (LIMITS.window_frames + 2), "transport.repeats"),
    "sends too large a frame": ([_data(0, bytes(LIMITS.chunk_bytes + 1))], "transport.oversized"),
    "opens twice": ([Frame(open=opening("platform", session=TOKEN))], "protocol.unexpected_message"),
    "says nothing in a frame": ([Frame()], "protocol.unexpected_message"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_peer_is_refused_with_a_code(ends: Callable[..., Ends], what: str) -> None:
    frames, code = HOSTILE[what]
    link = ends()
    bank = link.bank(_two)
    peer = link.raw(None, *frames)
    answers = peer.wait()
    error = bank.join().error
    assert isinstance(error, PeerError)
    assert error.code == code
    assert answers[-1].abort.code == code


def test_a_peer_that_does_not_wait_for_room_is_refused(ends: Callable[..., Ends]) -> None:
    link = ends()
    frames = [_data(k, bytes(LIMITS.chunk_bytes)) for k in range(LIMITS.window_bytes // LIMITS.chunk_bytes + 1)]
    release = threading.Event()

    def slow(ch: GrpcChannel) -> None:
        release.wait(10)
        ch.send(PsiStart())

    bank = link.bank(slow)
    peer = link.raw(None, *frames)
    time.sleep(1.5)
    assert bank.channel is not None
    assert bank.channel.session.inbox.held <= LIMITS.window_bytes
    release.set()
    peer.wait()
    error = bank.join().error
    assert isinstance(error, PeerError)
    assert error.code == "transport.window_exceeded"


def test_a_message_in_parts_without_end_is_refused(ends: Callable[..., Ends]) -> None:
    link = ends()
    parts = LIMITS.message_bytes // LIMITS.chunk_bytes + 1
    frames = [_data(0, bytes(LIMITS.chunk_bytes), more=True)]
    frames += [Frame(data=Data(seq=k, payload=bytes(LIMITS.chunk_bytes), more=True)) for k in range(1, parts)]
    bank = link.bank(lambda ch: ch.recv(PsiStart))
    # It waits for room as it should, which a raw peer learns from the acknowledgements: half a window at a time.
    half = len(frames) // 4
    peer = link.raw(None, *frames[:half])
    for start in range(half, len(frames), half):
        time.sleep(0.2)
        peer.cut()
        peer = link.raw(opening("platform", session=TOKEN, received=0, resumed=True), *frames[start : start + half])
    peer.wait()
    error = bank.join().error
    assert isinstance(error, PeerError)
    assert error.code == "transport.oversized"


def test_a_part_of_another_message_in_the_middle_is_refused(ends: Callable[..., Ends]) -> None:
    link = ends()
    bank = link.bank(lambda ch: ch.recv(PsiStart))
    link.raw(None, _data(0, b"\x08", more=True), _data(1, b"\x01")).wait()
    error = bank.join().error
    assert isinstance(error, PeerError)
    assert error.code == "protocol.unexpected_message"


def test_data_before_the_answer_are_refused(ends: Callable[..., Ends]) -> None:
    """Nothing is held for a step that has not started."""
    link = ends()
    peer = link.raw()
    peer.answered.set()
    peer.cut()
    early = link.raw(opening("platform", session=TOKEN), _data(0))
    early.answered.set()  # it does not wait
    time.sleep(0.3)
    bank = link.bank(lambda ch: ch.recv(PsiStart))
    error = bank.join().error
    assert isinstance(error, PeerError)
    assert error.code == "protocol.unexpected_message"
    early.wait()


def _session_with_one_message(link: Ends) -> Any:
    """The bank sends one message, which the raw peer does not acknowledge, and waits."""
    bank = link.bank(_two)
    peer = link.raw()
    assert peer.answered.wait(5)
    time.sleep(0.3)
    peer.cut()
    return bank


@pytest.mark.parametrize("received", [2, 2**63])
def test_a_resumption_with_a_count_that_cannot_be_is_refused(ends: Callable[..., Ends], received: int) -> None:
    link = ends()
    bank = _session_with_one_message(link)
    answers = link.raw(opening("platform", session=TOKEN, received=received, resumed=True)).wait()
    error = bank.join().error
    assert isinstance(error, PeerError)
    assert error.code == "transport.bad_resume"
    assert [frame.abort.code for frame in answers] == ["transport.bad_resume"]


def test_a_resumption_may_not_take_back_an_acknowledgement(ends: Callable[..., Ends]) -> None:
    link = ends()
    bank = link.bank(_two)
    peer = link.raw(None, Frame(ack=Ack(taken=1)), after="data")
    assert peer.answered.wait(5)
    time.sleep(0.3)
    peer.cut()
    link.raw(opening("platform", session=TOKEN, received=0, resumed=True)).wait()
    error = bank.join().error
    assert isinstance(error, PeerError)
    assert error.code == "transport.bad_resume"


def test_a_resumed_session_goes_on_from_what_was_received(ends: Callable[..., Ends]) -> None:
    """The same raw peer, telling the truth: the message it has is not sent again, the one it has not is."""
    for received in (0, 1):
        link = ends()
        bank = _session_with_one_message(link)
        peer = link.raw(opening("platform", session=TOKEN, received=received, resumed=True))
        assert peer.answered.wait(5)
        time.sleep(0.3)
        seqs = [frame.data.seq for frame in peer.answers if frame.HasField("data")]
        assert seqs == [0][received:]
        peer.cut()
        assert bank.channel is not None
        bank.channel.cancel(IsthmusError("job.ended", "The test is over."))
        bank.join()


def test_another_partner_cannot_join_although_it_knows_the_token(ends: Callable[..., Ends]) -> None:
    link = ends()
    bank = _session_with_one_message(link)
    thief = link.raw(opening("other", session=TOKEN, received=0, resumed=True), name="other")
    assert thief.wait() == []
    assert thief.ended == "transport.foreign_session"
    fresh = link.raw(opening("other", session=TOKEN), name="other")  # a session of its own, which no step takes
    time.sleep(0.5)
    assert not any(frame.HasField("data") or frame.HasField("open") for frame in fresh.answers)
    fresh.cut()
    masked = link.raw(opening("platform", session=TOKEN, resumed=True), name="other")
    masked.wait()
    assert masked.ended == "transport.party_mismatch"
    owner = link.raw(opening("platform", session=TOKEN, received=0, resumed=True))
    assert owner.answered.wait(5)
    owner.cut()
    assert bank.channel is not None
    bank.channel.cancel(IsthmusError("job.ended", "The test is over."))
    bank.join()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"session": b"\x08" * 16, "resumed": True}, "transport.wrong_session"),
        ({"session": b"\x08" * 16}, "transport.wrong_session"),
        ({"session": b"\x07" * 15}, "transport.bad_token"),
        ({"session": b""}, "transport.bad_token"),
        ({"session": TOKEN, "resumed": True, "attempt": 1}, "transport.session_lost"),
    ],
)
def test_a_stream_of_no_session_here_is_refused(ends: Callable[..., Ends], changes: dict[str, Any], code: str) -> None:
    link = ends()
    bank = _session_with_one_message(link)
    peer = link.raw(opening("platform", **changes))
    peer.wait()
    assert peer.ended == code
    assert bank.channel is not None
    bank.channel.cancel(IsthmusError("job.ended", "The test is over."))
    bank.join()


def test_a_link_that_comes_back_only_to_be_cut_does_not_count_as_back(ends: Callable[..., Ends]) -> None:
    """A partner that dials again and again and never says anything does not keep a step waiting for ever."""
    link = ends()
    bank = link.bank(_two, patience=1.5)
    opened = opening("platform", session=TOKEN)
    started, count = time.monotonic(), 0
    while time.monotonic() - started < 5 and bank.error is None:
        peer = link.raw(opened)
        peer.answered.wait(1)
        peer.cut()
        count += 1
    error = bank.join().error
    assert error is not None
    assert error.code == "transport.closed"
    assert count > 3
    assert 1 < time.monotonic() - started < 4


def test_a_partner_cannot_fill_the_switchboard(ends: Callable[..., Ends]) -> None:
    link = ends()
    peers = [link.raw(opening("platform", session=TOKEN, attempt=k)) for k in range(9)]
    for _ in range(100):
        time.sleep(0.05)
        if any(peer.ended for peer in peers):
            break
    assert [peer.ended for peer in peers if peer.ended] == ["transport.too_many_streams"]
    for peer in peers:
        peer.cut()
