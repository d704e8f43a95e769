"""Homomorphic identities against plain integers, for arbitrary plaintexts, matrices, digits and batches."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st

from node.crypto.drbg import Drbg, Stream
from node.crypto.packing import ciphertexts_from_bytes, ciphertexts_to_bytes, pack_slots, unpack_slots
from node.crypto.paillier import Decryptor, OwnerEncryptor, PeerEncryptor
from node.crypto.paillier_keys import SecretKey, generate_key
from node.crypto.products import ColumnProducts, RowProducts

FEW = settings(max_examples=40, deadline=None)


def stream(purpose: str) -> Stream:
    return Drbg(b"\x03" * 32, job="test", step="property").stream(purpose)


@lru_cache
def key() -> SecretKey:
    return generate_key(512, stream("key"))


@lru_cache
def owner() -> OwnerEncryptor:
    return OwnerEncryptor(key(), window=6)


@lru_cache
def peer() -> PeerEncryptor:
    return PeerEncryptor(key().public, window=6)


def n() -> int:
    return int(key().public.n)


def decrypt(ciphertexts: list[mpz]) -> list[int]:
    return Decryptor(key()).decrypt(ciphertexts)


plaintexts = st.one_of(st.integers(0, 2**20), st.integers(-(2**300), 2**300), st.integers(1 - n(), n() - 1))


@FEW
@given(st.lists(plaintexts, max_size=5), st.data())
def test_round_trip_sum_scale_and_wire(values: list[int], data: st.DataObject) -> None:
    modulus, square = n(), key().public.n_squared
    ciphertexts = data.draw(st.sampled_from([owner(), peer()])).encrypt(values, stream("values"))
    assert decrypt(ciphertexts) == [m % modulus for m in values]
    private = key().to_phe()
    assert [private.raw_decrypt(int(c)) for c in ciphertexts] == [m % modulus for m in values]
    assert ciphertexts_from_bytes(ciphertexts_to_bytes(ciphertexts, key().public), len(values), key().public) == ciphertexts
    add = data.draw(st.lists(plaintexts, min_size=len(values), max_size=len(values)))
    assert decrypt(peer().rerandomise(ciphertexts, stream("again"), add=add)) == [
        (m + a) % modulus for m, a in zip(values, add, strict=True)
    ]
    total = mpz(1)
    for c in ciphertexts:
        total = total * c * c % square
    assert decrypt([total]) == [2 * sum(values) % modulus]


@st.composite
def matrices(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    bits = draw(st.integers(1, 40))
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    favourite = draw(st.integers(0, 2**bits - 1))
    entry = st.one_of(st.just(favourite), st.just(0), st.integers(0, 2**bits - 1))
    flat = draw(st.lists(entry, min_size=rows * columns, max_size=rows * columns))
    return np.array(flat, dtype=np.int64).reshape(rows, columns), bits


@FEW
@given(matrices(), st.integers(1, 20_000), st.integers(1, 9), st.data())
def test_column_products(matrix_and_bits: tuple[np.ndarray, int], expected: int, size: int, data: st.DataObject) -> None:
    matrix, bits = matrix_and_bits
    values = data.draw(st.lists(plaintexts, min_size=len(matrix), max_size=len(matrix)))
    ciphertexts = owner().encrypt(values, stream("columns"))
    if bits > 14:
        expected = min(expected, 200)  # wide digits are slow, and tried at 14 bits
    accumulator = ColumnProducts(key().public, columns=matrix.shape[1], entry_bits=bits, expected_rows=expected)
    for first in range(0, len(matrix), size):
        accumulator.add(ciphertexts[first : first + size], matrix[first : first + size])
    sums = [sum(int(x) * m for x, m in zip(column, values, strict=True)) % n() for column in matrix.T]
    assert decrypt(accumulator.result()) == sums


@FEW
@given(matrices(), st.integers(1, 500), st.lists(st.integers(0, 200), min_size=1, max_size=4), st.data())
def test_row_products(matrix_and_bits: tuple[np.ndarray, int], expected: int, shifts: list[int], data: st.DataObject) -> None:
    matrix, bits = matrix_and_bits
    values = data.draw(st.lists(plaintexts, min_size=matrix.shape[1], max_size=matrix.shape[1]))
    table = RowProducts(
        key().public, owner().encrypt(values, stream("rows")), entry_bits=bits, shifts=shifts, expected_rows=expected
    )
    size = data.draw(st.integers(1, 3)) * len(shifts)
    made = [c for first in range(0, len(matrix), size) for c in table.multiply(matrix[first : first + size])]
    sums = [sum(int(x) * m for x, m in zip(row, values, strict=True)) for row in matrix]
    groups = [sums[first : first + len(shifts)] for first in range(0, len(sums), len(shifts))]
    assert decrypt(made) == [sum(s << k for s, k in zip(group, shifts, strict=False)) % n() for group in groups]


@FEW
@given(st.integers(1, 130), st.data())
def test_slots(bits: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=12))
    packed = pack_slots(values, bits)
    assert packed == sum(v << bits * k for k, v in enumerate(values))
    assert unpack_slots(packed, bits, len(values)) == values
