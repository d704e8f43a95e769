"""The public coins that hold rows out and draw samples: whoever knows the job's hash and the number of shared rows can toss them.

Two streams of words, one word for each aligned row.  The first holds rows out.  The second is drawn upon only where a job asks for
fewer rows than there are: of the rows left for training those with the smallest ``train_rows`` words serve, of the rows held out
those with the smallest ``evaluate_rows``.  The streams are independent, and no row is in both groups, so that either sample is a
simple random one of its group, without replacement and of exactly that size ("random sort": Tille, Sampling Algorithms, 2006,
chapter 4).

The job's hash is fixed before any party knows the aligned order, which hangs on both parties' fresh secrets: neither can choose
which customers are held out or drawn.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal
from typing import NamedTuple

import numpy as np
from cryptography.hazmat.primitives import hashes
from numpy.typing import NDArray

from audit.spec import Model

_DOMAIN = b"isthmus holdout v1\x00"
_SAMPLE_DOMAIN = b"isthmus sample v1\x00"
_WORDS = 1 << 17

ROWS_MAX = 2**28
"""More shared customers than a node here aligns: no time is spent on what a log or a report merely says."""


class Split(NamedTuple):
    """Which of the aligned rows serve for what: boolean arrays of shape (rows,).  A row that is in neither serves for nothing."""

    train: NDArray[np.bool_]
    holdout: NDArray[np.bool_]


class SplitSizes(NamedTuple):
    """How many rows serve: ``train`` of ``train_available``, and ``holdout`` of ``holdout_available`` for the evaluation."""

    train: int
    train_available: int
    holdout: int
    holdout_available: int


def split_rows(job: str, rows: int, model: Model) -> Split:
    """Which of the aligned rows a job trains on, and which it is evaluated on.

    Args:
        job: SHA-256 of the job specification, hex.
        rows: number of aligned rows.
        model: the job's ``holdout``, ``train_rows`` and ``evaluate_rows``; a bound above what there is takes all there is.
    """
    held_out = holdout_rows(job, rows, Decimal(model.holdout))
    words: NDArray[np.uint64] | None = None
    groups = []
    for group, most in ((~held_out, model.train_rows), (held_out, model.evaluate_rows)):
        if most is None or most >= np.count_nonzero(group):
            groups.append(group)
            continue
        if words is None:
            words = np.frombuffer(hashlib.shake_256(_SAMPLE_DOMAIN + job.encode()).digest(8 * rows), dtype=">u8")
        groups.append(_smallest(words, group, most))
    return Split(*groups)


def _smallest(words: NDArray[np.uint64], group: NDArray[np.bool_], most: int) -> NDArray[np.bool_]:
    """The rows of ``group`` with its ``most`` smallest words; of equal words the earlier row's counts as smaller."""
    places = np.flatnonzero(group)
    values = words[places].astype(np.uint64)
    last = np.partition(values, most - 1)[most - 1]
    below, ties = places[values < last], places[values == last]
    chosen = np.zeros(len(group), dtype=bool)
    chosen[below] = True
    chosen[ties[: most - len(below)]] = True
    return chosen


def split_sizes(job: str, rows: int, model: Model) -> SplitSizes:
    """How many rows :func:`split_rows` takes, in memory that does not grow with them."""
    held_out = count_held_out(job, rows, Decimal(model.holdout))
    available = rows - held_out
    return SplitSizes(
        train=available if model.train_rows is None else min(model.train_rows, available),
        train_available=available,
        holdout=held_out if model.evaluate_rows is None else min(model.evaluate_rows, held_out),
        holdout_available=held_out,
    )


def holdout_rows(job: str, rows: int, fraction: Decimal) -> NDArray[np.bool_]:
    """Which of the aligned rows are held out of training.

    Row ``i`` is held out when the ``i``-th big-endian 64-bit word of SHAKE-256("isthmus holdout v1" | 0x00 | job)
    is below ``fraction * 2**64``.

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
