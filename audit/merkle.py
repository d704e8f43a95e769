"""The Merkle tree of RFC 6962, section 2.1: SHA-256, ``0x00`` before a leaf, ``0x01`` before a node.

:class:`Frontier` is the tree while it grows: the roots of its complete subtrees, at most one per level, so that an append is
O(1) on average and a root O(log n), in O(log n) memory.  :class:`TreeHashes` also keeps the hash of every complete subtree, in a
file without a name, so that any proof costs O(log n) reads.  Proofs are checked by the algorithms of RFC 9162, sections 2.1.3.2 and
2.1.4.2 (the same tree, stated as procedures).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from audit.errors import UsageError, VerificationError

HASH_BYTES = 32
TREE_SIZE_MAX = 2**63 - 1
PROOF_HASHES_MAX = 63
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """Hash of one leaf's bytes: ``SHA-256(0x00 || data)``."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node: ``SHA-256(0x01 || left || right)``."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: enough to append a leaf and to name the root."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self.size = 0
        # Roots of the complete subtrees from left to right: one for each set bit of ``size``, the largest first.
        self._peaks: list[bytes] = []
        for leaf in leaves:
            self.append_hash(leaf)

    def append(self, data: bytes) -> bytes:
        """Append one leaf by its bytes; returns its leaf hash."""
        leaf = leaf_hash(data)
        self.append_hash(leaf)
        return leaf

    def append_hash(self, leaf: bytes, told: Callable[[bytes], object] | None = None) -> None:
        """Append one leaf by its hash; ``told`` hears the leaf's hash and that of every subtree it completes, from below."""
        carry, size = leaf, self.size
        if told:
            told(carry)
        while size & 1:
            carry = node_hash(self._peaks.pop(), carry)
            size >>= 1
            if told:
                told(carry)
        self._peaks.append(carry)
        self.size += 1

    def root(self) -> bytes:
        """The tree head over everything appended so far; of the empty tree it is SHA-256 of nothing."""
        if not self._peaks:
            return EMPTY_ROOT
        root = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            root = node_hash(peak, root)
        return root


class TreeHashes:
    """A growing tree that can prove: the hash of every complete subtree, 64 bytes an entry, on disk and not in memory.

    Hashes lie in the order in which they become known (a leaf, then every subtree that it completes), so the file only grows; the
    hash of the ``n``-th subtree of height ``level`` stands at :func:`_stored_index`.  The file has no name and goes with the
    object: what it holds follows from the log and is made anew from it.

    Args:
        folder: where the file lies; the system's temporary folder by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._frontier = Frontier()
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as the object
        self._known: list[bytes] = []

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._frontier.size

    def append(self, data: bytes) -> bytes:
        """Append one leaf by its bytes; returns its leaf hash."""
        leaf = leaf_hash(data)
        self._frontier.append_hash(leaf, self._known.append)
        if len(self._known) >= _BUFFERED_HASHES:
            self._flush()
        return leaf

    def _flush(self) -> None:
        self._file.seek(0, 2)
        self._file.write(b"".join(self._known))
        self._known.clear()

    def root(self) -> bytes:
        """The tree head over everything appended so far."""
        return self._frontier.root()

    def subtree(self, first: int, last: int) -> bytes:
        """The tree head over the leaves ``first`` to ``last - 1``; ``first`` is a multiple of the largest power of two that fits
        (all subtrees of RFC 6962's proofs are of this kind)."""
        self._flush()
        parts = []
        while first < last:
            level = (last - first).bit_length() - 1
            parts.append(self._stored(level, first >> level))
            first += 1 << level
        value = parts.pop()
        while parts:
            value = node_hash(parts.pop(), value)
        return value

    def _stored(self, level: int, number: int) -> bytes:
        self._file.seek(HASH_BYTES * _stored_index(level, number))
        value = self._file.read(HASH_BYTES)
        if len(value) != HASH_BYTES:
            raise UsageError("merkle.range", f"The tree of {self.size} entries has no such subtree.")
        return value

    def consistency(self, old: int, new: int | None = None) -> list[bytes]:
        """The proof that the first ``old`` entries begin the first ``new`` (or all); see :func:`consistency_proof`."""
        return consistency_proof(old, self.size if new is None else new, self.subtree)

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """The proof that entry ``index`` is in the tree of the first ``size`` entries; see :func:`inclusion_proof`."""
        return inclusion_proof(index, self.size if size is None else size, self.subtree)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


_BUFFERED_HASHES = 4096


def _stored_index(level: int, number: int) -> int:
    """Place of the ``number``-th complete subtree of height ``level`` in the order in which subtrees become complete: after the
    leaves up to its last one and every subtree that those complete, but for those that this very leaf completes above it."""
    leaves = (number + 1) << level
    return 2 * leaves - leaves.bit_count() - 1 - _trailing_ones(leaves - 1) + level


def _trailing_ones(value: int) -> int:
    return (~value & (value + 1)).bit_length() - 1


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Tree head over leaf hashes, ``MTH`` of RFC 6962, section 2.1."""
    return Frontier(leaves).root()


def _split_point(size: int) -> int:
    """The largest power of two smaller than ``size`` (``size`` > 1)."""
    return 1 << ((size - 1).bit_length() - 1)


Subtree = Callable[[int, int], bytes]
"""``(first, last)`` to the tree head over the leaves ``first`` to ``last - 1``."""


def inclusion_proof(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """``PATH(index, D[size])`` of RFC 6962, section 2.1.1, from the leaf upwards; its parts are asked of ``subtree``.

    Raises:
        UsageError: ``merkle.range`` when there is no such leaf.
    """
    if not 0 <= index < size:
        raise UsageError("merkle.range", f"A tree of {size} entries has no entry {index}.")
    path: list[bytes] = []
    first, last = 0, size
    while last - first > 1:
        middle = first + _split_point(last - first)
        if index < middle:
            path.append(subtree(middle, last))
            last = middle
        else:
            path.append(subtree(first, middle))
            first = middle
    return path[::-1]


def consistency_proof(old: int, new: int, subtree: Subtree) -> list[bytes]:
    """``PROOF(old, D[new])`` of RFC 6962, section 2.1.2; empty when either tree is empty or both are the same.

    Raises:
        UsageError: ``merkle.range`` when ``old`` exceeds ``new``.
    """
    if not 0 <= old <= new:
        raise UsageError("merkle.range", f"A tree of {new} entries never was one of {old}.")
    if old in (0, new):
        return []
    path: list[bytes] = []
    first, last = 0, new
    # Walk down to the subtree whose right edge is the old tree's; ``first == 0`` then means the verifier has its root already.
    while old != last:
        middle = first + _split_point(last - first)
        if old <= middle:
            path.append(subtree(middle, last))
            last = middle
        else:
            path.append(subtree(first, middle))
            first = middle
    if first:
        path.append(subtree(first, last))
    return path[::-1]


def _bad(what: str, reason: str) -> VerificationError:
    return VerificationError(f"merkle.{what}", f"The {what} proof does not hold: {reason}.")


def _check_shape(what: str, sizes: Sequence[int], proof: Sequence[bytes], hashes: Sequence[bytes]) -> None:
    if any(not 0 <= size <= TREE_SIZE_MAX for size in sizes):
        raise _bad(what, "a size is out of range")
    if len(proof) > PROOF_HASHES_MAX:
        raise _bad(what, f"it has {len(proof)} hashes, more than any tree is high")
    if any(len(value) != HASH_BYTES for value in (*proof, *hashes)):
        raise _bad(what, "a hash has not 32 bytes")


def verify_inclusion(*, index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Return when ``leaf`` (a leaf hash) is entry ``index`` of the tree with ``size`` entries and head ``root`` (RFC 9162,
    2.1.3.2).

    Raises:
        VerificationError: ``merkle.inclusion``.
    """
    _check_shape("inclusion", (index, size), proof, (leaf, root))
    if index >= size:
        raise _bad("inclusion", f"a tree of {size} entries has no entry {index}")
    fn, sn, value = index, size - 1, leaf
    for part in proof:
        if sn == 0:
            raise _bad("inclusion", "it is too long")
        if fn & 1 or fn == sn:
            value = node_hash(part, value)
            while fn and not fn & 1:
                fn >>= 1
                sn >>= 1
        else:
            value = node_hash(value, part)
        fn >>= 1
        sn >>= 1
    if sn:
        raise _bad("inclusion", "it is too short")
    if value != root:
        raise _bad("inclusion", "it leads to another root")


def verify_consistency(*, old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Return when the tree (``old``, ``old_root``) is the beginning of (``new``, ``new_root``) (RFC 9162, 2.1.4.2).

    The empty tree begins every tree: its proof is empty and its root SHA-256 of nothing.

    Raises:
        VerificationError: ``merkle.consistency``.
    """
    # Of one and the same tree two equal roots are all there is to compare, whatever their form.
    _check_shape("consistency", (old, new), proof, () if old == new else (old_root, new_root))
    if old > new:
        raise _bad("consistency", f"{new} entries cannot follow {old}")
    if old == new or old == 0:
        if proof:
            raise _bad("consistency", "it should be empty")
        if (old == 0 and old_root != EMPTY_ROOT) or (old == new and old_root != new_root):
            raise _bad("consistency", "the roots differ")
        return
    if not proof:
        raise _bad("consistency", "it is empty")
    parts = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    from_old = from_new = parts[0]
    for part in parts[1:]:
        if sn == 0:
            raise _bad("consistency", "it is too long")
        if fn & 1 or fn == sn:
            from_old, from_new = node_hash(part, from_old), node_hash(part, from_new)
            while fn and not fn & 1:
                fn >>= 1
                sn >>= 1
        else:
            from_new = node_hash(from_new, part)
        fn >>= 1
        sn >>= 1
    if sn:
        raise _bad("consistency", "it is too short")
    if from_old != old_root:
        raise _bad("consistency", "it leads to another old root")
    if from_new != new_root:
        raise _bad("consistency", "it leads to another new root")
