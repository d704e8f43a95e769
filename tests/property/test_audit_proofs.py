"""Proofs of single entries against a naive recursion that follows RFC 6962, section 2.1.1, word for word."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.checkpoint import Checkpoint, sign_checkpoint
from audit.errors import VerificationError
from audit.merkle import verify_inclusion
from audit.proofs import ProofUnusable, check_proof, parse_proof, prove
from audit.signing import SigningKey

KEY = SigningKey("isthmus.log/bank", bytes(range(32)))


def head(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = split(len(leaves))
    return hashlib.sha256(b"\x01" + head(leaves[:k]) + head(leaves[k:])).digest()


def split(count: int) -> int:
    k = 1
    while k * 2 < count:
        k *= 2
    return k


def path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962, 2.1.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*path(index, leaves[:k]), head(leaves[k:])]
    return [*path(index - k, leaves[k:]), head(leaves[:k])]


lines = st.lists(st.binary(max_size=6).filter(lambda line: b"\n" not in line), min_size=1, max_size=40)


@contextmanager
def log_of(entries: Sequence[bytes], signed: int) -> Iterator[Path]:
    """A log file with these lines, its first ``signed`` ones under a checkpoint."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "log.jsonl").write_bytes(b"".join(line + b"\n" for line in entries))
        note = sign_checkpoint(Checkpoint(KEY.name, signed, head(entries[:signed])), KEY)
        (folder / "checkpoint").write_text(note)
        yield folder / "log.jsonl"


@settings(deadline=None)
@given(lines, st.data())
def test_the_path_is_the_one_of_the_standard(entries: list[bytes], data: st.DataObject) -> None:
    signed = data.draw(st.integers(1, len(entries)))
    index = data.draw(st.integers(0, signed - 1))
    with log_of(entries, signed) as log:
        proof = prove(log, index)
    assert list(proof.path) == path(index, entries[:signed])
    assert (proof.index, proof.extra) == (index, entries[index])
    assert parse_proof(proof.encode()) == proof
    leaf = hashlib.sha256(b"\x00" + entries[index]).digest()
    verify_inclusion(index=index, size=signed, leaf=leaf, proof=proof.path, root=head(entries[:signed]))
    # These lines are no entries of a log: that is found out only after the path has held.
    with pytest.raises(ProofUnusable, match=r"proof\.entry_unreadable"):
        check_proof(proof, key=KEY.verifier)
    with pytest.raises(VerificationError, match=r"merkle\.inclusion"):
        check_proof(proof, key=KEY.verifier, entry=entries[index] + b"x")


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_no_changed_byte_goes_unnoticed(data: st.DataObject) -> None:
    entries = [b"entry %d" % number for number in range(11)]
    with log_of(entries, len(entries)) as log:
        proof = bytearray(prove(log, 6).encode())
    at = data.draw(st.integers(0, len(proof) - 1))
    proof[at] ^= data.draw(st.integers(1, 255))
    try:
        parsed = parse_proof(bytes(proof))
    except ProofUnusable:
        return
    assert parsed.encode() == bytes(proof), "a proof has one form alone"
    with pytest.raises(VerificationError):
        check_proof(parsed, key=KEY.verifier)


@given(st.binary(max_size=300))
def test_anything_else_is_malformed(data: bytes) -> None:
    for text in (data, b"c2sp.org/tlog-proof@v1\n" + data, b"c2sp.org/tlog-proof@v1\nindex 0\n" + data):
        with pytest.raises(ProofUnusable):
            parse_proof(text)
