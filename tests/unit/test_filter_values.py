"""Order and places of 16-byte values against Python's order of bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from node.crypto.elias_fano import VALUE
from node.protocols import psi_filter
from node.protocols.filter_values import ascending, places

HALF = st.sampled_from([bytes(8), b"\x00" * 7 + b"\x01", b"\x7f" + b"\xff" * 7, b"\x80" + bytes(7), b"\xff" * 8]) | st.binary(
    min_size=8, max_size=8
)
VALUES = st.lists(st.builds(bytes.__add__, HALF, HALF), max_size=40)
"""Many share their first half, their last one, or both."""


def array(values: list[bytes]) -> NDArray[np.void]:
    return np.frombuffer(b"".join(values), dtype=VALUE)


def listed(values: NDArray[np.void]) -> list[bytes]:
    return [value.tobytes() for value in values]


@given(VALUES)
def test_ascending_is_the_order_of_bytes(values: list[bytes]) -> None:
    order = ascending(array(values))
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(len(values)))
    assert listed(array(values)[order]) == sorted(values)


@given(VALUES, VALUES)
def test_places_are_those_of_a_list(values: list[bytes], others: list[bytes]) -> None:
    ordered, sought = sorted(values), others + values
    expected = [ordered.index(value) if value in ordered else -1 for value in sought]
    assert places(array(ordered), array(sought)).tolist() == expected


@given(st.sets(st.builds(bytes.__add__, HALF, HALF), max_size=30), st.sets(st.builds(bytes.__add__, HALF, HALF), max_size=30))
def test_own_places_a_stretch_at_a_time(own: set[bytes], other: set[bytes]) -> None:
    held, found = list(own), sorted(other | set(list(own)[:5]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psi_filter, "CHUNK_ROWS", 3)
        place = psi_filter._own_places(array(held), array(found))
    assert place.tolist() == [held.index(value) if value in own else -1 for value in found]
