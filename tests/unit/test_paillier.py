"""Paillier: keys, both encryptors, decryption; phe and plain integers are the oracles."""

from __future__ import annotations

import pickle
from functools import lru_cache

import gmpy2
import pytest
from gmpy2 import mpz
from phe.paillier import EncryptedNumber

from node.crypto.drbg import Drbg, Stream
from node.crypto.fixed_base import WINDOW, FixedBase, window_for
from node.crypto.packing import ciphertexts_from_bytes, ciphertexts_to_bytes, pack_slots, unpack_slots
from node.crypto.paillier import Decryptor, OwnerEncryptor, PeerEncryptor
from node.crypto.paillier_keys import PublicKey, SecretKey, check_public_key, generate_key, order_bits
from node.errors import PeerError, UsageError

BITS = 512


def stream(purpose: str, seed: int = 7) -> Stream:
    return Drbg(bytes([seed]) * 32, job="test", step="paillier").stream(purpose)


@lru_cache
def key(bits: int = BITS, name: str = "own") -> SecretKey:
    return generate_key(bits, stream(f"key {name} {bits}"))


def edges(public: PublicKey) -> list[int]:
    n = int(public.n)
    return [0, 1, 2, n // 2, n - 2, n - 1, 2**64, 2**public.plaintext_bits - 1]


# ---- keys ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [256, 272, 512, 768])
def test_key_meets_its_conditions(bits: int) -> None:
    secret = generate_key(bits, stream(f"conditions {bits}"))
    public, p, q = secret.public, secret.p, secret.q
    assert public.n == p * q
    assert public.n.bit_length() == bits == public.bits
    assert p != q
    for prime in (p, q):
        assert gmpy2.is_prime(prime, 40)
        assert prime % 4 == 3
        assert prime.bit_length() == bits // 2
    assert gmpy2.gcd(p - 1, q - 1) == 2
    assert gmpy2.gcd(public.n, (p - 1) * (q - 1)) == 1
    # h_s is an N-th power: its order divides (p-1)(q-1).
    assert gmpy2.powmod(public.h_s, (p - 1) * (q - 1), public.n**2) == 1
    assert public.h_s != 1
    assert public.n_squared == public.n**2
    assert public.ciphertext_bytes * 8 == 2 * bits
    assert 2 ** (public.plaintext_bits + 1) < public.n


@lru_cache
def short_key(bits: int = BITS) -> SecretKey:
    return generate_key(bits, stream(f"short {bits}"), kind="short-order")


@pytest.mark.parametrize("bits", [256, 512, 2048])
def test_short_order_key_meets_its_conditions(bits: int) -> None:
    secret = short_key(bits)
    public, n = secret.public, secret.public.n
    assert public.n.bit_length() == bits
    for prime, order in zip((secret.p, secret.q), secret.orders, strict=True):
        assert gmpy2.is_prime(prime, 40)
        assert gmpy2.is_prime(order, 40)
        assert (prime.bit_length(), order.bit_length()) == (bits // 2, order_bits(bits))
        assert prime % 4 == 3
        assert gmpy2.powmod(public.h_s, order, prime**2) == 1
        assert public.h_s % prime != 1
    assert gmpy2.gcd(secret.p - 1, secret.q - 1) == 2
    order = secret.orders[0] * secret.orders[1]
    assert 2 ** (8 * public.exponent_bytes) >> 40 > order
    # The peer sees an ordinary key, but for what the job says of it.
    checked = check_public_key(
        bits=bits, modulus=int(n), h_s=int(public.h_s), minimum_bits=256, own=key().public, kind="short-order"
    )
    assert checked == public
    assert generate_key(bits, stream(f"short {bits}"), kind="short-order") == secret


def test_short_order_strength_is_that_of_the_modulus() -> None:
    assert [order_bits(bits) for bits in (512, 2048, 3072, 4096, 7680)] == [64, 224, 256, 256, 384]


def test_both_encryptors_of_a_short_order_key_and_phe_agree() -> None:
    secret = short_key()
    values = edges(secret.public)
    own, peer = OwnerEncryptor(secret), PeerEncryptor(secret.public)
    exponents = own.draw(len(values), stream("short exponents"))
    encrypted = own.encrypt_drawn(values, exponents)
    # Reduced modulo the orders or not, the same bits.
    assert encrypted == peer.encrypt_drawn(values, exponents)
    again = peer.rerandomise(encrypted, stream("short again"), add=[1] * len(values))
    n = int(secret.public.n)
    assert Decryptor(secret).decrypt(again) == [(v + 1) % n for v in values]
    phe_key = secret.to_phe()
    assert [phe_key.raw_decrypt(int(c)) for c in again] == [(v + 1) % n for v in values]


def test_a_ciphertext_outside_the_group_is_refused() -> None:
    secret = short_key()
    foreign = mpz(secret.to_phe().public_key.raw_encrypt(5))
    with pytest.raises(PeerError) as caught:
        Decryptor(secret).decrypt([foreign])
    assert caught.value.code == "paillier.ciphertext_subgroup"
    assert secret.to_phe().raw_decrypt(int(foreign)) == 5


def test_a_short_order_of_small_primes_is_refused() -> None:
    """A base that would hide nothing: h_s = -1 squared away to an element of order 3, or any other small one."""
    secret = next(k for k in (generate_key(256, stream(f"smooth {i}")) for i in range(99)) if (k.p - 1) % 3 == 0)
    p, n = secret.p, secret.public.n
    third = next(e for e in (gmpy2.powmod(x, (p - 1) // 3, p) for x in range(2, 99)) if e != 1)
    base = gmpy2.powmod(1 + secret.q * ((third - 1) * gmpy2.invert(secret.q, p) % p), n, n * n)
    with pytest.raises(PeerError) as caught:
        check_public_key(bits=256, modulus=int(n), h_s=int(base), minimum_bits=256, own=None, kind="short-order")
    assert caught.value.code == "paillier.key_h_s"


def test_orders_of_another_key_are_refused() -> None:
    secret = short_key()
    for orders in ((), secret.orders[::-1], secret.orders[:1]):
        with pytest.raises(UsageError) as caught:
            SecretKey(secret.public, secret.p, secret.q, orders)
        assert caught.value.code == "paillier.key_orders"
    assert str(int(secret.orders[0])) not in repr(secret)
    assert SecretKey.of(secret.public, secret.numbers()) == secret


def test_key_depends_on_its_stream_alone() -> None:
    again, other = generate_key(BITS, stream("a")), generate_key(BITS, stream("a", seed=8))
    assert generate_key(BITS, stream("a")) == again
    assert other.public.n != again.public.n


def test_key_is_the_recorded_one() -> None:
    """A key of a given seed must never change: a replay would fail."""
    assert int(key(256).public.n) == RECORDED_N


RECORDED_N = 0x98CF2F55AD29171923498F9328499518CE2A37AAC6E473B5D6C86927790E1989


@pytest.mark.parametrize("bits", [0, 128, 240, 257, 264])
def test_key_sizes_that_are_refused(bits: int) -> None:
    with pytest.raises(UsageError) as caught:
        generate_key(bits, stream("refused"))
    assert caught.value.code == "paillier.key_bits"


def test_primes_of_another_modulus_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        SecretKey(key().public, key(name="peer").p, key().q)
    assert caught.value.code == "paillier.key_primes"


def test_checked_key_is_the_key() -> None:
    public = key().public
    checked = check_public_key(
        bits=BITS, modulus=int(public.n), h_s=int(public.h_s), minimum_bits=BITS, own=key(name="peer").public
    )
    assert checked == public


def _small_factor_modulus(prime: int) -> int:
    """A modulus of the declared size whose smallest prime factor is ``prime``."""
    return prime * int(gmpy2.next_prime((mpz(3) << (BITS - 2)) // prime))


def _bad_keys() -> dict[str, tuple[str, dict[str, object]]]:
    public = key().public
    n, h_s = int(public.n), int(public.h_s)
    good: dict[str, object] = {"bits": BITS, "modulus": n, "h_s": h_s, "minimum_bits": BITS, "own": None}
    prime = int(gmpy2.next_prime(mpz(3) << (BITS // 2 - 2)))
    shared = int(key(name="peer").p)
    partner = int(gmpy2.next_prime(mpz(3) << (BITS // 2 - 2)))
    return {
        "one bit short": ("key_size", {**good, "modulus": n >> 1 | 1}),
        "one bit long": ("key_size", {**good, "modulus": n << 1 | 1}),
        "below the minimum": ("key_size", {**good, "minimum_bits": BITS + 16}),
        "above the maximum": ("key_size", {**good, "maximum_bits": BITS - 16}),
        "zero": ("key_size", {**good, "modulus": 0}),
        "declared otherwise": ("key_size", {**good, "bits": BITS + 16, "minimum_bits": 256}),
        "even": ("key_even", {**good, "modulus": n + 1}),
        "square": ("key_square", {**good, "modulus": prime**2}),
        "factor 3": ("key_small_factor", {**good, "modulus": _small_factor_modulus(3)}),
        "factor 65521": ("key_small_factor", {**good, "modulus": _small_factor_modulus(65521)}),
        "own": ("key_is_own", {**good, "own": public}),
        "shares a prime": ("key_is_own", {**good, "modulus": shared * partner, "own": key(name="peer").public}),
        "h_s 0": ("key_h_s", {**good, "h_s": 0}),
        "h_s 1": ("key_h_s", {**good, "h_s": 1}),
        "h_s -1": ("key_h_s", {**good, "h_s": n * n - 1}),
        "h_s moves plaintexts": ("key_h_s", {**good, "h_s": 1 + 5 * n}),
        "h_s negative": ("key_h_s", {**good, "h_s": -h_s}),
        "h_s too large": ("key_h_s", {**good, "h_s": h_s + n * n}),
        "h_s not a unit": ("key_h_s", {**good, "h_s": int(key().p) * 12345}),
        "h_s of the wrong symbol": ("key_h_s", {**good, "h_s": next(x for x in range(2, 99) if gmpy2.jacobi(x, n) == -1)}),
    }


@pytest.mark.parametrize("name", list(_bad_keys()))
def test_bad_public_keys(name: str) -> None:
    code, arguments = _bad_keys()[name]
    with pytest.raises(PeerError) as caught:
        check_public_key(**arguments)  # type: ignore[arg-type]
    assert caught.value.code == f"paillier.{code}"


def test_a_factor_above_the_bound_is_not_looked_for() -> None:
    """The negative cases fail for their own reason, not for what they have in common."""
    modulus = _small_factor_modulus(65537)
    h_s = int(pow(-4, modulus, modulus**2))
    if gmpy2.jacobi(h_s, modulus) != 1:
        h_s = h_s * h_s % modulus**2
    check_public_key(bits=BITS, modulus=modulus, h_s=h_s, minimum_bits=256, own=None)


# ---- encryption and decryption -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [256, 512, 1024])
def test_round_trip_of_both_encryptors(bits: int) -> None:
    secret = key(bits)
    decryptor, values = Decryptor(secret), edges(secret.public)
    for encryptor in (OwnerEncryptor(secret), PeerEncryptor(secret.public)):
        assert decryptor.decrypt(encryptor.encrypt(values, stream(f"e{bits}"))) == values
        assert encryptor.encrypt([], stream("empty")) == []
    assert decryptor.decrypt([]) == []
    assert all(type(value) is int for value in decryptor.decrypt([mpz(1)]))


def test_ciphertext_is_the_formula() -> None:
    """c = (1 + mN) h_s^a mod N^2, the exponent read from the stream as little-endian bytes: what a replay recomputes."""
    secret = key()
    public, count = secret.public, 5
    data = stream("formula").bytes(count * BITS // 16)
    values = edges(public)[:count]
    expected = []
    for k, m in enumerate(values):
        a = int.from_bytes(data[k * BITS // 16 : (k + 1) * BITS // 16], "little")
        expected.append((1 + m * int(public.n)) * pow(int(public.h_s), a, int(public.n_squared)) % int(public.n_squared))
    assert OwnerEncryptor(secret).encrypt(values, stream("formula")) == expected
    assert PeerEncryptor(public).encrypt(values, stream("formula")) == expected


def test_same_stream_same_ciphertexts_however_batched_and_sized() -> None:
    secret = key()
    values = list(range(40))
    whole = OwnerEncryptor(secret).encrypt(values, stream("batched"))
    for encryptor in (
        OwnerEncryptor(secret, window=3),
        OwnerEncryptor(secret, expected=100_000),
        PeerEncryptor(secret.public, window=10),
    ):
        source = stream("batched")
        assert [c for i in range(0, 40, 7) for c in encryptor.encrypt(values[i : i + 7], source)] == whole
    assert OwnerEncryptor(secret).encrypt(values, stream("batched", seed=8)) != whole
    assert len(set(OwnerEncryptor(secret).encrypt([3] * 50, stream("fresh")))) == 50


def test_tables_grow_with_use_and_change_nothing() -> None:
    secret = key(256)
    growing, source = PeerEncryptor(secret.public), stream("growing")
    fixed, other = PeerEncryptor(secret.public, window=WINDOW), stream("growing")
    windows = []
    for count in (1, 5, 300, 300, 300, 900):
        assert growing.encrypt(range(count), source) == fixed.encrypt(range(count), other)
        windows.append(growing._bases[0].window)
    assert windows == sorted(windows)
    assert windows[0] < 4
    assert windows[-1] == WINDOW == window_for(10**9)


def test_negative_plaintexts_and_range() -> None:
    secret = key()
    n = int(secret.public.n)
    encryptor = OwnerEncryptor(secret)
    assert Decryptor(secret).decrypt(encryptor.encrypt([-1, 1 - n], stream("negative"))) == [n - 1, 1]
    for value in (n, -n, 2 * n):
        with pytest.raises(UsageError) as caught:
            encryptor.encrypt([0, value], stream("range"))
        assert caught.value.code == "paillier.plaintext_range"
        assert str(value) not in str(caught.value)


def test_phe_decrypts_ours_and_we_decrypt_phes() -> None:
    secret = key()
    theirs, values = secret.to_phe(), edges(secret.public)
    for encryptor in (OwnerEncryptor(secret), PeerEncryptor(secret.public)):
        assert [theirs.raw_decrypt(int(c)) for c in encryptor.encrypt(values, stream("to phe"))] == values
    public = secret.public.to_phe()
    assert Decryptor(secret).decrypt([mpz(public.raw_encrypt(m)) for m in values]) == values


def test_phe_adds_and_scales_ours() -> None:
    secret = key()
    public, private = secret.public.to_phe(), secret.to_phe()
    a, b = (EncryptedNumber(public, int(c)) for c in OwnerEncryptor(secret).encrypt([1234, 77], stream("phe sums")))
    assert private.decrypt(a * 5 + b) == 1234 * 5 + 77
    assert Decryptor(secret).decrypt([mpz((a + b).ciphertext())]) == [1311]


def test_rerandomise_keeps_the_plaintext_and_changes_the_rest() -> None:
    secret = key()
    peer, decryptor = PeerEncryptor(secret.public), Decryptor(secret)
    n, values = int(secret.public.n), edges(secret.public)
    ciphertexts = OwnerEncryptor(secret).encrypt(values, stream("first"))
    fresh = peer.rerandomise(ciphertexts, stream("second"))
    assert decryptor.decrypt(fresh) == values
    assert not set(fresh) & set(ciphertexts)
    # The randomness itself, which the owner can compute as c (1 + mN)^-1, is another: this is what hides the multipliers.
    assert all(c % secret.public.n != f % secret.public.n for c, f in zip(ciphertexts, fresh, strict=True))
    add = [5, -7, 0, n - 1, 1, 2, 3, 4]
    added = peer.rerandomise(ciphertexts, stream("second"), add=add)
    assert decryptor.decrypt(added) == [(m + x) % n for m, x in zip(values, add, strict=True)]
    assert added[2] == fresh[2]
    assert peer.rerandomise([], stream("none")) == []
    with pytest.raises(UsageError) as caught:
        peer.rerandomise(ciphertexts, stream("lengths"), add=[1])
    assert caught.value.code == "paillier.lengths"


@pytest.mark.parametrize("window", [1, 3, 6, 7, 8, 9, 10])
def test_fixed_base_against_plain_powers(window: int) -> None:
    root, base, size = mpz(1000003 * 998244353), mpz(123456789), 5
    exponents = [0, 1, 2**40 - 1, 255, 256, 0x8000000001, 987654321012]
    powers = FixedBase(base, root, size, window).powers(b"".join(a.to_bytes(size, "little") for a in exponents))
    assert powers == [pow(int(base), a, int(root**2)) for a in exponents]


# ---- wire and slots ------------------------------------------------------------------------------------------------------------


def test_ciphertexts_travel() -> None:
    public = key().public
    ciphertexts = [mpz(1), public.n_squared - 1, *PeerEncryptor(public).encrypt([1, 2, 3], stream("wire"))]
    data = ciphertexts_to_bytes(ciphertexts, public)
    assert len(data) == 5 * public.ciphertext_bytes
    assert data[: public.ciphertext_bytes] == (1).to_bytes(public.ciphertext_bytes, "big")
    assert ciphertexts_from_bytes(data, 5, public) == ciphertexts
    assert ciphertexts_from_bytes(b"", 0, public) == []


def test_ciphertexts_that_are_refused() -> None:
    public, p = key().public, key().p
    width, good = (
        public.ciphertext_bytes,
        ciphertexts_to_bytes(PeerEncryptor(key().public).encrypt([1, 2], stream("good")), key().public),
    )
    cases = [
        (good[:-1], 2, "ciphertext_length"),
        (good + b"\0", 2, "ciphertext_length"),
        (good, 1, "ciphertext_length"),
        (good, -2, "ciphertext_length"),
        (b"", 1, "ciphertext_length"),
        (good[:width] + bytes(width), 2, "ciphertext_range"),
        (good[:width] + int(public.n_squared).to_bytes(width, "big"), 2, "ciphertext_range"),
        (b"\xff" * (2 * width), 2, "ciphertext_range"),
        (good[:width] + int(public.n).to_bytes(width, "big"), 2, "ciphertext_not_unit"),
        (int(p * 77).to_bytes(width, "big") + good[width:], 2, "ciphertext_not_unit"),
    ]
    for data, count, code in cases:
        with pytest.raises(PeerError) as caught:
            ciphertexts_from_bytes(data, count, public)
        assert caught.value.code == f"paillier.{code}"


def test_slots() -> None:
    assert pack_slots([1, 2, 3], 8) == 0x030201
    assert unpack_slots(0x030201, 8, 3) == [1, 2, 3]
    assert pack_slots([], 8) == 0
    assert unpack_slots(0, 8, 0) == []
    assert unpack_slots(0x0201, 8, 4) == [1, 2, 0, 0]
    for values in ([256], [-1], [0, 2**70]):
        with pytest.raises(UsageError) as caught:
            pack_slots(values, 8)
        assert caught.value.code == "packing.slot_range"
    for value in (-1, 1 << 24):
        with pytest.raises(PeerError) as refused:
            unpack_slots(value, 8, 3)
        assert refused.value.code == "packing.plaintext_range"


# ---- secrets -------------------------------------------------------------------------------------------------------------------


def test_nothing_prints_a_secret() -> None:
    secret = key()
    encryptor = OwnerEncryptor(secret)
    encryptor.encrypt([1], stream("use"))
    objects = [secret, encryptor, Decryptor(secret), *encryptor._bases, PeerEncryptor(secret.public), secret.public]
    for thing in objects:
        for text in (repr(thing), str(thing), f"{thing}", f"{thing!r:>10}"):
            assert len(text) < 80
            for number in (secret.p, secret.q, secret.public.n):
                assert str(number)[:12] not in text
                assert f"{number:x}"[:12] not in text


def test_secret_key_is_not_pickled_and_public_key_is() -> None:
    with pytest.raises(TypeError, match="secret key"):
        pickle.dumps(key())
    assert pickle.loads(pickle.dumps(key().public)) == key().public  # noqa: S301
