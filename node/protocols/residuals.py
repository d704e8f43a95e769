"""The residuals e = sigmoid(z) - y of one round of sealed logistic regression, in shares (protocols.md, sections 4 and 5).

::

    L (label holder)                                        F (feature holder)
    round 1    base rate - y - r a row  ---------------->   e - r                     r: L's mask, drawn when it was prepared
    later      a table of sigmoid(z) - y - r a row  ---->   takes its entry: e - r

In both cases r is the mask of a masked product that was prepared before the training, so the feature holder's matrix has met it
already; e - r has still to meet the label holder's matrix, under a mask of its own (:func:`mask_residuals`).
"""

from __future__ import annotations

import gmpy2
import numpy as np
from numpy.typing import NDArray

from node.errors import UsageError
from node.limits import Limits
from node.protocols.batches import receive_values, send_values
from node.protocols.channel import Channel, Progress
from node.protocols.lookup import IndexHolder, fetch_entries, serve_tables
from node.protocols.rings import word_mask
from node.protocols.scales import RESIDUAL_SCALE
from node.protocols.training import Prepared, TrainingPlan, parse_base_rate
from protos import peer_pb2 as pb

_TABLE_BITS = 12
"""The sigmoid is tabulated at 4,096 points of the range; the label holder's share picks the point, the feature holder's the
window.
"""


def sigmoid_table(lookup_range: float, entries: int) -> NDArray[np.int64]:
    """sigmoid over [-range, range) at 4,096 midpoints, at RESIDUAL_SCALE, in the order of an unsigned index.

    The index loses the low part of the feature holder's share: a uniform error of one window h = 2 range / entries, which
    on average smooths the sigmoid by h^2/24 of its second derivative.  That term is taken off, so what the lookup gives in
    expectation is the sigmoid up to order h^4. Where windows are so wide that taking it off would leave [0, 1], the entry stays at
    the border: a residual is hidden only while it is one.  MPFR rounds correctly, so the table is the same on every machine.
    """
    points = 1 << _TABLE_BITS
    table = []
    with gmpy2.context(precision=96):
        step = gmpy2.mpfr(lookup_range) * 2 / points
        smoothing = (gmpy2.mpfr(lookup_range) * 2 / entries) ** 2 / 24
        for i in range(points):
            x = step * ((i if i < points // 2 else i - points) + gmpy2.mpfr("0.5"))
            s = 1 / (1 + gmpy2.exp(-x))
            table.append(int(gmpy2.rint((s - smoothing * s * (1 - s) * (1 - 2 * s)) * (1 << RESIDUAL_SCALE))))
    return np.clip(np.array(table, dtype=np.int64), 0, 1 << RESIDUAL_SCALE)


def first_residuals(
    ch: Channel, plan: TrainingPlan, prepared: Prepared, label: NDArray[np.int8] | None, slot: int, limits: Limits
) -> NDArray[np.int64]:
    """Shares of e = base rate - y, where the scores are public: the label holder computes e and sends it under its mask r.

    Args:
        label: of the training rows, 0 or 1; None at the feature holder.
        slot: which prepared masks serve.

    Returns:
        int64, shape (rows,), at RESIDUAL_SCALE: r at the label holder, e - r at the feature holder.

    Raises:
        UsageError: ``training.label_missing``.
        PeerError: ``protocol.*``.
    """
    if plan.holds_label:
        r = prepared.residual_masks[slot].astype(np.int64)
        start = round(parse_base_rate(prepared.base_rate) * (1 << RESIDUAL_SCALE))
        entries = start - (_labels(plan, label) << RESIDUAL_SCALE) - r
        send_values(ch, pb.FirstResiduals, entries.astype("<i8").tobytes(), width=8, batch=limits.vector_batch)
        return r
    data = receive_values(ch, pb.FirstResiduals, count=plan.rows, width=8, batch=limits.vector_batch)
    return np.frombuffer(data, dtype="<i8").astype(np.int64)


def looked_up_residuals(
    ch: Channel,
    plan: TrainingPlan,
    prepared: Prepared,
    z: NDArray[np.uint64],
    label: NDArray[np.int8] | None,
    slot: int,
    lookup_range: float,
    limits: Limits,
    progress: Progress,
) -> NDArray[np.int64]:
    """Shares of e = sigmoid(z) - y by one lookup a row.

    Args:
        z: own share of the scores modulo 2**score_bits, which cover [-lookup_range, lookup_range); shape (rows,).
        label: of the training rows, 0 or 1; None at the feature holder.
        slot: which prepared masks serve, and the session of the lookup.

    Returns:
        int64, shape (rows,), at RESIDUAL_SCALE: r at the label holder, e - r at the feature holder.

    Raises:
        UsageError: ``training.label_missing``, ``ot.session_reused``.
        PeerError: ``lookup.wrong_*``, ``protocol.*``.
    """
    k, entries = prepared.score_bits, plan.lookup_entries
    window = np.uint64(k - (entries.bit_length() - 1))
    if isinstance(prepared.lookup, IndexHolder):
        fetched = fetch_entries(
            ch,
            prepared.lookup,
            session=slot,
            indices=(z >> window).astype(np.int64),
            entries=entries,
            width=8,
            message=pb.LookupTables,
            limits=limits,
            progress=progress,
        )
        return fetched.astype(np.uint64).view(np.int64)
    table = sigmoid_table(lookup_range, entries)
    y, r = _labels(plan, label) << RESIDUAL_SCALE, prepared.residual_masks[slot].astype(np.int64)
    # The feature holder's share is known up to its window: the middle of the window stands for it.
    middles = (np.arange(entries, dtype=np.uint64) << window) + (np.uint64(1) << (window - np.uint64(1)))
    drop = np.uint64(k - _TABLE_BITS)

    def tables(first: int, count: int) -> NDArray[np.uint64]:
        part = slice(first, first + count)
        index = ((z[part, None] + middles) & word_mask(k)) >> drop
        return (table[index.astype(np.int64)] - (y[part] + r[part])[:, None]).view(np.uint64)

    serve_tables(
        ch,
        prepared.lookup,
        session=slot,
        rows=plan.rows,
        entries=entries,
        width=8,
        tables=tables,
        message=pb.LookupTables,
        limits=limits,
        progress=progress,
    )
    return r


def mask_residuals(shares: NDArray[np.int64], masks: NDArray[np.uint64]) -> bytes:
    """m - (e - r), little-endian words: shares e - r in (-2**63, 0] and masks m below 2**63, so no word wraps.

    To the label holder, who knows r, this is m - e: 63 random bits hide a residual of 17.
    """
    return (masks - shares.view(np.uint64)).astype("<u8").tobytes()


def _labels(plan: TrainingPlan, label: NDArray[np.int8] | None) -> NDArray[np.int64]:
    """The label as it is computed with (``training.label_missing``)."""
    if label is None or len(label) != plan.rows:
        raise UsageError(
            "training.label_missing", "The label holder's label is missing or of another length than the training rows."
        )
    return label.astype(np.int64)
