"""The code of a published filter: against plain sets of integers, to the bit against its definition, and in size."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.layout import FILTER_REMAINDER_BITS, filter_prefix_bits
from node.crypto.elias_fano import CHANGE, VALUE, Filter, changed, check_code, contains, encode, shortened

PREFIXES = st.integers(3, 28)


def values_of(numbers: list[int]) -> np.ndarray:
    return np.frombuffer(b"".join(n.to_bytes(16, "big") for n in numbers), dtype=VALUE)


def cut(number: int, prefix_bits: int) -> int:
    return number >> (128 - prefix_bits - FILTER_REMAINDER_BITS)


def plain_code(numbers: list[int], prefix_bits: int) -> tuple[bytes, bytes]:
    """Both parts by their definition, with integers of any length."""
    index, remainders = 0, 0
    length = len(numbers) + 2**prefix_bits
    for i, number in enumerate(sorted(cut(n, prefix_bits) for n in numbers)):
        prefix, remainder = divmod(number, 2**61)
        index |= 1 << (length - 1 - prefix - i)
        remainders = remainders << 61 | remainder
    pad = -length % 8, -(61 * len(numbers)) % 8
    parts = (index << pad[0], -(-length // 8)), (remainders << pad[1], -(-61 * len(numbers) // 8))
    return parts[0][0].to_bytes(parts[0][1], "big"), parts[1][0].to_bytes(parts[1][1], "big")


def coded(numbers: list[int], prefix_bits: int) -> Filter:
    return encode(values_of(sorted(numbers)), prefix_bits)


def same(left: Filter, right: Filter) -> bool:
    return (left.elements, left.index.tobytes(), left.remainders.tobytes()) == (
        right.elements,
        right.index.tobytes(),
        right.remainders.tobytes(),
    )


@st.composite
def sets(draw: st.DrawFn) -> tuple[int, list[int]]:
    """A prefix length and values; small prefixes and repeated ones among them, so that buckets hold several."""
    bits = draw(st.integers(3, 9))
    wide = st.integers(0, 2**128 - 1)
    close = st.builds(lambda prefix, low: prefix << 120 | low << 40, st.integers(0, 7), st.integers(0, 7))
    return bits, draw(st.lists(wide | close, min_size=1, max_size=2**bits))


@given(sets())
def test_the_code_is_the_one_of_its_definition(case: tuple[int, list[int]]) -> None:
    bits, numbers = case
    found = coded(numbers, bits)
    check_code(found)
    assert (found.index.tobytes(), found.remainders.tobytes()) == plain_code(numbers, bits)


@given(sets(), st.lists(st.integers(0, 2**128 - 1), max_size=20))
def test_a_filter_holds_what_the_plain_set_holds(case: tuple[int, list[int]], others: list[int]) -> None:
    bits, numbers = case
    held = {cut(n, bits) for n in numbers}
    asked = [*numbers, *others, *(n ^ 1 << 60 for n in numbers)]
    assert contains(coded(numbers, bits), values_of(asked)).tolist() == [cut(n, bits) in held for n in asked]


@given(sets(), sets(), st.randoms(use_true_random=False))
def test_changes_lead_to_the_code_of_the_changed_set(
    case: tuple[int, list[int]], more: tuple[int, list[int]], rng: random.Random
) -> None:
    bits, numbers = case
    gone = rng.sample(numbers, rng.randint(0, len(numbers)))
    left = list(numbers)
    for number in gone:
        left.remove(number)
    new = more[1][: 2**bits - len(left)]
    removed, added = (np.sort(shortened(values_of(part), bits)) for part in (gone, new))
    found = changed(coded(numbers, bits), removed=removed, added=added)
    check_code(found)
    assert same(found, coded(left + new, bits))


def test_what_is_not_there_cannot_be_removed_and_no_more_fits_than_the_prefix_allows() -> None:
    filter_ = coded([1 << 100, 1 << 101], 3)
    nothing = np.zeros(0, dtype=CHANGE)
    for numbers in ([1 << 102], [1 << 100, 1 << 100], [2**128 - 1]):
        with pytest.raises(ValueError, match="not there"):
            changed(filter_, removed=shortened(values_of(numbers), 3), added=nothing)
    with pytest.raises(ValueError, match="do not fit"):
        changed(filter_, removed=nothing, added=shortened(values_of(list(range(7))), 3))


@pytest.mark.parametrize("part", ["index", "remainders"])
def test_a_code_that_is_none_is_refused(part: str) -> None:
    good = coded([n << 100 for n in range(11)], 4)
    for change in (lambda b: b[:-1], lambda b: b + b"\0", lambda b: b[:-1] + bytes([b[-1] ^ 1])):
        data = np.frombuffer(change(getattr(good, part).tobytes()), dtype=np.uint8)
        with pytest.raises(ValueError, match=r"length|index|bits"):
            check_code(Filter(good.elements, 4, **{"index": good.index, "remainders": good.remainders, part: data}))


def test_many_elements_take_less_than_eight_bytes_each_over_several_stretches() -> None:
    rng = np.random.default_rng(7)
    for count in (2**17 + 1, 200_000):
        values = np.sort(np.frombuffer(rng.bytes(16 * count), dtype=VALUE))
        bits = filter_prefix_bits(count)
        filter_ = encode(values, bits)
        assert filter_.size <= 8 * count + 1  # 64 bits an element, each part filled up to a byte
        check_code(filter_)
        asked = np.concatenate((values[:: 1 + count // 1000], np.frombuffer(rng.bytes(16_000), dtype=VALUE)))
        assert contains(filter_, asked).tolist() == [True] * (len(asked) - 1000) + [False] * 1000
