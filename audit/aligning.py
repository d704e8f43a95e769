"""How the shared customers are found: which method, and the sizes of what the method by oblivious transfer sends.

All of it follows from the sizes of the two sets, which both declare, and the job's specification; so both nodes come to the same
choice, and an auditor to theirs (docs/protocols.md, section 1).

**The choice.**  Masking on the curve costs either side a scalar multiplication for each element of both sets, and 48 bytes go over
the link for each.  Oblivious transfer costs 38 to 43 bytes an element of the smaller set and about ten of the larger, and symmetric
operations alone, but begins with 240 base transfers of four scalar multiplications and 15 kB in all.  So ``auto`` masks where the
two sets together are small and takes oblivious transfer for all others.  The speed of the link does not enter: above a few hundred
elements oblivious transfer is less in both time and bytes.

**Bins.**  A keyed hash throws the identifiers of both sides into the same number of bins.  A bin is padded to a load that it
exceeds with a chance below 2^-40, all bins together (Chernoff's bound), so that nothing about a set shows in how full they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Literal

Method = Literal["curve", "ot"]
METHODS: dict[str, Method] = {"curve": "curve", "ot": "ot"}

OT_FROM = 2_000
"""Elements of both sets together from which ``auto`` takes oblivious transfer.  Below about 700 its base transfers cost more than
masking; between, neither takes a quarter of a second.
"""
STATISTICAL_BITS = 40
"""A false match, a bin that overflows: each with a chance below 2^-40 in one alignment."""

BIN_ELEMENTS = 1 << 16
"""Elements of the larger set that fall into one bin on average, at most."""
COORDINATES = 60
"""Length of the code over GF(16), hence correlations (node/crypto/code.py)."""
SYMBOL_BITS = 4
BASE_TRANSFERS = COORDINATES * SYMBOL_BITS
CHUNK_SLOTS = 1 << 15
"""Slots of a store in one message; the last message of a bin holds what remains."""
MARKS_BATCH = 1 << 23
"""Marks in one message."""
DENSE_SLOTS = 64
"""Slots of a store that any key may use; 48 are in use, which keeps the whole a multiple of 64."""


@dataclass(frozen=True)
class BinShape:
    """Sizes of one alignment by oblivious transfer.

    Attributes:
        bins: how many, for both sides.
        receiver_load, sender_load: most elements of one bin.
        segment: a store has three of these and the dense slots.
        tag_bytes: bytes of one pseudo-random value.
    """

    bins: int
    receiver_load: int
    sender_load: int
    segment: int
    tag_bytes: int

    @property
    def slots(self) -> int:
        """Slots of one bin's store."""
        return 3 * self.segment + DENSE_SLOTS

    @property
    def all_slots(self) -> int:
        """Slots of all bins."""
        return self.bins * self.slots

    @property
    def all_tags(self) -> int:
        """Values that the sender sends, padding included."""
        return self.bins * self.sender_load


def bin_shape(receiver: int, sender: int) -> BinShape:
    """The sizes for two sets of ``receiver`` and ``sender`` elements."""
    bins = max(1, -(-max(receiver, sender) // BIN_ELEMENTS))
    load = bin_load(receiver, bins)
    bits = STATISTICAL_BITS + receiver.bit_length() + sender.bit_length()
    return BinShape(bins, load, bin_load(sender, bins), segment_slots(load), -(-bits // 8))


def bin_load(elements: int, bins: int) -> int:
    """A load that the fullest of ``bins`` bins exceeds with a chance below 2^-40.

    Chernoff: Pr[load >= mu + t] <= exp(-t^2 / (2 mu + 2 t / 3)); t solves it for 2^-(40 + log2 bins).  In integers.
    """
    if bins == 1:
        return elements
    nats = (STATISTICAL_BITS + bins.bit_length()) * 7 // 10 + 1  # ln 2 < 0.7
    mean = -(-elements // bins)
    return min(elements, mean + nats + isqrt(nats * nats + 2 * nats * mean) + 1)


def segment_slots(load: int) -> int:
    """Slots in a third of a store for ``load`` keys: 1.25 slots a key and four square roots more, in whole words of 64 slots.

    A random three-uniform hypergraph peels from 1.222 slots a key on; near that, whether it does varies with the square root.
    """
    slots = load + load // 4 + 4 * isqrt(load)
    return 64 * max(1, -(-slots // 192))


def chosen_method(method: Literal["auto", "curve", "ot"], label_holder: int, feature_holder: int) -> Method:
    """The method of a job whose specification says ``method``, for two sets of these sizes."""
    if method != "auto":
        return method
    return "ot" if label_holder + feature_holder >= OT_FROM else "curve"


def label_holder_receives(label_holder: int, feature_holder: int) -> bool:
    """Whether the label holder is the receiver of the oblivious transfers: whose set is not the larger."""
    return label_holder <= feature_holder


def reason(method: Literal["auto", "curve", "ot"], label_holder: int, feature_holder: int) -> str:
    """Why it is that method, for people."""
    if method != "auto":
        return "the specification names it"
    side = "at least" if label_holder + feature_holder >= OT_FROM else "fewer than"
    return f"the two sets have {side} {OT_FROM:,} elements together"


def chunks(first: int, count: int, most: int) -> list[tuple[int, int]]:
    """Positions and sizes of the messages that carry ``count`` items from ``first``, at most ``most`` each."""
    return [(first + done, min(most, count - done)) for done in range(0, count, most)]
