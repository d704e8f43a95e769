"""The key-value store: what it holds, how it fails, and how seldom."""

from __future__ import annotations

import numpy as np
import pytest

from audit.aligning import DENSE_SLOTS, segment_slots
from node.crypto import okvs
from node.errors import DataError


def drawn(keys: int, seed: int, segment: int | None = None) -> okvs.Places:
    rng = np.random.default_rng(seed)
    return okvs.places(rng.integers(0, 256, (keys, 18), dtype=np.uint8), segment or segment_slots(keys))


def plain_lookup(store: np.ndarray, where: okvs.Places, key: int) -> int:
    """The definition, with plain integers."""
    slots = [*where.slots[:, key].tolist()]
    chosen = int.from_bytes(where.dense[key].tobytes(), "little")
    slots += [3 * where.segment + bit for bit in range(48) if chosen >> bit & 1]
    value = 0
    for slot in slots:
        value ^= int(store[slot, 0]) | int(store[slot, 1]) << 64
    return value


@pytest.mark.parametrize("keys", [0, 1, 2, 64, 65, 150, 1000, 9000])
def test_every_key_finds_its_value(keys: int) -> None:
    where = drawn(keys, keys)
    values = np.random.default_rng(1).integers(0, 2**64, (keys, 2), dtype=np.uint64)
    store = okvs.encode(where, values)
    assert store.shape == (3 * where.segment + DENSE_SLOTS, 2)
    assert (okvs.decode(store, where) == values).all()
    for key in range(0, keys, max(1, keys // 20)):
        assert plain_lookup(store, where, key) == int(values[key, 0]) | int(values[key, 1]) << 64


@pytest.mark.parametrize("alike", [2, 5, 30])
def test_keys_that_share_their_slots_are_told_apart_by_the_dense_ones(alike: int) -> None:
    where = drawn(400, 3)
    where.slots[:, :alike] = where.slots[:, :1]
    values = np.random.default_rng(2).integers(0, 2**64, (400, 2), dtype=np.uint64)
    assert (okvs.decode(okvs.encode(where, values), where) == values).all()


def test_a_core_as_large_as_the_table_allows() -> None:
    """Hardly more slots than keys: nothing peels, elimination alone finds the store."""
    where = drawn(170, 4, segment=64)
    layers, left = okvs._peel(where)
    assert len(left) > 100
    assert sum(len(keys) for keys, _ in layers) + len(left) == 170
    values = np.random.default_rng(5).integers(0, 2**64, (170, 2), dtype=np.uint64)
    assert (okvs.decode(okvs.encode(where, values), where) == values).all()


def test_what_cannot_be_stored_is_refused() -> None:
    where = drawn(10, 6)
    where.slots[:, 1], where.dense[1] = where.slots[:, 0], where.dense[0]
    with pytest.raises(DataError) as caught:
        okvs.encode(where, np.arange(20, dtype=np.uint64).reshape(10, 2))
    assert caught.value.code == "psi.store_failed"
    assert "again" in caught.value.remedy


def missing_ranks(where: okvs.Places) -> int:
    """Keys less the rank of their slots alone, over GF(2)."""
    reduced: dict[int, int] = {}
    for slots in where.slots.T.tolist():
        row = 0
        for slot in slots:
            row ^= 1 << slot
        while row and row.bit_length() in reduced:
            row ^= reduced[row.bit_length()]
        if row:
            reduced[row.bit_length()] = row
    return where.slots.shape[1] - len(reduced)


@pytest.mark.parametrize("keys", [100, 153])
def test_few_ranks_are_missing(keys: int) -> None:
    """Sizes at which the table is fullest: pairs of keys with the same slots are n^2 / (2 segment^3), and hardly anything else."""
    counts = [missing_ranks(drawn(keys, seed)) for seed in range(300)]
    pairs = keys**2 / 2 / segment_slots(keys) ** 3
    assert sum(counts) / 300 < 2 * pairs + 0.02
    assert max(counts) <= 2


def test_subsets_of_eight() -> None:
    entries = np.random.default_rng(7).integers(0, 2**64, (16, 2), dtype=np.uint64)
    tables = okvs.subset_tables(entries)
    assert tables.shape == (2, 256, 2)
    for index in (0, 1, 2, 77, 255):
        chosen = [entries[8 + bit] for bit in range(8) if index >> bit & 1]
        assert (tables[1, index] == np.bitwise_xor.reduce([np.zeros(2, np.uint64), *chosen])).all()
