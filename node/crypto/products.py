"""Products of powers of ciphertexts: a private integer matrix times the peer's encrypted vector.

A ciphertext raised to x encrypts x times its plaintext, and a product of ciphertexts the sum of theirs.  So X^T m, from one
ciphertext per row, is :class:`ColumnProducts`, and X m, from one ciphertext per column, :class:`RowProducts`.  The exponents are
small (an entry of a feature matrix has 14 bits) and many, so both split them into digits and spend about one modular
multiplication per entry and digit, where an exponentiation takes one and more per *bit*.  Factors are kept as (low, tau)
(``node.crypto.residues``).

Both save work on the value that is most common in a column, so their running time tells a little about how common it is, as the
time of any work on private data does here.  What leaves this party is re-randomised first (``PeerEncryptor.rerandomise``); neither
class does that.
"""

from __future__ import annotations

from collections.abc import Sequence

import gmpy2
import numpy as np
from gmpy2 import mpz, powmod
from numpy.typing import NDArray

from node.crypto.paillier_keys import PublicKey
from node.crypto.residues import finish, power_of_two, power_table, units
from node.errors import UsageError

ENTRY_BITS_MAX = 62
"""Entries are read as int64."""
TABLE_BYTES = 96 * 2**20
"""Memory one object's buckets or tables may take before it makes its digits narrower (with one bit left it takes what it needs)."""
MANY_ROWS = 16_384
"""Rows expected where the caller does not say and the first batch is not a small one."""
SMALL_BATCH = 128
"""A first batch below this is taken for the only one; were it not, the result is the same and the way to it longer."""
OBJECT_BYTES = 48
"""What Python adds to each big integer in a list."""


def digit_bits(entry_bits: int, *, uses: float, entry_cost: float, entry_bytes: int) -> int:
    """The digit width that costs the fewest multiplications within :data:`TABLE_BYTES`.

    Args:
        entry_bits: bits of an exponent.
        uses: times each digit's table or buckets are used.
        entry_cost: multiplications that each of the 2**width entries costs once.
        entry_bytes: memory of one entry times the number of tables or bucket rows of one digit.
    """
    best, least = 1, float("inf")
    for width in range(1, min(entry_bits, 16) + 1):
        digits = -(-entry_bits // width)
        cost = digits * (uses + entry_cost * 2**width)
        if cost < least and (width == 1 or digits * 2**width * entry_bytes <= TABLE_BYTES):
            best, least = width, cost
    return best


def _expected(given: int | None, first_batch: int) -> int:
    """How many rows to size digits for."""
    if given is not None:
        return given
    return first_batch if first_batch < SMALL_BATCH else MANY_ROWS


def _checked(rows: NDArray[np.integer], columns: int, entry_bits: int) -> NDArray[np.int64]:
    """The rows as int64, each entry in [0, 2**entry_bits)."""
    if rows.ndim != 2 or rows.shape[1] != columns:
        raise UsageError("products.shape", f"Rows of {columns} entries were expected, not an array of shape {rows.shape}.")
    if rows.size and (int(rows.min()) < 0 or int(rows.max()) >> entry_bits):
        raise UsageError(
            "products.entry_range",
            f"An entry is not between 0 and 2**{entry_bits}.",
            remedy="Shift the entries to be non-negative.",
        )
    return rows.astype(np.int64)


def _check_entry_bits(entry_bits: int) -> None:
    if not 1 <= entry_bits <= ENTRY_BITS_MAX:
        raise UsageError("products.entry_bits", f"Entries of {entry_bits} bits are not possible: 1 to {ENTRY_BITS_MAX}.")


def _most_common(values: NDArray[np.int64]) -> tuple[int, float]:
    """The most common value and its share (the smallest of them on a tie)."""
    distinct, counts = np.unique(values, return_counts=True)
    first = int(np.argmax(counts))
    return int(distinct[first]), float(counts[first] / len(values))


class ColumnProducts:
    """prod_i c_i^(x_ij) modulo N^2 for every column j, over rows that arrive in batches.

    Buckets (Yao 1976; Pippenger 1976): c_i is multiplied into the bucket of its digit value; the buckets b_v of a digit combine to
    prod_v b_v^v by the running product b_max, b_max b_(max-1), ... ; the digits by squarings.  The digit value that is most common
    in a column's first batch is not multiplied in: its bucket is what the others lack of the product of *all* c_i.

    Memory: columns * digits * 2**width residues, whatever the number of rows.

    Args:
        public_key: the key the ciphertexts are under.
        columns: number of columns.
        entry_bits: entries are in [0, 2**entry_bits), at most 62 bits.
        expected_rows: about how many rows will come; sizes the digits.  None: judged by the first batch.

    Raises:
        UsageError: ``products.entry_bits``.
    """

    def __init__(self, public_key: PublicKey, *, columns: int, entry_bits: int, expected_rows: int | None = None) -> None:
        _check_entry_bits(entry_bits)
        self._public_key, self._n, self._n_squared = public_key, public_key.n, public_key.n_squared
        self._columns, self._entry_bits, self._expected_rows = columns, entry_bits, expected_rows
        self._width = self._digits = 0
        self._buckets: list[list[list[mpz]]] = []
        self._left_out: list[list[int]] = []
        self._taus = [mpz(0)] * columns
        self._all = mpz(1)

    def __repr__(self) -> str:
        return f"ColumnProducts({self._columns} columns of {self._entry_bits} bits)"

    @property
    def digits(self) -> int:
        """Digits an entry is split into; 0 before the first batch."""
        return self._digits

    def add(self, ciphertexts: Sequence[mpz], rows: NDArray[np.integer]) -> None:
        """Take a batch.

        Args:
            ciphertexts: one per row, units modulo N^2.
            rows: (len(ciphertexts), columns) integers in [0, 2**entry_bits).

        Raises:
            UsageError: ``products.shape``, ``products.entry_range``.
            PeerError: ``paillier.ciphertext_not_unit``.
        """
        entries = _checked(rows, self._columns, self._entry_bits)
        if len(entries) != len(ciphertexts):
            raise UsageError("products.shape", f"{len(ciphertexts)} ciphertexts do not match {len(entries)} rows.")
        if not len(entries):
            return
        n, n_squared = self._n, self._n_squared
        parts = units(ciphertexts, n)
        lows, taus = [part[0] for part in parts], [part[1] for part in parts]
        digits = self._split(entries)
        if any(value for column in self._left_out for value in column):
            for low in lows:
                self._all = self._all * low % n_squared
        for j, (column, left_out) in enumerate(zip(self._buckets, self._left_out, strict=True)):
            self._taus[j] = (self._taus[j] + sum(map(gmpy2.mul, taus, entries[:, j].tolist()))) % n
            for k, (buckets, skipped) in enumerate(zip(column, left_out, strict=True)):
                for value, low in zip(digits[:, j, k].tolist(), lows, strict=True):
                    if value != skipped:
                        buckets[value] = buckets[value] * low % n_squared

    def _split(self, entries: NDArray[np.int64]) -> NDArray[np.int64]:
        """The digits of the entries, (rows, columns, digits); the first batch decides on their width and lays out the buckets."""
        first = not self._width
        if first:
            # A bucket costs two multiplications to combine and one to be left out, of two full-length factors each.
            self._width = digit_bits(
                self._entry_bits,
                uses=_expected(self._expected_rows, len(entries)),
                entry_cost=5.0,
                entry_bytes=self._columns * (self._public_key.ciphertext_bytes + OBJECT_BYTES),
            )
            self._digits = -(-self._entry_bits // self._width)
            self._buckets = [[[mpz(1)] * 2**self._width for _ in range(self._digits)] for _ in range(self._columns)]
        digits = entries[:, :, None] >> (self._width * np.arange(self._digits)) & ((1 << self._width) - 1)
        if first:
            self._left_out = _left_out(digits)
        return digits

    def result(self) -> list[mpz]:
        """The products, one per column; 1 for each when no row came.

        The state is unchanged: more rows may follow.
        """
        if not self._buckets:
            return [mpz(1)] * self._columns
        results = []
        for j, column in enumerate(self._buckets):
            product = mpz(1)
            for k in reversed(range(self._digits)):
                product = powmod(product, 1 << self._width, self._n_squared)
                product = product * self._combined(column[k], self._left_out[j][k]) % self._n_squared
            results.append(finish(product, self._taus[j], self._n, self._n_squared))
        return results

    def _combined(self, buckets: list[mpz], left_out: int) -> mpz:
        """prod_v b_v^v of one digit."""
        n_squared = self._n_squared
        if left_out:
            others = mpz(1)
            for bucket in buckets:
                others = others * bucket % n_squared
            buckets = buckets.copy()
            buckets[left_out] = self._all * gmpy2.invert(others, n_squared) % n_squared
        running, product = mpz(1), mpz(1)
        for bucket in reversed(buckets[1:]):
            running = running * bucket % n_squared
            product = product * running % n_squared
        return product


def _left_out(digits: NDArray[np.int64]) -> list[list[int]]:
    """For each column and digit the value whose bucket is not filled: 0, which has no effect, or a value much more common.

    Args:
        digits: (rows, columns, digits).
    """
    chosen = np.zeros(digits.shape[1:], dtype=np.int64)
    saving = np.zeros(digits.shape[1:])
    for j, k in np.ndindex(*chosen.shape):
        value, share = _most_common(digits[:, j, k])
        gain = share - float(np.mean(digits[:, j, k] == 0))
        if gain > 1 / 16:
            chosen[j, k], saving[j, k] = value, gain
    if saving.sum() < 1:  # the product of all ciphertexts costs one multiplication a row
        chosen[:] = 0
    return [column.tolist() for column in chosen]


class RowProducts:
    """prod_j c_j^(x_ij) modulo N^2 for many rows i and a few fixed bases c_j, several rows in each product.

    Consecutive groups of ``len(shifts)`` rows share a product: row k of a group is raised by 2**shifts[k], and encrypts its result
    in a slot of its own.  Tables hold c_j^(v * 2^(digit * width) * 2^shift) for every digit value v, so the grouping costs no
    multiplication.  Exponents count from the value that is most common in the column's first batch: the product of the c_j to
    these values is computed once, and an entry equal to it costs nothing (a one-hot column costs what its rarer value does).

    Memory: len(bases) * len(shifts) * digits * 2**width entries of about ciphertext_bytes + 100 bytes.  An entry costs about two
    multiplications to build: keep one object for all rows.

    Args:
        public_key: the key the bases are under.
        bases: one ciphertext per column, units modulo N^2.
        entry_bits: entries are in [0, 2**entry_bits), at most 62 bits.
        shifts: left shift of each row of a group.
        expected_rows: about how many rows will come; sizes the digits.  None: judged by the first batch.

    Raises:
        UsageError: ``products.entry_bits``, ``products.shifts``.
        PeerError: ``paillier.ciphertext_not_unit``.
    """

    def __init__(
        self,
        public_key: PublicKey,
        bases: Sequence[mpz],
        *,
        entry_bits: int,
        shifts: Sequence[int],
        expected_rows: int | None = None,
    ) -> None:
        _check_entry_bits(entry_bits)
        if not shifts or min(shifts) < 0:
            raise UsageError("products.shifts", "At least one shift is needed, and none below 0.")
        self._public_key, self._n, self._n_squared = public_key, public_key.n, public_key.n_squared
        self._bases, self._shifts = list(bases), list(shifts)
        self._entry_bits, self._expected_rows = entry_bits, expected_rows
        units(self._bases, self._n)
        self._width = self._digits = 0
        self._lows: list[mpz] = []
        self._taus: list[mpz] = []
        self._offsets: NDArray[np.int64] | None = None
        self._starts: list[mpz] = []

    def __repr__(self) -> str:
        return f"RowProducts({len(self._bases)} bases, entries of {self._entry_bits} bits)"

    @property
    def digits(self) -> int:
        """Digits an entry is split into; 0 before the first batch."""
        return self._digits

    def multiply(self, rows: NDArray[np.integer]) -> list[mpz]:
        """The products of a batch: ``ceil(batch / len(shifts))`` of them; the last group may be short.

        Args:
            rows: (batch, len(bases)) integers in [0, 2**entry_bits); every batch but the last a multiple of ``len(shifts)``.

        Raises:
            UsageError: ``products.shape``, ``products.entry_range``.
        """
        entries = _checked(rows, len(self._bases), self._entry_bits)
        if not len(entries):
            return []
        if self._offsets is None:
            self._offsets = np.array([_most_common(column)[0] for column in entries.T], dtype=np.int64)
            self._build(self._offsets.tolist(), _expected(self._expected_rows, len(entries)))
        n, n_squared, lows, taus, group = self._n, self._n_squared, self._lows, self._taus, len(self._shifts)
        index, wanted = self._indices(entries)
        products = []
        for first in range(0, len(entries), group):
            product, tau = self._starts[min(group, len(entries) - first) - 1], mpz(0)
            for i in index[first : first + group][wanted[first : first + group]].tolist():
                product = product * lows[i] % n_squared
                tau += taus[i]
            products.append(finish(product, tau, n, n_squared))
        return products

    def _indices(self, entries: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """For each row, base and digit, which table entry to multiply by, and whether it is needed at all."""
        count, columns = entries.shape
        digit = np.arange(self._digits)
        values = entries[:, :, None] >> (self._width * digit) & ((1 << self._width) - 1)
        shift = np.arange(count) % len(self._shifts)
        table = (shift[:, None, None] * columns + np.arange(columns)[None, :, None]) * self._digits + digit
        # The lowest digit's table carries the offset, so its entry 0 is not 1; the others' is.
        wanted = (entries != self._offsets)[:, :, None] & ((values != 0) | (digit == 0))
        return (table << self._width) + values, wanted

    def _build(self, offsets: list[int], rows: int) -> None:
        """The tables, flat, by shift, base and digit; and the product of all bases to their offsets for 1, 2, ... rows."""
        # What falls to one base: each row uses a digit once; each entry costs about two multiplications once per shift.
        entry_bytes = len(self._bases) * len(self._shifts) * (self._public_key.ciphertext_bytes + 2 * OBJECT_BYTES)
        self._width = digit_bits(self._entry_bits, uses=rows, entry_cost=2.0 * len(self._shifts), entry_bytes=entry_bytes)
        self._digits = -(-self._entry_bits // self._width)
        n, n_squared, start = self._n, self._n_squared, mpz(1)
        shifted, reached = self._bases, 0
        for shift in self._shifts:
            if shift < reached:
                shifted, reached = self._bases, 0
            shifted = [powmod(base, 1 << (shift - reached), n_squared) for base in shifted]
            reached = shift
            powers = [powmod(base, offset, n_squared) for base, offset in zip(shifted, offsets, strict=True)]
            inverses = units([gmpy2.invert(power, n_squared) for power in powers], n)
            for unit, inverse in zip(units(shifted, n), inverses, strict=True):
                lows, taus = power_table(unit, n, 2**self._width, inverse)
                for _ in range(self._digits - 1):
                    self._lows += lows
                    self._taus += taus
                    unit = power_of_two(unit, n, self._width)
                    lows, taus = power_table(unit, n, 2**self._width)
                self._lows += lows
                self._taus += taus
            for power in powers:
                start = start * power % n_squared
            self._starts.append(start)
