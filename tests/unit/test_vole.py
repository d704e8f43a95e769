"""Base transfers, key trees, the code and the correlations, against plain arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gmpy2 import invert

from audit.aligning import BASE_TRANSFERS, COORDINATES
from node.crypto import base_ot, code, vole
from node.crypto.bit_columns import transpose_bits, transpose_rows
from node.crypto.curve import J, P, Point, encode_to_curve
from node.crypto.drbg import Drbg
from node.errors import PeerError
from node.protocols.psi_items import ValueProducts, code_words, compressed

LOW_ORDER = json.loads((Path(__file__).parents[1] / "vectors" / "rfc7748.json").read_text())["low_order"]


def product(left: int, right: int) -> int:
    """Schoolbook multiplication modulo a^4 + a + 1."""
    result = 0
    for bit in range(4):
        result ^= (left << bit) * (right >> bit & 1)
    for bit in (6, 5, 4):
        result ^= (0b10011 << (bit - 4)) * (result >> bit & 1)
    return result


def elements(planes: np.ndarray) -> np.ndarray:
    """Planes (..., 4, m) as elements (..., 8 m)."""
    bits = np.unpackbits(planes, axis=-1, bitorder="little")
    return (bits << np.arange(4, dtype=np.uint8)[:, None]).sum(axis=-2)


def rank(rows: list[list[int]]) -> int:
    """Over GF(16)."""
    found = 0
    for column in range(len(rows[0])):
        pivot = next((i for i in range(found, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[found], rows[pivot] = rows[pivot], rows[found]
        inverse = next(x for x in range(16) if product(x, rows[found][column]) == 1)
        for i in range(found + 1, len(rows)):
            factor = product(rows[i][column], inverse)
            rows[i] = [a ^ product(factor, b) for a, b in zip(rows[i], rows[found], strict=True)] if factor else rows[i]
        found += 1
    return found


# ---- the code -----------------------------------------------------------------------------------------------------------------


def test_the_field() -> None:
    assert all(code.times(a, b) == product(a, b) for a in range(16) for b in range(16))
    assert len(code.curve_points()) == 64


def test_the_codes_have_their_dimensions() -> None:
    assert rank(code.generator().tolist()) == code.MESSAGE_SYMBOLS == 17
    assert rank(code.compression().tolist()) == code.PRODUCT_SYMBOLS == 32


@pytest.mark.parametrize("seed", range(8))
def test_every_codeword_gives_a_map_onto_128_bits(seed: int) -> None:
    """What the security rests on, for single generators and random messages: no secret combination is lost."""
    message = np.zeros(17, dtype=np.int64)
    if seed < 4:
        message[4 * seed] = 1 + seed
    else:
        message = np.random.default_rng(seed).integers(0, 16, 17)
    word = [0] * COORDINATES
    for symbol, row in zip(message.tolist(), code.generator().tolist(), strict=True):
        word = [a ^ product(symbol, b) for a, b in zip(word, row, strict=True)]
    assert sum(map(bool, word)) >= COORDINATES - 22
    assert rank([[product(a, b) for a, b in zip(row, word, strict=True)] for row in code.compression().tolist()]) == 32


def test_multiplication_on_planes() -> None:
    rng = np.random.default_rng(1)
    planes = rng.integers(0, 256, (60, 4, 2), dtype=np.uint8)
    matrix = code.compression()
    columns, out = elements(planes), elements(code.multiply(matrix, planes))
    for place in (0, 7, 15):
        for row in (0, 13, 31):
            wanted = 0
            for left, right in zip(matrix[row].tolist(), columns[:, place].tolist(), strict=True):
                wanted ^= product(left, right)
            assert out[row, place] == wanted


def test_transposing_back() -> None:
    rows = np.random.default_rng(2).integers(0, 2**64, (192, 2), dtype=np.uint64)
    columns = transpose_rows(rows)
    assert (
        np.unpackbits(rows.view(np.uint8), axis=1, bitorder="little") == np.unpackbits(columns, axis=1, bitorder="little").T
    ).all()
    assert (transpose_bits(columns, 192).view("<u8") == rows).all()


# ---- base transfers -------------------------------------------------------------------------------------------------------------


def stream(name: str, seed: int = 0) -> object:
    return Drbg(bytes([seed]) * 32, job="job", step="align").stream(name)


def test_the_chooser_gets_one_key_of_each() -> None:
    sender = base_ot.Sender.draw("job", stream("a"))  # type: ignore[arg-type]
    bits = np.array([0, 1, 1, 0, 1], dtype=np.uint8)
    points, chosen = base_ot.choose("job", sender.point, bits, stream("b"))  # type: ignore[arg-type]
    keys = sender.keys(points)
    assert (keys[np.arange(5), bits] == chosen).all()
    assert (keys[np.arange(5), 1 - bits] != chosen).any(axis=1).all()
    assert len({key.tobytes() for pair in keys for key in pair}) == 10
    assert base_ot.Sender("another", sender.scalar).keys(points)[0, 0].tobytes() != keys[0, 0].tobytes()


def test_sums_on_the_curve() -> None:
    point = encode_to_curve(b"a", b"tag")
    slope = (3 * point.x**2 + 2 * J * point.x + 1) * invert(2 * point.y, P) % P
    x = (slope**2 - J - 2 * point.x) % P
    twice = Point(x, (slope * (point.x - x) - point.y) % P)
    assert base_ot.subtract(twice, point) == point
    other = encode_to_curve(b"b", b"tag")
    left, right = base_ot.subtract(point, other), base_ot.subtract(other, point)
    assert (left.x, left.y) == (right.x, P - right.y)
    assert left.y**2 % P == (left.x**3 + J * left.x**2 + left.x) % P
    for each in (point, left, right):
        assert base_ot.decode_point(base_ot.encode_point(each)) == each


def number(value: int) -> bytes:
    return value.to_bytes(32, "little")


BAD_POINTS = {
    "the prime": (number(2**255 - 19), "psi.non_canonical_point"),
    "zero": (number(0), "psi.base_point"),
    "on the twist": (number(3), "psi.base_point"),
    "the common point": (base_ot.encode_point(base_ot.nobody_knows("job")), "psi.base_point"),
    **{f"low order {i}": (bytes.fromhex(text), "psi.") for i, text in enumerate(LOW_ORDER)},
}


@pytest.mark.parametrize("case", BAD_POINTS)
def test_points_that_no_honest_side_sends(case: str) -> None:
    point, wanted = BAD_POINTS[case]
    sender = base_ot.Sender.draw("job", stream("a"))  # type: ignore[arg-type]
    with pytest.raises(PeerError) as caught:
        sender.keys(point)
    assert caught.value.code.startswith(wanted)
    if case.startswith("low"):
        with pytest.raises(PeerError) as caught:
            base_ot.choose("job", point, np.zeros(1, np.uint8), stream("b"))  # type: ignore[arg-type]


# ---- trees and correlations ----------------------------------------------------------------------------------------------------


def correlated() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sender's secrets, and both sides' leaves."""
    rng = np.random.default_rng(9)
    secrets = rng.integers(0, 16, COORDINATES).astype(np.uint8)
    keys = rng.integers(0, 256, (BASE_TRANSFERS, 2, 16), dtype=np.uint8)
    leaves, sums = vole.grow(rng.integers(0, 256, (COORDINATES, 16), dtype=np.uint8), keys)
    chosen = keys[np.arange(BASE_TRANSFERS), vole.path_choices(secrets)]
    return secrets, leaves, vole.puncture(secrets, chosen, sums)


def test_the_sender_knows_all_leaves_but_one() -> None:
    secrets, leaves, known = correlated()
    same = (leaves == known).all(axis=2)
    assert (same == (np.arange(16) != secrets[:, None])).all()
    assert not known[np.arange(COORDINATES), secrets].any()


def test_shares_differ_by_the_product() -> None:
    """V = W + d A, element by element; reads go on where the last one ended."""
    secrets, leaves, known = correlated()
    receiver, sender = vole.ReceiverStreams(leaves), vole.SenderStreams(secrets, known)
    for _ in range(2):
        first, second = map(elements, receiver.read(64))
        third = elements(sender.read(64))
        for coordinate in (0, 1, 30, 59):
            d = int(secrets[coordinate])
            for slot in (0, 1, 63):
                assert third[coordinate, slot] == second[coordinate, slot] ^ product(d, int(first[coordinate, slot]))
    assert abs(first.mean() - 7.5) < 0.5


def test_the_product_of_a_value_is_what_its_slot_would_give() -> None:
    """L(d * C(h)) by tables is L(V + d U) for U = C(h) and V = 0; by whole slots, not by tables."""
    secrets, _, known = correlated()
    streams = vole.SenderStreams(secrets, known)
    values = np.random.default_rng(3).integers(0, 2**64, (64, 2), dtype=np.uint64)
    values[:, 1] &= np.uint64(15)
    words = code_words(values)
    shares = np.zeros_like(words)
    streams.add_product(shares, words)
    found = np.zeros((64, 2), dtype=np.uint64)
    ValueProducts(streams).add_to(found, values)
    assert (found == compressed(shares)).all()


@pytest.mark.parametrize("value", ["Sender", "ReceiverStreams", "SenderStreams", "ValueProducts"])
def test_secrets_do_not_print(value: str) -> None:
    secrets, leaves, known = correlated()
    streams = vole.SenderStreams(secrets, known)
    made = {
        "Sender": base_ot.Sender("job", bytes(range(32))),
        "ReceiverStreams": vole.ReceiverStreams(leaves),
        "SenderStreams": streams,
        "ValueProducts": ValueProducts(streams),
    }
    assert repr(made[value]) == f"{value}(<secret>)"
