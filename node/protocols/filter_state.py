"""What the two sides of an alignment against a published filter keep from one job to the next, and how a version is named.

A customer is found again by a tag, a keyed hash of its identifier under a key that never leaves its node, so that no identifier
rests in the state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from audit.layout import KEPT_BYTES, POINT_BYTES
from node.crypto.drbg import Drbg
from node.crypto.elias_fano import VALUE, Filter
from node.engine import Engine
from node.errors import DataError
from node.limits import Limits
from node.protocols.channel import Progress, silent
from node.protocols.filter_values import ascending

TAG_KEY_BYTES = 32
DIGEST_BYTES = 32


@dataclass(frozen=True)
class Terms:
    """What this node's policy says of a relation, and the ages that it speaks of (whole days).

    Attributes:
        reuse_days: how long a key, and what was masked under it, may serve; 0: for one alignment.
        key_age: since the kept key was drawn (publisher) or first met (querier).
        filter_days: how long a filter is brought forward by changes before it is published as a whole again (publisher).
        filter_age: since it was last published as a whole.
    """

    reuse_days: int = 0
    key_age: int = 0
    filter_days: int = 1
    filter_age: int = 0


class Commit(Protocol):
    """Puts a commitment into the log."""

    def __call__(self, what: str, sha256: str, **sizes: int) -> None: ...


@dataclass(frozen=True)
class Setting:
    """What both halves are given.

    Attributes:
        relation: SHA-256 that names publisher, querier, their data sets and the way to normalise, hex; the same at both.
        identifiers: own ones, normalised and without duplicates.
        minimum: fewest shared customers that this side accepts.
        drbg: randomness of this attempt; opens ``psi.common order``, ``psi.scalar``, ``psi.tags`` and, at the
            querier, ``psi.order``.
        engine: where curve operations run.
        limits: ``psi_elements``, ``psi_batch`` and ``message_bytes`` are used.
        terms: what the policy says of this relation, and how old things are.
        commit: told ``filter key`` and ``filter``, the latter with its elements as ``rows`` and its ``version``.
        progress: told ``("align", elements done, elements to do)``.
    """

    relation: str
    identifiers: Sequence[str] = field(repr=False)
    minimum: int
    drbg: Drbg = field(repr=False)
    engine: Engine = field(repr=False)
    limits: Limits
    terms: Terms
    commit: Commit
    progress: Progress = silent


@dataclass(frozen=True)
class Published:
    """The publisher's side: ``tags`` (ascending) and ``values``, shape (n,), dtype ``VALUE``: F of each customer, by its tag."""

    scalar: bytes = field(repr=False)
    tag_key: bytes = field(repr=False)
    version: int
    digest: bytes
    prefix_bits: int
    tags: NDArray[np.void] = field(repr=False)
    values: NDArray[np.void] = field(repr=False)

    def to_arrays(self) -> dict[str, NDArray]:
        """For a sealed file."""
        head = np.array([self.version, self.prefix_bits], dtype=np.int64)
        return {
            "head": head,
            "secret": _bytes(self.scalar + self.tag_key),
            "digest": _bytes(self.digest),
            "tags": _raw(self.tags),
            "values": _raw(self.values),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Published:
        """Inverse.  Raises ``ValueError`` or ``KeyError`` where it is none."""
        secret, tags, values = arrays["secret"].tobytes(), _values(arrays["tags"]), _values(arrays["values"])
        version, prefix_bits = (int(number) for number in arrays["head"])
        digest = arrays["digest"].tobytes()
        if (len(secret), len(digest)) != (POINT_BYTES + TAG_KEY_BYTES, DIGEST_BYTES) or len(tags) != len(values):
            raise ValueError("not a publisher's state")
        return cls(secret[:POINT_BYTES], secret[POINT_BYTES:], version, digest, prefix_bits, tags, values)


@dataclass(frozen=True)
class Held:
    """The querier's side: the filter, and F of those of its own customers that it has asked about, by tag."""

    key: bytes
    tag_key: bytes = field(repr=False)
    version: int
    digest: bytes
    filter: Filter = field(repr=False)
    tags: NDArray[np.void] = field(repr=False)
    values: NDArray[np.void] = field(repr=False)

    def to_arrays(self) -> dict[str, NDArray]:
        """For a sealed file."""
        return {
            "head": np.array([self.version, self.filter.elements, self.filter.prefix_bits], dtype=np.int64),
            "key": _bytes(self.key),
            "secret": _bytes(self.tag_key),
            "digest": _bytes(self.digest),
            "index": self.filter.index,
            "remainders": self.filter.remainders,
            "tags": _raw(self.tags),
            "values": _raw(self.values),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Held:
        """Inverse.  Raises ``ValueError`` or ``KeyError`` where it is none."""
        version, elements, prefix_bits = (int(number) for number in arrays["head"])
        key, tag_key, digest = (arrays[name].tobytes() for name in ("key", "secret", "digest"))
        tags, values = _values(arrays["tags"]), _values(arrays["values"])
        if (len(key), len(tag_key), len(digest)) != (DIGEST_BYTES, TAG_KEY_BYTES, DIGEST_BYTES) or len(tags) != len(values):
            raise ValueError("not a querier's state")
        coded = Filter(elements, prefix_bits, arrays["index"], arrays["remainders"])
        return cls(key, tag_key, version, digest, coded, tags, values)


def _bytes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, dtype=np.uint8)


def _raw(values: NDArray[np.void]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values).view(np.uint8)


def _values(raw: NDArray) -> NDArray[np.void]:
    return np.frombuffer(raw.tobytes(), dtype=VALUE)


# ---- digests -------------------------------------------------------------------------------------------------------------------


def whole_digest(relation: str, key: bytes, version: int, coded: Filter) -> bytes:
    """Digest of a version that was published as a whole."""
    parts = hashlib.sha256(coded.index.tobytes()).digest() + hashlib.sha256(coded.remainders.tobytes()).digest()
    sizes = version.to_bytes(4, "big") + coded.elements.to_bytes(8, "big") + bytes([coded.prefix_bits])
    return hashlib.sha256(b"isthmus filter v1" + bytes.fromhex(relation) + key + sizes + parts).digest()


def changed_digest(before: bytes, version: int, elements: int, removed: NDArray[np.void], added: NDArray[np.void]) -> bytes:
    """Digest of a version that follows from the one with the digest ``before``."""
    parts = hashlib.sha256(removed.tobytes()).digest() + hashlib.sha256(added.tobytes()).digest()
    sizes = version.to_bytes(4, "big") + elements.to_bytes(8, "big")
    return hashlib.sha256(b"isthmus filter change v1" + before + sizes + parts).digest()


# ---- tags --------------------------------------------------------------------------------------------------------------------


def tags_of(identifiers: Sequence[str], tag_key: bytes) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """Tags of identifiers, ascending, and the row of each.

    Raises:
        DataError: ``psi.identifier_not_text``, ``psi.duplicate_identifier``.
    """
    keyed = hashlib.blake2b(key=tag_key, digest_size=KEPT_BYTES)
    data = bytearray()
    for identifier in identifiers:
        one = keyed.copy()
        one.update(encoded(identifier))
        data += one.digest()
    tags = np.frombuffer(data, dtype=VALUE)
    rows = ascending(tags)
    tags = tags[rows]
    if bool((tags[1:] == tags[:-1]).any()):
        raise DataError(
            "psi.duplicate_identifier",
            "An own identifier was given to the alignment twice.",
            remedy="Remove duplicate identifiers before the alignment.",
        )
    return tags, rows


def encoded(identifier: str) -> bytes:
    """An identifier as bytes.  Raises ``DataError`` ``psi.identifier_not_text``."""
    try:
        return identifier.encode()
    except UnicodeEncodeError:
        raise DataError(
            "psi.identifier_not_text",
            "An identifier holds half of a surrogate pair and is no Unicode text.",
            remedy="Read the data with its right character encoding.",
        ) from None
