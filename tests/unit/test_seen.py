"""What came before, known by 96 bits of a keyed hash: as a dictionary would tell, also where hashes collide in part."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.data import seen
from node.data.seen import Seen

names = st.lists(st.lists(st.sampled_from([f"n{number}" for number in range(25)]), max_size=12), max_size=12)


def expected(batches: Sequence[Sequence[str]]) -> list[int]:
    first: dict[str, int] = {}
    told = []
    for row, name in enumerate(name for batch in batches for name in batch):
        told.append(first.get(name, -1))
        first.setdefault(name, row)
    return told


def told(batches: Sequence[Sequence[str]]) -> list[int]:
    known, rows, found = Seen(), 0, []
    for batch in batches:
        found += known.add(batch, np.arange(rows, rows + len(batch))).tolist()
        rows += len(batch)
    return found


@given(names)
def test_tells_where_a_value_came_first(batches: list[list[str]]) -> None:
    assert told(batches) == expected(batches)


@given(names)
def test_values_with_the_same_first_64_bits_stay_apart(batches: list[list[str]]) -> None:
    class Narrow:
        """A hash whose first eight bytes take two values."""

        def __init__(self, data: bytes, **_: object) -> None:
            self._data = data

        def digest(self) -> bytes:
            return bytes([self._data[-1] % 2]) + bytes(7) + self._data.rjust(4, b"\0")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seen.hashlib, "blake2b", Narrow)
        assert told(batches) == expected(batches)


def test_rows_may_have_gaps_and_values_any_text() -> None:
    known = Seen()
    assert known.add(["é", "\ud800", ""], np.array([3, 7, 9])).tolist() == [-1, -1, -1]
    assert known.add(["x", "\ud800", "", "é", "x"], np.array([10, 20, 30, 40, 50])).tolist() == [-1, 7, 9, 3, 10]


def test_many_batches_are_few_runs() -> None:
    known = Seen()
    for batch in range(200):
        known.add([f"{batch}-{number}" for number in range(50)], np.arange(50 * batch, 50 * batch + 50))
    lengths = [len(run) for run in known._runs]
    assert sum(lengths) == 10_000
    assert len(lengths) <= 13
    assert all(before > 2 * after for before, after in pairwise(lengths))
