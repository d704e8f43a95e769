"""Paillier with precomputed bases: the owner's and the peer's encryption, decryption.

Theory of operation.  N = pq with p = q = 3 mod 4; a ciphertext of m is c = (1 + mN) r mod N^2 with r a random N-th power
(Paillier 1999).  After Damgard, Jurik and Nielsen (2010, section 4.2) r is h_s^a for one public h_s = (-x^2)^N mod N^2 and a
short exponent a of |N|/2 random bits: the base is fixed, so h_s^a is a product of one table entry per window of a, and costs no
squarings.  Whoever knows p and q works modulo p^2 and q^2 (numbers of half the length) and joins by the Chinese remainder
theorem; decryption likewise (Paillier 1999, section 7).  Ciphertexts and keys are those of ``phe``: either decrypts what the other
encrypted.  How keys are made and checked, and what a short order changes, is in :mod:`node.crypto.paillier_keys`.

Timing.  GMP's arithmetic is not constant-time, here as in ``phe``; a peer sees the times of whole batches over a network, and an
exponent of encryption serves once.
"""

from __future__ import annotations

from collections.abc import Sequence

import gmpy2
from gmpy2 import f_divmod, mpz, powmod_base_list

from node.crypto.drbg import Stream
from node.crypto.fixed_base import WINDOW, FixedBase, window_for
from node.crypto.paillier_keys import PublicKey, SecretKey, order_bits
from node.errors import PeerError, UsageError


def _encoded(plaintexts: Sequence[int], n: mpz) -> list[mpz]:
    """Plaintexts modulo N; negative ones stand for N + m."""
    values = [mpz(m) for m in plaintexts]
    if any(not -n < m < n for m in values):
        raise UsageError(
            "paillier.plaintext_range", "A plaintext is not between -N and N.", remedy="Use a larger key or fewer slots."
        )
    return values


class _Encryptor:
    """What both encryptors share: c = r (1 + mN) = r + N (m r mod N) modulo N^2, for r = h_s^a.

    The tables are made at the first use, for as many ciphertexts as are expected or, if that is more, have been asked for; an
    encryptor that turns out to serve many makes wider ones.  The ciphertexts do not depend on it.

    Args:
        public_key: the key to encrypt under.
        roots: the numbers whose squares h_s^a is wanted modulo.
        expected: about how many ciphertexts it will make; 0 when not known.
        window: bits of a window, where the caller knows better.
    """

    def __init__(self, public_key: PublicKey, roots: Sequence[mpz], *, expected: int, window: int | None) -> None:
        self.public_key, self._roots, self._expected, self._window = public_key, roots, expected, window
        self._bases: list[FixedBase] = []
        self._made = 0

    def _powers(self, exponents: bytes) -> list[list[mpz]]:
        """h_s^a modulo the square of each root."""
        if not exponents:
            return [[] for _ in self._roots]
        size = self.public_key.exponent_bytes
        self._made += len(exponents) // size
        window = self._window or window_for(max(self._expected, self._made))
        # One bit wider gains less than what new tables cost, but for the last.
        reduced = self._reduced(exponents)
        if not self._bases or window > self._bases[0].window + (window < WINDOW):
            self._bases = [
                FixedBase(self.public_key.h_s, root, length, window) for root, (length, _) in zip(self._roots, reduced, strict=True)
            ]
        return [base.powers(data) for base, (_, data) in zip(self._bases, reduced, strict=True)]

    def _reduced(self, exponents: bytes) -> list[tuple[int, bytes]]:
        """Length of an exponent and the exponents, for each root."""
        return [(self.public_key.exponent_bytes, exponents)] * len(self._roots)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.public_key.bits} bits)"

    def draw(self, count: int, stream: Stream) -> bytes:
        """The next ``count`` random exponents of ``stream``: |N|/2 bits each, little-endian, one after the other."""
        return stream.bytes(count * self.public_key.exponent_bytes)

    def randomness(self, exponents: bytes) -> list[mpz]:
        """h_s^a modulo N^2 for each drawn exponent."""
        raise NotImplementedError

    def encrypt(self, plaintexts: Sequence[int], stream: Stream) -> list[mpz]:
        """Encrypt integers m, -N < m < N (negative ones decrypt to N + m).

        Raises:
            UsageError: ``paillier.plaintext_range``.
        """
        return self.encrypt_drawn(plaintexts, self.draw(len(plaintexts), stream))

    def encrypt_drawn(self, plaintexts: Sequence[int], exponents: bytes) -> list[mpz]:
        """:meth:`encrypt` with exponents from :meth:`draw`: a worker has no stream.

        Raises:
            UsageError: ``paillier.plaintext_range``; ``paillier.lengths`` when there is not one exponent to each plaintext.
        """
        self._check_lengths(len(plaintexts), exponents)
        n, n_squared = self.public_key.n, self.public_key.n_squared
        pairs = zip(_encoded(plaintexts, n), self.randomness(exponents), strict=True)
        return [(r + n * (m * r % n)) % n_squared for m, r in pairs]

    def _check_lengths(self, count: int, exponents: bytes) -> None:
        if len(exponents) != count * self.public_key.exponent_bytes:
            raise UsageError(
                "paillier.lengths", f"{count} plaintexts or ciphertexts do not match {len(exponents)} bytes of exponents."
            )


class OwnerEncryptor(_Encryptor):
    """Encryption by the key's owner: the fixed base modulo p^2 and q^2, joined by the Chinese remainder theorem.

    Args:
        secret_key: the owner's key.
        expected: about how many ciphertexts it will make, sizes the tables; 0 when not known.
        window: bits of a window, where the caller knows better.
    """

    def __init__(self, secret_key: SecretKey, *, expected: int = 0, window: int | None = None) -> None:
        super().__init__(secret_key.public, (secret_key.p, secret_key.q), expected=expected, window=window)
        self._p_squared, self._q_squared = secret_key.p**2, secret_key.q**2
        self._q_inverse = gmpy2.invert(self._q_squared, self._p_squared)
        self._orders = [int(order) for order in secret_key.orders]

    def _reduced(self, exponents: bytes) -> list[tuple[int, bytes]]:
        if not self._orders:
            return super()._reduced(exponents)
        size, length = self.public_key.exponent_bytes, -(-order_bits(self.public_key.bits) // 8)
        values = [int.from_bytes(exponents[i : i + size], "little") for i in range(0, len(exponents), size)]
        return [(length, b"".join([(a % order).to_bytes(length, "little") for a in values])) for order in self._orders]

    def randomness(self, exponents: bytes) -> list[mpz]:
        """h_s^a modulo N^2 for each drawn exponent."""
        p_squared, q_squared, q_inverse = self._p_squared, self._q_squared, self._q_inverse
        pairs = zip(*self._powers(exponents), strict=True)
        return [b + q_squared * ((a - b) * q_inverse % p_squared) for a, b in pairs]


class PeerEncryptor(_Encryptor):
    """Encryption and re-randomisation under the other party's key (arguments as :class:`OwnerEncryptor`)."""

    def __init__(self, public_key: PublicKey, *, expected: int = 0, window: int | None = None) -> None:
        super().__init__(public_key, (public_key.n,), expected=expected, window=window)

    def randomness(self, exponents: bytes) -> list[mpz]:
        """h_s^a modulo N^2 for each drawn exponent."""
        return self._powers(exponents)[0]

    def rerandomise(self, ciphertexts: Sequence[mpz], stream: Stream, *, add: Sequence[int] | None = None) -> list[mpz]:
        """c (1 + add N) h_s^a: the same plaintext, plus ``add`` where given, under fresh randomness.

        Whatever is computed on the peer's ciphertexts goes through here before it is sent back: the owner could otherwise read
        the multipliers out of the randomness.

        Raises:
            UsageError: ``paillier.plaintext_range`` when an addend is not between -N and N; ``paillier.lengths`` when there is
                not one addend to each ciphertext.
        """
        return self.rerandomise_drawn(ciphertexts, self.draw(len(ciphertexts), stream), add=add)

    def rerandomise_drawn(self, ciphertexts: Sequence[mpz], exponents: bytes, *, add: Sequence[int] | None = None) -> list[mpz]:
        """:meth:`rerandomise` with exponents from :meth:`draw`."""
        self._check_lengths(len(ciphertexts), exponents)
        n_squared = self.public_key.n_squared
        fresh = self.randomness(exponents) if add is None else self.encrypt_drawn(add, exponents)
        return [c * r % n_squared for c, r in zip(ciphertexts, fresh, strict=True)]


class Decryptor:
    """Decryption by the Chinese remainder theorem (Paillier 1999, section 7): m_p = L_p(c^e mod p^2) h_p mod p, likewise q.

    e is p - 1, or alpha_p of a short-order key.
    """

    def __init__(self, secret_key: SecretKey) -> None:
        self.public_key = secret_key.public
        p, q = secret_key.p, secret_key.q
        self._p, self._q, self._p_squared, self._q_squared = p, q, p * p, q * q
        self._e_p, self._e_q = secret_key.orders or (p - 1, q - 1)
        # (1 + N)^e = 1 + e q p modulo p^2, so L_p of it is e q modulo p.
        self._h_p, self._h_q = gmpy2.invert(self._e_p * q, p), gmpy2.invert(self._e_q * p, q)
        self._q_inverse = gmpy2.invert(q, p)

    def __repr__(self) -> str:
        return f"Decryptor({self.public_key.bits} bits)"

    def decrypt(self, ciphertexts: Sequence[mpz]) -> list[int]:
        """The plaintexts, in [0, N).

        Raises:
            PeerError: ``paillier.ciphertext_subgroup`` for one whose randomness is not of a short-order key's order.
        """
        p, q, p_squared, q_squared = self._p, self._q, self._p_squared, self._q_squared
        h_p, h_q, q_inverse, plaintexts = self._h_p, self._h_q, self._q_inverse, []
        # One call for all powers: it lets other threads have the interpreter meanwhile.
        powers_p = powmod_base_list([c % p_squared for c in ciphertexts], self._e_p, p_squared)
        powers_q = powmod_base_list([c % q_squared for c in ciphertexts], self._e_q, q_squared)
        for power_p, power_q in zip(powers_p, powers_q, strict=True):
            (l_p, beside_p), (l_q, beside_q) = f_divmod(power_p - 1, p), f_divmod(power_q - 1, q)
            if beside_p or beside_q:
                raise PeerError(
                    "paillier.ciphertext_subgroup",
                    "A ciphertext from the peer was not made with this node's key.",
                    remedy="Both nodes must run one version.",
                )
            m_p, m_q = l_p * h_p % p, l_q * h_q % q
            plaintexts.append(int(m_q + q * ((m_p - m_q) * q_inverse % p)))
        return plaintexts
