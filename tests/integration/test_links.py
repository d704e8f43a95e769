"""What networks do to a step: cuts, silences, slow and forgetful links, and a partner that is not there."""

from __future__ import annotations

import hashlib
import random
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from audit.identity import Identity
from node.errors import PeerError
from node.transport.channel import GrpcChannel
from node.transport.outage import Outage
from node.transport.switchboard import Switchboard
from protos.peer_pb2 import DoublyMasked, MaskedPoints, PsiStart
from tests.cutter import Cutter
from tests.links import LIMITS, TIMES, Ends, link_identities, making_ends

pytestmark = pytest.mark.timed

DOWN = {"transport.closed", "transport.unreachable", "transport.not_tls"}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    return link_identities(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def ends(known: dict[str, Identity]) -> Iterator[Callable[..., Ends]]:
    with making_ends(known) as make:
        yield make


def _messages(seed: int, count: int) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(rng.choice([0, 1, 500, 20_000, 120_000])) for _ in range(count)]


def _lock_step(own: list[bytes], count: int) -> Callable[[GrpcChannel], list[bytes]]:
    """Send a message, take one, and so on; then a receipt over all, as a step ends."""

    def half(ch: GrpcChannel) -> list[bytes]:
        got = []
        for k in range(max(len(own), count)):
            if k < len(own):
                ch.send(MaskedPoints(first=k, values=own[k]))
            if k < count:
                got.append(ch.recv(MaskedPoints).values)
        ch.send(DoublyMasked(values=hashlib.sha256(b"".join(own)).digest()))
        assert ch.recv(DoublyMasked).values == hashlib.sha256(b"".join(got)).digest()
        return got

    return half


@pytest.mark.parametrize("seed", range(6))
def test_cuts_at_random_bytes_change_nothing(ends: Callable[..., Ends], seed: int) -> None:
    """Some megabytes both ways: complete, in order, once; also when the cut is in the handshake, in Open, or in the last words."""
    rng = random.Random(seed)
    ours, theirs = _messages(2 * seed, 60), _messages(2 * seed + 1, 60)
    total = sum(map(len, ours + theirs))
    cuts = [rng.randrange(total) for _ in range(10)] + [rng.randrange(8_000), total + rng.randrange(20_000)]
    link = ends(positions=cuts)
    bank = link.bank(_lock_step(ours, len(theirs)))
    platform = link.platform(_lock_step(theirs, len(ours)))
    assert (platform.join().error, bank.join().error) == (None, None)
    assert platform.result == ours
    assert bank.result == theirs
    assert link.cutter.resets >= 8
    assert link.cutter.connections > link.cutter.resets // 2


@pytest.mark.parametrize("end", [-1, 40, 700, 3000, 4500, 5200, 6000])
def test_a_cut_among_the_last_words_leaves_nobody_waiting(ends: Callable[..., Ends], end: int) -> None:
    """The step ends on both sides, without an error, within a few seconds: nobody waits for a peer that has gone."""
    link = ends()

    def half(ch: GrpcChannel) -> int:
        ch.send(PsiStart(elements=1))
        ch.recv(PsiStart)
        if end >= 0:
            link.cutter.cut_again([end])
        else:
            link.cutter.cut()
        ch.send(PsiStart(elements=2))
        return ch.recv(PsiStart).elements

    started = time.monotonic()
    bank, platform = link.bank(half), link.platform(half)
    assert (platform.join().result, bank.join().result) == (2, 2)
    assert (platform.error, bank.error) == (None, None)
    assert time.monotonic() - started < 6
    assert platform.channel is not None
    session = platform.channel.session
    while not session.settled and time.monotonic() - started < 8:
        time.sleep(0.05)
    assert session.settled  # the bank's last word came: nothing is dialled again
    assert session._failure is None


def test_an_undisturbed_end_is_prompt(ends: Callable[..., Ends]) -> None:
    link = ends(times=replace(TIMES, close=10.0))
    bank = link.bank(lambda ch: ch.recv(PsiStart).elements)
    started = time.monotonic()
    platform = link.platform(lambda ch: ch.send(PsiStart(elements=4)))
    assert (bank.join().result, platform.join().error) == (4, None)
    assert time.monotonic() - started < 3
    time.sleep(0.5)
    assert link.cutter.connections == 1
    assert platform.channel is not None
    assert platform.channel.session.settled  # the bank, which answers, need not hear of it


def test_a_message_cut_in_the_middle_is_not_sent_again_from_its_beginning(ends: Callable[..., Ends]) -> None:
    size = 2 * 2**20 - 100
    link = ends(positions=[size // 2, size])
    platform = link.platform(lambda ch: ch.send(MaskedPoints(values=random.Random(1).randbytes(size))))
    bank = link.bank(lambda ch: hashlib.sha256(ch.recv(MaskedPoints).values).digest())
    assert bank.join().result == hashlib.sha256(random.Random(1).randbytes(size)).digest()
    platform.join()
    assert link.cutter.resets == 2
    assert link.cutter.carried < 1.9 * size, "from its beginning, it would be twice the size and more"


def test_half_open_is_noticed_and_mended(ends: Callable[..., Ends]) -> None:
    """Packets vanish without a word to either side, while the protocol waits and while it sends."""
    link = ends()
    at = threading.Barrier(2)

    def half(ch: GrpcChannel) -> int:
        ch.send(PsiStart(elements=1))
        ch.recv(PsiStart)
        if at.wait() == 0:
            link.cutter.stall()
        at.wait()
        ch.send(MaskedPoints(values=bytes(300_000)))
        ch.recv(MaskedPoints)
        return 1

    started = time.monotonic()
    bank, platform = link.bank(half), link.platform(half)
    assert (platform.join().result, bank.join().result) == (1, 1)
    assert 0.5 < time.monotonic() - started < 4
    assert link.cutter.connections == 2


def test_silence_and_forgetful_firewalls(ends: Callable[..., Ends]) -> None:
    """Ten silences' worth of computing: heartbeats keep the connection in the firewall's memory, and nothing is dialled again."""
    link = ends(idle=0.5)

    def compute(ch: GrpcChannel) -> int:
        ch.send(PsiStart(elements=1))
        time.sleep(5)
        return ch.recv(PsiStart).elements

    bank, platform = link.bank(compute), link.platform(compute)
    assert (platform.join().result, bank.join().result) == (1, 1)
    assert link.cutter.connections == 1


def test_without_heartbeats_the_firewall_would_win(ends: Callable[..., Ends]) -> None:
    """The firewall of the test above forgets; the silence is noticed and the session goes on over a new connection."""
    link = ends(idle=0.5)

    def compute(ch: GrpcChannel) -> int:
        ch.send(PsiStart(elements=1))
        time.sleep(3)
        ch.send(PsiStart(elements=2))
        ch.recv(PsiStart)
        return ch.recv(PsiStart).elements

    rarely = {"heartbeat": 60.0, "silence": 1.5}
    link.servicer._timeouts = type(link.times)(**(vars(link.times) | rarely))
    bank, platform = link.bank(compute, **rarely), link.platform(compute, **rarely)
    assert (platform.join().result, bank.join().result) == (2, 2)
    assert link.cutter.connections >= 2


def test_a_slow_link_is_not_taken_for_a_dead_one(ends: Callable[..., Ends]) -> None:
    """A message of many seconds, on a link that carries a part of it in a good half of the silence allowed."""
    link = ends(rate=80_000)
    platform = link.platform(lambda ch: ch.send(MaskedPoints(values=bytes(400_000))))
    bank = link.bank(lambda ch: len(ch.recv(MaskedPoints).values))
    assert bank.join(60).result == 400_000
    platform.join()
    assert platform.error is None
    assert link.cutter.connections == 1


def test_it_waits_as_long_as_the_policy_says_and_says_so(ends: Callable[..., Ends]) -> None:
    link = ends()
    said: dict[str, list[Outage | None]] = {"bank": [], "platform": []}
    at = threading.Event()

    def half(ch: GrpcChannel) -> int:
        ch.send(PsiStart(elements=1))
        ch.recv(PsiStart)
        at.wait(5)
        ch.send(PsiStart(elements=2))
        return ch.recv(PsiStart).elements

    bank = link.bank(half, on_wait=said["bank"].append)
    platform = link.platform(half, on_wait=said["platform"].append)
    time.sleep(0.5)
    with link.cutter.away():
        at.set()
        time.sleep(2)
        down = list(said["platform"])  # not later: a dial that failed just before is looked into when the link is back
    assert (platform.join().result, bank.join().result) == (2, 2)
    for outages in said.values():
        assert outages[-1] is None
        told = [outage for outage in outages if outage is not None]
        assert len(told) >= 3
        assert told[0].seconds < told[-1].seconds < 3
        assert {outage.patience for outage in told} == {link.times.patience}
    assert {outage.cause for outage in down if outage} <= DOWN


def test_a_step_waits_for_a_peer_that_is_not_up_yet(ends: Callable[..., Ends]) -> None:
    link = ends()
    said: list[Outage | None] = []
    with link.cutter.away():
        platform = link.platform(lambda ch: ch.recv(PsiStart).elements, on_wait=said.append)
        time.sleep(1)
    time.sleep(1)  # it is there, and its step has not started
    assert said[-1] is not None
    assert said[-1].cause == "transport.not_started"
    bank = link.bank(lambda ch: ch.send(PsiStart(elements=5)))
    assert platform.join().result == 5
    assert bank.join().error is None
    assert said[-1] is None


def test_the_patience_ends_on_both_sides(ends: Callable[..., Ends]) -> None:
    link = ends()

    def half(ch: GrpcChannel) -> None:
        ch.send(PsiStart(elements=1))
        ch.recv(PsiStart)
        ch.recv(PsiStart)

    bank, platform = link.bank(half, patience=1.0), link.platform(half, patience=1.0)
    time.sleep(0.5)
    started = time.monotonic()
    with link.cutter.away():
        errors = [bank.join().error, platform.join().error]
        assert 0.8 < time.monotonic() - started < 5
    for error in errors:
        assert error is not None
        assert error.code in DOWN
        assert "policy links.patience" in error.message


def test_a_node_that_started_again_says_that_the_session_is_lost(ends: Callable[..., Ends]) -> None:
    link = ends()
    at = threading.Event()

    def half(ch: GrpcChannel) -> None:
        ch.send(PsiStart(elements=1))
        ch.recv(PsiStart)
        at.set()
        ch.recv(PsiStart)

    bank, platform = link.bank(half, patience=1.0), link.platform(half)
    assert at.wait(5)
    link.servicer._board = Switchboard()
    started = time.monotonic()
    link.cutter.cut()
    error = platform.join().error
    assert error is not None
    assert error.code == "transport.session_lost"
    assert time.monotonic() - started < 3
    assert bank.join().error is not None


def test_an_abort_reaches_the_peer_across_a_cut(ends: Callable[..., Ends]) -> None:
    link = ends()

    def refuse(ch: GrpcChannel) -> None:
        ch.send(PsiStart(elements=1))
        link.cutter.cut()
        raise PeerError("psi.too_few_shared", "secret text")

    bank, platform = link.bank(refuse), link.platform(lambda ch: [ch.recv(PsiStart), ch.recv(PsiStart)])
    error = platform.join().error
    assert error is not None
    assert error.code == "psi.too_few_shared"
    assert "secret" not in str(error)
    bank.join()


def test_a_reader_that_stalls_bounds_both_sides(ends: Callable[..., Ends]) -> None:
    """Fifty windows are to be sent and nothing is taken: the writer stops, and neither side holds more than a window."""
    link = ends()
    release = threading.Event()
    count, size = 800, 64 * 2**10

    def read(ch: GrpcChannel) -> int:
        release.wait(20)
        return sum(len(ch.recv(MaskedPoints).values) for _ in range(count))

    def write(ch: GrpcChannel) -> None:
        message = MaskedPoints(values=bytes(size))
        for _ in range(count):
            ch.send(message)

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        bank, platform = link.bank(read), link.platform(write, peer=30.0)
        time.sleep(2)
        assert platform.channel is not None
        assert bank.channel is not None
        outbox, inbox = platform.channel.session.outbox, bank.channel.session.inbox
        assert LIMITS.window_bytes * 0.8 < outbox.held <= LIMITS.window_bytes
        assert LIMITS.window_bytes * 0.8 < inbox.held <= LIMITS.window_bytes
        link.cutter.cut()  # and a cut does not add another
        time.sleep(1)
        assert max(outbox.held, inbox.held) <= LIMITS.window_bytes
        release.set()
        assert bank.join().result == count * size
        assert platform.join().error is None
        assert tracemalloc.get_traced_memory()[1] - before < 8 * LIMITS.window_bytes
    finally:
        tracemalloc.stop()


def test_the_cutter_cuts(known: dict[str, Identity], tmp_path: Path) -> None:
    """The tests above prove nothing if the proxy lets everything through."""
    import socket

    server = socket.create_server(("127.0.0.1", 0))
    cutter = Cutter(int(server.getsockname()[1]), positions=[1000])
    near = socket.create_connection(("127.0.0.1", cutter.port))
    far, _ = server.accept()
    near.sendall(bytes(999))
    got = 0
    while got < 999:
        got += len(far.recv(4096))
    near.sendall(bytes(5000))
    near.close()
    far.settimeout(5)
    try:
        while data := far.recv(4096):
            got += len(data)
    except ConnectionResetError:
        pass
    assert got <= 1000
    assert cutter.resets == 1
    cutter.close()
    server.close()
