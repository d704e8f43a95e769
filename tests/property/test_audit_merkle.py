"""The growing tree and its proofs against a naive recursion that follows RFC 6962, section 2.1, word for word."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.errors import UsageError, VerificationError
from audit.merkle import Frontier, consistency_proof, inclusion_proof, leaf_hash, verify_consistency, verify_inclusion


def naive(entries: Sequence[bytes]) -> bytes:
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return hashlib.sha256(b"\x01" + naive(entries[:k]) + naive(entries[k:])).digest()


trees = st.lists(st.binary(max_size=5), min_size=1, max_size=70)


@given(st.lists(st.binary(max_size=5), max_size=140))
def test_frontier_is_the_tree(entries: list[bytes]) -> None:
    frontier = Frontier()
    for count, entry in enumerate(entries):
        assert frontier.root() == naive(entries[:count])
        assert frontier.append(entry) == leaf_hash(entry)
    assert frontier.size == len(entries)
    assert frontier.root() == naive(entries)


@settings(deadline=None)
@given(trees, st.data())
def test_inclusion(entries: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(entries) - 1))
    proof = inclusion_proof(index, len(entries), lambda a, b: naive(entries[a:b]))
    root = naive(entries)
    verify_inclusion(index=index, size=len(entries), leaf=leaf_hash(entries[index]), proof=proof, root=root)
    with pytest.raises(VerificationError):
        verify_inclusion(index=index, size=len(entries), leaf=leaf_hash(b"another entry"), proof=proof, root=root)
    with pytest.raises(VerificationError):
        verify_inclusion(index=index, size=len(entries), leaf=leaf_hash(entries[index]), proof=[*proof, root], root=root)
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        broken = [bytes([part[0] ^ 1]) + part[1:] if i == at else part for i, part in enumerate(proof)]
        with pytest.raises(VerificationError):
            verify_inclusion(index=index, size=len(entries), leaf=leaf_hash(entries[index]), proof=broken, root=root)


@settings(deadline=None)
@given(trees, st.data())
def test_consistency(entries: list[bytes], data: st.DataObject) -> None:
    old = data.draw(st.integers(0, len(entries)))
    proof = consistency_proof(old, len(entries), lambda a, b: naive(entries[a:b]))
    roots = {"old_root": naive(entries[:old]), "new_root": naive(entries)}
    verify_consistency(old=old, new=len(entries), **roots, proof=proof)
    for name in roots:
        with pytest.raises(VerificationError):
            verify_consistency(
                old=old, new=len(entries), **(roots | {name: bytes(32)}), proof=proof
            ) if old or name == "old_root" else (
                verify_consistency(old=old, new=len(entries), old_root=bytes(32), new_root=roots["new_root"], proof=proof)
            )
    with pytest.raises(VerificationError):
        verify_consistency(old=old, new=len(entries), **roots, proof=[*proof, bytes(32)])


def test_out_of_range() -> None:
    with pytest.raises(UsageError, match=r"merkle\.range"):
        inclusion_proof(3, 3, lambda a, b: b"")
    with pytest.raises(UsageError, match=r"merkle\.range"):
        consistency_proof(4, 3, lambda a, b: b"")
    with pytest.raises(VerificationError):
        verify_consistency(old=4, new=3, old_root=bytes(32), new_root=bytes(32), proof=[])
    with pytest.raises(VerificationError):
        verify_inclusion(index=0, size=2, leaf=bytes(32), proof=[b"short"], root=bytes(32))
