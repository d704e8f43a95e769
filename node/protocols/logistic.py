"""Sealed logistic regression: weights, scores, residuals and gradients stay shared from the first round to the last
(protocols.md, section 5).

::

    L (label holder)                                        F (feature holder)
    prepare    keys, sizes, base rate  <------------------>  keys, sizes
               masked products for X_L, X_L', P_L  <------>  for X_F, X_F', P_F: u + v = M m, for all rounds at once
               base oblivious transfers  <--------------->
    round t    d for X_F w_F  <--------------------------->  d for X_L w_L            shares of z (round 1: z is public)
               a table of sigmoid(z) - y - r a row  ------>  takes its entry          shares of e: r at L, e - r at F
                                          <-- d for X_L'e --                          shares of g
               d for P_F g_F  <-------------------------->  d for P_L g_L             shares of p
               inner products K_t1..K_tt, opened  <------>
    finish     share of w_F  <--------------------------->  share of w_L              each has its own weights

The label holder's block of a vector is always named first.  In round 1 the scores are the intercept's, known to both, so
the label holder computes the residuals itself and sends them under its mask r; everything after is as in any other round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from audit.layout import COEFFICIENT_MAX, RANGE_MAX, RANGE_MIN
from node.crypto.drbg import Drbg
from node.engine import Engine, InlineEngine
from node.errors import PeerError, UsageError
from node.limits import Limits
from node.protocols.batches import receive_ring, receive_values, send_ring, send_values
from node.protocols.channel import Channel, Progress, silent
from node.protocols.inner_products import inner_products
from node.protocols.preparation import prepare, with_intercept
from node.protocols.residuals import first_residuals, looked_up_residuals, mask_residuals
from node.protocols.rings import (
    column_sums,
    lift,
    limbs_of_bytes,
    limbs_of_int64,
    matrix_times,
    reduce,
    scores,
    signed,
    truncate,
    word_mask,
)
from node.protocols.scales import (
    FEATURE_SCALE,
    GRADIENT_SCALE,
    OPENED_WEIGHT_SCALE,
    PENALTY_SCALE,
    PENALTY_WEIGHT_SCALE,
    SHORT_BITS,
    WORD_BYTES,
    product_bits,
    weight_scale,
)
from node.protocols.training import Prepared, RoundShares, TrainingPlan, operands_under, weights
from protos import peer_pb2 as pb

__all__ = ["check_range", "finish", "prepare", "run_round"]

_COEFFICIENT_MIN = 2.0**-20
_WEIGHT_MAX = 1 << 12
"""Largest opened weight on standardised columns: what is computed with weights later stays in machine words below it."""


# ---- one round -----------------------------------------------------------------------------------------------------------------


def run_round(
    ch: Channel,
    *,
    plan: TrainingPlan,
    prepared: Prepared,
    matrix: NDArray[np.int32],
    label: NDArray[np.int8] | None,
    earlier: Sequence[RoundShares],
    round: int,
    slot: int,
    coefficients: Sequence[float],
    lookup_range: float,
    drbg: Drbg,
    limits: Limits,
    engine: Engine | None = None,
    progress: Progress = silent,
) -> RoundShares:
    """One round at the iterate w_0 - sum_j coefficients[j] p_j.

    Args:
        earlier: what rounds 1 to ``round - 1`` left.
        slot: which prepared masks serve; never one that served before.
        coefficients: the coordinator's, one an earlier round.
        lookup_range: a power of two; scores are looked up in [-range, range).  Not used in round 1.
        engine: where the inner products run; None: here.

    Raises:
        UsageError: ``training.no_mask_left``, ``training.bad_directive``.
        PeerError: ``training.directives_differ``, ``protocol.*``, ``paillier.*``.
    """
    _check_directive(plan, earlier, round, slot, coefficients, lookup_range)
    ch.send(pb.DirectiveEcho(coefficients=coefficients, lookup_range=lookup_range))
    echo = ch.recv(pb.DirectiveEcho)
    if list(echo.coefficients) != list(coefficients) or echo.lookup_range != lookup_range:
        raise PeerError("training.directives_differ", "The coordinator gave the two nodes different directions for this round.")
    own_matrix = with_intercept(matrix) if plan.holds_label else matrix
    own_weights, peer_weights = weights(plan, prepared, earlier, coefficients)
    if round == 1:
        residuals = first_residuals(ch, plan, prepared, label, slot, limits)
    else:
        z = _scores(ch, plan, prepared, own_matrix, own_weights, peer_weights, slot, lookup_range, limits)
        residuals = looked_up_residuals(ch, plan, prepared, z, label, slot, lookup_range, limits, progress)
    own_gradient, peer_gradient = _gradient(
        ch, plan, prepared, own_matrix, residuals, own_weights, peer_weights, round > 1, slot, limits
    )
    own_direction, peer_direction = _direction(ch, prepared, own_gradient, peer_gradient, slot, limits)
    directions = [r.direction for r in earlier] + [_ordered(plan, own_direction, peer_direction)]
    products, operands = inner_products(
        ch,
        keys=prepared.keys,
        role=plan.role,
        rows=plan.rows,
        gradient=_ordered(plan, own_gradient, peer_gradient),
        directions=directions,
        operands=operands_under(prepared.peer.n, earlier),
        drbg=drbg,
        engine=engine or InlineEngine(),
        limits=limits,
    )
    renewed = any(row is None for row in operands_under(prepared.peer.n, earlier))
    return RoundShares(
        inner_products=products,
        direction=directions[-1],
        operands=list(operands[-1]),
        peer_n=prepared.peer.n,
        renewed=[list(row) for row in operands[:-1]] if renewed else [],
    )


def _check_directive(
    plan: TrainingPlan, earlier: Sequence[RoundShares], round: int, slot: int, coefficients: Sequence[float], lookup_range: float
) -> None:
    if len(earlier) != round - 1:
        raise _bad_directive(f"Round {round} follows {round - 1} rounds; this node has {len(earlier)}.")
    _check_coefficients(earlier, coefficients)
    if round > 1:
        check_range(lookup_range)
    if not 0 <= slot < plan.slots or (round > 1 and slot < 1):
        raise UsageError(
            "training.no_mask_left",
            f"All {plan.slots} prepared masks have served (one a round and one to spare).",
            remedy="Submit the job again.",
        )


def _check_coefficients(earlier: Sequence[RoundShares], coefficients: Sequence[float]) -> None:
    if len(coefficients) != len(earlier):
        raise _bad_directive(f"{len(earlier)} coefficients are needed, {len(coefficients)} were given.")
    if not all(math.isfinite(c) and abs(c) <= COEFFICIENT_MAX for c in coefficients):
        raise _bad_directive("A step coefficient is not a number of reasonable size.")
    if coefficients and not any(abs(c) >= _COEFFICIENT_MIN for c in coefficients):
        # The shares of the iterate would not be uniform, and could not be cut.
        raise _bad_directive("Every step coefficient is zero.")


def _bad_directive(reason: str) -> UsageError:
    remedy = "Ask the coordinator's operator: the job can't go on with these directions."
    return UsageError("training.bad_directive", reason, remedy=remedy)


def check_range(lookup_range: float) -> int:
    """log2 of a lookup range, which must be a power of two from 1/16 to 65536.

    Raises:
        UsageError: ``training.bad_directive``.
    """
    mantissa, exponent = math.frexp(lookup_range) if math.isfinite(lookup_range) else (0.0, 0)
    if mantissa != 0.5 or not RANGE_MIN <= lookup_range <= RANGE_MAX:
        raise _bad_directive("The lookup range is not a power of two from 1/16 to 65536.")
    return exponent - 1


def _ordered(plan: TrainingPlan, own: list[int], peer: list[int]) -> list[int]:
    return own + peer if plan.holds_label else peer + own


def _scores(
    ch: Channel,
    plan: TrainingPlan,
    prepared: Prepared,
    own_matrix: NDArray[np.int32],
    own_weights: list[int],
    peer_weights: list[int],
    slot: int,
    lookup_range: float,
    limits: Limits,
) -> NDArray[np.uint64]:
    """Own share of z = X_L w_L + X_F w_F modulo 2**k, k bits covering [-range, range)."""
    k = prepared.score_bits
    shift = weight_scale(plan.rows) - (k - FEATURE_SCALE - 1 - check_range(lookup_range))
    own, peer = (reduce(truncate(w, shift, SHORT_BITS, plan.role), k) for w in (own_weights, peer_weights))
    masks = prepared.score_masks[slot - 1]
    masked = [w - m for w, m in zip(peer, masks, strict=True)]
    send_ring(ch, pb.MaskedWeights, masked, bits=k, batch=limits.vector_batch)
    received = receive_ring(ch, pb.MaskedWeights, count=len(own), bits=k, batch=limits.vector_batch)
    local = scores(own_matrix, [a + b for a, b in zip(own, received, strict=True)], k)
    return (local + prepared.score_v[slot - 1] + prepared.score_u[slot - 1]) & word_mask(k)


def _gradient(
    ch: Channel,
    plan: TrainingPlan,
    prepared: Prepared,
    own_matrix: NDArray[np.int32],
    residuals: NDArray[np.int64],
    own_weights: list[int],
    peer_weights: list[int],
    penalised: bool,
    slot: int,
    limits: Limits,
) -> tuple[list[int], list[int]]:
    """Own shares of g = X'e + n l2 w for the own and the peer's block, modulo 2**SHORT_BITS."""
    own = column_sums(own_matrix, limbs_of_int64(residuals))
    if plan.holds_label:
        data = receive_values(ch, pb.MaskedResiduals, count=plan.rows, width=WORD_BYTES, batch=limits.vector_batch)
        crossed = column_sums(own_matrix, limbs_of_bytes(data, WORD_BYTES))
        own = [a - b for a, b in zip(own, crossed, strict=True)]
    else:
        # The feature holder's matrix meets the residual share r itself, which was the label holder's mask: nothing to send
        # that way.
        masked = mask_residuals(residuals, prepared.residual_masks[slot])
        send_values(ch, pb.MaskedResiduals, masked, width=WORD_BYTES, batch=limits.vector_batch)
    own = [a + b for a, b in zip(own, prepared.column_v[slot], strict=True)]
    result, ring = [], product_bits(plan.rows)
    blocks = ((own, own_weights, plan.holds_label), (prepared.column_u[slot], peer_weights, not plan.holds_label))
    for products, block, has_intercept in blocks:
        shares = lift(reduce(products, ring), ring, SHORT_BITS, plan.role)
        # Before the first step the penalty's weights are public zeros, not shares that could be cut.
        penalty = _penalty(plan, block) if penalised else [0] * len(block)
        if has_intercept:
            penalty[0] = 0
        result.append(reduce([a + b for a, b in zip(shares, penalty, strict=True)], SHORT_BITS))
    return result[0], result[1]


def _penalty(plan: TrainingPlan, block: list[int]) -> list[int]:
    """Shares of n l2 w at GRADIENT_SCALE."""
    factor = round(plan.l2 * plan.rows * (1 << PENALTY_SCALE))
    if factor == 0:
        # Times zero both shares are zero, not uniform, and could not be cut.
        return [0] * len(block)
    cut = truncate(block, weight_scale(plan.rows) - PENALTY_WEIGHT_SCALE, SHORT_BITS, plan.role)
    shift = PENALTY_WEIGHT_SCALE + PENALTY_SCALE - GRADIENT_SCALE
    return truncate([factor * w for w in cut], shift, SHORT_BITS, plan.role)


def _direction(
    ch: Channel, prepared: Prepared, own_gradient: list[int], peer_gradient: list[int], slot: int, limits: Limits
) -> tuple[list[int], list[int]]:
    """Own shares of n p = P g for the own and the peer's block."""
    masked = [g - m for g, m in zip(peer_gradient, prepared.gradient_masks[slot], strict=True)]
    send_ring(ch, pb.MaskedGradients, masked, bits=SHORT_BITS, batch=limits.vector_batch)
    received = receive_ring(ch, pb.MaskedGradients, count=len(own_gradient), bits=SHORT_BITS, batch=limits.vector_batch)
    total = [a + b for a, b in zip(own_gradient, received, strict=True)]
    products = matrix_times(prepared.preconditioner, total, SHORT_BITS)
    own = reduce([a + b for a, b in zip(products, prepared.gradient_v[slot], strict=True)], SHORT_BITS)
    return own, prepared.gradient_u[slot]


# ---- finish --------------------------------------------------------------------------------------------------------------------


def finish(
    ch: Channel,
    *,
    plan: TrainingPlan,
    prepared: Prepared,
    earlier: Sequence[RoundShares],
    coefficients: Sequence[float],
    limits: Limits,
) -> NDArray[np.float64]:
    """Each party sends its share of the other's weights, cut to OPENED_WEIGHT_SCALE.

    Returns:
        Own weights on standardised columns, float64; the label holder's intercept first.

    Raises:
        UsageError: ``training.bad_directive``.
        PeerError: ``training.directives_differ``, ``training.weight_range``, ``protocol.*``.
    """
    if not coefficients:
        raise _bad_directive("The training can't end before its first step.")
    _check_coefficients(earlier, coefficients)
    ch.send(pb.DirectiveEcho(coefficients=coefficients))
    if list(ch.recv(pb.DirectiveEcho).coefficients) != list(coefficients):
        raise PeerError("training.directives_differ", "The coordinator gave the two nodes different directions for the end.")
    shift = weight_scale(plan.rows) - OPENED_WEIGHT_SCALE
    own, peer = (truncate(w, shift, SHORT_BITS, plan.role) for w in weights(plan, prepared, earlier, coefficients))
    send_ring(ch, pb.WeightShares, peer, bits=SHORT_BITS, batch=limits.vector_batch)
    received = receive_ring(ch, pb.WeightShares, count=len(own), bits=SHORT_BITS, batch=limits.vector_batch)
    opened = [signed(a + b, SHORT_BITS) for a, b in zip(own, received, strict=True)]
    if any(abs(v) >> OPENED_WEIGHT_SCALE >= _WEIGHT_MAX for v in opened):
        raise PeerError(
            "training.weight_range",
            f"An opened weight is beyond {_WEIGHT_MAX}: the peer's share does not belong to this node's.",
            remedy="Submit the job again; if it recurs, compare the two nodes' versions and logs.",
        )
    return np.array([float(Fraction(v, 1 << OPENED_WEIGHT_SCALE)) for v in opened], dtype=np.float64)
