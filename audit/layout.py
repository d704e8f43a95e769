"""The public arithmetic of the protocol's layouts: what decides how many items a message carries and how wide they are.

Everything here follows from figures that both parties, the coordinator and any reader of the logs know: rows, encoded columns,
rounds and key bits.  The nodes lay their messages out by it (:mod:`node.protocols.scales` has the reasons for each number), and
the verification counts them by it (:mod:`audit.protocol`): one source, so that the two can't drift apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KeyKind = Literal["standard", "short-order"]
"""Paillier keys: with randomness of any order, or of a short secret one."""

POINT_BYTES = 32
"""A masked identifier: a u-coordinate of curve25519."""
KEPT_BYTES = 16
"""Leading bytes of a doubly-masked u-coordinate that are sent and compared."""

FILTER_REMAINDER_BITS = 61
"""Bits of a masked customer that a published filter holds beside its prefix: a value that is none of the filter's is taken for one
with a chance below 2**-61, so below 2**-40 for two million of them."""
ORDER_BYTES = 32
"""Each side's part in the order of rows."""
FILTER_PREFIX_MIN = 3
FILTER_PREFIX_MAX = 28
"""Bits of the prefix: the least for which 2**bits reaches the number of elements."""
FILTER_CHANGE_BYTES = 12
"""An element that came to a filter or left it: prefix and remainder, filled up with zero bits."""

BASE_OTS = 128
"""Base transfers, and bits of a key: the computational security parameter of the extension."""
WORD_BYTES = 8
"""An entry of a training lookup's table, and a first residual: a machine word."""
BAND_ENTRIES = 256
"""Windows of the label holder's score over the lookup range."""
BAND_BYTES = 1

ENTRY_BITS = 14
"""Features raised by 2**13 to be non-negative exponents."""
RESIDUAL_BITS = 63
"""Residual shares and the masks of the feature holder's: a machine word holds the difference of two."""
PRODUCT_MARGIN = 84
"""Ring of X'e, in bits above log2(rows): see :func:`product_bits`."""
SHORT_BITS = 192
"""Ring of weights, gradients and directions."""
PRECONDITIONER_BITS = 34
"""Entries of P, raised by 2**33: the ridge bounds |P| by 2**12, so |entry| <= 2**32."""
STATISTICAL_BITS = 40
COEFFICIENT_MAX = 2.0**20
"""Largest coefficient of a step, in absolute value."""
RANGE_MIN = 2.0**-4
RANGE_MAX = 2.0**16
"""Bounds of a lookup range, which is a power of two."""
SCORE_BITS_MIN = 24
SCORE_BITS_MAX = 40
SPARE_SLOTS = 1
"""One slot more than rounds, so that a round which has to be run again finds a fresh mask."""
PLAINTEXT_HEADROOM = 2
"""Bits of a modulus that are not used for plaintext."""


def log2_ceil(value: int) -> int:
    """Smallest ``b`` with ``value <= 2**b``."""
    return max(0, (value - 1).bit_length())


def filter_prefix_bits(elements: int) -> int:
    """Prefix bits of a filter that is published anew for so many elements."""
    return max(FILTER_PREFIX_MIN, log2_ceil(elements))


def ciphertext_bytes(key_bits: int) -> int:
    """Fixed width of a ciphertext on the wire: modulo N**2."""
    return key_bits // 4


def plaintext_bits(key_bits: int) -> int:
    """Bits every plaintext may use: 2**plaintext_bits is well below N."""
    return key_bits - PLAINTEXT_HEADROOM


@dataclass(frozen=True)
class SlotLayout:
    """How the masks of several rounds (and rows) share one plaintext (protocols.md, section 3).

    Attributes:
        ring_bits: the products are wanted modulo 2**ring_bits; masks m are uniform in that ring (or smaller).
        slot_bits: S >= bits of m + entry bits + log2(terms), so that a product never reaches the next slot.
        group: slots (rounds) in one plaintext.
        groups: plaintexts needed for all slots.
        rows: matrix rows that share one ciphertext.
    """

    ring_bits: int
    slot_bits: int
    group: int
    groups: int
    rows: int

    def packed_bits(self, slots: int) -> int:
        """Bits of the products that one ciphertext holds, ``slots`` (at most ``group``) of each of its rows."""
        return slots * self.rows * self.slot_bits

    def hiding_bits(self, slots: int) -> int:
        """The mask added to these products is one uniform integer of this many bits: its carries join the slots."""
        return self.packed_bits(slots) + STATISTICAL_BITS

    def groups_of(self, slots: int) -> list[tuple[int, int]]:
        """(first slot, number of slots) of each group."""
        return [(start, min(self.group, slots - start)) for start in range(0, slots, self.group)]


def _slot_bits(ring_bits: int, entry_bits: int, terms: int) -> int:
    return ring_bits + entry_bits + log2_ceil(terms)


def _room(plaintext_bits: int) -> int:
    """Bits left for slots: the mask is STATISTICAL_BITS wider than all of them together, its sum with them one bit more."""
    return plaintext_bits - STATISTICAL_BITS - 1


def _layout(*, plaintext_bits: int, ring_bits: int, slot_bits: int, slots: int, rows: int | None = None) -> SlotLayout:
    """All slots of as many rows as fit; or of one row, in groups of equal size."""
    capacity = max(1, _room(plaintext_bits) // slot_bits)
    groups = -(-slots // capacity)
    fitting = capacity // slots if groups == 1 else 1
    return SlotLayout(
        ring_bits=ring_bits, slot_bits=slot_bits, group=-(-slots // groups), groups=groups, rows=fitting if rows is None else rows
    )


def product_bits(rows: int) -> int:
    """Ring of X'e, and its slots: whole bytes, because every row packs them.

    84 + log2(rows) bits: seven more than the products of 63-bit masks with 14-bit entries need, so that the shares of X'e, of
    29 + log2(rows) bits, are converted with a chance of error of at most 2**-54.
    """
    return -(-(PRODUCT_MARGIN + log2_ceil(rows)) // 8) * 8


def column_layout(*, plaintext_bits: int, rows: int, slots: int) -> SlotLayout:
    """Layout of X'e."""
    bits = product_bits(rows)
    return _layout(plaintext_bits=plaintext_bits, ring_bits=bits, slot_bits=bits, slots=slots)


def preconditioner_layout(*, plaintext_bits: int, columns: int, slots: int) -> SlotLayout:
    """Layout of P g; P is symmetric, so its products are column products, one row in a ciphertext."""
    bits = _slot_bits(SHORT_BITS, PRECONDITIONER_BITS, columns)
    return _layout(plaintext_bits=plaintext_bits, ring_bits=SHORT_BITS, slot_bits=bits, slots=slots, rows=1)


def score_bits(*, plaintext_bits: int, columns: int, slots: int) -> int:
    """The score ring's k: as many rows in a ciphertext as SCORE_BITS_MIN allows, then as many bits as still fit.

    Decryptions are the larger part of the preparation, so rows per ciphertext come first; 24 bits over a range of 2 * 16
    leave weights at scale 9, whose rounding adds about 1e-6 to the log-loss.  Both parties' matrices use the same k: call
    with the larger number of columns.
    """
    overhead = _slot_bits(0, ENTRY_BITS, columns)
    room = _room(plaintext_bits)
    rows = room // (slots * (SCORE_BITS_MIN + overhead))
    if rows == 0:
        return SCORE_BITS_MIN
    return min(SCORE_BITS_MAX, room // (slots * rows) - overhead)


def score_layout(*, plaintext_bits: int, columns: int, slots: int, ring_bits: int) -> SlotLayout:
    """Layout of X w modulo 2**ring_bits."""
    bits = _slot_bits(ring_bits, ENTRY_BITS, columns)
    return _layout(plaintext_bits=plaintext_bits, ring_bits=ring_bits, slot_bits=bits, slots=slots)
