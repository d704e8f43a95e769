"""The inner products K_tj = g_t'p_j / n of shared vectors (protocols.md, section 5, item 5).

Both parties hold shares of g_t and of every earlier p_j.  The products of one's share with the other's are taken under Paillier::

    A                                                   B
    Enc_A(p_t share), once a round     ---- operands --->  prod_i Enc_A(p_j[i])^(g_t[i] share) for every j <= t,
                                       <--- results ----   masked, re-randomised
    part_A = own products + opened - ...                 part_B = own products - mask
                                   <-- parts -->          K = part_A + part_B, opened to both and reported to the coordinator

and the same with A and B exchanged, at once.  The design had each party send its part to the coordinator, which would
add them.  Here the nodes add them and both report the sum: they learn K anyway, the control protocol needs no field that
holds a share, and the coordinator can tell when the two disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from gmpy2 import mpz

from node.crypto.drbg import Drbg
from node.engine import Engine, batches
from node.limits import Limits
from node.protocols.batches import receive_ring, send_ring
from node.protocols.channel import Channel
from node.protocols.masked_product import JobKeys, swap_ciphertexts
from node.protocols.rings import Role, reduce, signed, truncate
from node.protocols.scales import (
    DIRECTION_SCALE,
    GRADIENT_SCALE,
    OPENED_PRODUCT_SCALE,
    SHORT_BITS,
    STATISTICAL_BITS,
    log2_ceil,
)
from protos import peer_pb2 as pb


def opened_shift(rows: int) -> int:
    """Bits cut from g'p before it is opened.

    g'p = K n**2 2**(GRADIENT_SCALE + DIRECTION_SCALE); what stays resolves K to about 2**-OPENED_PRODUCT_SCALE.
    """
    return GRADIENT_SCALE + DIRECTION_SCALE + 2 * (rows.bit_length() - 1) - OPENED_PRODUCT_SCALE


def inner_products(
    ch: Channel,
    *,
    keys: JobKeys,
    role: Role,
    rows: int,
    gradient: Sequence[int],
    directions: Sequence[Sequence[int]],
    operands: Sequence[Sequence[mpz] | None],
    drbg: Drbg,
    engine: Engine,
    limits: Limits,
) -> tuple[list[float], list[Sequence[mpz]]]:
    """K_t1..K_tt, the same doubles on both sides.

    Args:
        gradient: own share of g_t, both blocks in the order label holder, feature holder; modulo 2**SHORT_BITS.
        directions: own shares of p_1..p_t, likewise.
        operands: the peer's ciphertexts of its shares of p_1..p_(t-1); None for those under a key that is gone since the
            preparation was run again, the same ones on both sides: they are exchanged once more under the present keys.

    Returns:
        The inner products, and the peer's ciphertexts of its shares of p_1..p_t under its present key, for the next rounds.
    """
    stale = [j for j, row in enumerate(operands) if row is None]
    values = [value for j in (*stale, len(operands)) for value in directions[j]]
    mine = keys.encryptor.encrypt(values, drbg.stream("operands"))
    received = swap_ciphertexts(ch, pb.DotOperands, mine, keys.own.public, count=len(mine), key=keys.peer, limits=limits)
    size = len(gradient)
    rows_received = iter([received[first : first + size] for first in range(0, len(received), size)])
    current: list[Sequence[mpz]] = [row if row is not None else next(rows_received) for row in [*operands, None]]
    crossed = batches.dot_products(engine, keys.peer, current, gradient)
    mask_bits = 2 * SHORT_BITS + log2_ceil(len(gradient)) + STATISTICAL_BITS
    masks = drbg.stream("inner product masks").bits_many(len(crossed), mask_bits)
    hidden = keys.peer_encryptor.rerandomise(crossed, drbg.stream("inner products encryption"), add=masks)
    answers = swap_ciphertexts(ch, pb.DotResults, hidden, keys.peer, count=len(hidden), key=keys.own.public, limits=limits)
    opened = batches.decrypt_all(engine, keys.own, answers)
    local = [sum(a * b for a, b in zip(gradient, row, strict=True)) for row in directions]
    parts = reduce([own + theirs - mask for own, theirs, mask in zip(local, opened, masks, strict=True)], SHORT_BITS)
    shift = opened_shift(rows)
    cut = truncate(parts, shift, SHORT_BITS, role)
    send_ring(ch, pb.InnerProductParts, cut, bits=SHORT_BITS, batch=limits.vector_batch)
    other = receive_ring(ch, pb.InnerProductParts, count=len(cut), bits=SHORT_BITS, batch=limits.vector_batch)
    scale = Fraction(rows * rows << (GRADIENT_SCALE + DIRECTION_SCALE), 1 << shift)
    return [float(signed(a + b, SHORT_BITS) / scale) for a, b in zip(cut, other, strict=True)], current
