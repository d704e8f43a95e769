"""Masked products u + v = M m against plain integers, and what a message out of place does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from node.crypto.drbg import Drbg
from node.crypto.packing import ciphertexts_from_bytes
from node.crypto.paillier_keys import generate_key
from node.engine import InlineEngine
from node.errors import PeerError
from node.limits import LIMITS, Limits
from node.protocols.channel import silent
from node.protocols.inner_products import inner_products
from node.protocols.masked_product import (
    JobKeys,
    exchange_column_products,
    exchange_preconditioner_products,
    exchange_row_products,
)
from node.protocols.preconditioner import gram, preconditioner
from node.protocols.scales import (
    DIRECTION_SCALE,
    GRADIENT_SCALE,
    column_layout,
    preconditioner_layout,
    score_bits,
    score_layout,
)
from protos import peer_pb2 as pb
from tests.pair import run_pair
from tests.training import ROLES

ROWS, COLUMNS, SLOTS = 23, (3, 5), 4
SMALL = Limits(ciphertext_batch=4)


def keys_of(side: int) -> JobKeys:
    own, peer = (generate_key(512, drbg(s, "keys").stream("key")) for s in (side, 1 - side))
    return JobKeys.of(own, peer.public)


def drbg(side: int, step: str) -> Drbg:
    return Drbg(bytes([side + 1]) * 32, job="j", step=step)


def matrices() -> list[Any]:
    rng = np.random.default_rng(5)
    return [rng.integers(-8191, 8192, size=(ROWS, c), dtype=np.int32) for c in COLUMNS]


@pytest.mark.parametrize(("limits", "slots", "rows_each"), [(LIMITS, 6, 1), (SMALL, 4, 1), (LIMITS, 2, 2), (SMALL, 1, 4)])
def test_column_products(limits: Limits, slots: int, rows_each: int) -> None:
    data, rng = matrices(), np.random.default_rng(6)
    masks = [rng.integers(0, 2**63, size=(slots, ROWS), dtype=np.uint64) for _ in ROLES]
    layout = column_layout(plaintext_bits=510, rows=ROWS, slots=slots)
    assert layout.rows == rows_each

    def half(side: int) -> Any:
        return lambda ch: exchange_column_products(
            ch,
            keys=keys_of(side),
            matrix=data[side],
            masks=masks[side],
            peer_columns=COLUMNS[1 - side],
            layout=layout,
            drbg=drbg(side, "columns"),
            engine=InlineEngine(),
            limits=limits,
            progress=silent,
        )

    (left_u, left_v), (right_u, right_v) = run_pair(half(0), half(1)).results()
    for side, u, v in ((0, right_u, left_v), (1, left_u, right_v)):
        plain = masks[1 - side].tolist()
        for t in range(slots):
            for j in range(COLUMNS[side]):
                expected = sum(int(data[side][i, j]) * plain[t][i] for i in range(ROWS))
                assert (u[t][j] + v[t][j] - expected) % 2**layout.ring_bits in range(rows_each + 1)
        for share in (u, v):
            size = layout.ring_bits // 8
            octets = np.frombuffer(b"".join(value.to_bytes(size) for slot in share for value in slot), dtype=np.uint8)
            assert_uniform(octets >> 5, cells=8)


def test_one_mask_hides_all_slots_of_a_ciphertext() -> None:
    """What the key's owner opens: the products, all rows and rounds together, under a mask 40 bits wider than they are."""
    layout = column_layout(plaintext_bits=510, rows=ROWS, slots=2)
    data, zeros = matrices(), np.zeros((2, ROWS), dtype=np.uint64)

    def half(side: int) -> Any:
        return lambda ch: exchange_column_products(
            ch,
            keys=keys_of(side),
            matrix=data[side],
            masks=zeros,
            peer_columns=COLUMNS[1 - side],
            layout=layout,
            drbg=drbg(side, "columns"),
            engine=InlineEngine(),
            limits=LIMITS,
            progress=silent,
        )

    outcome = run_pair(half(0), half(1))
    outcome.results()
    for side, sent in ((1, outcome.left_sent), (0, outcome.right_sent)):
        values = pb.ColumnProducts.FromString(next(payload for kind, payload in sent if kind == "ColumnProducts")).values
        own = keys_of(side)
        count = layout.rows * COLUMNS[1 - side]
        opened = own.decryptor.decrypt(ciphertexts_from_bytes(values, count, own.own.public))
        assert len(set(opened)) == count
        assert all(value.bit_length() <= layout.packed_bits(2) + 41 for value in opened)
        assert max(opened).bit_length() > layout.packed_bits(2) + 32


def test_rows_are_told_of_before_the_peer_has_sent_any() -> None:
    """Of a wide matrix the batches that go ahead take a minute: nobody should see a step that stands still."""
    data, slots = matrices(), 6
    k = score_bits(plaintext_bits=510, columns=max(COLUMNS), slots=slots)
    layout = score_layout(plaintext_bits=510, columns=max(COLUMNS), slots=slots, ring_bits=k)
    told: tuple[list[Any], list[Any]] = ([], [])

    class Heard:
        """Notes how often the peer was heard before each word of progress."""

        def __init__(self, ch: Any, said: list[Any]) -> None:
            self.ch, self.said, self.heard = ch, said, 0
            self.send = ch.send

        def recv(self, kind: Any) -> Any:
            self.heard += kind is pb.RowProducts
            return self.ch.recv(kind)

        def progress(self, phase: str, done: int, total: int) -> None:
            self.said.append((phase, done, total, self.heard))

    def half(side: int) -> Any:
        def run(ch: Any) -> Any:
            link = Heard(ch, told[side])
            return exchange_row_products(
                link,
                keys=keys_of(side),
                matrix=data[side],
                masks=[[0] * COLUMNS[1 - side]] * slots,
                layout=layout,
                peer_layout=layout,
                drbg=drbg(side, "rows"),
                engine=InlineEngine(),
                limits=Limits(ciphertext_batch=1),
                progress=link.progress,
            )

        return run

    run_pair(half(0), half(1)).results()
    for said in told:
        phases, done, totals, heard = (list(part) for part in zip(*said, strict=True))
        assert set(phases) == {"multiplying rows"}
        assert done == sorted(done)
        assert done[-1] == totals[-1]
        assert totals[-1] % ROWS == 0
        assert heard[0] == 0
        assert heard.count(0) > 1


def assert_uniform(values: Any, *, cells: int) -> None:
    """A share alone is indistinguishable from uniform."""
    counts = np.bincount(np.asarray(values).ravel().astype(np.int64), minlength=cells)
    assert chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize("slots", [2, 4, 7])
def test_row_products(slots: int) -> None:
    data = matrices()
    k = score_bits(plaintext_bits=510, columns=max(COLUMNS), slots=slots)
    layouts = [score_layout(plaintext_bits=510, columns=c, slots=slots, ring_bits=k) for c in COLUMNS]
    masks = [[drbg(s, f"m{t}").stream("m").bits_many(COLUMNS[1 - s], k) for t in range(slots)] for s in (0, 1)]

    def half(side: int) -> Any:
        return lambda ch: exchange_row_products(
            ch,
            keys=keys_of(side),
            matrix=data[side],
            masks=masks[side],
            layout=layouts[side],
            peer_layout=layouts[1 - side],
            drbg=drbg(side, "rows"),
            engine=InlineEngine(),
            limits=SMALL,
            progress=silent,
        )

    (left_u, left_v), (right_u, right_v) = run_pair(half(0), half(1)).results()
    for side, u, v in ((0, right_u, left_v), (1, left_u, right_v)):
        for t in range(slots):
            for i in range(ROWS):
                expected = sum(int(a) * m for a, m in zip(data[side][i], masks[1 - side][t], strict=True))
                assert (int(u[t, i]) + int(v[t, i]) - expected) % 2**k in (0, 1)
        assert_uniform(u >> np.uint64(k - 3), cells=8)
        assert_uniform(v >> np.uint64(k - 3), cells=8)


def test_preconditioner_products() -> None:
    rng = np.random.default_rng(8)
    square = [rng.integers(-(2**33) + 1, 2**33, size=(c, c)) for c in COLUMNS]
    matrix = [(np.tril(m) + np.tril(m, -1).T).tolist() for m in square]
    masks = [[drbg(s, f"m{t}").stream("m").bits_many(COLUMNS[1 - s], 192) for t in range(SLOTS)] for s in (0, 1)]
    layouts = [preconditioner_layout(plaintext_bits=510, columns=c, slots=SLOTS) for c in COLUMNS]

    def half(side: int) -> Any:
        return lambda ch: exchange_preconditioner_products(
            ch,
            keys=keys_of(side),
            matrix=matrix[side],
            masks=masks[side],
            layout=layouts[side],
            peer_layout=layouts[1 - side],
            drbg=drbg(side, "preconditioner"),
            engine=InlineEngine(),
            limits=SMALL,
        )

    (left_u, left_v), (right_u, right_v) = run_pair(half(0), half(1)).results()
    for side, u, v in ((0, right_u, left_v), (1, left_u, right_v)):
        for t in range(SLOTS):
            for i in range(COLUMNS[side]):
                expected = sum(a * m for a, m in zip(matrix[side][i], masks[1 - side][t], strict=True))
                assert (u[t][i] + v[t][i] - expected) % 2**192 in (0, 1)


def test_inner_products_of_shared_vectors() -> None:
    rng, rows, size = np.random.default_rng(9), 1000, 6
    scale_g, scale_p = rows << GRADIENT_SCALE, rows << DIRECTION_SCALE
    gradient = [int(v * scale_g) for v in rng.normal(size=size)]
    directions = [[int(v * scale_p) for v in rng.normal(size=size)] for _ in range(3)]
    shares = [[drbg(0, f"s{i}").stream("s").bits_many(size, 192)] for i in range(4)]
    for i, vector in enumerate([gradient, *directions]):
        shares[i].append([(a - b) % 2**192 for a, b in zip(vector, shares[i][0], strict=True)])
    kept: list[list[Any]] = [[], []]
    for t in (1, 2, 3):

        def half(side: int, t: int = t, kept: list[list[Any]] = kept) -> Any:
            return lambda ch: inner_products(
                ch,
                keys=keys_of(side),
                role=ROLES[side],  # type: ignore[arg-type]
                rows=rows,
                gradient=shares[0][side],
                directions=[shares[1 + j][side] for j in range(t)],
                operands=kept[side],
                drbg=drbg(side, f"dot{t}"),
                engine=InlineEngine(),
                limits=SMALL,
            )

        outcome = run_pair(half(0), half(1))
        (left, left_kept), (right, right_kept) = outcome.results()
        # What the key's owner decrypts is hidden: a mask of 384 + log2(size) + 40 bits covers the products.
        for side, sent in ((1, outcome.left_sent), (0, outcome.right_sent)):
            values = pb.DotResults.FromString(next(payload for kind, payload in sent if kind == "DotResults")).values
            opened = keys_of(side).decryptor.decrypt(ciphertexts_from_bytes(values, t, keys_of(side).own.public))
            assert all(2**400 < value < 2**428 for value in opened)
        kept = [list(left_kept), list(right_kept)]
        assert left == right
        exact = [sum(a * b for a, b in zip(gradient, p, strict=True)) / (scale_g * scale_p) for p in directions[:t]]
        assert left == pytest.approx(exact, abs=2**-37)


def test_the_preconditioner_is_the_inverse() -> None:
    from fractions import Fraction

    rng = np.random.default_rng(10)
    matrix = np.clip(rng.normal(size=(500, 6)) * 1024, -8191, 8191).astype(np.int32)
    matrix[:, 5] = matrix[:, 4]
    assert np.array_equal(gram(matrix), matrix.astype(object).T @ matrix.astype(object))
    kappa, l2 = Fraction(17, 100), Fraction(1, 1000)
    result = np.array(preconditioner(matrix, kappa=kappa, l2=l2, unpenalised=1), dtype=np.float64) / 2**20
    x = matrix / 1024
    diagonal = np.full(6, float(l2) + 2**-12)
    diagonal[0] = 2**-12
    expected = np.linalg.inv(float(kappa) * x.T @ x / 500 + np.diag(diagonal))
    assert np.allclose(result, expected, atol=1e-5)
    assert np.array_equal(result, result.T)


def test_batches_out_of_place_are_refused() -> None:
    layout = column_layout(plaintext_bits=510, rows=ROWS, slots=2)
    masks = np.zeros((2, ROWS), dtype=np.uint64)

    def half(side: int) -> Any:
        return lambda ch: exchange_column_products(
            ch,
            keys=keys_of(side),
            matrix=matrices()[side],
            masks=masks,
            peer_columns=COLUMNS[1 - side],
            layout=layout,
            drbg=drbg(side, "columns"),
            engine=InlineEngine(),
            limits=SMALL,
            progress=silent,
        )

    def repeat(index: int, kind: str, payload: bytes) -> list[tuple[str, bytes]]:
        return [(kind, payload)] * (2 if index == 1 else 1)

    def drop(index: int, kind: str, payload: bytes) -> list[tuple[str, bytes]]:
        return [] if index == 1 else [(kind, payload)]

    def shorten(index: int, kind: str, payload: bytes) -> list[tuple[str, bytes]]:
        return [(kind, payload[:-1] if index == 0 else payload)]

    for tamper, codes in (
        (repeat, {"protocol.wrong_position"}),
        (drop, {"protocol.wrong_position"}),
        (shorten, {"protocol.malformed_message", "protocol.wrong_length"}),
    ):
        outcome = run_pair(half(0), half(1), tamper_left=tamper, timeout=10)
        assert isinstance(outcome.right_error, PeerError)
        assert outcome.right_error.code in codes
