"""Preparation of a sealed logistic regression: everything that does not depend on the rounds (protocols.md, section 5, "Prepare").

Both parties run :func:`prepare` at the same time; each sends some batches ahead of what it receives::

    keys, sizes, base rate
    masked products  u + v = M m  for all rounds at once, for M = X_L, X_L', P_L at the label holder and
                     X_F, X_F', P_F at the feature holder
    base oblivious transfers: the label holder will hold tables, the feature holder indices
"""

from __future__ import annotations

from decimal import Context, Decimal

import numpy as np
from numpy.typing import NDArray

from node.crypto.drbg import Drbg, Stream
from node.crypto.paillier_keys import SecretKey, check_public_key
from node.engine import Engine
from node.errors import DataError, PeerError
from node.limits import Limits
from node.protocols.channel import Channel, Progress, silent
from node.protocols.lookup import IndexHolder, TableHolder, base_ots_index_holder, base_ots_table_holder
from node.protocols.masked_product import (
    JobKeys,
    exchange_column_products,
    exchange_preconditioner_products,
    exchange_row_products,
)
from node.protocols.preconditioner import preconditioner
from node.protocols.scales import (
    FEATURE_SCALE,
    RESIDUAL_BITS,
    RESIDUAL_MARGIN,
    SHORT_BITS,
    column_layout,
    preconditioner_layout,
    score_bits,
    score_layout,
)
from node.protocols.training import Prepared, TrainingPlan, parse_base_rate
from protos import peer_pb2 as pb

_RATE_MIN, _RATE_MAX = Decimal("0.0000001"), Decimal("0.99")
"""What a disclosed base rate can say (:func:`node.protocols.training.parse_base_rate`)."""


def prepare(
    ch: Channel,
    *,
    plan: TrainingPlan,
    own: SecretKey,
    matrix: NDArray[np.int32],
    label: NDArray[np.int8] | None,
    drbg: Drbg,
    engine: Engine,
    limits: Limits,
    progress: Progress = silent,
) -> Prepared:
    """Everything that does not depend on the rounds.

    Args:
        own: this party's key of ``plan.key_bits`` bits, drawn for this attempt alone; the caller makes it, so that it can be
            committed to before the first message.
        matrix: own training columns, int32 at FEATURE_SCALE, shape (rows, columns), |entry| <= 8191; without an intercept.
        label: 0 or 1, shape (rows,), at the label holder; None at the feature holder.

    Raises:
        PeerError: ``training.rows_differ``, ``training.too_many_columns``, ``training.base_rate``, ``paillier.*``, ``protocol.*``.
        DataError: ``training.one_class`` when the label has one value only, ``training.too_many_columns``.
    """
    if matrix.shape[1] > limits.columns:
        raise DataError(
            "training.too_many_columns",
            f"The features become {matrix.shape[1]} encoded columns; at most {limits.columns} can be trained on.",
            remedy="Name fewer features, or join rare categories before the data are read.",
        )
    own_matrix = with_intercept(matrix) if plan.holds_label else matrix
    keys = _exchange_keys(ch, plan, own, limits)
    base_rate = round_base_rate(label) if plan.holds_label and label is not None else ""
    peer_columns, base_rate = _exchange_figures(ch, plan, own_matrix.shape[1], base_rate, limits)
    rate, bits = parse_base_rate(base_rate), own.public.plaintext_bits
    slots, columns = plan.slots, max(own_matrix.shape[1], peer_columns)

    residual_masks = _residual_masks(plan, drbg.stream("residual masks"))
    column_u, column_v = exchange_column_products(
        ch,
        keys=keys,
        matrix=own_matrix,
        masks=residual_masks,
        peer_columns=peer_columns,
        layout=column_layout(plaintext_bits=bits, rows=plan.rows, slots=slots),
        drbg=drbg,
        engine=engine,
        limits=limits,
        progress=progress,
    )
    k = score_bits(plaintext_bits=bits, columns=columns, slots=slots - 1)
    score_masks = _uniform(drbg.stream("score masks"), slots - 1, peer_columns, k)
    own_layout, peer_layout = (
        score_layout(plaintext_bits=bits, columns=size, slots=slots - 1, ring_bits=k)
        for size in (own_matrix.shape[1], peer_columns)
    )
    score_u, score_v = exchange_row_products(
        ch,
        keys=keys,
        matrix=own_matrix,
        masks=score_masks,
        layout=own_layout,
        peer_layout=peer_layout,
        drbg=drbg,
        engine=engine,
        limits=limits,
        progress=progress,
    )
    own_p = preconditioner(own_matrix, kappa=rate * (1 - rate), l2=plan.l2, unpenalised=int(plan.holds_label))
    gradient_masks = _uniform(drbg.stream("gradient masks"), slots, peer_columns, SHORT_BITS)
    own_layout, peer_layout = (
        preconditioner_layout(plaintext_bits=bits, columns=size, slots=slots) for size in (own_matrix.shape[1], peer_columns)
    )
    gradient_u, gradient_v = exchange_preconditioner_products(
        ch,
        keys=keys,
        matrix=own_p,
        masks=gradient_masks,
        layout=own_layout,
        peer_layout=peer_layout,
        drbg=drbg,
        engine=engine,
        limits=limits,
    )
    lookup: TableHolder | IndexHolder
    if plan.holds_label:
        lookup = base_ots_table_holder(ch, secret_key=own, stream=drbg.stream("base transfers"))
    else:
        lookup = base_ots_index_holder(ch, public_key=keys.peer, stream=drbg.stream("base transfers"))
    return Prepared(
        own=own,
        peer=keys.peer,
        own_columns=own_matrix.shape[1],
        peer_columns=peer_columns,
        base_rate=base_rate,
        score_bits=k,
        residual_masks=residual_masks,
        column_u=column_u,
        column_v=column_v,
        score_masks=score_masks,
        score_u=score_u,
        score_v=score_v,
        preconditioner=own_p,
        gradient_masks=gradient_masks,
        gradient_u=gradient_u,
        gradient_v=gradient_v,
        lookup=lookup,
    )


def with_intercept(matrix: NDArray[np.int32]) -> NDArray[np.int32]:
    """The label holder's matrix: a column of ones first."""
    ones = np.full((len(matrix), 1), 1 << FEATURE_SCALE, dtype=np.int32)
    return np.concatenate([ones, matrix], axis=1)


def round_base_rate(label: NDArray[np.int8]) -> str:
    """Share of ones, rounded to two significant digits and kept inside (0, 1): what is disclosed of the label.

    Raises:
        DataError: ``training.one_class``.
    """
    positives = int(label.sum())
    if positives in (0, len(label)):
        raise DataError(
            "training.one_class",
            "The label has one value only on the shared training rows.",
            remedy="Choose a label that takes both values among the shared customers.",
        )
    rate = Context(prec=2).create_decimal(Decimal(positives) / Decimal(len(label)))
    return format(max(_RATE_MIN, min(rate, _RATE_MAX)).normalize(), "f")


def _exchange_keys(ch: Channel, plan: TrainingPlan, own: SecretKey, limits: Limits) -> JobKeys:
    size = plan.key_bits // 8
    public = own.public
    ch.send(pb.PaillierKey(bits=plan.key_bits, modulus=int(public.n).to_bytes(size), h_s=int(public.h_s).to_bytes(2 * size)))
    theirs = ch.recv(pb.PaillierKey)
    if theirs.bits != plan.key_bits or len(theirs.modulus) != size or len(theirs.h_s) != 2 * size:
        raise PeerError("paillier.key_size", f"The peer's key has {theirs.bits} bits; the job says {plan.key_bits}.")
    peer = check_public_key(
        bits=theirs.bits,
        modulus=int.from_bytes(theirs.modulus),
        h_s=int.from_bytes(theirs.h_s),
        minimum_bits=plan.minimum_key_bits,
        own=public,
        kind=plan.key_kind,
    )
    return JobKeys.of(own, peer)


def _exchange_figures(ch: Channel, plan: TrainingPlan, columns: int, base_rate: str, limits: Limits) -> tuple[int, str]:
    """Sizes both ways, the base rate from the label holder; returns the peer's columns and the base rate."""
    ch.send(pb.JobFigures(rows=plan.rows, columns=columns, base_rate=base_rate))
    theirs = ch.recv(pb.JobFigures)
    if theirs.rows != plan.rows:
        raise PeerError("training.rows_differ", f"The peer trains on {theirs.rows} rows, this node on {plan.rows}.")
    if not 1 <= theirs.columns <= limits.columns + (not plan.holds_label):
        raise PeerError(
            "training.too_many_columns", f"The peer declares {theirs.columns} columns; 1 to {limits.columns} are accepted."
        )
    if plan.holds_label:
        return theirs.columns, base_rate
    parse_base_rate(theirs.base_rate)
    return theirs.columns, theirs.base_rate


def _residual_masks(plan: TrainingPlan, stream: Stream) -> NDArray[np.uint64]:
    """The label holder's residual shares r, or the feature holder's masks m for X_L'e; shape (slots, rows).

    Uniform in [margin, 2**63 - margin) up to 2**-45: 63 random bits, moved inside at both ends.
    """
    words = stream.uint64((plan.slots, plan.rows)) >> np.uint64(64 - RESIDUAL_BITS)
    return np.clip(words, np.uint64(RESIDUAL_MARGIN), np.uint64((1 << RESIDUAL_BITS) - RESIDUAL_MARGIN - 1))


def _uniform(stream: Stream, slots: int, columns: int, bits: int) -> list[list[int]]:
    return [stream.bits_many(columns, bits) for _ in range(slots)]
