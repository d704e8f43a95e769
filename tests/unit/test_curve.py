"""Hash to curve against RFC 9380's vectors, X25519 against RFC 7748's, and the bulk forms against the plain ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gmpy2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.crypto import curve
from node.crypto.curve import (
    Blinder,
    Point,
    check_canonical,
    encode_to_curve,
    encode_to_u,
    expand_message_xmd,
    hash_to_field,
    map_to_curve,
)
from node.crypto.drbg import Drbg
from node.errors import PeerError, UsageError

VECTORS = Path(__file__).parents[1] / "vectors"
SHARED = Path(__file__).parents[2].parent / "shared" / "vectors"
P = 2**255 - 19
J = 486662

RFC9380: dict[str, Any] = json.loads((VECTORS / "rfc9380_curve25519.json").read_text())
RFC7748: dict[str, Any] = json.loads((VECTORS / "rfc7748.json").read_text())


def u_bytes(point: Point) -> bytes:
    return int(point.x).to_bytes(32, "little")


def add(a: Point, b: Point) -> Point:
    """Affine addition of two points with different x: the oracle for RFC 9380's two-map suite."""
    slope = (b.y - a.y) * pow(int(b.x - a.x), -1, P) % P
    x = (slope * slope - J - a.x - b.x) % P
    return Point(x, (slope * (a.x - x) - a.y) % P)


@pytest.mark.parametrize("vector", RFC9380["expand"], ids=lambda v: v["message"][:8])
def test_expand_message_matches_rfc9380(vector: dict[str, str]) -> None:
    out = expand_message_xmd(vector["message"].encode(), RFC9380["expand_tag"].encode(), 32)
    assert out.hex() == vector["bytes"]


def test_expand_message_over_several_blocks_and_with_an_oversized_tag() -> None:
    """Written out anew from RFC 9380, 5.3.1 and 5.3.3, with whole-message hashing."""
    tag, message, length = b"t" * 300, b"message", 200
    prime = hashlib.sha512(b"H2C-OVERSIZE-DST-" + tag).digest() + bytes([64])
    b = [hashlib.sha512(bytes(128) + message + bytes([0, 200]) + b"\0" + prime).digest()]
    b.append(hashlib.sha512(b[0] + b"\x01" + prime).digest())
    for i in (2, 3, 4):
        mixed = (int.from_bytes(b[0], "big") ^ int.from_bytes(b[-1], "big")).to_bytes(64, "big")
        b.append(hashlib.sha512(mixed + bytes([i]) + prime).digest())
    assert expand_message_xmd(message, tag, length) == b"".join(b[1:])[:length]


def test_a_tag_of_255_bytes_is_used_as_it_is() -> None:
    tag = b"x" * 255
    first = hashlib.sha512(bytes(128) + b"\0\x20\0" + tag + b"\xff").digest()
    assert expand_message_xmd(b"", tag, 32) == hashlib.sha512(first + b"\x01" + tag + b"\xff").digest()[:32]


@pytest.mark.parametrize("length", [0, -1, 255 * 64 + 1])
def test_expand_message_refuses_lengths_out_of_range(length: int) -> None:
    with pytest.raises(UsageError) as caught:
        expand_message_xmd(b"", b"tag", length)
    assert caught.value.code == "curve.expand_length"


def test_an_empty_tag_is_refused() -> None:
    for call in (lambda: expand_message_xmd(b"", b"", 32), lambda: encode_to_u([b"a"], b"")):
        with pytest.raises(UsageError) as caught:
            call()
        assert caught.value.code == "curve.empty_tag"


@pytest.mark.parametrize("vector", RFC9380["points"], ids=lambda v: v["message"][:8])
def test_hash_to_curve_matches_rfc9380(vector: dict[str, Any]) -> None:
    tag, message = RFC9380["tag"].encode(), vector["message"].encode()
    (u,) = hash_to_field(message, tag)
    assert u == int(vector["u"], 16)
    assert map_to_curve(u) == tuple(int(c, 16) for c in vector["q"])
    point = encode_to_curve(message, tag)
    assert point == tuple(int(c, 16) for c in vector["p"])
    assert encode_to_u([message], tag) == u_bytes(point)


@pytest.mark.parametrize("kind", ["NU", "RO"])
def test_the_published_vector_files(kind: str) -> None:
    path = SHARED / f"curve25519_XMD_SHA-512_ELL2_{kind}_.json"
    if not path.exists():
        pytest.skip(f"the published vector set {path.name} is not beside this checkout")
    published = json.loads(path.read_text())
    tag = published["dst"].encode()
    for vector in published["vectors"]:
        fields = hash_to_field(vector["msg"].encode(), tag, len(vector["u"]))
        assert fields == [int(u, 16) for u in vector["u"]]
        mapped = [map_to_curve(u) for u in fields]
        for name, point in zip(["Q"] if kind == "NU" else ["Q0", "Q1"], mapped, strict=True):
            assert point == (int(vector[name]["x"], 16), int(vector[name]["y"], 16))
        total = mapped[0] if kind == "NU" else add(*mapped)
        assert curve.clear_cofactor(total) == (int(vector["P"]["x"], 16), int(vector["P"]["y"], 16))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=12), st.binary(min_size=1, max_size=300))
def test_the_bulk_hash_equals_the_plain_one(messages: list[bytes], tag: bytes) -> None:
    points = [encode_to_curve(message, tag) for message in messages]
    for x, y in points:
        assert (y * y - x * (x * (x + J) + 1)) % P == 0
    assert encode_to_u(iter(messages), tag) == b"".join(u_bytes(point) for point in points)


def test_points_of_the_hash_are_in_the_prime_order_subgroup() -> None:
    """order * P is the identity, checked as (order - 1) * P = -P: the same u-coordinate, by a plain ladder on integers."""
    order = 2**252 + 27742317777372353535851937790883648493
    for message in (b"", b"a", b"customer-17"):
        x = int(encode_to_curve(message, b"tag").x)
        assert ladder(order - 1, x) == x


def ladder(scalar: int, u: int) -> int:
    """scalar * (u : 1), unclamped, plain integers (RFC 7748, section 5)."""
    x2, z2, x3, z3 = 1, 0, u, 1
    for t in reversed(range(256)):
        bit = scalar >> t & 1
        if bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, e = a * a, b * b, a * a - b * b
        x3, z3 = (d * a + c * b) ** 2 % P, u * (d * a - c * b) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
        if bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
    return x2 * pow(z2, P - 2, P) % P


@pytest.mark.parametrize("vector", RFC7748["x25519"], ids=["first", "second"])
def test_x25519_matches_rfc7748(vector: dict[str, str]) -> None:
    out = Blinder(bytes.fromhex(vector["scalar"])).blind(bytes.fromhex(vector["u"]))
    assert out.hex() == vector["out"]


def test_x25519_iterated_a_thousand_times_matches_rfc7748() -> None:
    k = u = bytes.fromhex(RFC7748["iterated"]["start"])
    for turn in range(1, 1001):
        k, u = Blinder(k).blind(u), k
        if turn == 1:
            assert k.hex() == RFC7748["iterated"]["1"]
    assert k.hex() == RFC7748["iterated"]["1000"]


def test_blinding_many_points_agrees_with_a_plain_ladder_and_commutes() -> None:
    scalars = [bytes(range(7, 39)), bytes(range(101, 133))]
    points = encode_to_u([b"a", b"b", b"c"], b"tag")
    first, second = (Blinder(scalar) for scalar in scalars)
    clamped = int.from_bytes(scalars[0], "little") & ~7 & ((1 << 254) - 1) | 1 << 254
    expected = [ladder(clamped, int.from_bytes(points[i : i + 32], "little")) for i in (0, 32, 64)]
    assert first.blind(points) == b"".join(x.to_bytes(32, "little") for x in expected)
    assert second.blind(first.blind(points)) == first.blind(second.blind(points))
    full = second.blind(points)
    assert second.blind(points, keep=16) == b"".join(full[i : i + 16] for i in (0, 32, 64))


@pytest.mark.parametrize("point", RFC7748["low_order"])
def test_a_low_order_point_is_refused(point: str) -> None:
    bad = bytes.fromhex(point)
    check_canonical(bad)  # canonical, and still refused
    with pytest.raises(PeerError) as caught:
        Blinder(bytes(range(32))).blind(encode_to_u([b"a"], b"tag") + bad)
    assert caught.value.code == "psi.low_order_point"


@pytest.mark.parametrize("value", [P, P + 1, 2**255 - 1, 2**255, 2**255 + 9, 2**256 - 1])
def test_a_non_canonical_point_is_refused(value: int) -> None:
    good = encode_to_u([b"a", b"b"], b"tag")
    with pytest.raises(PeerError) as caught:
        check_canonical(good[:32] + value.to_bytes(32, "little") + good[32:])
    assert caught.value.code == "psi.non_canonical_point"


def test_the_largest_canonical_points_are_accepted() -> None:
    near = [P - 1, P - 2, P - 256, 2**255 - 2**200, 0]
    check_canonical(b"".join(value.to_bytes(32, "little") for value in near))


def test_a_blinder_shows_nothing_and_checks_its_input() -> None:
    scalar = bytes(range(32))
    assert scalar.hex() not in repr(Blinder(scalar)).lower()
    for call, code in (
        (lambda: Blinder(b"short"), "curve.scalar"),
        (lambda: Blinder(scalar).blind(b"x" * 33), "curve.points_length"),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert caught.value.code == code


def test_a_drawn_blinder_takes_its_scalar_from_the_stream() -> None:
    def stream() -> Any:
        return Drbg(bytes(32), job="j", step="align").stream("psi.scalar")

    points = encode_to_u([b"a"], b"tag")
    assert Blinder.draw(stream()).blind(points) == Blinder(stream().bytes(32)).blind(points)


def test_the_constants_of_the_field() -> None:
    assert curve._SQRT_MINUS_ONE**2 % P == P - 1
    assert gmpy2.jacobi(-gmpy2.invert(2, P) % P, P) == -1  # so 1 + 2u^2 is never zero
