"""Masked products: the one use of Paillier in training (protocols.md, section 3).

P holds an integer matrix M, Q will later hold secret vectors s_1..s_T.  Before any s_t exists they prepare m_t, u_t (at Q)
and v_t (at P) with u_t + v_t = M m_t::

    Q                                                     P
    m_t uniform; c_j = Enc(pack_t m_t[j])   ---- masks --->  raises M to M' = M + 2^(b-1), so that exponents are non-negative
                                                             prod_j c_j^M'_ij, adds a mask to every slot, re-randomises
    decrypts; u_t = slot_t - 2^(b-1) sum m_t  <- products --  v_t = -mask_t

In round t, Q sends d = s_t - m_t; M d + v_t at P and u_t at Q are shares of M s_t.  A slot serves once.

All slots of a ciphertext, of all its rows and rounds, are hidden by *one* mask, uniform and STATISTICAL_BITS wider than they are
together; slot by slot the two shares then sum to the product, or to one more, where the slots below carry.  One unit is 2**-26 of a
gradient's, and 2**-16 of a lookup's window or less; a mask for each slot would take 41 more bits of every slot.

Each party is P for its own matrix and Q for the other's at the same time, so every function here is symmetric: both send, both
receive, both work.  A party sends ``Limits.batches_ahead`` batches before it waits for the first of the other's
(:func:`node.protocols.batches.ahead`), so encryption here, transfer and products there go on at once, and no more batches than
that are unread in a direction.  Heavy loops are handed to the engine as streams; it computes ahead of what is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from node.crypto.drbg import Drbg, Stream
from node.crypto.packing import pack_slots, unpack_slots
from node.crypto.paillier import Decryptor, OwnerEncryptor, PeerEncryptor
from node.crypto.paillier_keys import PublicKey, SecretKey
from node.engine import Engine, batches
from node.limits import Limits
from node.protocols.batches import ahead, receive_ciphertexts, send_ciphertexts
from node.protocols.channel import Channel, Progress
from node.protocols.rings import word_mask
from node.protocols.scales import ENTRY_BITS, ENTRY_OFFSET, PRECONDITIONER_BITS, STATISTICAL_BITS, SlotLayout
from protos import peer_pb2 as pb

_COLUMNS_AT_ONCE = 64
"""Preconditioner columns multiplied at once: bounds the buckets' memory for wide data."""


@dataclass(frozen=True)
class JobKeys:
    """One party's own key pair and the peer's public key, with the tables for encryption under both."""

    own: SecretKey = field(repr=False)
    peer: PublicKey
    encryptor: OwnerEncryptor = field(repr=False)
    decryptor: Decryptor = field(repr=False)
    peer_encryptor: PeerEncryptor = field(repr=False)

    @classmethod
    def of(cls, own: SecretKey, peer: PublicKey) -> JobKeys:
        """Build the encryption tables once for a step."""
        return cls(own, peer, OwnerEncryptor(own), Decryptor(own), PeerEncryptor(peer))


def _draw_masks(count: int, layout: SlotLayout, slots: int, stream: Stream) -> list[int]:
    """Masks for ``count`` ciphertexts of ``slots`` slots in each row."""
    return stream.bits_many(count, layout.hiding_bits(slots))


def _slots_of(plaintexts: Sequence[int], layout: SlotLayout, slots: int, *, opened: bool = False) -> list[list[int]]:
    """The slots of masks, or of ``opened`` sums of products and masks, one list a ciphertext: by row, then by round."""
    count = slots * layout.rows
    return [unpack_slots(value, layout.slot_bits, count, above=STATISTICAL_BITS + opened) for value in plaintexts]


def _hide(
    products: Sequence[mpz], keys: JobKeys, layout: SlotLayout, slots: int, *, masks: Stream, noise: Stream
) -> tuple[list[mpz], list[list[int]]]:
    """Add a fresh mask to every product and re-randomise; also returns the masks, one list of slots a product."""
    packed = _draw_masks(len(products), layout, slots, masks)
    return keys.peer_encryptor.rerandomise(products, noise, add=packed), _slots_of(packed, layout, slots)


def swap_ciphertexts(
    ch: Channel, kind: type[Any], mine: Sequence[mpz], my_key: PublicKey, *, count: int, key: PublicKey, limits: Limits
) -> list[mpz]:
    """Send ciphertexts under ``my_key`` and receive ``count`` under ``key``, batch by batch."""
    batch = limits.ciphertext_batch

    def send(step: int) -> None:
        if part := mine[step * batch : (step + 1) * batch]:
            send_ciphertexts(ch, kind, part, my_key, first=step * batch)

    def receive(step: int) -> list[mpz]:
        left = min(batch, count - step * batch)
        return receive_ciphertexts(ch, kind, key, first=step * batch, count=left) if left > 0 else []

    steps = -(-max(len(mine), count) // batch)
    return [ciphertext for part in ahead(steps, limits.batches_ahead, send, receive) for ciphertext in part]


# ---- X'e: column products ------------------------------------------------------------------------------------------------------


def pack_words(masks: NDArray[np.uint64], slot_bits: int, rows_each: int) -> list[int]:
    """One plaintext for every ``rows_each`` rows, from masks of shape (slots, rows), at byte-aligned slots."""
    slots, rows = masks.shape
    packed = np.zeros((-(-rows // rows_each) * rows_each, slots, slot_bits // 8), dtype=np.uint8)
    packed[:rows, :, :8] = np.ascontiguousarray(masks.T.astype("<u8")).view(np.uint8).reshape(rows, slots, 8)
    data, width = packed.tobytes(), rows_each * slots * slot_bits // 8
    return [int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)]


def _mask_totals(masks: NDArray[np.uint64]) -> list[int]:
    """sum over rows of each slot's masks."""
    low, high = (masks & np.uint64(0xFFFFFFFF)).sum(axis=1), (masks >> np.uint64(32)).sum(axis=1)
    return [a + (b << 32) for a, b in zip(low.tolist(), high.tolist(), strict=True)]


def _side_by_side(entries: NDArray[np.integer], rows_each: int) -> NDArray[np.integer]:
    """The rows that share a ciphertext side by side in one, zeros for those beyond the last."""
    padded = np.pad(entries, ((0, -len(entries) % rows_each), (0, 0)))
    return padded.reshape(-1, rows_each * entries.shape[1])


def _own_slots(products: list[list[int]], columns: int, group: int) -> list[list[int]]:
    """[slot][column] from the slots of products of :func:`_side_by_side` columns.

    Product s * columns + j holds the sum of x_ij m_i over every ``rows_each``-th row i, from the s-th, in the slots of its s-th
    row; what is in its other slots has no meaning.
    """
    rows_each = len(products) // columns
    return [[sum(products[s * columns + j][s * group + t] for s in range(rows_each)) for j in range(columns)] for t in range(group)]


def exchange_column_products(
    ch: Channel,
    *,
    keys: JobKeys,
    matrix: NDArray[np.int32],
    masks: NDArray[np.uint64],
    peer_columns: int,
    layout: SlotLayout,
    drbg: Drbg,
    engine: Engine,
    limits: Limits,
    progress: Progress,
) -> tuple[list[list[int]], list[list[int]]]:
    """Prepare X'e for both parties' matrices.

    Args:
        matrix: own X, shape (rows, columns), |entry| <= 8191.
        masks: own m_t, shape (slots, rows), below 2**63.
        layout: the same on both sides (:func:`node.protocols.scales.column_layout`).

    Returns:
        (u, v): u[slot][peer column] as mask holder, v[slot][own column] as matrix holder, modulo 2**layout.ring_bits.
    """
    slots, rows = masks.shape
    each = layout.rows
    noise, hiding, hiding_noise = (drbg.stream(f"column {what}") for what in ("encryption", "masks", "masks encryption"))
    modulus, parts = (1 << layout.ring_bits) - 1, list(_parts(rows, each * limits.ciphertext_batch))
    u: list[list[int]] = []
    v: list[list[int]] = []
    for start, group in layout.groups_of(slots):
        chosen = masks[start : start + group]
        plaintexts = (pack_words(chosen[:, part], layout.slot_bits, each) for part in parts)
        encrypted = batches.encrypt(engine, keys.own, plaintexts, noise, expected=-(-rows // each) * layout.groups)

        def send(step: int, encrypted: Iterator[list[mpz]] = encrypted) -> None:
            send_ciphertexts(ch, pb.ColumnMasks, next(encrypted), keys.own.public, first=parts[step].start)

        def receive(step: int, start: int = start, group: int = group) -> tuple[list[mpz], NDArray[np.integer]]:
            part = parts[step]
            count = -(-(part.stop - part.start) // each)
            theirs = receive_ciphertexts(ch, pb.ColumnMasks, keys.peer, first=part.start, count=count)
            progress("encrypting masks", start * rows + part.stop * group, slots * rows)
            return theirs, _side_by_side(matrix[part] + ENTRY_OFFSET, each)

        swapped = ahead(len(parts), limits.batches_ahead, send, receive)
        products = batches.column_products(
            engine,
            keys.peer,
            swapped,
            columns=each * matrix.shape[1],
            entry_bits=ENTRY_BITS,
            expected_rows=-(-rows // each),
        )
        hidden, added = _hide(products, keys, layout, group, masks=hiding, noise=hiding_noise)
        answers = swap_ciphertexts(
            ch, pb.ColumnProducts, hidden, keys.peer, count=each * peer_columns, key=keys.own.public, limits=limits
        )
        opened = batches.decrypt_all(engine, keys.own, answers)
        sums = _own_slots(_slots_of(opened, layout, group, opened=True), peer_columns, group)
        u += [
            [(value - ENTRY_OFFSET * total) & modulus for value in row]
            for row, total in zip(sums, _mask_totals(chosen), strict=True)
        ]
        v += [[-value & modulus for value in row] for row in _own_slots(added, matrix.shape[1], group)]
    return u, v


def _parts(rows: int, batch: int) -> Iterator[slice]:
    """Consecutive slices of at most ``batch`` rows."""
    return (slice(first, min(first + batch, rows)) for first in range(0, rows, batch))


# ---- X w: row products -----------------------------------------------------------------------------------------------------------


def exchange_row_products(
    ch: Channel,
    *,
    keys: JobKeys,
    matrix: NDArray[np.int32],
    masks: Sequence[Sequence[int]],
    layout: SlotLayout,
    peer_layout: SlotLayout,
    drbg: Drbg,
    engine: Engine,
    limits: Limits,
    progress: Progress,
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Prepare X w for both parties' matrices.

    Args:
        matrix: own X, shape (rows, columns).
        masks: own m_t: masks[slot][peer column], uniform modulo 2**ring_bits.
        layout: of products of the own matrix; ``peer_layout`` of the peer's.  Both have the same ring.

    Returns:
        (u, v), uint64 of shape (slots, rows) modulo 2**ring_bits: u as mask holder (the peer's matrix), v as matrix holder.
    """
    rows, slots = len(matrix), len(masks)
    ring = word_mask(layout.ring_bits)
    u, v = np.zeros((slots, rows), dtype=np.uint64), np.zeros((slots, rows), dtype=np.uint64)
    noise, hiding, hiding_noise = (drbg.stream(f"row {what}") for what in ("encryption", "masks", "masks encryption"))
    # A batch is a multiple of both sides' rows in a ciphertext; each side's ciphertexts of a batch go as one message.
    batch = layout.rows * peer_layout.rows * max(1, limits.ciphertext_batch // max(layout.rows, peer_layout.rows))
    parts = list(_parts(rows, batch))
    own_groups, peer_groups = layout.groups_of(slots), peer_layout.groups_of(slots)
    steps = max(len(own_groups), len(peer_groups))
    for i in range(steps):
        mine = _pack_columns(masks, peer_groups[i], peer_layout) if i < len(peer_groups) else []
        bases = swap_ciphertexts(
            ch,
            pb.RowMasks,
            keys.encryptor.encrypt(mine, noise),
            keys.own.public,
            count=matrix.shape[1] if i < len(own_groups) else 0,
            key=keys.peer,
            limits=limits,
        )
        hidden: Iterator[list[mpz]] = iter(())
        if bases:
            hidden = _hidden_rows(keys, bases, matrix, layout, own_groups[i], batch, v, engine, hiding, hiding_noise)

        def send(step: int, hidden: Iterator[list[mpz]] = hidden, sending: bool = bool(bases), i: int = i) -> None:
            if sending:
                send_ciphertexts(ch, pb.RowProducts, next(hidden), keys.peer, first=parts[step].start)
            # Told here: of wide matrices the batches that are sent ahead take a minute before any is received.
            progress("multiplying rows", i * rows + parts[step].stop, steps * rows)

        def receive(step: int, i: int = i) -> list[mpz]:
            part = parts[step]
            count = -(-(part.stop - part.start) // peer_layout.rows) if i < len(peer_groups) else 0
            return receive_ciphertexts(ch, pb.RowProducts, keys.own.public, first=part.start, count=count) if count else []

        swapped = ahead(len(parts), limits.batches_ahead, send, receive)
        for part, opened in zip(parts, batches.decrypt(engine, keys.own, swapped), strict=True):
            if opened:
                start, group = peer_groups[i]
                sums = _slots_of(opened, peer_layout, group, opened=True)
                u[start : start + group, part] = _unfold(sums, part.stop - part.start, group, ring)
    # Products were taken with raised entries; and the matrix holder's share is minus the mask.
    totals = np.array([(ENTRY_OFFSET * sum(m)) % 2**64 for m in masks], dtype=np.uint64)
    return (u - totals[:, None]) & ring, (np.uint64(0) - v) & ring


def _hidden_rows(
    keys: JobKeys,
    bases: Sequence[mpz],
    matrix: NDArray[np.int32],
    layout: SlotLayout,
    slots: tuple[int, int],
    batch: int,
    v: NDArray[np.uint64],
    engine: Engine,
    masks: Stream,
    noise: Stream,
) -> Iterator[list[mpz]]:
    """The masked products of the own rows, batch by batch; each batch's masks are noted in ``v`` as they are drawn."""
    (start, group), rows = slots, len(matrix)
    products = batches.row_products(
        engine,
        keys.peer,
        bases,
        (matrix[part] + ENTRY_OFFSET for part in _parts(rows, batch)),
        entry_bits=ENTRY_BITS,
        shifts=[k * group * layout.slot_bits for k in range(layout.rows)],
        expected_rows=rows,
    )

    def masked() -> Iterator[tuple[list[mpz], list[int]]]:
        for part, items in zip(_parts(rows, batch), products, strict=True):
            packed = _draw_masks(len(items), layout, group, masks)
            v[start : start + group, part] = _unfold(
                _slots_of(packed, layout, group), part.stop - part.start, group, word_mask(layout.ring_bits)
            )
            yield items, packed

    return batches.rerandomise(engine, keys.peer, masked(), noise, expected=-(-rows // layout.rows))


def _pack_columns(masks: Sequence[Sequence[int]], slots: tuple[int, int], layout: SlotLayout) -> list[int]:
    """One plaintext a column: the masks of a group of slots."""
    start, group = slots
    return [pack_slots([masks[start + t][j] for t in range(group)], layout.slot_bits) for j in range(len(masks[0]))]


def _unfold(slots: list[list[int]], rows: int, group: int, ring: np.uint64) -> NDArray[np.uint64]:
    """Slot lists of ciphertexts (row-major: row of the ciphertext, then round) to an array (group, rows)."""
    low = int(ring)
    flat = np.array([[value & low for value in item] for item in slots], dtype=np.uint64)
    return flat.reshape(-1, group)[:rows].T


# ---- P g: the preconditioner -----------------------------------------------------------------------------------------------------


def exchange_preconditioner_products(
    ch: Channel,
    *,
    keys: JobKeys,
    matrix: Sequence[Sequence[int]],
    masks: Sequence[Sequence[int]],
    layout: SlotLayout,
    peer_layout: SlotLayout,
    drbg: Drbg,
    engine: Engine,
    limits: Limits,
) -> tuple[list[list[int]], list[list[int]]]:
    """Prepare P g for both parties' preconditioners.

    Args:
        matrix: own P at scale PRECONDITIONER_SCALE, symmetric, |entry| < 2**(PRECONDITIONER_BITS - 1).
        masks: own m_t: masks[slot][peer column], uniform modulo 2**ring_bits.

    Returns:
        (u, v): u[slot][peer column], v[slot][own column], modulo 2**ring_bits.
    """
    slots, own_columns, peer_columns = len(masks), len(matrix), len(masks[0])
    noise, hiding, hiding_noise = (drbg.stream(f"preconditioner {what}") for what in ("encryption", "masks", "masks encryption"))
    offset = 1 << (PRECONDITIONER_BITS - 1)
    raised = np.array(matrix, dtype=np.int64) + offset
    modulus = (1 << layout.ring_bits) - 1
    own_groups, peer_groups = layout.groups_of(slots), peer_layout.groups_of(slots)
    u: list[list[int]] = []
    v: list[list[int]] = []
    for i in range(max(len(own_groups), len(peer_groups))):
        mine = keys.encryptor.encrypt(_pack_columns(masks, peer_groups[i], peer_layout) if i < len(peer_groups) else [], noise)
        here, there = i < len(own_groups), i < len(peer_groups)
        count = own_columns if here else 0
        theirs = swap_ciphertexts(ch, pb.PreconditionerMasks, mine, keys.own.public, count=count, key=keys.peer, limits=limits)
        hidden: list[mpz] = []
        if here:
            group = own_groups[i][1]
            products = batches.square_products(
                engine, keys.peer, theirs, raised, entry_bits=PRECONDITIONER_BITS, columns_at_once=_COLUMNS_AT_ONCE
            )
            hidden, added = _hide(products, keys, layout, group, masks=hiding, noise=hiding_noise)
            v += [[-row[t] & modulus for row in added] for t in range(group)]
        answers = swap_ciphertexts(
            ch,
            pb.PreconditionerProducts,
            hidden,
            keys.peer,
            count=peer_columns if there else 0,
            key=keys.own.public,
            limits=limits,
        )
        if there:
            start, group = peer_groups[i]
            opened = batches.decrypt_all(engine, keys.own, answers)
            sums = _slots_of(opened, peer_layout, group, opened=True)
            u += [[(row[t] - offset * sum(masks[start + t])) & modulus for row in sums] for t in range(group)]
    return u, v
