"""What a training keeps between its steps: the plan both parties know, the preparation, and each round's shares.

``Prepared`` and ``RoundShares`` are secret: they hold the key, masks and shares.  They turn into named arrays (and back) so
that the runtime can store them without knowing what they mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from audit.layout import KeyKind
from node.crypto.paillier_keys import PublicKey, SecretKey
from node.errors import PeerError
from node.protocols.lookup import IndexHolder, TableHolder
from node.protocols.masked_product import JobKeys
from node.protocols.rings import Role, array_to_ints, combine, ints_to_array
from node.protocols.scales import SHORT_BITS, SPARE_SLOTS, product_bits, step_scale, weight_scale

Arrays = dict[str, NDArray[np.generic]]

_BASE_RATE = re.compile(r"^0\.0{0,6}[1-9][0-9]?$")


@dataclass(frozen=True)
class TrainingPlan:
    """What both parties know before the first message.

    Attributes:
        role: this party's.
        job: SHA-256 of the job specification, hex.
        l2: penalty of (l2 / 2) |w|^2 beside the mean log-loss.
        rounds: most rounds of the training.
        key_bits: size of the Paillier moduli.
        minimum_key_bits: smallest modulus accepted from the peer.
        key_kind: of both parties' keys.
        lookup_entries: N of the 1-of-N lookups.
        rows: training rows.
    """

    role: Role
    job: str
    l2: Fraction
    rounds: int
    key_bits: int
    minimum_key_bits: int
    lookup_entries: int
    rows: int
    key_kind: KeyKind = "standard"

    @property
    def slots(self) -> int:
        """Masks prepared: one a round, and spare ones for rounds that are run again."""
        return self.rounds + SPARE_SLOTS

    @property
    def holds_label(self) -> bool:
        return self.role == "label_holder"


def parse_base_rate(text: str) -> Fraction:
    """A base rate of two significant digits, as the label holder discloses it.

    Raises:
        PeerError: ``training.base_rate`` when it is no such number in (0, 1).
    """
    if not _BASE_RATE.fullmatch(text):
        raise PeerError("training.base_rate", "The base rate is not a number between 0 and 1 with two significant digits.")
    return Fraction(text)


def logit_at_scale(rate: Fraction, scale: int) -> int:
    """round(2**scale * log(rate / (1 - rate))), the same integer on every machine (MPFR)."""
    with gmpy2.context(precision=scale + 64):
        odds = rate / (1 - rate)
        return int(gmpy2.rint(gmpy2.log(gmpy2.mpfr(gmpy2.mpq(odds.numerator, odds.denominator))) * (mpz(1) << scale)))


_SECRET_NUMBERS = ("p", "q", "order_p", "order_q")


def _matrix_to_array(rows: Sequence[Sequence[int]], bits: int) -> NDArray[np.uint8]:
    return np.stack([ints_to_array(row, bits) for row in rows])


def _array_to_matrix(array: NDArray[np.uint8]) -> list[list[int]]:
    return [array_to_ints(row) for row in array]


def _number(value: int) -> NDArray[np.uint8]:
    return np.frombuffer(int(value).to_bytes((int(value).bit_length() + 7) // 8 or 1, "little"), dtype=np.uint8)


def _as_int(array: NDArray[np.uint8]) -> int:
    return int.from_bytes(array.tobytes(), "little")


@dataclass
class Prepared:
    """What ``prepare`` leaves with one party.

    Attributes:
        own_columns, peer_columns: encoded columns, the label holder's intercept counted.
        base_rate: as disclosed.
        score_bits: k, the ring of row scores.
        residual_masks: uint64 (slots, rows); the label holder's residual shares r, the feature holder's masks m for X_L'e.
        column_u, column_v: [slot][peer column], [slot][own column] modulo 2**product_bits(rows).
        score_masks: [slot - 1][peer column] modulo 2**score_bits; score_u, score_v: uint64 (slots - 1, rows).
        preconditioner: own P; gradient_masks, gradient_u, gradient_v: [slot][column] modulo 2**SHORT_BITS.
        lookup: this party's half of the base oblivious transfers.
    """

    own: SecretKey = field(repr=False)
    peer: PublicKey = field(repr=False)
    own_columns: int
    peer_columns: int
    base_rate: str
    score_bits: int
    residual_masks: NDArray[np.uint64] = field(repr=False)
    column_u: list[list[int]] = field(repr=False)
    column_v: list[list[int]] = field(repr=False)
    score_masks: list[list[int]] = field(repr=False)
    score_u: NDArray[np.uint64] = field(repr=False)
    score_v: NDArray[np.uint64] = field(repr=False)
    preconditioner: list[list[int]] = field(repr=False)
    gradient_masks: list[list[int]] = field(repr=False)
    gradient_u: list[list[int]] = field(repr=False)
    gradient_v: list[list[int]] = field(repr=False)
    lookup: TableHolder | IndexHolder = field(repr=False)

    @property
    def columns(self) -> int:
        """Own encoded columns."""
        return self.own_columns

    @cached_property
    def keys(self) -> JobKeys:
        """Encryption tables, built when first used."""
        return JobKeys.of(self.own, self.peer)

    def to_arrays(self) -> Arrays:
        """Named arrays that hold all of it (secret)."""
        arrays: Arrays = {
            **dict(zip(_SECRET_NUMBERS, map(_number, self.own.numbers()), strict=False)),
            "h_s": _number(self.own.public.h_s),
            "peer_n": _number(self.peer.n),
            "peer_h_s": _number(self.peer.h_s),
            "sizes": np.array([self.own_columns, self.peer_columns, self.score_bits, self.own.public.bits, self.peer.bits]),
            "base_rate": np.frombuffer(self.base_rate.encode(), dtype=np.uint8),
            "residual_masks": self.residual_masks,
            "column_u": _matrix_to_array(self.column_u, product_bits(self.residual_masks.shape[1])),
            "column_v": _matrix_to_array(self.column_v, product_bits(self.residual_masks.shape[1])),
            "score_masks": np.array(self.score_masks, dtype=np.uint64),
            "score_u": self.score_u,
            "score_v": self.score_v,
            "preconditioner": np.array(self.preconditioner, dtype=np.int64),
            "gradient_masks": _matrix_to_array(self.gradient_masks, SHORT_BITS),
            "gradient_u": _matrix_to_array(self.gradient_u, SHORT_BITS),
            "gradient_v": _matrix_to_array(self.gradient_v, SHORT_BITS),
            "table_holder": np.array([isinstance(self.lookup, TableHolder)]),
        }
        return arrays | {f"lookup_{name}": array for name, array in self.lookup.to_arrays().items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Prepared:
        """Inverse of :meth:`to_arrays`."""
        own_columns, peer_columns, score_bits, own_bits, peer_bits = (int(v) for v in arrays["sizes"])
        numbers = [_as_int(arrays[name]) for name in _SECRET_NUMBERS if name in arrays]
        kind: KeyKind = "standard" if len(numbers) == 2 else "short-order"
        n = mpz(numbers[0]) * numbers[1]
        holder = TableHolder if bool(arrays["table_holder"][0]) else IndexHolder
        lookup = {name.removeprefix("lookup_"): array for name, array in arrays.items() if name.startswith("lookup_")}
        return cls(
            own=SecretKey.of(PublicKey(n=n, h_s=mpz(_as_int(arrays["h_s"])), bits=own_bits, kind=kind), numbers),
            peer=PublicKey(n=mpz(_as_int(arrays["peer_n"])), h_s=mpz(_as_int(arrays["peer_h_s"])), bits=peer_bits, kind=kind),
            own_columns=own_columns,
            peer_columns=peer_columns,
            base_rate=arrays["base_rate"].tobytes().decode(),
            score_bits=score_bits,
            residual_masks=arrays["residual_masks"],
            column_u=_array_to_matrix(arrays["column_u"]),
            column_v=_array_to_matrix(arrays["column_v"]),
            score_masks=arrays["score_masks"].tolist(),
            score_u=arrays["score_u"],
            score_v=arrays["score_v"],
            preconditioner=arrays["preconditioner"].tolist(),
            gradient_masks=_array_to_matrix(arrays["gradient_masks"]),
            gradient_u=_array_to_matrix(arrays["gradient_u"]),
            gradient_v=_array_to_matrix(arrays["gradient_v"]),
            lookup=holder.from_arrays(lookup),
        )


@dataclass
class RoundShares:
    """What one round leaves with one party.

    Attributes:
        inner_products: K_t1..K_tt, disclosed to both parties and the coordinator.
        direction: own share of p_t, label holder's block first; modulo 2**SHORT_BITS.
        operands: the peer's ciphertexts of its share of p_t.
        peer_n: the modulus they are under: another than the present one when the preparation was run again since.
        renewed: the ciphertexts of p_1..p_(t-1) under that modulus, where this round had to exchange them once more.
    """

    inner_products: list[float]
    direction: list[int] = field(repr=False)
    operands: list[mpz] = field(repr=False)
    peer_n: mpz = field(repr=False)
    renewed: list[list[mpz]] = field(default_factory=list, repr=False)

    def to_arrays(self) -> Arrays:
        """Named arrays that hold all of it (secret)."""
        width = 2 * ((int(self.peer_n).bit_length() + 7) // 8)
        data = b"".join(int(c).to_bytes(width, "little") for row in (self.operands, *self.renewed) for c in row)
        return {
            "inner_products": np.array(self.inner_products, dtype=np.float64),
            "direction": ints_to_array(self.direction, SHORT_BITS),
            "operands": np.frombuffer(data, dtype=np.uint8).reshape(1 + len(self.renewed), len(self.operands), width),
            "peer_n": _number(self.peer_n),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> RoundShares:
        """Inverse of :meth:`to_arrays`."""
        rows = [[mpz(int.from_bytes(c.tobytes(), "little")) for c in row] for row in arrays["operands"]]
        return cls(
            inner_products=arrays["inner_products"].tolist(),
            direction=array_to_ints(arrays["direction"]),
            operands=rows[0],
            peer_n=mpz(_as_int(arrays["peer_n"])),
            renewed=rows[1:],
        )


def operands_under(modulus: mpz, earlier: Sequence[RoundShares]) -> list[list[mpz] | None]:
    """The peer's ciphertexts of its shares of p_1..p_(t-1) under its present key; None where only older ones are there."""
    found = [shares.operands if shares.peer_n == modulus else None for shares in earlier]
    for shares in earlier:
        if shares.peer_n == modulus and shares.renewed:
            found[: len(shares.renewed)] = shares.renewed
    return found


def weights(
    plan: TrainingPlan, prepared: Prepared, earlier: Sequence[RoundShares], coefficients: Sequence[float]
) -> tuple[list[int], list[int]]:
    """Own shares of the iterate w_0 - sum_j coefficients[j] p_j at scale ``weight_scale(rows)``: (own block, peer's block).

    The coefficients are public doubles; each becomes the integer nearest to c / n at ``step_scale(rows)``, in exact arithmetic.
    """

    scale = step_scale(plan.rows)
    factors = [-round(Fraction(c) * (1 << scale) / plan.rows) for c in coefficients]
    total = prepared.own_columns + prepared.peer_columns
    shares = combine(factors, [r.direction for r in earlier], total, SHORT_BITS)
    if plan.holds_label:
        start = logit_at_scale(parse_base_rate(prepared.base_rate), weight_scale(plan.rows))
        shares[0] = (shares[0] + start) & ((1 << SHORT_BITS) - 1)
        return shares[: prepared.own_columns], shares[prepared.own_columns :]
    return shares[prepared.peer_columns :], shares[: prepared.peer_columns]
