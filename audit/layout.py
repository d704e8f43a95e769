"""The public arithmetic of the protocol's layouts: what decides how many items a message carries and how wide they are.

Everything here follows from figures that both parties, the coordinator and any reader of the logs know: rows, encoded columns,
rounds and key bits.  The nodes lay their messages out by it (:mod:`node.protocols.scales` has the reasons for each number), and
the verification counts them by it (:mod:`audit.protocol`): one source, so that the two can't drift apart.
"""

from __future__ import annotations

from dataclasses import dataclass

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
PRODUCT_BITS = 128
"""Ring of X'e.  Uniform 128-bit masks hide residual shares perfectly; ten slots of it fit a 2048-bit plaintext."""
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
        slot_bits: S = bits of m + entry bits + log2(terms) + 41, so that product + mask never reaches the next slot.
        group: slots (rounds) in one plaintext.
        groups: plaintexts needed for all slots.
        rows: matrix rows that share one ciphertext in row products (1 for column products).
    """

    ring_bits: int
    slot_bits: int
    group: int
    groups: int
    rows: int

    @property
    def hiding_bits(self) -> int:
        """Masks added to a product are uniform integers of this many bits."""
        return self.slot_bits - 1

    def groups_of(self, slots: int) -> list[tuple[int, int]]:
        """(first slot, number of slots) of each group."""
        return [(start, min(self.group, slots - start)) for start in range(0, slots, self.group)]


def _slot_bits(ring_bits: int, entry_bits: int, terms: int) -> int:
    # The product is below 2**w, w = ring + entry + log2(terms); the mask below 2**(w + 40); their sum below 2**(w + 41).
    return ring_bits + entry_bits + log2_ceil(terms) + STATISTICAL_BITS + 1


def _balanced(slots: int, capacity: int) -> tuple[int, int]:
    groups = -(-slots // capacity)
    return -(-slots // groups), groups


def column_layout(*, plaintext_bits: int, rows: int, slots: int) -> SlotLayout:
    """Layout of X'e: byte-aligned slots, because every row packs them."""
    bits = -(-_slot_bits(PRODUCT_BITS, ENTRY_BITS, rows) // 8) * 8
    group, groups = _balanced(slots, max(1, plaintext_bits // bits))
    return SlotLayout(ring_bits=PRODUCT_BITS, slot_bits=bits, group=group, groups=groups, rows=1)


def preconditioner_layout(*, plaintext_bits: int, columns: int, slots: int) -> SlotLayout:
    """Layout of P g."""
    bits = _slot_bits(SHORT_BITS, PRECONDITIONER_BITS, columns)
    group, groups = _balanced(slots, max(1, plaintext_bits // bits))
    return SlotLayout(ring_bits=SHORT_BITS, slot_bits=bits, group=group, groups=groups, rows=1)


def score_bits(*, plaintext_bits: int, columns: int, slots: int) -> int:
    """The score ring's k: as many rows in a ciphertext as SCORE_BITS_MIN allows, then as many bits as still fit.

    Decryptions are the larger part of the preparation, so rows per ciphertext come first; 24 bits over a range of 2 * 16
    leave weights at scale 9, whose rounding adds about 1e-6 to the log-loss.  Both parties' matrices use the same k: call
    with the larger number of columns.
    """
    overhead = _slot_bits(0, ENTRY_BITS, columns)
    rows = plaintext_bits // (slots * (SCORE_BITS_MIN + overhead))
    if rows == 0:
        return SCORE_BITS_MIN
    return min(SCORE_BITS_MAX, plaintext_bits // (slots * rows) - overhead)


def score_layout(*, plaintext_bits: int, columns: int, slots: int, ring_bits: int) -> SlotLayout:
    """Layout of X w modulo 2**ring_bits."""
    bits = _slot_bits(ring_bits, ENTRY_BITS, columns)
    capacity = plaintext_bits // bits
    if capacity >= slots:
        return SlotLayout(ring_bits=ring_bits, slot_bits=bits, group=slots, groups=1, rows=capacity // slots)
    group, groups = _balanced(slots, max(1, capacity))
    return SlotLayout(ring_bits=ring_bits, slot_bits=bits, group=group, groups=groups, rows=1)
