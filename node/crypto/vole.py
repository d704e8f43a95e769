"""Correlations over GF(16) by oblivious transfer extension: one side's secret times the other's vector, in shares, in bulk.

For each of 60 coordinates the *receiver* of the private intersection holds vectors A and W, its *sender* a secret d of GF(16) and
V = W + d A, all pseudo-random.  This is the extension of Ishai, Kilian, Nissim and Petrank (2003) with 16 keys a coordinate in
place of two (Roy, "SoftSpokenOT", CRYPTO 2022, section 3: the small-field construction)::

    receiver: keys k_0..k_15,  r_v = G(k_v)      A = sum r_v       W = sum v r_v
    sender:   all keys but k_d                   V = sum (v + d) r_v = W + d A        the missing one counts zero times

**Keys.**  They are the leaves of a binary tree of hashes (Goldreich, Goldwasser and Micali 1986).  The sender's four base
transfers a coordinate give it, level by level, the sum of the nodes on the side where its own path does not go: with the nodes that
it knows, the one sibling of its path (punctured, as Boyle, Gilboa, Ishai, Kohl, Rindal and Scholl 2019 use it).

**Streams.**  G is AES-128-CTR, read forwards alone; a read of ``slots`` bits a plane continues where the last one ended.
The receiver sends U = A + c for the vector c that it puts in; the sender's V + d U is then W + d c.  U is under a pad, the stream
of the key k_d, that the sender does not know.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from audit.aligning import COORDINATES, SYMBOL_BITS
from node.crypto.bit_columns import ColumnStreams
from node.crypto.code import double

Bytes = NDArray[np.uint8]

KEY_BYTES = 16
LEAVES = 1 << SYMBOL_BITS
_NODE = b"isthmus key tree v1"


# ---- key trees --------------------------------------------------------------------------------------------------------------


def _children(nodes: Bytes) -> Bytes:
    """Both children of every node, by SHA-256; shape (n, 16) to (2 n, 16)."""
    data = nodes.tobytes()
    hashed = b"".join(hashlib.sha256(_NODE + data[i : i + KEY_BYTES]).digest() for i in range(0, len(data), KEY_BYTES))
    return np.frombuffer(hashed, dtype=np.uint8).reshape(2 * len(nodes), KEY_BYTES)


def grow(roots: Bytes, keys: Bytes) -> tuple[Bytes, Bytes]:
    """The receiver's trees.

    Args:
        roots: uint8, shape (60, 16), fresh.
        keys: both keys of the base transfers, coordinate by coordinate, a level after the other; uint8, shape (240, 2, 16).

    Returns:
        The leaves, uint8, shape (60, 16, 16), and the sums to send, each under its key, uint8, shape (240, 2, 16).
    """
    leaves = np.empty((COORDINATES, LEAVES, KEY_BYTES), dtype=np.uint8)
    sums = keys.copy().reshape(COORDINATES, SYMBOL_BITS, 2, KEY_BYTES)
    for coordinate in range(COORDINATES):
        nodes = roots[coordinate][None]
        for level in range(SYMBOL_BITS):
            nodes = _children(nodes)
            sums[coordinate, level] ^= np.bitwise_xor.reduce(nodes.reshape(-1, 2, KEY_BYTES), axis=0)
        leaves[coordinate] = nodes
    return leaves, sums.reshape(keys.shape)


def path_choices(secrets: Bytes) -> Bytes:
    """The sender's choice bits: off its path at every level, the highest bit first; uint8, shape (60,) to (240,)."""
    places = np.arange(SYMBOL_BITS - 1, -1, -1, dtype=np.uint8)
    return (1 - (secrets[:, None] >> places & 1)).astype(np.uint8).reshape(-1)


def puncture(secrets: Bytes, keys: Bytes, sums: Bytes) -> Bytes:
    """The sender's leaves: all but the one whose number is its secret, which holds zeros.

    Args:
        secrets: d, uint8 in [0, 16), shape (60,).
        keys: as chosen by :func:`path_choices`, uint8, shape (240, 16).
        sums: as received, uint8, shape (240, 2, 16).

    Returns:
        uint8, shape (60, 16, 16).
    """
    sides = path_choices(secrets)
    chosen = sums[np.arange(len(sides)), sides] ^ keys
    leaves = np.empty((COORDINATES, LEAVES, KEY_BYTES), dtype=np.uint8)
    for coordinate in range(COORDINATES):
        nodes = np.zeros((1, KEY_BYTES), dtype=np.uint8)  # the node on the path holds zeros
        path = 0
        for level in range(SYMBOL_BITS):
            known = _children(nodes).copy()
            known[2 * path : 2 * path + 2] = 0
            place = SYMBOL_BITS * coordinate + level
            side = int(sides[place])
            known[2 * path + side] = chosen[place] ^ np.bitwise_xor.reduce(known[side::2], axis=0)
            nodes, path = known, 2 * path + 1 - side
        leaves[coordinate] = nodes
    return leaves


# ---- correlations -----------------------------------------------------------------------------------------------------------


def _halves(streams: Bytes) -> tuple[Bytes, list[Bytes]]:
    """The sum over all v, and for each bit b the sum over the v that have it; from shape (16, 4 m)."""
    sums = []
    total = streams
    for _ in range(SYMBOL_BITS):  # bit 0 tells apart neighbours; what remains after each level is the sum of both
        sums.append(np.bitwise_xor.reduce(total[1::2], axis=0))
        total = total[0::2] ^ total[1::2]
    return total[0], sums


def _weighted(sums: list[Bytes]) -> Bytes:
    """sum_v v r_v from the sums by bits: a^b times the sum over those that have bit b; shape (4, m)."""
    result = sums[-1].reshape(SYMBOL_BITS, -1)
    for part in reversed(sums[:-1]):
        result = double(result)
        result ^= part.reshape(SYMBOL_BITS, -1)
    return result


class ReceiverStreams:
    """The receiver's half: all leaves; uint8, shape (60, 16, 16)."""

    def __init__(self, leaves: Bytes) -> None:
        self._streams = [ColumnStreams(keys, session=0) for keys in leaves]

    def __repr__(self) -> str:
        return "ReceiverStreams(<secret>)"

    def read(self, slots: int) -> tuple[Bytes, Bytes]:
        """A and W for the next ``slots`` (a multiple of 8); uint8, shape (60, 4, slots / 8) each."""
        shape = (COORDINATES, SYMBOL_BITS, slots // 8)
        first, second = np.empty(shape, dtype=np.uint8), np.empty(shape, dtype=np.uint8)
        for coordinate, streams in enumerate(self._streams):
            total, sums = _halves(streams.read(SYMBOL_BITS * slots // 8))
            first[coordinate] = total.reshape(SYMBOL_BITS, -1)
            second[coordinate] = _weighted(sums)
        return first, second


class SenderStreams:
    """The sender's half: its secrets d, uint8, shape (60,), and the leaves as :func:`puncture` gives them."""

    def __init__(self, secrets: Bytes, leaves: Bytes) -> None:
        self._secrets = secrets.tolist()
        order = np.arange(LEAVES, dtype=np.uint8)  # leaf v + d comes at place v: the missing one at place 0, which has no weight
        self._streams = [ColumnStreams(keys[order ^ d], session=0) for keys, d in zip(leaves, self._secrets, strict=True)]

    def __repr__(self) -> str:
        return "SenderStreams(<secret>)"

    def read(self, slots: int) -> Bytes:
        """V for the next ``slots`` (a multiple of 8); uint8, shape (60, 4, slots / 8)."""
        out = np.empty((COORDINATES, SYMBOL_BITS, slots // 8), dtype=np.uint8)
        for coordinate, streams in enumerate(self._streams):
            _, sums = _halves(streams.read(SYMBOL_BITS * slots // 8))
            out[coordinate] = _weighted(sums)
        return out

    def add_product(self, shares: Bytes, vectors: Bytes) -> None:
        """Add d U to V, in place; both uint8, shape (60, 4, m)."""
        for share, vector, d in zip(shares, vectors, self._secrets, strict=True):
            multiple = vector
            for bit in range(SYMBOL_BITS):
                if d >> bit & 1:
                    share ^= multiple
                multiple = double(multiple)
