"""Column and row products against plain integers, decrypted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pytest
from gmpy2 import mpz
from numpy.typing import NDArray

from node.crypto import products
from node.crypto.drbg import Drbg, Stream
from node.crypto.paillier import Decryptor, OwnerEncryptor
from node.crypto.paillier_keys import SecretKey, generate_key
from node.crypto.products import ColumnProducts, RowProducts, digit_bits
from node.crypto.residues import ONE, finish, power_of_two, power_table, times, units
from node.errors import PeerError, UsageError


def stream(purpose: str) -> Stream:
    return Drbg(b"\x05" * 32, job="test", step="products").stream(purpose)


@lru_cache
def key() -> SecretKey:
    return generate_key(512, stream("key"))


def encrypt(values: Sequence[int], purpose: str = "encrypt") -> list[mpz]:
    return OwnerEncryptor(key()).encrypt(values, stream(purpose))


def plain_columns(values: Sequence[int], rows: NDArray[np.int64]) -> list[int]:
    """X^T m modulo N, in Python integers."""
    return [sum(int(x) * m for x, m in zip(column, values, strict=True)) % int(key().public.n) for column in rows.T]


def plain_rows(values: Sequence[int], rows: NDArray[np.int64], shifts: Sequence[int]) -> list[int]:
    """The packed X m modulo N, in Python integers."""
    sums = [sum(int(x) * m for x, m in zip(row, values, strict=True)) for row in rows]
    groups = [sums[first : first + len(shifts)] for first in range(0, len(sums), len(shifts))]
    return [sum(s << shift for s, shift in zip(group, shifts, strict=False)) % int(key().public.n) for group in groups]


def matrices(rows: int, columns: int, bits: int) -> dict[str, NDArray[np.int64]]:
    """Shapes of data a column may have: the ones that take the shortcuts, and the ones that must not."""
    rng = np.random.default_rng(rows * 100 + columns)
    top = 2**bits - 1
    one_hot = np.where(rng.random((rows, columns)) < 0.1, top // 3, top // 2 + 1)
    normal = np.clip(np.rint(rng.normal(size=(rows, columns)) * top / 16) + top // 2, 0, top)
    changing = np.full((rows, columns), top // 2)
    changing[rows // 2 :] = rng.integers(0, top, (rows - rows // 2, columns), endpoint=True)  # the first batch misleads
    return {
        "uniform": rng.integers(0, top, (rows, columns), endpoint=True),
        "normal": normal.astype(np.int64),
        "one-hot": one_hot.astype(np.int64),
        "zeros": np.zeros((rows, columns), dtype=np.int64),
        "constant": np.full((rows, columns), top // 2 + 1),
        "largest": np.full((rows, columns), top),
        "changing": changing,
    }


NAMES = list(matrices(2, 1, 4))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("rows", "columns", "bits", "expected"), [(60, 3, 14, 20_000), (23, 4, 30, None), (1, 2, 1, None), (60, 2, 14, None)]
)
def test_column_products(name: str, rows: int, columns: int, bits: int, expected: int | None) -> None:
    matrix = matrices(rows, columns, bits)[name]
    values = [3**k * 7919 for k in range(rows)]
    ciphertexts = encrypt(values)
    whole = ColumnProducts(key().public, columns=columns, entry_bits=bits, expected_rows=expected)
    whole.add(ciphertexts, matrix)
    result = whole.result()
    assert Decryptor(key()).decrypt(result) == plain_columns(values, matrix)
    # The product is the canonical residue itself, so neither batches nor digit widths nor shortcuts may show in it.
    for size, given in ((7, 3), (25, 5000)):
        batched = ColumnProducts(key().public, columns=columns, entry_bits=bits, expected_rows=given)
        for first in range(0, rows, size):
            batched.add(ciphertexts[first : first + size], matrix[first : first + size])
        assert batched.result() == result
        assert batched.result() == result


def test_column_products_are_the_plain_powers() -> None:
    matrix, ciphertexts, square = matrices(20, 2, 10)["normal"], encrypt(range(20)), int(key().public.n_squared)
    accumulator = ColumnProducts(key().public, columns=2, entry_bits=10)
    accumulator.add(ciphertexts, matrix.astype(np.int32))
    for j, product in enumerate(accumulator.result()):
        expected = 1
        for c, x in zip(ciphertexts, matrix[:, j], strict=True):
            expected = expected * pow(int(c), int(x), square) % square
        assert product == expected


def test_column_products_of_nothing() -> None:
    accumulator = ColumnProducts(key().public, columns=3, entry_bits=14)
    assert accumulator.result() == [1, 1, 1]
    accumulator.add([], np.zeros((0, 3), dtype=np.int64))
    assert accumulator.result() == [1, 1, 1]
    accumulator.add(encrypt([5]), np.array([[0, 1, 2]]))
    assert Decryptor(key()).decrypt(accumulator.result()) == [0, 5, 10]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("rows", "columns", "bits", "shifts", "expected"),
    [(31, 4, 14, [0, 80, 160], 20_000), (9, 2, 14, [0], None), (8, 5, 33, [5, 0, 100, 40], None), (2, 1, 1, [0, 70, 140], 8)],
)
def test_row_products(name: str, rows: int, columns: int, bits: int, shifts: list[int], expected: int | None) -> None:
    matrix = matrices(rows, columns, bits)[name]
    values = [5**k * 104729 for k in range(columns)]
    bases = encrypt(values)
    table = RowProducts(key().public, bases, entry_bits=bits, shifts=shifts, expected_rows=expected)
    result = table.multiply(matrix)
    assert len(result) == -(-rows // len(shifts))
    assert Decryptor(key()).decrypt(result) == plain_rows(values, matrix, shifts)
    other = RowProducts(key().public, bases, entry_bits=bits, shifts=shifts, expected_rows=7)
    step = 2 * len(shifts)
    assert [c for first in range(0, rows, step) for c in other.multiply(matrix[first : first + step])] == result


def test_row_products_of_nothing() -> None:
    table = RowProducts(key().public, encrypt([4, 5]), entry_bits=14, shifts=[0, 60])
    assert table.multiply(np.zeros((0, 2), dtype=np.int32)) == []
    assert Decryptor(key()).decrypt(table.multiply(np.array([[1, 2], [0, 0], [3, 0]], dtype=np.int32))) == [14, 12]


def test_wrong_rows_are_refused() -> None:
    public, ciphertexts = key().public, encrypt([1, 2])
    columns = ColumnProducts(public, columns=2, entry_bits=4)
    rows = RowProducts(public, ciphertexts, entry_bits=4, shifts=[0])
    bad = [
        (np.zeros((2, 3), dtype=np.int64), "shape"),
        (np.zeros(2, dtype=np.int64), "shape"),
        (np.array([[0, 16], [0, 0]]), "entry_range"),
        (np.array([[0, -1], [0, 0]]), "entry_range"),
    ]
    for matrix, code in bad:
        for call in (lambda m: columns.add(ciphertexts, m), rows.multiply):
            with pytest.raises(UsageError) as caught:
                call(matrix)
            assert caught.value.code == f"products.{code}"
    with pytest.raises(UsageError) as caught:
        columns.add(ciphertexts, np.zeros((3, 2), dtype=np.int64))
    assert caught.value.code == "products.shape"
    assert columns.result() == [1, 1]


def test_wrong_parameters_are_refused() -> None:
    public, ciphertexts = key().public, encrypt([1])
    for bits in (0, 63):
        with pytest.raises(UsageError) as caught:
            ColumnProducts(public, columns=1, entry_bits=bits)
        assert caught.value.code == "products.entry_bits"
        with pytest.raises(UsageError) as caught:
            RowProducts(public, ciphertexts, entry_bits=bits, shifts=[0])
        assert caught.value.code == "products.entry_bits"
    for shifts in ([], [0, -1]):
        with pytest.raises(UsageError) as caught:
            RowProducts(public, ciphertexts, entry_bits=4, shifts=shifts)
        assert caught.value.code == "products.shifts"


def test_what_is_no_unit_is_refused() -> None:
    public, bad = key().public, key().p * 3
    with pytest.raises(PeerError) as caught:
        RowProducts(public, [mpz(1), bad], entry_bits=4, shifts=[0])
    assert caught.value.code == "paillier.ciphertext_not_unit"
    with pytest.raises(PeerError) as caught:
        ColumnProducts(public, columns=1, entry_bits=4).add([bad], np.array([[1]]))
    assert caught.value.code == "paillier.ciphertext_not_unit"


def test_digit_width_follows_use_and_memory() -> None:
    def width(uses: float, entry_bytes: int = 1) -> int:
        return digit_bits(14, uses=uses, entry_cost=5.0, entry_bytes=entry_bytes)

    assert width(14_400) == 7
    assert width(10) < 5
    assert width(10**6) == 14
    assert width(10**6, entry_bytes=products.TABLE_BYTES // 300) == 7
    assert width(10**6, entry_bytes=products.TABLE_BYTES) == 1
    assert digit_bits(1, uses=10**6, entry_cost=5.0, entry_bytes=1) == 1


def test_residue_form() -> None:
    root = mpz(1000003) * 998244353
    square = root * root
    values = [mpz(1), mpz(2), square - 1, root + 1, mpz(3) ** 60 % square]
    for value, (low, tau, inverse) in zip(values, units(values, root), strict=True):
        assert 0 <= low < root
        assert 0 <= tau < root
        assert low * inverse % root == 1
        assert finish(low, tau, root, square) == value
    a, b = units(values[1:3], root)
    assert finish(*times(a, b, root)[:2], root, square) == 2 * (square - 1) % square
    assert times(a, ONE, root) == a
    assert finish(*power_of_two(a, root, 5)[:2], root, square) == 2**32 % square
    lows, taus = power_table(b, root, 6, a)
    assert [finish(low, tau, root, square) for low, tau in zip(lows, taus, strict=True)] == [
        2 * values[2] ** v % square for v in range(6)
    ]
    assert units([], root) == []
    with pytest.raises(PeerError):
        units([mpz(5), root], root)
