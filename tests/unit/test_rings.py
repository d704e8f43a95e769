"""Ring arithmetic and slot layouts against plain integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocols import rings
from node.protocols.residuals import mask_residuals
from node.protocols.scales import (
    ENTRY_BITS,
    PLAINTEXT_HEADROOM,
    PRECONDITIONER_BITS,
    RESIDUAL_BITS,
    SCORE_BITS_MIN,
    STATISTICAL_BITS,
    column_layout,
    preconditioner_layout,
    product_bits,
    score_bits,
    score_layout,
)

uniform = st.integers(2**110, 2**192 - 2**110)
"""Shares as they are but for a chance of 2**-81: away from the ends of the ring."""
small = st.integers(-(2**100), 2**100)


@given(small, uniform)
def test_lifted_shares_sum_to_the_signed_value(value: int, share: int) -> None:
    other = (value - share) % 2**192
    left = rings.lift([share], 192, 256, "label_holder")[0]
    right = rings.lift([other], 192, 256, "feature_holder")[0]
    assert rings.signed(left + right, 256) == value


def test_a_share_that_is_not_uniform_does_not_lift() -> None:
    """Why shares must be uniform: zero as a share of zero is lifted to minus the modulus."""
    left, right = rings.lift([0], 192, 256, "label_holder")[0], rings.lift([0], 192, 256, "feature_holder")[0]
    assert rings.signed(left + right, 256) == -(2**192)


@given(small, uniform, st.integers(0, 90))
def test_truncation_is_within_one_unit(value: int, share: int, shift: int) -> None:
    other = (value - share) % 2**192
    left = rings.truncate([share], shift, 192, "label_holder")[0]
    right = rings.truncate([other], shift, 192, "feature_holder")[0]
    cut = rings.signed(left + right, 192)
    assert abs(cut - value / 2**shift) <= 1.0 + 1e-9 * abs(cut)


def test_truncation_is_unbiased() -> None:
    rng = np.random.default_rng(3)
    errors = []
    for _ in range(4000):
        share = int.from_bytes(rng.bytes(24), "little")
        left = rings.truncate([share], 8, 192, "label_holder")[0]
        right = rings.truncate([(1000 - share) % 2**192], 8, 192, "feature_holder")[0]
        errors.append(rings.signed(left + right, 192) - 1000 / 256)
    assert abs(np.mean(errors)) < 5 * np.std(errors) / np.sqrt(len(errors))
    assert np.std(errors) > 0.1


@given(st.integers(1, 5), st.integers(0, 2**31), st.integers(24, 40))
@settings(max_examples=25)
def test_scores_are_the_matrix_product(columns: int, seed: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.integers(-8191, 8192, size=(7, columns), dtype=np.int32)
    vector = [int(v) for v in rng.integers(0, 2**62, size=columns)]
    expected = [sum(int(a) * b for a, b in zip(row, vector, strict=True)) % 2**bits for row in matrix]
    assert rings.scores(matrix, vector, bits).tolist() == expected


@given(st.integers(0, 2**31))
@settings(max_examples=25)
def test_column_sums_are_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.integers(-8191, 8192, size=(50, 3), dtype=np.int32)
    words = rng.integers(-(2**63), 2**63, size=50, dtype=np.int64)
    wide = rng.bytes(50 * 16)
    values = [int.from_bytes(wide[i : i + 16], "little") for i in range(0, 800, 16)]
    for limbs, plain in ((rings.limbs_of_int64(words), words.tolist()), (rings.limbs_of_bytes(wide, 16), values)):
        expected = [sum(int(matrix[i, j]) * plain[i] for i in range(50)) for j in range(3)]
        assert rings.column_sums(matrix, limbs) == expected


@given(st.lists(st.tuples(st.integers(-(2**63) + 1, 0), st.integers(0, 2**63 - 1)), min_size=1, max_size=5))
def test_masked_residuals_are_the_difference(pairs: list[tuple[int, int]]) -> None:
    shares, masks = (np.array(side) for side in zip(*pairs, strict=True))
    data = mask_residuals(shares.astype(np.int64), masks.astype(np.uint64))
    assert [int.from_bytes(data[8 * i : 8 * i + 8], "little") for i in range(len(pairs))] == [m - e for e, m in pairs]


@pytest.mark.parametrize("rows", [1, 23, 18_000, 10**6, 2**27])
def test_residual_products_fit_their_ring_and_lift(rows: int) -> None:
    ring = product_bits(rows)
    assert ring % 8 == 0
    assert 2**ring > rows * (2**ENTRY_BITS - 1) * (2**63 - 1), "no product reaches the next slot"
    assert 2 * rows * 8191 * 2**16 / 2**ring <= 2**-54, "shares of X'e convert"


@pytest.mark.parametrize("bits", [512, 2048, 3072])
@pytest.mark.parametrize("columns", [1, 12, 40, 300])
@pytest.mark.parametrize("slots", [1, 8, 9, 31])
def test_slots_never_reach_each_other_and_fit_the_plaintext(bits: int, columns: int, slots: int) -> None:
    plaintext = bits - PLAINTEXT_HEADROOM
    k = score_bits(plaintext_bits=plaintext, columns=columns, slots=slots)
    assert k >= SCORE_BITS_MIN
    layouts = [
        (column_layout(plaintext_bits=plaintext, rows=10**6, slots=slots), 10**6, ENTRY_BITS),
        (score_layout(plaintext_bits=plaintext, columns=columns, slots=slots, ring_bits=k), columns, ENTRY_BITS),
        (preconditioner_layout(plaintext_bits=plaintext, columns=columns, slots=slots), columns, PRECONDITIONER_BITS),
    ]
    for layout, terms, entry_bits in layouts:
        largest = terms * (2**entry_bits - 1) * (2 ** (RESIDUAL_BITS if terms == 10**6 else layout.ring_bits) - 1)
        assert largest < 2**layout.slot_bits
        packed = layout.packed_bits(layout.group)
        assert packed == layout.rows * layout.group * layout.slot_bits
        assert layout.hiding_bits(layout.group) == packed + STATISTICAL_BITS
        assert 2**packed + 2 ** layout.hiding_bits(layout.group) < 2**plaintext
        assert sum(size for _, size in layout.groups_of(slots)) == slots
        assert len(layout.groups_of(slots)) == layout.groups


@pytest.mark.parametrize(("bits", "scores", "residuals"), [(2048, 5, 2), (3072, 9, 3)])
def test_rows_that_share_a_ciphertext_for_eight_rounds(bits: int, scores: int, residuals: int) -> None:
    k = score_bits(plaintext_bits=bits - 2, columns=13, slots=8)
    layout = score_layout(plaintext_bits=bits - 2, columns=13, slots=8, ring_bits=k)
    assert (layout.rows, layout.groups) == (scores, 1)
    layout = column_layout(plaintext_bits=bits - 2, rows=18_000, slots=9)
    assert (layout.rows, layout.groups) == (residuals, 1)
