"""The heavy loops of Paillier over batches, on any engine, with the same bits from each.

The caller draws randomness from its stream, in order, and streams batches in; results come out batch by batch in the same order.
Inline, one
object serves all batches.  A worker process keeps the tables of the last key or bases it saw; an item carries what is needed to
build them (a few kilobytes), so workers may come and go.

**Which of these need a secret.**  The owner's encryption and decryption work with the primes, the masking of identifiers with the
scalar and the identifiers themselves: they run on ``engine.private``, which is not a cluster unless the operator trusts it with
keys.  Products and re-randomisation need the peer's public key; what they read of this party are its encoded rows, shares and
masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from gmpy2 import mpz, powmod
from numpy.typing import NDArray

from node.crypto.curve import POINT_BYTES, Blinder, encode_to_u
from node.crypto.drbg import Stream
from node.crypto.paillier import Decryptor, OwnerEncryptor, PeerEncryptor
from node.crypto.paillier_keys import PublicKey, SecretKey
from node.crypto.products import ColumnProducts, RowProducts
from node.engine.base import Engine
from node.engine.inline import InlineEngine
from node.errors import DataError

Rows = NDArray[np.integer]
Primes = tuple[PublicKey, tuple[int, ...]]
"""What a worker is told of a secret key: see :class:`node.crypto.paillier_keys.SecretKey`."""

SHARD_ROWS = 4096
"""Rows of one worker's share of column products: many enough that combining its buckets costs little."""
SHARD_COLUMNS = 4
"""Fewest columns of one worker's share, so that taking the ciphertexts in costs little beside them."""
DECRYPTIONS = 16
"""Ciphertexts of one item where there is no other batch: each takes milliseconds."""
POINTS = 1024
"""Identifiers of one item: each takes a tenth of a millisecond."""


def _primes(key: SecretKey) -> Primes:
    return key.public, key.numbers()


def _key(primes: Primes) -> SecretKey:
    return SecretKey.of(*primes)


@lru_cache(maxsize=1)
def _owner(primes: Primes, expected: int) -> OwnerEncryptor:
    return OwnerEncryptor(_key(primes), expected=expected)


@lru_cache(maxsize=1)
def _peer(public_key: PublicKey, expected: int) -> PeerEncryptor:
    return PeerEncryptor(public_key, expected=expected)


@lru_cache(maxsize=1)
def _decryptor(primes: Primes) -> Decryptor:
    return Decryptor(_key(primes))


@lru_cache(maxsize=1)
def _rows(public_key: PublicKey, bases: tuple[mpz, ...], entry_bits: int, shifts: tuple[int, ...], expected: int) -> RowProducts:
    return RowProducts(public_key, bases, entry_bits=entry_bits, shifts=shifts, expected_rows=expected)


def _encrypt_one(item: tuple[Primes, int, Sequence[int], bytes]) -> list[mpz]:
    primes, expected, plaintexts, exponents = item
    return _owner(primes, expected).encrypt_drawn(plaintexts, exponents)


def _rerandomise_one(item: tuple[PublicKey, int, Sequence[mpz], Sequence[int] | None, bytes]) -> list[mpz]:
    public_key, expected, ciphertexts, add, exponents = item
    return _peer(public_key, expected).rerandomise_drawn(ciphertexts, exponents, add=add)


def _decrypt_one(item: tuple[Primes, Sequence[mpz]]) -> list[int]:
    primes, ciphertexts = item
    return _decryptor(primes).decrypt(ciphertexts)


def _rows_one(item: tuple[PublicKey, tuple[mpz, ...], int, tuple[int, ...], int, Rows]) -> list[mpz]:
    public_key, bases, entry_bits, shifts, expected, rows = item
    return _rows(public_key, bases, entry_bits, shifts, expected).multiply(rows)


def _columns_one(item: tuple[PublicKey, int, list[tuple[Sequence[mpz], Rows]]]) -> list[mpz]:
    public_key, entry_bits, batches = item
    products = ColumnProducts(
        public_key,
        columns=batches[0][1].shape[1],
        entry_bits=entry_bits,
        expected_rows=sum(len(ciphertexts) for ciphertexts, _ in batches),
    )
    for ciphertexts, rows in batches:
        products.add(ciphertexts, rows)
    return products.result()


def _dot_one(item: tuple[PublicKey, Sequence[mpz], Sequence[int]]) -> mpz:
    public_key, row, exponents = item
    product = mpz(1)
    for base, power in zip(row, exponents, strict=True):
        product = product * powmod(base, power, public_key.n_squared) % public_key.n_squared
    return product


def _mask_one(item: tuple[bytes, bytes, Sequence[str]]) -> bytes:
    # Encoded here, so that an identifier that is no text ends the step at its own batch, however far ahead an engine takes items.
    scalar, tag, identifiers = item
    return Blinder(scalar).blind(encode_to_u([_encoded(identifier) for identifier in identifiers], tag))


def _encoded(identifier: str) -> bytes:
    try:
        return identifier.encode()
    except UnicodeEncodeError:
        raise not_text() from None


def not_text() -> DataError:
    """An own identifier cannot be encoded."""
    return DataError(
        "psi.identifier_not_text",
        "An identifier holds half of a surrogate pair and is no Unicode text.",
        remedy="Read the data with its right character encoding.",
    )


def _blind_one(item: tuple[bytes, bytes, int]) -> bytes:
    scalar, points, keep = item
    return Blinder(scalar).blind(points, keep=keep)


def encrypt(
    engine: Engine, key: SecretKey, batches: Iterable[Sequence[int]], stream: Stream, *, expected: int = 0
) -> Iterator[list[mpz]]:
    """The owner's encryption of each batch of plaintexts (:meth:`OwnerEncryptor.encrypt`).

    Args:
        engine: where it runs.
        key: the owner's key.
        batches: batches of integers m, -N < m < N.
        stream: source of the exponents; not to be used by others until the last batch is out.
        expected: about how many ciphertexts there will be in all, sizes the tables; 0 when not known.
    """
    engine = engine.private
    if isinstance(engine, InlineEngine):
        encryptor = OwnerEncryptor(key, expected=expected)
        return (encryptor.encrypt(batch, stream) for batch in batches)
    primes, size = _primes(key), key.public.exponent_bytes
    return engine.map(_encrypt_one, ((primes, expected, batch, stream.bytes(size * len(batch))) for batch in batches))


def rerandomise(
    engine: Engine,
    public_key: PublicKey,
    batches: Iterable[tuple[Sequence[mpz], Sequence[int] | None]],
    stream: Stream,
    *,
    expected: int = 0,
) -> Iterator[list[mpz]]:
    """Each batch (ciphertexts, addends or None) under fresh randomness (:meth:`PeerEncryptor.rerandomise`); see :func:`encrypt`."""
    if isinstance(engine, InlineEngine):
        encryptor = PeerEncryptor(public_key, expected=expected)
        return (encryptor.rerandomise(ciphertexts, stream, add=add) for ciphertexts, add in batches)
    size = public_key.exponent_bytes
    return engine.map(
        _rerandomise_one,
        ((public_key, expected, ciphertexts, add, stream.bytes(size * len(ciphertexts))) for ciphertexts, add in batches),
    )


def decrypt(engine: Engine, key: SecretKey, batches: Iterable[Sequence[mpz]]) -> Iterator[list[int]]:
    """The plaintexts of each batch, in [0, N) (:meth:`Decryptor.decrypt`)."""
    engine = engine.private
    if isinstance(engine, InlineEngine):
        return map(Decryptor(key).decrypt, batches)
    primes = _primes(key)
    return engine.map(_decrypt_one, ((primes, batch) for batch in batches))


def decrypt_all(engine: Engine, key: SecretKey, ciphertexts: Sequence[mpz]) -> list[int]:
    """The plaintexts of one list, in [0, N), a few to each worker."""
    batches = (ciphertexts[first : first + DECRYPTIONS] for first in range(0, len(ciphertexts), DECRYPTIONS))
    return [plaintext for batch in decrypt(engine, key, batches) for plaintext in batch]


def row_products(
    engine: Engine,
    public_key: PublicKey,
    bases: Sequence[mpz],
    batches: Iterable[Rows],
    *,
    entry_bits: int,
    shifts: Sequence[int],
    expected_rows: int,
) -> Iterator[list[mpz]]:
    """The row products of each batch (:class:`RowProducts`; every batch but the last a multiple of ``len(shifts)`` rows)."""
    if isinstance(engine, InlineEngine):
        products = RowProducts(public_key, bases, entry_bits=entry_bits, shifts=shifts, expected_rows=expected_rows)
        return map(products.multiply, batches)
    fixed = (public_key, tuple(bases), entry_bits, tuple(shifts), -(-expected_rows // engine.workers))
    return engine.map(_rows_one, ((*fixed, rows) for rows in batches))


def column_products(
    engine: Engine,
    public_key: PublicKey,
    batches: Iterable[tuple[Sequence[mpz], Rows]],
    *,
    columns: int,
    entry_bits: int,
    expected_rows: int,
) -> list[mpz]:
    """The column products over all batches (ciphertexts, rows) (:class:`ColumnProducts`)."""
    if isinstance(engine, InlineEngine):
        products = ColumnProducts(public_key, columns=columns, entry_bits=entry_bits, expected_rows=expected_rows)
        for ciphertexts, rows in batches:
            products.add(ciphertexts, rows)
        return products.result()
    totals = [mpz(1)] * columns
    places = _column_parts(columns, rows=expected_rows, workers=engine.workers)
    items = (
        (public_key, entry_bits, [(ciphertexts, rows[:, place]) for ciphertexts, rows in shard])
        for shard in _shards(batches)
        for place in places
    )
    for index, part in enumerate(engine.map(_columns_one, items)):
        place = places[index % len(places)]
        totals[place] = [total * factor % public_key.n_squared for total, factor in zip(totals[place], part, strict=True)]
    return totals


def square_products(
    engine: Engine, public_key: PublicKey, bases: Sequence[mpz], matrix: Rows, *, entry_bits: int, columns_at_once: int
) -> list[mpz]:
    """prod_j c_j^M_ij for every i of a symmetric matrix, by :class:`ColumnProducts`.

    ``columns_at_once`` bounds the memory of the buckets.
    """
    size = min(columns_at_once, max(SHARD_COLUMNS, -(-matrix.shape[1] // engine.workers)))
    parts = (matrix[:, first : first + size] for first in range(0, matrix.shape[1], size))
    results = engine.map(_columns_one, ((public_key, entry_bits, [(bases, part)]) for part in parts))
    return [product for part in results for product in part]


def dot_products(engine: Engine, public_key: PublicKey, rows: Iterable[Sequence[mpz]], exponents: Sequence[int]) -> list[mpz]:
    """prod_i row[i] ** exponents[i] of every row, one row an item."""
    return list(engine.map(_dot_one, ((public_key, row, exponents) for row in rows)))


def masked_points(engine: Engine, scalar: bytes, tag: bytes, identifiers: Iterable[Sequence[str]]) -> Iterator[bytes]:
    """scalar * H(identifier) under ``tag`` for each list of identifiers, 32 bytes each (:class:`node.crypto.curve.Blinder`).

    Raises:
        DataError: ``psi.identifier_not_text``.
    """
    return engine.private.map(_mask_one, ((scalar, tag, part) for part in identifiers))


def blinded_points(engine: Engine, scalar: bytes, points: bytes, *, keep: int) -> bytes:
    """scalar * point for each point, ``keep`` bytes of each result (:meth:`Blinder.blind`).

    Raises:
        PeerError: ``psi.low_order_point``.
    """
    size = POINTS * POINT_BYTES
    parts = (points[first : first + size] for first in range(0, len(points), size))
    return b"".join(engine.private.map(_blind_one, ((scalar, part, keep) for part in parts)))


def _column_parts(columns: int, *, rows: int, workers: int) -> list[slice]:
    """Columns of one share: all of them, unless there are too few shares of rows for all workers."""
    shares = -(-2 * workers // max(1, rows // SHARD_ROWS))
    size = max(SHARD_COLUMNS, -(-columns // shares))
    return [slice(first, min(first + size, columns)) for first in range(0, columns, size)]


def _shards(batches: Iterable[tuple[Sequence[mpz], Rows]]) -> Iterator[list[tuple[Sequence[mpz], Rows]]]:
    """Batches gathered to at least :data:`SHARD_ROWS` rows."""
    shard: list[tuple[Sequence[mpz], Rows]] = []
    rows = 0
    for ciphertexts, matrix in batches:
        shard.append((ciphertexts, matrix))
        rows += len(ciphertexts)
        if rows >= SHARD_ROWS:
            yield shard
            shard, rows = [], 0
    if shard:
        yield shard
