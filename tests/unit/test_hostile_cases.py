"""Hostile cases by name: what the other side may try, and the code that refuses it.

``ELSEWHERE`` says where a case is tested that needs more than a few lines; what it names is looked up, so that none gets lost.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gmpy2
import pytest
from gmpy2 import mpz

from node.crypto.curve import Blinder, check_canonical
from node.crypto.drbg import Drbg
from node.crypto.packing import ciphertexts_from_bytes, unpack_slots
from node.crypto.paillier_keys import check_public_key, generate_key
from node.errors import IsthmusError
from node.limits import LIMITS, Limits
from node.protocols import batches, psi, scoring
from node.transport.channel import GrpcChannel, parse
from node.transport.options import Timeouts
from node.transport.session import Session
from node.transport.windows import Inbox
from protos import peer_pb2 as pb
from tests.fuzz import halves

TESTS = Path(__file__).resolve().parents[1]
OWN = generate_key(512, Drbg(b"k" * 32, job="job", step="key").stream("key"))
KEY = OWN.public
PEER = generate_key(512, Drbg(b"p" * 32, job="job", step="key").stream("key"))
P25519 = 2**255 - 19


def code_of(attempt: Callable[[], object]) -> str:
    """The code with which an attempt of the peer is refused."""
    with pytest.raises(IsthmusError) as refused:
        attempt()
    return refused.value.code


class Says:
    """A channel whose peer says these messages."""

    def __init__(self, *messages: Any) -> None:
        self._messages = list(messages)

    def send(self, message: Any) -> None:
        pass

    def recv(self, kind: Any) -> Any:
        return self._messages.pop(0)


# ---- keys and ciphertexts --------------------------------------------------------------------------------------------------------


def key(modulus: int, *, bits: int = 512, h_s: int | None = None, minimum: int = 512) -> Callable[[], object]:
    base = int(PEER.public.h_s) if h_s is None else h_s
    return lambda: check_public_key(bits=bits, modulus=modulus, h_s=base, minimum_bits=minimum, own=KEY)


def prime(bits: int) -> int:
    """The largest prime of so many bits, with the two highest ones set."""
    return int(gmpy2.prev_prime(mpz(1) << bits))


N = int(PEER.public.n)
SMALL_FACTOR = 65_521
WITH_SMALL_FACTOR = SMALL_FACTOR * int(gmpy2.next_prime((mpz(1) << 511) // SMALL_FACTOR + (1 << 400)))


@pytest.mark.parametrize(
    ("attempt", "code"),
    [
        (key(N, bits=1024), "paillier.key_size"),
        (key(N, minimum=2048), "paillier.key_size"),
        (key(0), "paillier.key_size"),
        (key(1 << 20_000, bits=20_000), "paillier.key_size"),
        (key((1 << 511) + 2), "paillier.key_even"),
        (key(prime(256) ** 2), "paillier.key_square"),
        (key(WITH_SMALL_FACTOR), "paillier.key_small_factor"),
        (key(int(KEY.n)), "paillier.key_is_own"),
        (key(int(OWN.p * PEER.q)), "paillier.key_is_own"),
        (key(N, h_s=0), "paillier.key_h_s"),
        (key(N, h_s=1), "paillier.key_h_s"),
        (key(N, h_s=N * N), "paillier.key_h_s"),
        (key(N, h_s=N * N - 1), "paillier.key_h_s"),
        (key(N, h_s=1 + N), "paillier.key_h_s"),
        (key(N, h_s=int(PEER.p)), "paillier.key_h_s"),
    ],
)
def test_keys(attempt: Callable[[], object], code: str) -> None:
    assert code_of(attempt) == code


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0, "paillier.ciphertext_range"),
        (N * N, "paillier.ciphertext_range"),
        ((1 << 1024) - 1, "paillier.ciphertext_range"),
        (N, "paillier.ciphertext_not_unit"),
        (int(PEER.p), "paillier.ciphertext_not_unit"),
        (7 * int(PEER.q), "paillier.ciphertext_not_unit"),
    ],
)
def test_ciphertexts(value: int, code: str) -> None:
    good = (5).to_bytes(128, "big")
    assert code_of(lambda: ciphertexts_from_bytes(good + value.to_bytes(128, "big"), 2, PEER.public)) == code


def test_a_plaintext_that_is_more_than_its_slots() -> None:
    assert code_of(lambda: unpack_slots(1 << 40, 10, 4)) == "packing.plaintext_range"


# ---- points ----------------------------------------------------------------------------------------------------------------------

LOW_ORDER = (
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    P25519 - 1,
)
"""The u-coordinates of small order of curve25519 and its twist that are below p (RFC 7748, section 6.1; Bernstein's list)."""


@pytest.mark.parametrize("value", LOW_ORDER)
def test_points_of_low_order(value: int) -> None:
    point = value.to_bytes(32, "little")
    check_canonical(point)
    assert code_of(lambda: Blinder(b"s" * 32).blind(point)) == "psi.low_order_point"


@pytest.mark.parametrize("value", [P25519, P25519 + 1, P25519 + 9, 2**255 - 1, 2**255, 2**255 + 9, 2**256 - 1])
def test_points_that_are_not_canonical(value: int) -> None:
    good = (9).to_bytes(32, "little")
    assert code_of(lambda: check_canonical(good + value.to_bytes(32, "little"))) == "psi.non_canonical_point"


# ---- masks, ring elements, counts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "value"), [(33, 1 << 33), (33, (1 << 40) - 1), (47, 1 << 47), (1, 2)])
def test_ring_elements_out_of_range(bits: int, value: int) -> None:
    size = (bits + 7) // 8
    message = pb.MaskedWeights(first=0, count=1, values=value.to_bytes(size, "little"))
    receive = lambda: batches.receive_ring(Says(message), pb.MaskedWeights, count=1, bits=bits, batch=9)  # noqa: E731
    assert code_of(receive) == "protocol.not_reduced"


@pytest.mark.parametrize(
    ("first", "count", "size", "code"),
    [
        (1, 4, 16, "protocol.wrong_position"),
        (2**64 - 1, 4, 16, "protocol.wrong_position"),
        (0, 3, 12, "protocol.wrong_count"),
        (0, 5, 20, "protocol.wrong_count"),
        (0, 2**32 - 1, 16, "protocol.wrong_count"),
        (0, 4, 15, "protocol.wrong_length"),
        (0, 4, 17, "protocol.wrong_length"),
        (0, 4, 0, "protocol.wrong_length"),
    ],
)
def test_counts_that_lie_in_a_batch(first: int, count: int, size: int, code: str) -> None:
    message = pb.RowMasks(first=first, count=count, values=bytes(size))
    assert code_of(lambda: batches.receive_batch(Says(message), pb.RowMasks, first=0, count=4, width=4)) == code


@pytest.mark.parametrize(
    ("start", "first", "count", "size", "code"),
    [
        (0, 0, 0, 0, "psi.empty_set"),
        (2**64 - 1, 0, 0, 0, "psi.too_many_elements"),
        (5, 0, 0, 0, "psi.less_than_declared"),
        (5, 0, 6, 192, "psi.more_than_declared"),
        (10**8, 0, 10**8, 32, "psi.batch_size"),
        (5, 0, 5, 159, "psi.wrong_length"),
        (5, 3, 2, 64, "psi.wrong_position"),
    ],
)
def test_counts_that_lie_in_an_alignment(start: int, first: int, count: int, size: int, code: str) -> None:
    said = (pb.PsiStart(elements=start), pb.MaskedPoints(first=first, count=count, values=bytes(size)))
    drbg = Drbg(b"d" * 32, job="job", step="align")
    limits = replace(LIMITS, psi_elements=10**9)

    def attempt() -> object:
        return psi.align(Says(*said), role="label_holder", job="job", identifiers=["a"], minimum=0, drbg=drbg, limits=limits)

    tracemalloc.start()
    try:
        assert code_of(attempt) == code
        assert tracemalloc.get_traced_memory()[1] < 2**20, "memory was taken for what was only announced"
    finally:
        tracemalloc.stop()


def test_a_band_and_aggregates_that_cannot_be() -> None:
    for fields in ({"rows": 9}, {"auc": "nan"}, {"auc": "1.5"}, {"ks": "-1"}, {"log_loss": "1e999"}, {"base_rate": "0x1"}):
        honest = {"auc": "0.750000", "ks": "0.4", "log_loss": "0.5", "base_rate": "0.2", "rows": 8}
        message = pb.Aggregates(**(honest | fields))  # type: ignore[arg-type]
        assert code_of(lambda message=message: scoring._read_aggregates(message, 8)) == "scoring.bad_aggregates", fields
    evaluating = halves.evaluating()
    kinds = [kind for kind, _ in evaluating.sent["feature_holder"]]
    # Honest messages, and then a table of which every entry opens to any byte: eight rows hardly all hold one of eight bands.
    noise = bytes(kinds.index("BandTables")) + bytes([128, 0, 2, 255, 0, 0, 0, 4])
    assert code_of(lambda: evaluating.run("label_holder", noise)) == "scoring.bad_band"


# ---- sizes, numbers, time --------------------------------------------------------------------------------------------------------

TINY = Limits(message_bytes=1000, chunk_bytes=100, window_bytes=400, window_frames=6)


def frame(seq: int, size: int = 10, *, more: bool = False, kind: str = "PsiStart") -> pb.Data:
    return pb.Data(type=kind, seq=seq, payload=bytes(size), more=more)


def test_oversized_and_too_many_frames() -> None:
    assert code_of(lambda: Inbox("bank", TINY).put(frame(0, 101))) == "transport.oversized"

    def flood(size: int) -> None:
        box = Inbox("bank", TINY)
        for seq in range(100):
            box.put(frame(seq, size))

    assert code_of(lambda: flood(100)) == "transport.window_exceeded"
    assert code_of(lambda: flood(0)) == "transport.window_exceeded"

    def repeat() -> None:
        box = Inbox("bank", TINY)
        box.put(frame(0))
        for _ in range(100):
            box.put(frame(0))

    assert code_of(repeat) == "transport.repeats"


def test_a_message_without_end_and_a_peer_that_stalls() -> None:
    quick = Timeouts(patience=5.0, peer=0.05, close=0.05)

    def joined() -> tuple[Session, Any]:
        session = Session(peer="bank", calls=True, token=bytes(16), limits=TINY, timeouts=quick)
        opening = pb.Open(protocol=2, party="shop", job="ab" * 32, step="align", session=bytes(16))
        session.claim(opening)
        leg = session.begin()
        assert session.next(leg) is not None
        theirs = pb.Open.FromString(opening.SerializeToString())
        theirs.party = "bank"
        assert session.take(leg, pb.Frame(open=theirs))
        return session, leg

    session, leg = joined()
    channel = GrpcChannel(session, limits=TINY)
    assert code_of(lambda: channel.recv(pb.PsiStart)) == "transport.timeout"

    session, leg = joined()

    def slowly() -> object:
        session.take(leg, pb.Frame(data=frame(0, 100, more=True, kind="MaskedPoints")))
        channel = GrpcChannel(session, limits=TINY)
        get = session.get

        def fed() -> Any:
            part = get()
            session.take(leg, pb.Frame(data=frame(session.inbox.received, 100, more=True, kind="")))
            return part

        session.get = fed  # type: ignore[method-assign]
        return channel.recv(pb.MaskedPoints)

    assert code_of(slowly) == "transport.oversized"


def test_a_link_on_which_nothing_comes() -> None:
    for heard in (False, True):
        session = Session(peer="bank", calls=False, token=bytes(16), limits=TINY, timeouts=Timeouts(open=0.05, silence=0.05))
        leg = session.begin()
        leg.heard_any = heard
        leg.watch()
        assert leg.over
        assert leg.cause is not None
        assert leg.cause.code == "transport.silent"


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (pb.MaskedPoints, b"\x1a\xff\xff\xff\xff\x07"),  # values of two gigabytes, of which none come
        (pb.PaillierKey, b"\x12\xff\xff\xff\xff\x0f"),
        (pb.DirectiveEcho, b"\x0a\xff\xff\xff\xff\x07"),
        (pb.PsiStart, b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        (pb.PsiStart, b"\x08\x05\x08\x05"),
        (pb.PsiStart, b"\x08\x05\x7a\x01x"),
        (pb.PsiStart, b"\x08\x85\x00"),
    ],
)
def test_messages_that_announce_more_than_they_hold_or_say_it_twice(kind: Any, payload: bytes) -> None:
    tracemalloc.start()
    try:
        assert code_of(lambda: parse(kind, payload)) == "protocol.malformed_message"
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


# ---- elsewhere -------------------------------------------------------------------------------------------------------------------

ELSEWHERE: dict[str, tuple[str, str]] = {
    "an element repeated": ("unit/test_psi.py", "psi.repeated_element"),
    "a lookup's counts and lengths": ("unit/test_lookup.py", "lookup.wrong_"),
    "a reply of the base transfers out of range": ("unit/test_lookup_base_transfers.py", "ot.bad_reply"),
    "figures that differ": ("unit/test_logistic.py", "training.rows_differ"),
    "another directive": ("unit/test_logistic.py", "training.directives_differ"),
    "a base rate that is none": ("unit/test_logistic.py", "training.base_rate"),
    "acknowledged what was not sent": ("unit/test_windows.py", "transport.bad_ack"),
    "another peer's session": ("integration/test_hostile_sessions.py", "transport.foreign_session"),
    "streams that no step claims": ("integration/test_hostile_sessions.py", "transport.too_many_streams"),
    "a relayed record changed": ("unit/test_sealing.py", "relay.bad_seal"),
    "a relay key of low order": ("unit/test_sealing.py", "relay.bad_key"),
    "a record that is no record": ("unit/test_sealing.py", "relay.malformed"),
    "a record too large": ("unit/test_rooms.py", "relay.oversized"),
    "a side that takes nothing": ("unit/test_rooms.py", "relay.stalled"),
    "rooms and relayed streams without end": ("unit/test_rooms.py", "relay.busy"),
    "a report of another form": ("unit/test_control_fields.py", "control.bad_field"),
    "a report on another's job": ("integration/test_coordinator_callers.py", "control.unknown_job"),
    "an attempt used twice": ("unit/test_node_store.py", "job.attempt_reused"),
    "attempts without end": ("unit/test_steps.py", "job.too_many_attempts"),
    "offers without end": ("unit/test_offers.py", '"job.too_many"'),
    "jobs without end": ("integration/test_coordinator_callers.py", "coordinator.too_many_jobs"),
    "reports without end": ("integration/test_coordinator_callers.py", "control.too_many_reports"),
    "a log line without end": ("unit/test_audit_verify.py", "log.line_too_long"),
    "a forked log": ("unit/test_witness.py", "witness.forked"),
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_every_other_case_is_tested_where_the_table_says(case: str) -> None:
    file, code = ELSEWHERE[case]
    assert code in (TESTS / file).read_text()
