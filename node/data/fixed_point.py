"""Standardised features as fixed point: the one place where feature values turn from floats to integers.

x = (v - centre) / scale, clipped to +-CLIP, times 2**10, rounded half to even.  The bound is 8 less one unit (8191 / 1024), so
that every entry fits 14 bits with its sign, as the masked products expect (protocols.md, sections 3 and 5).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FRACTION_BITS = 10
UNIT = 1 << FRACTION_BITS
LARGEST = (8 << FRACTION_BITS) - 1
CLIP = LARGEST / UNIT
"""The clip bound in scales, 7.9990234375: part of the feature's definition, and of the model document."""


def to_fixed(values: NDArray[np.float64], centre: float, scale: float) -> NDArray[np.int32]:
    """Standardise, clip and round: int32 in units of 2**-10, |x| <= 8191."""
    standard = (values - centre) / scale
    return np.rint(np.clip(standard, -CLIP, CLIP) * UNIT).astype(np.int32)


def centre_and_scale(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and population standard deviation.

    The sums are exactly rounded (``math.fsum``), so they do not depend on the machine's vector width or on the order of the rows,
    and a replay elsewhere gives the same integers.
    """
    count = len(values)
    centre = math.fsum(values.tolist()) / count
    with np.errstate(over="ignore"):
        squares = np.square(values - centre)
    return centre, math.sqrt(math.fsum(squares.tolist()) / count)
