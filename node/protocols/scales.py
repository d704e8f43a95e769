"""Every scale and width of the sealed logistic regression, in one place, with the reason for each number.

Notation: an integer ``v`` "at scale s" stands for the real number ``v * 2**-s``.  Shares of short vectors (weights,
gradients, directions: one entry a column) live modulo ``2**SHORT_BITS``; shares of residual products modulo
``2**PRODUCT_BITS``; shares of row scores modulo ``2**k``, where ``k`` depends on the key (:class:`Layout`).

Chance of a wrong result (needed: below 2**-40 in one training).  A share of a ring element is uniform, so converting ``x``
with |x| < 2**m from shares modulo 2**R to integers, or truncating it, goes wrong with probability at most 2**(m + 1 - R)
(Mohassel and Zhang, "SecureML", 2017, theorem 1):

=====================================  ======================  =========  ==========================
value                                  magnitude m             ring R     chance for each conversion
=====================================  ======================  =========  ==========================
residual product X'e                   13 + 16 + log2 n        128        2**-71 at n = 2**27
weights at W_SCALE                     76 + log2 n + 8         192        2**-80 at n = 2**27
penalty n l2 w before truncation       40 + 8 + 30 + log2 n    192        2**-86 at n = 2**27
inner products g'p                     72 + 2 log2 n + 10      192        2**-55 at n = 2**27
=====================================  ======================  =========  ==========================

With fewer than 2**13 such conversions in a training, the sum stays below 2**-40.  The row scores are used modulo 2**k on
purpose: only the index of the lookup is wanted, and it wraps with the lookup's own range.

Hiding.  Where a value can't be hidden by a uniform ring element it is hidden statistically, by a mask at least
STATISTICAL_BITS wider: the slots of masked products, and the residual share r (63 bits against residuals of 16: 46 bits for
each value).
"""

from __future__ import annotations

from dataclasses import dataclass

FEATURE_SCALE = 10
"""Encoded features: |x| <= 8 standard deviations at scale 10 is |v| <= 8191 < 2**13."""
FEATURE_MAX = 8191
ENTRY_BITS = 14
"""Features raised by 2**13 to be non-negative exponents."""
ENTRY_OFFSET = 1 << (ENTRY_BITS - 1)

RESIDUAL_SCALE = 16
"""Residuals sigmoid(z) - y in [-1, 1]."""
RESIDUAL_MARGIN = 1 << 17
"""The residual share r is drawn from [margin, 2**63 - margin), so that e - r is always in (-2**63, 0] and never wraps a
machine word.
"""

PRODUCT_BITS = 128
"""Ring of X'e.  Uniform 128-bit masks hide residual shares perfectly; ten slots of it fit a 2048-bit plaintext."""
SHORT_BITS = 192
"""Ring of weights, gradients and directions."""

PRECONDITIONER_SCALE = 20
PRECONDITIONER_BITS = 34
"""Entries of P, raised by 2**33: the ridge below bounds |P| by 2**12, so |entry| <= 2**32."""
PRECONDITIONER_RIDGE_BITS = 12
"""A ridge of 2**-12 in P's definition floors near-null directions (collinear or rare columns), in exact arithmetic and
without an eigenvalue solver.
"""

STATISTICAL_BITS = 40
GRADIENT_SCALE = FEATURE_SCALE + RESIDUAL_SCALE
"""g = X'e + n l2 w."""
DIRECTION_SCALE = GRADIENT_SCALE + PRECONDITIONER_SCALE
"""n p = P g."""
STEP_SCALE = 30
"""Coefficients of the step, divided by n: at scale STEP_SCALE + log2 n."""
PENALTY_SCALE = 30
"""The public factor n l2."""
PENALTY_WEIGHT_SCALE = 40
"""Weights are cut to this scale before the penalty is taken."""
OPENED_WEIGHT_SCALE = 24
"""Weights are cut to this scale before they are opened to their owner: the low bits of the exact share would tell about
single rounds.
"""
OPENED_PRODUCT_SCALE = 40
"""Inner products are cut to this scale (absolute 2**-40) before they are opened, for the same reason."""

SCORE_BITS_MIN = 24
SCORE_BITS_MAX = 40
SPARE_SLOTS = 1
"""One slot more than rounds, so that a round which has to be run again finds a fresh mask."""
PLAINTEXT_HEADROOM = 2
"""Bits of a modulus that are not used for plaintext."""


def log2_ceil(value: int) -> int:
    """Smallest ``b`` with ``value <= 2**b``."""
    return max(0, (value - 1).bit_length())


def step_scale(rows: int) -> int:
    """Scale of the integer step coefficients c / n."""
    return STEP_SCALE + log2_ceil(rows)


def weight_scale(rows: int) -> int:
    """Scale of the weights' shares: coefficients (c / n) times directions (n p)."""
    return DIRECTION_SCALE + step_scale(rows)


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
