"""Alignment between two parties: results, bytes on the wire, and everything a peer may do wrong."""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.crypto.curve import Blinder, encode_to_u
from node.crypto.drbg import Drbg
from node.errors import DataError, IsthmusError, PeerError, PolicyError
from node.limits import LIMITS, Limits
from node.protocols.psi import Alignment, Role, align
from protos.peer_pb2 import DoublyMasked, MaskedPoints, PsiStart
from tests.pair import Link, MemoryChannel, Outcome, run_pair

JOB = "ab" * 32
SMALL = replace(LIMITS, psi_batch=4)
LOW_ORDER = json.loads((Path(__file__).parents[1] / "vectors" / "rfc7748.json").read_text())["low_order"]
P = 2**255 - 19

Tamper = Callable[[int, str, bytes], list[tuple[str, bytes]]]


def drbg(seed: int, attempt: int = 0) -> Drbg:
    return Drbg(bytes([seed]) * 32, job=JOB, step="align", attempt=attempt)


def half(
    role: Role, identifiers: Sequence[str], seed: int, *, minimum: int = 1, limits: Limits = SMALL, job: str = JOB, **more: Any
) -> Callable[[MemoryChannel], Alignment]:
    return lambda ch: align(
        ch, role=role, job=job, identifiers=identifiers, minimum=minimum, drbg=drbg(seed), limits=limits, **more
    )


def exchange(
    left: Sequence[str],
    right: Sequence[str],
    *,
    seeds: tuple[int, int] = (1, 2),
    tamper: Tamper | None = None,
    timeout: float = 20,
    **more: Any,
) -> Outcome:
    return run_pair(
        half("label_holder", left, seeds[0], **more),
        half("feature_holder", right, seeds[1], **more),
        tamper_right=tamper,
        timeout=timeout,
    )


def names(first: int, last: int) -> list[str]:
    return [f"customer-{i}" for i in range(first, last)]


def shared(outcome: Outcome, left: Sequence[str], right: Sequence[str]) -> list[str]:
    mine, theirs = outcome.results()
    rows = [left[i] for i in mine.rows]
    assert rows == [right[i] for i in theirs.rows]
    return rows


def values(sent: list[tuple[str, bytes]], kind: Any) -> bytes:
    return b"".join(kind.FromString(payload).values for name, payload in sent if name == kind.DESCRIPTOR.name)


# ---- results ---------------------------------------------------------------------------------------------------------


def test_both_sides_find_the_same_customers_in_the_same_order() -> None:
    left, right = names(0, 30), names(17, 70)
    outcome = exchange(left, right)
    rows = shared(outcome, left, right)
    assert set(rows) == set(left) & set(right)
    assert len(rows) == 13
    mine, theirs = outcome.results()
    assert (mine.own_size, mine.peer_size, theirs.own_size, theirs.peer_size) == (30, 53, 53, 30)
    assert mine.rows.dtype == theirs.rows.dtype == np.int64


def test_the_common_order_is_that_of_the_doubly_masked_values() -> None:
    left, right = names(0, 12), names(5, 20)
    outcome = exchange(left, right)
    rows = shared(outcome, left, right)
    scalars = [Blinder.draw(drbg(seed).stream("psi.scalar")) for seed in (1, 2)]
    tag = b"isthmus-v1-" + JOB.encode() + b"-psi-with-curve25519_XMD:SHA-512_ELL2_NU_"
    keys = {name: scalars[1].blind(scalars[0].blind(encode_to_u([name.encode()], tag))) for name in rows}
    assert rows == sorted(rows, key=lambda name: keys[name][:16])
    assert rows != sorted(rows)


def test_the_result_does_not_depend_on_the_order_of_the_input() -> None:
    left, right = names(0, 20), names(9, 31)
    once = shared(exchange(left, right), left, right)
    turned_left, turned_right = left[::-1], right[7:] + right[:7]
    assert shared(exchange(turned_left, turned_right), turned_left, turned_right) == once


@pytest.mark.parametrize(("own", "peer", "link"), [(1, 1, 1), (4, 4, 2), (9, 200, 1), (200, 3, 1), (40, 41, 1), (64, 64, 1)])
def test_a_link_that_holds_one_message_is_enough(own: int, peer: int, link: int) -> None:
    """No side sends ahead: with bounded queues in both directions nothing waits for ever, also with different batch sizes."""
    left, right = names(0, own), names(0, peer)
    links = Link(frames=queue.Queue(maxsize=link)), Link(frames=queue.Queue(maxsize=link))
    results: dict[str, Alignment] = {}
    halves = {
        "left": (half("label_holder", left, 1), MemoryChannel(links[0], links[1], 10)),
        "right": (half("feature_holder", right, 2, limits=replace(LIMITS, psi_batch=7)), MemoryChannel(links[1], links[0], 10)),
    }
    threads = [
        threading.Thread(target=lambda name=name: results.update({name: halves[name][0](halves[name][1])}), daemon=True)
        for name in halves
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "the two sides wait for each other"
    assert [left[i] for i in results["left"].rows] == [right[i] for i in results["right"].rows]
    assert len(results["left"].rows) == min(own, peer)


def test_another_job_gives_another_hash() -> None:
    """Two sides that name different jobs have no customer in common."""
    outcome = run_pair(
        half("label_holder", names(0, 9), 1, minimum=0), half("feature_holder", names(0, 9), 2, minimum=0, job="cd" * 32)
    )
    assert [len(result.rows) for result in outcome.results()] == [0, 0]


def test_progress_ends_at_the_total() -> None:
    seen: list[tuple[str, int, int]] = []
    exchange(names(0, 9), names(0, 18), progress=lambda *call: seen.append(call)).results()
    assert max(seen) == ("align", 27, 27)
    assert len(seen) == 2 * 5  # once a batch of the longer list, on each side


def test_the_result_does_not_print_its_rows() -> None:
    result = Alignment(rows=np.array([7011, 7012]), own_size=3, peer_size=4)
    assert "70" not in repr(result)


# ---- what crosses ----------------------------------------------------------------------------------------------------


def test_the_wire_holds_masked_points_of_a_secret_order() -> None:
    left, right = names(0, 11), names(5, 20)
    outcome = exchange(left, right)
    outcome.results()
    order = drbg(1).stream("psi.order").permutation(11)
    assert order.tolist() != list(range(11))
    tag = b"isthmus-v1-" + JOB.encode() + b"-psi-with-curve25519_XMD:SHA-512_ELL2_NU_"
    points = encode_to_u([left[i].encode() for i in order], tag)
    masked = Blinder.draw(drbg(1).stream("psi.scalar")).blind(points)
    assert values(outcome.left_sent, MaskedPoints) == masked
    assert values(outcome.right_sent, DoublyMasked) == Blinder.draw(drbg(2).stream("psi.scalar")).blind(masked, keep=16)
    assert [name for name, _ in outcome.left_sent[:3]] == ["PsiStart", "MaskedPoints", "DoublyMasked"]


def test_the_same_seeds_give_the_same_bytes_for_ever() -> None:
    left, right = names(0, 11), names(5, 20)
    first, second = exchange(left, right), exchange(left, right)
    assert first.left_sent == second.left_sent
    assert first.right_sent == second.right_sent
    digest = hashlib.sha256(b"".join(payload for sent in (first.left_sent, first.right_sent) for _, payload in sent))
    assert digest.hexdigest() == "05bc419373d8d93a325daaaf4afab9d4a31f4c949ff0b05f96f6e1bf88e4be3d"


def test_fresh_seeds_share_no_masked_value() -> None:
    left, right = names(0, 11), names(5, 20)
    first, second = exchange(left, right), exchange(left, right, seeds=(3, 4))
    assert shared(first, left, right) != shared(second, left, right)
    for kind, width in ((MaskedPoints, 32), (DoublyMasked, 16)):
        seen: list[set[bytes]] = []
        for outcome in (first, second):
            data = values(outcome.left_sent, kind) + values(outcome.right_sent, kind)
            seen.append({data[i : i + width] for i in range(0, len(data), width)})
            assert len(seen[-1]) == 26 if kind is MaskedPoints else 20  # the doubly-masked lists meet in six
        assert not seen[0] & seen[1]


def test_no_identifier_crosses_and_masked_bytes_are_uniform() -> None:
    left, right = names(0, 1200), names(600, 1800)
    outcome = exchange(left, right, limits=LIMITS)
    assert len(shared(outcome, left, right)) == 600
    wire = b"".join(payload for sent in (outcome.left_sent, outcome.right_sent) for _, payload in sent)
    assert b"customer" not in wire
    for sent in (outcome.left_sent, outcome.right_sent):
        points = np.frombuffer(values(sent, MaskedPoints), dtype=np.uint8).reshape(-1, 32)
        assert chi_squared(points[:, :31], 256) < 390  # 255 degrees of freedom: chance below 1e-6
        assert chi_squared(points[:, 31], 128) < 220  # the top byte has 7 bits: 127 degrees of freedom
        assert chi_squared(np.frombuffer(values(sent, DoublyMasked), dtype=np.uint8), 256) < 390


def chi_squared(data: np.ndarray[Any, Any], cells: int) -> float:
    counts = np.bincount(data.reshape(-1), minlength=cells)
    assert len(counts) == cells
    return float(((counts - counts.mean()) ** 2).sum() / counts.mean())


# ---- own faults ------------------------------------------------------------------------------------------------------


def test_too_few_shared_customers_stop_both_sides_before_any_result() -> None:
    outcome = exchange(names(0, 20), names(15, 40), minimum=6)
    for error in (outcome.left_error, outcome.right_error):
        assert isinstance(error, PolicyError)
        assert error.code == "psi.too_few_shared"
    assert len(exchange(names(0, 20), names(15, 40), minimum=5).results()[0].rows) == 5


def test_a_set_below_the_minimum_stops_before_anything_masked_is_sent() -> None:
    outcome = exchange(names(0, 5), names(0, 40), minimum=6)
    assert [name for name, _ in outcome.left_sent + outcome.right_sent] == ["PsiStart", "PsiStart"]
    for error in (outcome.left_error, outcome.right_error):
        assert isinstance(error, PolicyError)
        assert error.code == "psi.too_few_shared"


def test_each_side_holds_its_own_minimum() -> None:
    outcome = run_pair(half("label_holder", names(0, 9), 1, minimum=6), half("feature_holder", names(5, 14), 2, minimum=4))
    assert isinstance(outcome.left_error, PolicyError)
    assert outcome.right_error is None


@pytest.mark.parametrize(
    ("identifiers", "limits", "code"),
    [
        ([], SMALL, "psi.empty_set"),
        (names(0, 9), replace(SMALL, psi_elements=8), "psi.too_many_elements"),
        (["a", "b", "c", "a"], SMALL, "psi.duplicate_identifier"),
        (["a", "\ud800"], SMALL, "psi.identifier_not_text"),
    ],
)
def test_bad_own_sets_are_named_as_own(identifiers: list[str], limits: Limits, code: str) -> None:
    outcome = run_pair(half("label_holder", identifiers, 1, limits=limits), half("feature_holder", ["a", "b"], 2), timeout=20)
    assert isinstance(outcome.left_error, DataError)
    assert outcome.left_error.code == code
    assert outcome.left_error.remedy
    if code == "psi.duplicate_identifier":
        assert isinstance(outcome.right_error, PeerError)
        assert outcome.right_error.code == "psi.repeated_element"


# ---- the peer's faults -----------------------------------------------------------------------------------------------


def altering(kind: Any, turn: int, change: Callable[[Any], Any]) -> Tamper:
    """Change the ``turn``-th message of a kind; ``change`` returns a message or a list of them."""
    seen = 0

    def tamper(index: int, name: str, payload: bytes) -> list[tuple[str, bytes]]:
        nonlocal seen
        if name != kind.DESCRIPTOR.name:
            return [(name, payload)]
        seen += 1
        if seen - 1 != turn:
            return [(name, payload)]
        changed = change(kind.FromString(payload))
        messages = changed if isinstance(changed, list) else [changed]
        return [(message.DESCRIPTOR.name, message.SerializeToString()) for message in messages]

    return tamper


def batch(message: Any, **changes: Any) -> Any:
    fields = {"first": message.first, "count": message.count, "values": message.values, **changes}
    return type(message)(**fields)


def with_point(position: int, point: bytes) -> Callable[[Any], Any]:
    return lambda m: batch(m, values=m.values[: 32 * position] + point + m.values[32 * (position + 1) :])


def number(value: int) -> bytes:
    return value.to_bytes(32, "little")


def low_order_twin(message: Any) -> Any:
    """The second point becomes the first plus the point of order two, (0, 0): its u-coordinate is 1/u."""
    u = int.from_bytes(message.values[:32], "little")
    return with_point(1, number(pow(u, -1, P)))(message)


BAD = {
    "empty set": (PsiStart, 0, lambda m: PsiStart(elements=0), "psi.empty_set"),
    "oversized count": (PsiStart, 0, lambda m: PsiStart(elements=201), "psi.too_many_elements"),
    "largest count": (PsiStart, 0, lambda m: PsiStart(elements=2**64 - 1), "psi.too_many_elements"),
    "more than declared": (PsiStart, 0, lambda m: PsiStart(elements=9), "psi.more_than_declared"),
    "ends early": (MaskedPoints, 1, lambda m: batch(m, count=0, values=b""), "psi.less_than_declared"),
    "starts late": (MaskedPoints, 0, lambda m: batch(m, first=1), "psi.wrong_position"),
    "goes back": (MaskedPoints, 1, lambda m: batch(m, first=0), "psi.wrong_position"),
    "batch too large": (MaskedPoints, 0, lambda m: batch(m, count=9, values=m.values * 3), "psi.batch_size"),
    "a byte too few": (MaskedPoints, 0, lambda m: batch(m, values=m.values[:-1]), "psi.wrong_length"),
    "a point too many": (MaskedPoints, 0, lambda m: batch(m, values=m.values + m.values[:32]), "psi.wrong_length"),
    "a count too many": (MaskedPoints, 0, lambda m: batch(m, count=m.count + 1), "psi.wrong_length"),
    "top bit": (
        MaskedPoints,
        1,
        lambda m: with_point(3, m.values[:31] + bytes([m.values[31] | 0x80]))(m),
        "psi.non_canonical_point",
    ),
    "the prime": (MaskedPoints, 1, with_point(2, number(P)), "psi.non_canonical_point"),
    "all ones": (MaskedPoints, 1, with_point(2, b"\xff" * 32), "psi.non_canonical_point"),
    "repeated in a batch": (MaskedPoints, 0, lambda m: with_point(1, m.values[:32])(m), "psi.repeated_element"),
    "a twin of low order": (MaskedPoints, 0, low_order_twin, "psi.repeated_element"),
    "answer starts late": (DoublyMasked, 0, lambda m: batch(m, first=1), "psi.wrong_position"),
    "answer too long": (DoublyMasked, 1, lambda m: batch(m, count=5, values=m.values + bytes(16)), "psi.more_than_declared"),
    "answer too short": (DoublyMasked, 1, lambda m: batch(m, count=3, values=m.values[:48]), "psi.less_than_declared"),
    "answer without values": (DoublyMasked, 0, lambda m: batch(m, values=b""), "psi.wrong_length"),
    "whole points as an answer": (DoublyMasked, 0, lambda m: batch(m, values=m.values * 2), "psi.wrong_length"),
    "answer repeats a value": (
        DoublyMasked,
        0,
        lambda m: batch(m, values=m.values[:16] * 2 + m.values[32:]),
        "psi.repeated_element",
    ),
    "answer instead of points": (MaskedPoints, 0, lambda m: DoublyMasked(first=0, count=m.count), "protocol.unexpected_message"),
    "points twice": (MaskedPoints, 0, lambda m: [m, m], "protocol.unexpected_message"),
    "points dropped": (MaskedPoints, 0, lambda m: [], "protocol.unexpected_message"),
    "answer dropped": (DoublyMasked, 0, lambda m: [], "protocol.unexpected_message"),
} | {f"low order {i}": (MaskedPoints, 1, with_point(1, bytes.fromhex(u)), "psi.low_order_point") for i, u in enumerate(LOW_ORDER)}


@pytest.mark.parametrize("case", BAD)
def test_a_peer_that_breaks_the_protocol_is_refused(case: str) -> None:
    kind, turn, change, code = BAD[case]
    limits = replace(SMALL, psi_elements=200, message_bytes=8 * 32)
    outcome = exchange(names(0, 12), names(4, 16), tamper=altering(kind, turn, change), limits=limits, timeout=0.5)
    assert outcome.left is None
    assert isinstance(outcome.left_error, PeerError)
    assert outcome.left_error.code == code
    assert "customer-" not in str(outcome.left_error)


def test_batches_that_come_again_or_in_another_order_are_refused_in_the_longer_list() -> None:
    for change in (lambda m: [m, m], lambda m: batch(m, first=8)):
        outcome = exchange(names(0, 3), names(0, 20), tamper=altering(MaskedPoints, 1, change), timeout=0.5)
        assert isinstance(outcome.left_error, PeerError)
        assert outcome.left_error.code == "psi.wrong_position"


def test_a_point_repeated_in_another_batch_is_refused() -> None:
    kept: list[bytes] = []

    def tamper(index: int, name: str, payload: bytes) -> list[tuple[str, bytes]]:
        if name == "MaskedPoints":
            message = MaskedPoints.FromString(payload)
            kept.append(message.values)
            if len(kept) == 3:
                payload = with_point(2, kept[0][:32])(message).SerializeToString()
        return [(name, payload)]

    outcome = exchange(names(0, 12), names(0, 12), tamper=tamper)
    assert isinstance(outcome.left_error, PeerError)
    assert outcome.left_error.code == "psi.repeated_element"


def test_errors_name_the_peer_by_its_role() -> None:
    outcome = exchange(names(0, 9), names(0, 9), tamper=altering(PsiStart, 0, lambda m: PsiStart(elements=0)), timeout=0.5)
    assert isinstance(outcome.left_error, IsthmusError)
    assert "feature holder" in outcome.left_error.message
