"""Every scale and width of the sealed logistic regression, in one place, with the reason for each number.

What also decides how many items a message holds, and how wide they are, stands in :mod:`audit.layout`, where an auditor's
verification counts by it; its names are these.

Notation: an integer ``v`` "at scale s" stands for the real number ``v * 2**-s``.  Shares of short vectors (weights,
gradients, directions: one entry a column) live modulo ``2**SHORT_BITS``; shares of residual products modulo
``2**product_bits(n)``; shares of row scores modulo ``2**k``, where ``k`` depends on the key (:func:`score_bits`).

Chance of a wrong result (needed: below 2**-40 in one training).  A share of a ring element is uniform, so converting ``x``
with |x| < 2**m from shares modulo 2**R to integers, or truncating it, goes wrong with probability at most 2**(m + 1 - R)
(Mohassel and Zhang, "SecureML", 2017, theorem 1):

=====================================  ======================  =========  ==========================
value                                  magnitude m             ring R     chance for each conversion
=====================================  ======================  =========  ==========================
residual product X'e                   13 + 16 + log2 n        84+log2 n  2**-54
weights at W_SCALE                     76 + log2 n + 8         192        2**-80 at n = 2**27
penalty n l2 w before truncation       40 + 8 + 30 + log2 n    192        2**-86 at n = 2**27
inner products g'p                     72 + 2 log2 n + 10      192        2**-55 at n = 2**27
=====================================  ======================  =========  ==========================

With fewer than 2**13 such conversions in a training, the sum stays below 2**-40.  The row scores are used modulo 2**k on
purpose: only the index of the lookup is wanted, and it wraps with the lookup's own range.

Hiding.  Where a value can't be hidden by a uniform ring element it is hidden statistically, by a mask at least
STATISTICAL_BITS wider: the slots of a ciphertext of masked products, by one mask for all of them; and residuals, by the
label holder's share r and the feature holder's mask m (63 bits against residuals of 17: 46 bits for each value).

Carries.  As the slots of a ciphertext share one mask, the two shares of a product sum to it, or to one unit more for every
row of the ciphertext: of a residual product that is 2**-26, of a row score 2**(1 - k) of its range, of n p 2**-46.
"""

from __future__ import annotations

from audit.layout import (
    ENTRY_BITS,
    PLAINTEXT_HEADROOM,
    PRECONDITIONER_BITS,
    RESIDUAL_BITS,
    SCORE_BITS_MAX,
    SCORE_BITS_MIN,
    SHORT_BITS,
    SPARE_SLOTS,
    STATISTICAL_BITS,
    WORD_BYTES,
    SlotLayout,
    column_layout,
    log2_ceil,
    preconditioner_layout,
    product_bits,
    score_bits,
    score_layout,
)

__all__ = [
    "DIRECTION_SCALE",
    "ENTRY_BITS",
    "ENTRY_OFFSET",
    "FEATURE_MAX",
    "FEATURE_SCALE",
    "GRADIENT_SCALE",
    "OPENED_PRODUCT_SCALE",
    "OPENED_WEIGHT_SCALE",
    "PENALTY_SCALE",
    "PENALTY_WEIGHT_SCALE",
    "PLAINTEXT_HEADROOM",
    "PRECONDITIONER_BITS",
    "PRECONDITIONER_RIDGE_BITS",
    "PRECONDITIONER_SCALE",
    "RESIDUAL_BITS",
    "RESIDUAL_MARGIN",
    "RESIDUAL_SCALE",
    "SCORE_BITS_MAX",
    "SCORE_BITS_MIN",
    "SHORT_BITS",
    "SPARE_SLOTS",
    "STATISTICAL_BITS",
    "STEP_SCALE",
    "WORD_BYTES",
    "SlotLayout",
    "column_layout",
    "log2_ceil",
    "preconditioner_layout",
    "product_bits",
    "score_bits",
    "score_layout",
    "step_scale",
    "weight_scale",
]

FEATURE_SCALE = 10
"""Encoded features: |x| <= 8 standard deviations at scale 10 is |v| <= 8191 < 2**13."""
FEATURE_MAX = 8191
ENTRY_OFFSET = 1 << (ENTRY_BITS - 1)

RESIDUAL_SCALE = 16
"""Residuals sigmoid(z) - y in [-1, 1]."""
RESIDUAL_MARGIN = 1 << 17
"""The residual share r is drawn from [margin, 2**63 - margin), so that e - r is always in (-2**63, 0] and never wraps a
machine word.
"""

PRECONDITIONER_SCALE = 20
PRECONDITIONER_RIDGE_BITS = 12
"""A ridge of 2**-12 in P's definition floors near-null directions (collinear or rare columns), in exact arithmetic and
without an eigenvalue solver.
"""

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


def step_scale(rows: int) -> int:
    """Scale of the integer step coefficients c / n."""
    return STEP_SCALE + log2_ceil(rows)


def weight_scale(rows: int) -> int:
    """Scale of the weights' shares: coefficients (c / n) times directions (n p)."""
    return DIRECTION_SCALE + step_scale(rows)
