"""Paillier's keys: what a public and a secret key are, how a pair is generated, how a peer's key is checked.

N = pq with p = q = 3 mod 4; h_s is the base of all randomness, of a standard key (-x^2)^N mod N^2 for a random x (Damgard, Jurik
and Nielsen 2010, section 4.2).  :mod:`node.crypto.paillier` encrypts and decrypts with them.

Short-order keys, where a job asks for them by name.  h_s has a secret order alpha = alpha_p alpha_q, two primes that divide p - 1
and q - 1 (Paillier 1999, section 6; Jost, Lam, Maximov, Smeets, ePrint 2015/864; Ma, Han, Lei, ACSAC 2021).  All randomness lies
in the group that h_s generates, so a ciphertext's c^alpha_p decrypts modulo p^2 in the place of c^(p-1), and the owner reduces
exponents modulo alpha_p and alpha_q.  The assumption beyond Paillier's: h_s^a cannot be told from a random N-th power, and h_s
does not help to factor N.  The best attacks known take about sqrt(alpha_p) steps (Coron, Joux, Mandal, Naccache, Tibouchi, PKC
2011), so each prime has twice as many bits as the key has of strength.  The exponents are 40 bits longer than alpha: their
residues are uniform to 2^-40, which hides multipliers from the owner whatever discrete logarithms it can take.  What ``phe``
encrypts under such a key lies outside the group and is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NoReturn

import gmpy2
from gmpy2 import mpz, powmod

from audit.layout import KeyKind
from node.crypto.drbg import Stream
from node.errors import PeerError, UsageError
from node.limits import Limits

KEY_BITS_MIN = 256
"""Smallest modulus the arithmetic accepts; what a job accepts is its policy's (``Limits.key_bits_min``)."""
PRIME_ROUNDS = 25
"""Rounds of ``gmpy2.is_prime``: Baillie-PSW, then Miller-Rabin with GMP's fixed bases, so a key depends on its stream alone."""
SMALL_PRIME_BOUND = 2**16
ORDER_HIDING_BITS = 40
"""Bits by which an exponent is longer than the order of a short-order key: its residue is uniform to 2**-40."""


def order_bits(bits: int) -> int:
    """Bits of each of the two primes of a short order: twice the strength of a modulus of ``bits`` bits (NIST SP 800-57, table 2).

    Keys under 2048 bits, which protect nothing, get an eighth of their size.
    """
    if bits < 2048:
        return bits // 8
    return 224 if bits < 3072 else 256 if bits < 7680 else 384


@dataclass(frozen=True)
class PublicKey:
    """What the peer is sent: the modulus and the base of the randomness.

    Attributes:
        n: modulus N, exactly ``bits`` bits.
        h_s: base of the randomness, a unit in (1, N^2) that is an N-th power.
        bits: size of N, a multiple of 16, at least 256.
        kind: whether h_s has a short order.
    """

    n: mpz
    h_s: mpz
    bits: int
    kind: KeyKind = "standard"

    def __repr__(self) -> str:
        return f"PublicKey({self.bits} bits)"

    @cached_property
    def n_squared(self) -> mpz:
        """N^2: ciphertexts are units below it."""
        return self.n * self.n

    @property
    def plaintext_bits(self) -> int:
        """Bits every plaintext may use: 2**plaintext_bits is well below N."""
        return self.bits - 2

    @property
    def ciphertext_bytes(self) -> int:
        """Fixed width of a ciphertext on the wire, in bytes."""
        return self.bits // 4

    @property
    def exponent_bytes(self) -> int:
        """Bytes of the random exponent a: half the size of N, or 40 bits more than the order of a short-order key."""
        if self.kind == "standard":
            return self.bits // 16
        return -(-(2 * order_bits(self.bits) + ORDER_HIDING_BITS) // 8)

    def to_phe(self) -> Any:
        """This key as ``phe.PaillierPublicKey``."""
        from phe.paillier import PaillierPublicKey

        return PaillierPublicKey(int(self.n))


@dataclass(frozen=True)
class SecretKey:
    """The owner's key.  It prints no secret and refuses to be pickled.

    An engine's worker that encrypts or decrypts for the owner is a process of the same user on the same machine, or one of the
    operator's own cluster where the configuration trusts it with keys, and receives the secret numbers as plain arguments
    (``node.engine.batches``); nothing else takes a secret key across a process border.

    Attributes:
        public: the public key.
        p, q: the primes, both 3 mod 4.
        orders: alpha_p and alpha_q of a short-order key; none of a standard one.
    """

    public: PublicKey
    p: mpz = field(repr=False)
    q: mpz = field(repr=False)
    orders: tuple[mpz, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if len(self.orders) != (0 if self.public.kind == "standard" else 2) or any(
            (prime - 1) % order for prime, order in zip((self.p, self.q), self.orders, strict=False)
        ):
            raise UsageError(
                "paillier.key_orders", "The orders are not those of a key of this kind.", remedy="Use the key as it was generated."
            )
        if self.p * self.q != self.public.n or self.p == self.q:
            raise UsageError(
                "paillier.key_primes", "The two primes are not those of this modulus.", remedy="Use the key as it was generated."
            )

    def __repr__(self) -> str:
        return f"SecretKey({self.public.bits} bits, <secret>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key is not pickled")

    def numbers(self) -> tuple[int, ...]:
        """The secret numbers: the primes and, of a short-order key, the orders."""
        return tuple(int(value) for value in (self.p, self.q, *self.orders))

    @classmethod
    def of(cls, public: PublicKey, numbers: Sequence[int]) -> SecretKey:
        """Inverse of :meth:`numbers`."""
        p, q, *orders = (mpz(value) for value in numbers)
        return cls(public, p, q, tuple(orders))

    def to_phe(self) -> Any:
        """This key as ``phe.PaillierPrivateKey``."""
        from phe.paillier import PaillierPrivateKey

        return PaillierPrivateKey(self.public.to_phe(), int(self.p), int(self.q))


def _check_bits(bits: int) -> None:
    if bits < KEY_BITS_MIN or bits % 16:
        raise UsageError(
            "paillier.key_bits",
            f"A Paillier modulus of {bits} bits is not possible here: at least {KEY_BITS_MIN}, a multiple of 16.",
            remedy="Ask for 2048 or 3072 bits.",
        )


def _prime(bits: int, stream: Stream) -> mpz:
    """A prime of ``bits`` bits, 3 mod 4, its two top bits set (so that a product of two has exactly twice the bits)."""
    fixed = (3 << (bits - 2)) | 3
    while True:
        candidate = mpz(stream.bits(bits) | fixed)
        if gmpy2.is_prime(candidate, PRIME_ROUNDS):
            return candidate


def _prime_with_order(bits: int, order: mpz, stream: Stream) -> mpz:
    """As :func:`_prime`, with ``order`` dividing p - 1."""
    step = 4 * order
    while True:
        draw = mpz(stream.bits(bits) | 3 << (bits - 2))
        candidate = draw - draw % step + 2 * order + 1
        if candidate >> (bits - 2) == 3 and gmpy2.is_prime(candidate, PRIME_ROUNDS):
            return candidate


def _element_of_order(p: mpz, order: mpz, stream: Stream) -> mpz:
    """A random element of the prime order ``order`` modulo p."""
    while True:
        element = powmod(mpz(stream.below(int(p))), (p - 1) // order, p)
        if element > 1:
            return element


def generate_key(bits: int, stream: Stream, *, kind: KeyKind = "standard") -> SecretKey:
    """Generate a key pair; the same stream gives the same key.

    Conditions (Damgard, Jurik, Nielsen 2010, section 4.2; FIPS 186-5, A.1.1 for the distance): p = q = 3 mod 4, gcd(p-1, q-1) = 2,
    gcd(N, (p-1)(q-1)) = 1, |p - q| > 2^(bits/2 - 100).

    Raises:
        UsageError: ``paillier.key_bits``.
    """
    _check_bits(bits)
    half = bits // 2
    orders: tuple[mpz, ...] = ()
    while True:
        if kind == "standard":
            p, q = _prime(half, stream), _prime(half, stream)
        else:
            orders = _prime(order_bits(bits), stream), _prime(order_bits(bits), stream)
            p, q = (_prime_with_order(half, order, stream) for order in orders)
        if abs(p - q) >> max(half - 100, 0) == 0 or gmpy2.gcd(p - 1, q - 1) != 2 or gmpy2.gcd(p * q, (p - 1) * (q - 1)) != 1:
            continue
        break
    n = p * q
    while True:
        if kind == "standard":
            x = mpz(stream.below(int(n)))
            h = -x * x % n
        else:
            h_p, h_q = (_element_of_order(prime, order, stream) for prime, order in zip((p, q), orders, strict=True))
            x = h = h_q + q * ((h_p - h_q) * gmpy2.invert(q, p) % p)
        h_s = powmod(h, n, n * n)
        if gmpy2.gcd(x, n) == 1 and not _is_trivial(h_s, n):
            break
    return SecretKey(PublicKey(n, h_s, bits, kind), p, q, orders)


def _is_trivial(h_s: mpz, n: mpz) -> bool:
    """Whether h_s is 1 or -1 modulo N: as an N-th power it would then hide nothing, otherwise it would move plaintexts."""
    return h_s % n in (1, n - 1)


@lru_cache(maxsize=1)
def _small_primes() -> mpz:
    return gmpy2.primorial(SMALL_PRIME_BOUND)


def _has_smooth_order(h_s: mpz, n: mpz) -> bool:
    """Whether the order of h_s modulo a prime factor of N divides the product of all primes below 2**16."""
    return gmpy2.gcd(powmod(h_s % n, _small_primes(), n) - 1, n) != 1


def check_public_key(
    *,
    bits: int,
    modulus: int,
    h_s: int,
    minimum_bits: int,
    own: PublicKey | None,
    maximum_bits: int = Limits.key_bits_max,
    kind: KeyKind = "standard",
) -> PublicKey:
    """Check what the peer sent as its public key; see the module's head for the meaning of the fields.

    That h_s is an N-th power cannot be seen without the primes.  Its Jacobi symbol can: it is 1, as that of -x^2 is when
    p = q = 3 mod 4.  Nor can the order of h_s be seen; that of a short-order key is at least not a product of small primes, which
    would hide nothing.

    Args:
        bits: declared size of the modulus.
        modulus: N.
        h_s: base of the randomness.
        minimum_bits: least size accepted.
        own: this party's own key, which the peer's must share no factor with.
        maximum_bits: largest size accepted.
        kind: the kind that the job says.

    Raises:
        PeerError: ``paillier.key_size``, ``.key_even``, ``.key_square``, ``.key_small_factor``, ``.key_is_own``, ``.key_h_s``.
    """
    if not max(minimum_bits, KEY_BITS_MIN) <= bits <= maximum_bits or bits % 16 or modulus.bit_length() != bits:
        raise PeerError(
            "paillier.key_size",
            f"The peer's Paillier modulus has {modulus.bit_length()} bits, declared as {bits}; "
            f"accepted are {minimum_bits} to {maximum_bits}, in steps of 16.",
            remedy="Agree on a key size in the job specification that both policies allow.",
        )
    n, base = mpz(modulus), mpz(h_s)
    if n % 2 == 0:
        raise _bad_key("key_even", "modulus is even")
    if gmpy2.is_power(n):
        raise _bad_key("key_square", "modulus is a square or a higher power")
    if gmpy2.gcd(n, _small_primes() % n) != 1:
        raise _bad_key("key_small_factor", f"modulus has a prime factor below {SMALL_PRIME_BOUND}")
    if own is not None and gmpy2.gcd(n, own.n) != 1:
        raise _bad_key("key_is_own", "modulus is this node's own or shares a factor with it")
    if not 1 < base < n * n or gmpy2.gcd(base, n) != 1 or _is_trivial(base, n) or gmpy2.jacobi(base, n) != 1:
        raise _bad_key("key_h_s", "base of the randomness (h_s) is out of range, not a unit or trivial")
    if kind == "short-order" and _has_smooth_order(base, n):
        raise _bad_key("key_h_s", "base of the randomness (h_s) has an order of small primes alone")
    return PublicKey(n, base, bits, kind)


def _bad_key(what: str, reason: str) -> PeerError:
    return PeerError(
        f"paillier.{what}",
        f"The peer's Paillier {reason}.",
        remedy="Do not go on; ask the peer to check its software and run the job again.",
    )
