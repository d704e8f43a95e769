"""Evaluation by score bands (protocols.md, section 6): the label holder learns each held-out row's band and nothing finer.

::

    L (label holder)                                    F (feature holder)
    the coordinator's range        <-- directive -->    must be the same
    z_L = X_L w_L + intercept                           z_F = X_F w_F
    index = window of z_L            <-- base OTs -->   table: band of (middle of window v) + z_F, for every v
    takes its entry                  <-- tables -----
    AUC, KS, log-loss, gains from bands and labels
    aggregates, where the job allows ------------->

F is the holder of tables here, so the base transfers run the other way round than in training, under F's key.

Bands are public: centred at the base rate's log-odds, narrow there and wider outwards, over a quarter of the lookup's range
    on either side (two to four bounds on the scores' standard deviation).  Only L's part is rounded to a window, F knows
    its own exactly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import gmpy2
import numpy as np
from numpy.typing import NDArray

from audit.layout import BAND_ENTRIES
from node.crypto.drbg import Drbg
from node.errors import PeerError, UsageError
from node.limits import Limits
from node.protocols.channel import Channel, Progress, silent
from node.protocols.logistic import check_range
from node.protocols.lookup import base_ots_index_holder, base_ots_table_holder, fetch_entries, serve_tables
from node.protocols.metrics import Metrics, metrics
from node.protocols.scales import FEATURE_SCALE, OPENED_WEIGHT_SCALE
from node.protocols.training import Prepared, TrainingPlan, logit_at_scale, parse_base_rate
from protos import peer_pb2 as pb

_CURVE = 3
SCORE_SCALE = FEATURE_SCALE + OPENED_WEIGHT_SCALE
_DECIMAL = re.compile(r"^[0-9]{1,4}\.[0-9]{6}$")


def own_scores(matrix: NDArray[np.int32], weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Own part of z at SCORE_SCALE, exactly: features at FEATURE_SCALE times weights, which are multiples of
    2**-OPENED_WEIGHT_SCALE.

    Args:
        matrix: own columns, int32 (rows, columns).
        weights: as :func:`node.protocols.logistic.finish` returned them; one more than columns at the label holder
            (intercept first).
    """
    integers = np.round(weights * 2.0**OPENED_WEIGHT_SCALE).astype(np.int64)
    intercept = len(weights) - matrix.shape[1]
    start = int(integers[0]) << FEATURE_SCALE if intercept else 0
    return matrix.astype(np.int64) @ integers[intercept:] + start


def band_edges(base_rate: str, lookup_range: float, bands: int) -> NDArray[np.int64]:
    """All ``bands + 1`` edges at SCORE_SCALE; the outermost two bands are open, their outer edges only give them a middle.

    ``centre + range / 4 * sinh(3 t) / sinh(3)`` for t evenly spaced over [-1, 1]: bands are narrow where most scores lie.
    In MPFR, because a band in a table is a byte on the wire.
    """
    centre = logit_at_scale(parse_base_rate(base_rate), SCORE_SCALE)
    half = 1 << (SCORE_SCALE + check_range(lookup_range) - 2)
    with gmpy2.context(precision=128):
        shape = [gmpy2.sinh(gmpy2.mpfr(_CURVE) * (2 * i - bands) / bands) / gmpy2.sinh(_CURVE) for i in range(bands + 1)]
        return np.array([centre + int(gmpy2.rint(half * value)) for value in shape], dtype=np.int64)


def band_probabilities(edges: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probability at the middle of each band, kept inside (0, 1).

    In MPFR, because the log-loss that follows from it may be sent.
    """
    with gmpy2.context(precision=96):
        middles = [gmpy2.mpfr(total) / (1 << (SCORE_SCALE + 1)) for total in (edges[:-1] + edges[1:]).tolist()]
        return np.clip([float(1 / (1 + gmpy2.exp(-z))) for z in middles], 1e-12, 1 - 1e-12)


def evaluate(
    ch: Channel,
    *,
    plan: TrainingPlan,
    prepared: Prepared,
    matrix: NDArray[np.int32],
    weights: NDArray[np.float64],
    label: NDArray[np.int8] | None,
    bands: int,
    lookup_range: float,
    share_aggregates: bool,
    drbg: Drbg,
    limits: Limits,
    progress: Progress = silent,
) -> Metrics | None:
    """Evaluate the trained model on held-out rows.

    Args:
        matrix: own columns of the held-out rows, int32 (rows, columns), in the common order.
        weights: own weights as opened by ``finish``.
        label: 0 or 1 on the same rows at the label holder, else None.
        bands: number of score bands, at most 256.
        lookup_range: a power of two that covers the scores.
        share_aggregates: whether the job lets the feature holder learn the aggregates.

    Returns:
        The metrics at the label holder; at the feature holder the shared aggregates (without gains), or None.

    Raises:
        DataError: ``scoring.one_class``.  UsageError: ``training.bad_directive``.  PeerError: ``training.directives_differ``,
            ``scoring.bad_aggregates``, ``scoring.bad_band``, ``lookup.*``, ``protocol.*``.
    """
    check_range(lookup_range)
    ch.send(pb.DirectiveEcho(lookup_range=lookup_range))
    if ch.recv(pb.DirectiveEcho).lookup_range != lookup_range:
        raise PeerError("training.directives_differ", "The coordinator gave the two nodes different ranges for the evaluation.")
    own = own_scores(matrix, weights)
    rows, window = len(own), SCORE_SCALE + check_range(lookup_range) + 1 - (BAND_ENTRIES.bit_length() - 1)
    edges = band_edges(prepared.base_rate, lookup_range, bands)
    if plan.holds_label:
        if label is None or len(label) != rows:
            raise UsageError("training.label_missing", "The label of the held-out rows is missing or of another length.")
        indices = base_ots_index_holder(ch, public_key=prepared.peer, stream=drbg.stream("base transfers"))
        fetched = fetch_entries(
            ch,
            indices,
            session=0,
            indices=(own >> window) % BAND_ENTRIES,
            entries=BAND_ENTRIES,
            width=1,
            message=pb.BandTables,
            limits=limits,
            progress=progress,
        )
        if rows and int(fetched.max()) >= bands:
            raise PeerError("scoring.bad_band", f"The peer's table holds a band beyond the {bands} of the job.")
        result = metrics(fetched, label, band_probabilities(edges))
        if share_aggregates:
            ch.send(_aggregates(result))
        return result
    _serve_bands(ch, plan, prepared, own, edges, window, drbg, limits, progress)
    return _read_aggregates(ch.recv(pb.Aggregates), rows) if share_aggregates else None


def _serve_bands(
    ch: Channel,
    plan: TrainingPlan,
    prepared: Prepared,
    own: NDArray[np.int64],
    edges: NDArray[np.int64],
    window: int,
    drbg: Drbg,
    limits: Limits,
    progress: Progress,
) -> None:
    holder = base_ots_table_holder(ch, secret_key=prepared.own, stream=drbg.stream("base transfers"))
    middles = (np.arange(BAND_ENTRIES, dtype=np.int64) << window) + (1 << (window - 1))
    half = BAND_ENTRIES // 2 << window

    def tables(first: int, count: int) -> NDArray[np.uint8]:
        z = own[first : first + count, None] + middles
        wrapped = (z + half) % (2 * half) - half
        return np.searchsorted(edges[1:-1], wrapped, side="right").astype(np.uint8)

    serve_tables(
        ch,
        holder,
        session=0,
        rows=len(own),
        entries=BAND_ENTRIES,
        width=1,
        tables=tables,
        message=pb.BandTables,
        limits=limits,
        progress=progress,
    )


def _aggregates(result: Metrics) -> pb.Aggregates:
    auc, ks, loss, rate = (f"{value:.6f}" for value in (result.auc, result.ks, result.log_loss, result.base_rate))
    return pb.Aggregates(auc=auc, ks=ks, log_loss=loss, base_rate=rate, rows=result.rows)


def _read_aggregates(message: pb.Aggregates, rows: int) -> Metrics:
    texts: Sequence[str] = (message.auc, message.ks, message.log_loss, message.base_rate)
    if message.rows != rows or not all(_DECIMAL.fullmatch(text) for text in texts):
        raise PeerError("scoring.bad_aggregates", "The aggregates are not decimal numbers over the held-out rows.")
    auc, ks, loss, rate = (float(text) for text in texts)
    if max(auc, ks, rate) > 1:
        raise PeerError("scoring.bad_aggregates", "An aggregate that is a share is above 1.")
    return Metrics(auc=auc, ks=ks, log_loss=loss, base_rate=rate, rows=rows, gains=[])
