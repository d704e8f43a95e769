"""Alignment by oblivious transfer between two parties: results, sizes on the wire, and everything a peer may do wrong."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Sequence
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from audit import aligning
from audit.aligning import BASE_TRANSFERS, bin_load, bin_shape, chosen_method, label_holder_receives
from node.crypto.drbg import Drbg
from node.errors import DataError, PeerError, PolicyError
from node.limits import LIMITS
from node.protocols import psi_items, psi_ot
from node.protocols.alignment import Choice, align
from node.protocols.psi import Alignment, Role
from node.runtime.spill import SpillingScratch
from protos.peer_pb2 import BaseChoices, BasePoint, ItemTags, SharedMarks, StoreColumns, TreeSums
from tests.pair import Link, MemoryChannel, Outcome, run_pair

JOB = "ab" * 32
Tamper = Callable[[int, str, bytes], list[tuple[str, bytes]]]


def names(first: int, last: int) -> list[str]:
    return [f"customer-{i}" for i in range(first, last)]


def half(role: Role, identifiers: Sequence[str], seed: int, *, minimum: int = 1, **more: Any) -> Callable[[Any], Alignment]:
    options: dict[str, Any] = {"method": "ot", "choose": lambda choice: None, "limits": LIMITS, "job": JOB, **more}
    drbg = Drbg(bytes([seed]) * 32, job=JOB, step="align")
    return lambda ch: align(ch, role=role, identifiers=identifiers, minimum=minimum, drbg=drbg, **options)


def exchange(left: Sequence[str], right: Sequence[str], *, tampers: dict[str, Tamper] | None = None, **more: Any) -> Outcome:
    return run_pair(half("label_holder", left, 1, **more), half("feature_holder", right, 2, **more), timeout=20, **(tampers or {}))


def shared(outcome: Outcome, left: Sequence[str], right: Sequence[str]) -> list[str]:
    mine, theirs = outcome.results()
    rows = [left[i] for i in mine.rows]
    assert rows == [right[i] for i in theirs.rows]
    assert len(rows) == len(set(rows))
    assert set(rows) == set(left) & set(right)
    assert (mine.own_size, mine.peer_size, theirs.own_size, theirs.peer_size) == (len(left), len(right), len(right), len(left))
    return rows


@pytest.fixture
def small_bins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many bins, chunks and messages of marks from small sets."""
    monkeypatch.setattr(aligning, "BIN_ELEMENTS", 64)
    monkeypatch.setattr(psi_ot, "CHUNK_SLOTS", 192)
    monkeypatch.setattr(psi_ot, "MARKS_BATCH", 128)


# ---- results -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "peer", "both"), [(1, 1, 1), (1, 1, 0), (3, 90, 2), (90, 3, 0), (70, 70, 70), (500, 430, 77)])
def test_both_sides_find_the_same_customers_in_the_same_order(own: int, peer: int, both: int) -> None:
    left, right = names(0, own), names(own - both, own - both + peer)
    assert len(shared(exchange(left, right, minimum=0), left, right)) == both


@pytest.mark.usefixtures("small_bins")
@pytest.mark.parametrize(("own", "peer"), [(300, 300), (40, 500), (500, 40)])
def test_many_bins(own: int, peer: int) -> None:
    left, right = names(0, own), names(own - 30, own - 30 + peer)
    assert len(shared(exchange(left, right), left, right)) == 30


@pytest.mark.usefixtures("small_bins")
@pytest.mark.parametrize(("own", "peer"), [(300, 300), (500, 3)])
def test_a_link_that_holds_one_message_is_enough(own: int, peer: int) -> None:
    left, right = names(0, own), names(own - 3, own - 3 + peer)
    links = Link(frames=queue.Queue(maxsize=1)), Link(frames=queue.Queue(maxsize=1))
    results: dict[str, Alignment] = {}
    halves = {
        "left": (half("label_holder", left, 1), MemoryChannel(links[0], links[1], 10)),
        "right": (half("feature_holder", right, 2), MemoryChannel(links[1], links[0], 10)),
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
    assert len(results["left"].rows) == 3


def test_the_order_says_nothing_and_is_another_each_time() -> None:
    left, right = names(0, 60), names(20, 80)
    first = shared(exchange(left, right), left, right)
    again = shared(run_pair(half("label_holder", left, 3), half("feature_holder", right, 2)), left, right)
    assert sorted(first) == sorted(again)
    assert first != again != sorted(first) != first


def test_the_same_seeds_give_the_same_bytes_for_ever() -> None:
    first, second = (exchange(names(0, 11), names(5, 20)) for _ in range(2))
    assert (first.left_sent, first.right_sent) == (second.left_sent, second.right_sent)
    digest = hashlib.sha256(b"".join(payload for sent in (first.left_sent, first.right_sent) for _, payload in sent))
    assert digest.hexdigest() == "5fa239cc66e7f0f7e08988c6855a66963ba87ad7b9de6cf0e333e7eee332a1ad"


def test_another_job_gives_other_tags() -> None:
    """Two sides that name different jobs have no customer in common."""
    left, right = half("label_holder", names(0, 9), 1, minimum=0), half("feature_holder", names(0, 9), 2, minimum=0, job="cd" * 32)
    assert [len(result.rows) for result in run_pair(left, right).results()] == [0, 0]


# ---- the choice ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "sizes", "chosen"), [("auto", (900, 1099), "curve"), ("auto", (900, 1100), "ot"), ("ot", (5, 6), "ot")]
)
def test_both_choose_alike_and_say_why(method: Any, sizes: tuple[int, int], chosen: str) -> None:
    told: list[Choice] = []
    outcome = exchange(names(0, sizes[0]), names(0, sizes[1]), method=method, choose=told.append)
    assert len(outcome.results()[0].rows) == sizes[0]
    assert told[0] == told[1]
    assert (told[0].method, told[0].label_holder, told[0].feature_holder) == (chosen, *sizes)
    assert ("2,000" in told[0].reason) is (method == "auto")
    kinds = {name for name, _ in outcome.left_sent}
    assert ("MaskedPoints" in kinds, "BasePoint" in kinds) == (chosen == "curve", chosen == "ot")
    assert chosen_method("curve", *sizes) == "curve"


def test_a_job_that_names_the_curve_leaves_nothing_to_choose() -> None:
    told: list[Choice] = []
    exchange(names(0, 9), names(0, 9), method="curve", choose=told.append).results()
    assert told == []


# ---- sizes --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elements", [1, 65_536, 70_000, 10**6, 10**7, 2 * 10**8])
@pytest.mark.parametrize("peer", [1, 10**6])
def test_bins_hold_what_falls_into_them(elements: int, peer: int) -> None:
    """The exact tail of the binomial distribution is the oracle of the bound."""
    bins = -(-max(elements, peer) // 65_536)
    load = bin_load(elements, bins)
    assert load == elements or binom.sf(load, elements, 1 / bins) * bins < 2.0**-40
    assert load <= elements


@pytest.mark.parametrize(
    ("receiver", "sender"), [(1, 1), (1000, 3), (10**5, 10**5), (10**6, 10**6), (10**7, 10**7), (3, 2 * 10**8)]
)
def test_tags_are_wide_enough_and_traffic_is_bounded(receiver: int, sender: int) -> None:
    shape = bin_shape(receiver, sender)
    assert 8 * shape.tag_bytes >= 40 + log2(receiver) + log2(sender)
    assert shape.slots % 64 == 0
    if receiver == sender >= 10**5:
        traffic = 30 * shape.all_slots + shape.tag_bytes * shape.all_tags + shape.all_tags / 8
        assert traffic / receiver < 55
    assert log2(sender) + 40 < 68, "by chance a value is the one that the store gives"


def test_what_crosses_has_the_sizes_that_both_sizes_give() -> None:
    """Nothing about the sets shows but their sizes: neither what is shared nor how full a bin is."""
    runs = [exchange(names(0, 40), names(first, first + 50), minimum=0) for first in (0, 39, 1000)]
    assert len({tuple((name, len(payload)) for name, payload in run.left_sent + run.right_sent) for run in runs}) == 1
    assert b"customer" not in b"".join(payload for name, payload in runs[0].left_sent + runs[0].right_sent)


def test_false_matches_of_narrow_tags_are_as_many_as_computed() -> None:
    """Tags of 16 bits: n^2 / 2^16 pairs meet by chance, and wider ones in proportion none."""
    rng = np.random.default_rng(4)
    keys = rng.integers(0, 2**64, (2, 4000, 2), dtype=np.uint64)
    tweaks = rng.integers(0, 2**64, (2, 4000, 2), dtype=np.uint64)
    tags = [psi_items.tags_of(k, t, 2)[:, 0] for k, t in zip(keys, tweaks, strict=True)]
    first, second = (np.bincount((each >> np.uint64(48)).astype(np.int64), minlength=65536) for each in tags)
    expected = 4000**2 / 65536
    assert abs(int((first * second).sum()) - expected) < 6 * expected**0.5
    wide = [psi_items.tags_of(k, t, 9) for k, t in zip(keys, tweaks, strict=True)]
    assert [len(part) for part in psi_items.common(*wide)] == [0, 0]


def test_tags_keep_their_order_as_bytes() -> None:
    tags = np.random.default_rng(5).integers(0, 2**64, (200, 2), dtype=np.uint64)
    tags[:, 1] &= np.uint64(0xFFFF << 48)
    tags[:50, 0] = tags[0, 0]
    data = psi_items.tag_bytes(tags[psi_items.tag_order(tags)], 10)
    pieces = [data[i : i + 10] for i in range(0, 2000, 10)]
    assert pieces == sorted(pieces)
    back = psi_items.tags_from(data, 10)
    assert psi_items.ascending(back)
    assert not psi_items.ascending(np.concatenate((back, back[-1:])))
    assert (psi_items.common(back, back[20:60])[0] == np.arange(20, 60)).all()


# ---- own faults -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("receiver", ["left", "right"])
def test_too_few_shared_customers_stop_before_the_sender_learns_any(receiver: str) -> None:
    left, right = (names(0, 20), names(15, 45)) if receiver == "left" else (names(15, 45), names(0, 20))
    outcome = exchange(left, right, minimum=6)
    error = outcome.left_error if receiver == "left" else outcome.right_error
    assert isinstance(error, PolicyError)
    assert error.code == "psi.too_few_shared"
    assert "SharedMarks" not in {name for name, _ in outcome.left_sent + outcome.right_sent}
    assert len(exchange(left, right, minimum=5).results()[0].rows) == 5


@pytest.mark.parametrize("role", ["label_holder", "feature_holder"])
@pytest.mark.parametrize(
    ("identifiers", "code"),
    [(["a", "b", "c", "a"], "psi.duplicate_identifier"), (["a", "\ud800", "c", "d"], "psi.identifier_not_text")],
)
def test_bad_own_sets_are_named_as_own(role: str, identifiers: list[str], code: str) -> None:
    sets = {"label_holder": names(0, 4), "feature_holder": names(0, 4)} | {role: identifiers}
    outcome = exchange(sets["label_holder"], sets["feature_holder"])
    error = outcome.left_error if role == "label_holder" else outcome.right_error
    assert isinstance(error, DataError)
    assert error.code == code


def test_a_bin_that_overflows_is_an_own_fault() -> None:
    with pytest.raises(DataError) as caught:
        psi_items.into_bins(names(0, 100), b"key", 4, 20)
    assert caught.value.code == "psi.bin_overflow"


def test_bins_are_the_same_from_a_file_and_in_pieces(tmp_path: Path) -> None:
    everybody = names(0, 1000)
    plain = psi_items.into_bins(everybody, b"key", 5, 400)
    with SpillingScratch(tmp_path, memory_bytes=5000) as scratch:
        pieces = psi_items.into_bins(everybody, b"key", 5, 400, scratch, group=64)
        assert scratch.bytes_on_disk > 30_000
        for one, other in zip(plain, pieces, strict=True):
            assert np.array_equal(one.rows, other.rows)
            assert one.hashes.tobytes() == other.hashes.tobytes()
    assert sorted(row for one in plain for row in one.rows.tolist()) == list(range(1000))
    hashes = [hashlib.sha256(b"key" + name.encode()).digest() for name in everybody]
    assert all(items.hashes[place].tobytes() == hashes[row] for items in plain for place, row in enumerate(items.rows.tolist()))


def test_an_alignment_with_a_file_says_the_same(tmp_path: Path, small_bins: None) -> None:
    left, right = names(0, 700), names(300, 1100)
    plain = exchange(left, right)
    with SpillingScratch(tmp_path, memory_bytes=0) as scratch:
        spilled = exchange(left, right, scratch=scratch)
        assert scratch.bytes_on_disk > 40 * 1500
    assert shared(spilled, left, right) == shared(plain, left, right)
    assert (spilled.left_sent, spilled.right_sent) == (plain.left_sent, plain.right_sent)


# ---- the peer's faults ----------------------------------------------------------------------------------------------------


def altering(kind: Any, change: Callable[[Any], Any]) -> Tamper:
    def tamper(index: int, name: str, payload: bytes) -> list[tuple[str, bytes]]:
        if name != kind.DESCRIPTOR.name:
            return [(name, payload)]
        return [(m.DESCRIPTOR.name, m.SerializeToString()) for m in change(kind.FromString(payload))]

    return tamper


def batch(message: Any, **changes: Any) -> list[Any]:
    return [type(message)(**({"first": message.first, "count": message.count, "values": message.values} | changes))]


KINDS = {BasePoint: "left", TreeSums: "left", StoreColumns: "left", SharedMarks: "left", BaseChoices: "right", ItemTags: "right"}
"""Every message, and the side that sends it: the label holder receives, for its set is the smaller one."""
SHAPES: dict[str, tuple[Callable[[Any], list[Any]], str]] = {
    "starts late": (lambda m: batch(m, first=1), "psi.wrong_position"),
    "billions": (lambda m: batch(m, count=2**32 - 1), "psi.wrong_count"),
    "a byte too few": (lambda m: batch(m, values=m.values[:-1]), "psi.wrong_length"),
    "another": (lambda m: [TreeSums() if not isinstance(m, TreeSums) else BasePoint()], "protocol.unexpected_message"),
}
CONTENTS: dict[str, tuple[Any, Callable[[Any], list[Any]], str]] = {
    "a point of low order": (BasePoint, lambda m: batch(m, values=bytes(32)), "psi.base_point"),
    "the prime": (BasePoint, lambda m: batch(m, values=(2**255 - 19).to_bytes(32, "little")), "psi.non_canonical_point"),
    "a choice of low order": (BaseChoices, lambda m: batch(m, values=bytes(32) + m.values[32:]), "psi.base_point"),
    "a choice on the twist": (BaseChoices, lambda m: batch(m, values=b"\x03" + bytes(31) + m.values[32:]), "psi.base_point"),
    "a choice that is none": (
        BaseChoices,
        lambda m: batch(m, values=b"\xff" * 31 + b"\x7f" + m.values[32:]),
        "psi.non_canonical_point",
    ),
    "tags that descend": (ItemTags, lambda m: batch(m, values=m.values[::-1]), "psi.not_ascending"),
    "a tag twice": (ItemTags, lambda m: batch(m, values=m.values[:6] + m.values[:-6]), "psi.not_ascending"),
    "a mark beyond the last": (SharedMarks, lambda m: batch(m, values=m.values[:-1] + b"\x80"), "psi.marked_padding"),
    "more marks than declared": (SharedMarks, lambda m: batch(m, values=b"\xff\x0f"), "psi.more_than_declared"),
}
CASES = [
    *((kind, side, change, code, what) for kind, side in KINDS.items() for what, (change, code) in SHAPES.items()),
    *((kind, KINDS[kind], change, code, what) for what, (kind, change, code) in CONTENTS.items()),
]


@pytest.mark.parametrize(
    ("kind", "side", "change", "code"),
    [case[:4] for case in CASES],
    ids=[f"{case[0].DESCRIPTOR.name}: {case[4]}" for case in CASES],
)
def test_what_a_peer_may_not_send(kind: Any, side: str, change: Callable[[Any], Any], code: str) -> None:
    outcome = exchange(names(0, 9), names(5, 17), tampers={f"tamper_{side}": altering(kind, change)})
    error = outcome.right_error if side == "left" else outcome.left_error
    assert isinstance(error, PeerError)
    assert error.code == code
    assert "customer-" not in str(error)


@pytest.mark.usefixtures("small_bins")
def test_a_mark_on_padding_is_refused() -> None:
    """Bins are padded; whoever marks all of a bin marks padding too."""
    change = altering(SharedMarks, lambda m: batch(m, values=b"\xff" * len(m.values)))
    outcome = exchange(names(0, 200), names(5, 215), tampers={"tamper_left": change})
    assert isinstance(outcome.right_error, PeerError)
    assert outcome.right_error.code == "psi.marked_padding"


def test_columns_of_another_store_match_nothing() -> None:
    """A bit turned in what the receiver sends spoils tags and tells nobody anything."""
    change = altering(StoreColumns, lambda m: batch(m, values=bytes(len(m.values))))
    outcome = exchange(names(0, 30), names(0, 30), minimum=0, tampers={"tamper_left": change})
    assert [len(result.rows) for result in outcome.results()] == [0, 0]


def test_who_receives() -> None:
    assert label_holder_receives(3, 3)
    assert label_holder_receives(3, 4)
    assert not label_holder_receives(4, 3)
    assert BASE_TRANSFERS == 240
