"""The public coin that holds rows out: anyone who knows the job's hash and the number of shared rows can recompute it."""

from __future__ import annotations

import hashlib
from decimal import Decimal

import numpy as np
from cryptography.hazmat.primitives import hashes
from numpy.typing import NDArray

_DOMAIN = b"isthmus holdout v1\x00"
_WORDS = 1 << 17


def holdout_rows(job: str, rows: int, fraction: Decimal) -> NDArray[np.bool_]:
    """Which of the aligned rows are held out of training.

    Row ``i`` is held out when the ``i``-th big-endian 64-bit word of SHAKE-256("isthmus holdout v1" | 0x00 | job)
    is below ``fraction * 2**64``.  The job's hash is fixed before any party knows the aligned order, so neither can choose which
    customers are held out.

    Args:
        job: SHA-256 of the job specification, hex.
        rows: number of aligned rows.
        fraction: held-out share, 0 <= fraction < 1.

    Returns:
        Boolean array of shape (rows,), true where held out.
    """
    words = np.frombuffer(hashlib.shake_256(_DOMAIN + job.encode()).digest(8 * rows), dtype=">u8")
    threshold = int(fraction * 2**64)
    if threshold == 0:
        return np.zeros(rows, dtype=bool)
    return words < np.uint64(threshold)


def count_held_out(job: str, rows: int, fraction: Decimal) -> int:
    """How many of the aligned rows :func:`holdout_rows` holds out, in memory that does not grow with them.

    Where the installed ``cryptography`` cannot squeeze a stream piece by piece (before version 46) all words are made at once.
    """
    threshold = np.uint64(int(fraction * 2**64))
    if not threshold or not rows:
        return 0
    if not hasattr(hashes, "XOFHash"):
        return int(holdout_rows(job, rows, fraction).sum())
    stream = hashes.XOFHash(hashes.SHAKE256(digest_size=8 * rows))
    stream.update(_DOMAIN + job.encode())
    held = 0
    for first in range(0, rows, _WORDS):
        words = np.frombuffer(stream.squeeze(8 * min(_WORDS, rows - first)), dtype=">u8")
        held += int((words < threshold).sum())
    return held
