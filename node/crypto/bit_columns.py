"""Bit columns of an oblivious transfer extension: the key streams they are drawn from, and the transpose between columns and rows.

An extension (Ishai, Kilian, Nissim, Petrank, CRYPTO 2003, section 3) works on a matrix of bits with one column a base transfer:
columns are drawn, masked and sent whole, rows are hashed.  Bits count from the lowest of a byte, and the same keys give the same
bytes on every machine.  :mod:`node.crypto.ot` and the alignment by transfers are built on it.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from audit.layout import BASE_OTS

BLOCK = 16
"""Bytes of an AES block and of a key."""

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]


class ColumnStreams:
    """G: one AES-128-CTR key stream for each base key, read forwards only.

    The initial counter block is ``session (8 bytes, big-endian) | 0 (8 bytes)``.  CTR counts blocks in the low eight bytes,
    which 2**64 blocks do not overflow, so two sessions never meet; within a session each read continues where the last one
    ended, so two batches never do.

    Args:
        keys: uint8, shape (128, 16).
        session: in [0, 2**32); whoever holds the keys takes care that it serves once.
    """

    def __init__(self, keys: Bytes, *, session: int) -> None:
        counter = session.to_bytes(8, "big") + bytes(8)
        self._encryptors = [Cipher(algorithms.AES(key.tobytes()), modes.CTR(counter)).encryptor() for key in keys]

    def __repr__(self) -> str:
        return "ColumnStreams(<secret>)"

    def read(self, count: int) -> Bytes:
        """The next ``count`` bytes of every stream; uint8, shape (128, count)."""
        zeros = bytes(count)
        # update_into asks for one block less a byte more room than it fills.
        buffer = np.empty((len(self._encryptors), count + BLOCK), dtype=np.uint8)
        for encryptor, row in zip(self._encryptors, buffer, strict=True):
            encryptor.update_into(zeros, row.data)
        return buffer[:, :count]


def transpose_bits(columns: Bytes, rows: int) -> Bytes:
    """Transpose a bit matrix given as 128 columns.

    Six rounds of exchanging halves turn 64 x 64 blocks of bits (Warren, "Hacker's Delight", section 7-3), each round on all
    blocks at once.

    Args:
        columns: uint8, shape (128, m); bit i of a column is bit i % 8 (from the lowest) of its byte i // 8.
        rows: at most 8 m.

    Returns:
        uint8, shape (rows, 16): bit c of a row is bit c % 8 of its byte c // 8.
    """
    words = -(-columns.shape[1] // 8)
    padded = np.zeros((BASE_OTS, 8 * words), dtype=np.uint8)
    padded[:, : columns.shape[1]] = columns
    grid = padded.view("<u8").reshape(2, 64, words)
    _transpose_blocks(grid)
    return np.ascontiguousarray(grid.transpose(2, 1, 0)).view(np.uint8).reshape(64 * words, BLOCK)[:rows]


def transpose_rows(rows: Words) -> Bytes:
    """The inverse of :func:`transpose_bits`: 128 columns of a bit matrix given as rows.

    Args:
        rows: uint64, shape (n, 2), n a multiple of 64.

    Returns:
        uint8, shape (128, n / 8).
    """
    words = len(rows) // 64
    grid = np.ascontiguousarray(rows.reshape(words, 64, 2).transpose(2, 1, 0))
    _transpose_blocks(grid)
    return grid.view(np.uint8).reshape(BASE_OTS, 8 * words)


def _transpose_blocks(grid: Words) -> None:
    """Transpose 64 x 64 blocks of bits in place; uint64, shape (2, 64, words), a block on the middle axis."""
    words = grid.shape[2]
    scratch = np.empty(64 * words, dtype=np.uint64)
    for level in (5, 4, 3, 2, 1, 0):
        step = 1 << level
        mask = np.uint64(((1 << 64) - 1) // ((1 << step) + 1))
        halves = grid.reshape(64 // step, 2, step, words)
        low, high = halves[:, 0], halves[:, 1]
        swap = scratch.reshape(low.shape)
        np.right_shift(low, np.uint64(step), out=swap)
        swap ^= high
        swap &= mask
        high ^= swap
        swap <<= np.uint64(step)
        low ^= swap
