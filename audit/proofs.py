"""Proofs of single entries: C2SP ``tlog-proof``, version 1, a file that stands on its own.

::

    c2sp.org/tlog-proof@v1
    extra eyJhdHRlbXB0IjowLC...             the entry's bytes, base64; may be left out
    index 42                                the entry's sequence number
    gSKyXoYZUgZ6jduWYrkDOARinOMGJveX...     RFC 6962 inclusion path, base64, a hash a line, the leaf's sibling first
                                            (an empty line)
    isthmus.log/bank                        the signed checkpoint, as the log has it, cosignatures and all
    ...

The format does not authenticate ``extra``.  Here it holds the entry, and the leaf hash is computed from it, so that an altered
entry leads to another root than the signed one.

A proof is made in one pass over the log, with the tree's hashes in a temporary file: memory does not grow with the log.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from audit.checkpoint import NOTE_BYTES_MAX, Checkpoint, log_of, parse_checkpoint, parse_note, verify_checkpoint
from audit.cosignature import Cosignature, cosignatures_of
from audit.entries import LINE_BYTES_MAX, Json, parse_entry, read_lines
from audit.errors import DataError, IsthmusError, UsageError, VerificationError
from audit.merkle import HASH_BYTES, PROOF_HASHES_MAX, TREE_SIZE_MAX, TreeHashes, leaf_hash, verify_inclusion
from audit.record import CHECKPOINT_FILE
from audit.signing import VerifierKey

MAGIC = "c2sp.org/tlog-proof@v1"
PROOF_SUFFIX = ".tlog-proof"
PROOF_BYTES_MAX = 2 * LINE_BYTES_MAX + NOTE_BYTES_MAX
_EXTRA, _INDEX = "extra ", "index "
_MAKE_ANEW = "Ask for the proof again (`isthmus-audit prove`), sent as a file."


class ProofUnusable(DataError):
    """There is nothing that could hold or not hold: a malformed proof, no entry, an entry of another version."""

    exit_status = 3


@dataclass(frozen=True)
class Proof:
    """A parsed proof; nothing in it is verified yet.  ``note`` is the signed checkpoint's bytes, ``extra`` the entry's."""

    index: int
    path: tuple[bytes, ...]
    note: bytes
    extra: bytes | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        """The tree head that the proof leads to, as its text says it; the signature is not checked."""
        return parse_checkpoint(parse_note(self.note).text)

    def encode(self) -> bytes:
        """The file's bytes (C2SP tlog-proof)."""
        lines = [MAGIC]
        if self.extra is not None:
            lines.append(_EXTRA + base64.b64encode(self.extra).decode())
        lines.append(f"{_INDEX}{self.index}")
        lines += [base64.b64encode(value).decode() for value in self.path]
        return "\n".join([*lines, "", ""]).encode() + self.note


@dataclass(frozen=True)
class ProvenEntry:
    """An entry that is in the log: its bytes, its fields, and the signed tree head that says so."""

    data: bytes
    entry: dict[str, Json]
    checkpoint: Checkpoint
    key: VerifierKey
    cosignatures: tuple[Cosignature, ...] = ()


def _malformed(reason: str) -> ProofUnusable:
    return ProofUnusable("proof.malformed", f"The proof is malformed: {reason}.", remedy=_MAKE_ANEW)


def _base64(text: str, what: str) -> bytes:
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        raise _malformed(f"{what} is not base64") from None
    if base64.b64encode(data).decode() != text:
        raise _malformed(f"{what} is not canonical base64")
    return data


def parse_proof(data: bytes) -> Proof:
    """Read a proof; neither its signature nor its path is checked.

    Raises:
        ProofUnusable: ``proof.malformed``.
    """
    if len(data) > PROOF_BYTES_MAX:
        raise _malformed(f"it has more than {PROOF_BYTES_MAX} bytes")
    head, gap, note = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise _malformed("it is not ASCII before the checkpoint") from None
    if lines[0] != MAGIC:
        raise _malformed(f"its first line is not {MAGIC!r}")
    if not gap:
        raise _malformed("it has no checkpoint after an empty line")
    rest = lines[1:]
    extra = _base64(rest.pop(0).removeprefix(_EXTRA), "its extra data") if rest and rest[0].startswith(_EXTRA) else None
    if extra is not None and len(extra) > LINE_BYTES_MAX:
        raise _malformed(f"its entry has more than {LINE_BYTES_MAX} bytes")
    index = rest.pop(0).removeprefix(_INDEX) if rest and rest[0].startswith(_INDEX) else ""
    if not index.isdigit() or len(index) > 19 or str(int(index)) != index or int(index) > TREE_SIZE_MAX:
        raise _malformed("its index is missing or not a plain decimal number")
    if len(rest) > PROOF_HASHES_MAX:
        raise _malformed(f"it has {len(rest)} hashes, more than any tree is high")
    path = tuple(_base64(line, f"hash {number} of its path") for number, line in enumerate(rest, 1))
    if any(len(value) != HASH_BYTES for value in path):
        raise _malformed(f"a hash of its path has not {HASH_BYTES} bytes")
    proof = Proof(int(index), path, note, extra)
    try:
        _ = proof.checkpoint
    except VerificationError as error:
        raise ProofUnusable(error.code, f"The proof is malformed. {error.message}", remedy=_MAKE_ANEW) from None
    return proof


def check_proof(
    proof: Proof, *, key: VerifierKey, witnesses: Iterable[VerifierKey] = (), quorum: int = 0, entry: bytes | None = None
) -> ProvenEntry:
    """The entry, when ``key`` signed the checkpoint and the path leads from the entry to it.

    Args:
        key: whose log it must be; trusted by the caller.
        witnesses: whose cosignatures must hold where there are any; others are ignored.
        quorum: how many witnesses must have cosigned.
        entry: the entry's bytes without a newline; None: those that the proof itself brings.

    Raises:
        VerificationError: ``audit.not_signed``, ``audit.bad_signature``, ``audit.wrong_origin``, ``merkle.inclusion``,
        ``proof.quorum``, ``proof.other_entry`` (the entry does not say to be of this log and place): the proof does not hold.
        ProofUnusable: ``proof.no_entry``, ``proof.entry_unreadable`` (in the log, but no entry that this version can read).
    """
    data = proof.extra if entry is None else entry
    if data is None:
        raise ProofUnusable("proof.no_entry", "The proof does not bring its entry.", remedy="Give the entry with --entry.")
    checkpoint = verify_checkpoint(proof.note, key)
    verify_inclusion(index=proof.index, size=checkpoint.size, leaf=leaf_hash(data), proof=proof.path, root=checkpoint.root)
    cosignatures = cosignatures_of(parse_note(proof.note), witnesses)
    if len(cosignatures) < quorum:
        reason = f"The checkpoint has {len(cosignatures)} cosignatures of the {quorum} that are asked for."
        raise VerificationError("proof.quorum", reason, remedy="Make the proof again once the witnesses have cosigned.")
    try:
        fields = parse_entry(data)
    except DataError as error:
        remedy = "It is in the log all the same: read it with the version of isthmus that wrote it."
        raise ProofUnusable("proof.entry_unreadable", f"The entry cannot be read. {error.message}", remedy=remedy) from None
    if fields["seq"] != proof.index or fields["log"] != log_of(checkpoint.origin):
        reason = (
            f"it says to be entry {fields['seq']} of {fields['log']!r}, not entry {proof.index} of {log_of(checkpoint.origin)!r}"
        )
        raise VerificationError("proof.other_entry", f"The entry is in the log, but {reason}.")
    return ProvenEntry(data, fields, checkpoint, key, tuple(cosignatures))


def prove(log: Path, index: int) -> Proof:
    """The proof that entry ``index`` is in the log at ``log`` (its ``log.jsonl``), under the latest checkpoint beside it.

    Raises:
        ProofUnusable: ``proof.no_checkpoint``, ``proof.unreadable``, ``proof.entry_unreadable``.
        UsageError: ``proof.no_such_entry`` (beyond the checkpoint).
        VerificationError: ``proof.log_altered`` (the log is not the one that was signed: no proof of it would hold).
    """
    note, checkpoint = _latest_checkpoint(log.parent)
    if not 0 <= index < checkpoint.size:
        raise UsageError(
            "proof.no_such_entry",
            f"The latest checkpoint covers the entries 0 to {checkpoint.size - 1}; there is no entry {index} among them.",
            remedy="Give a smaller number, or wait for the next checkpoint: it is signed at the end of every step.",
        )
    with contextlib.closing(TreeHashes()) as tree:
        entry = _grow(tree, log, index, checkpoint.size)
        if tree.size != checkpoint.size or tree.root() != checkpoint.root:
            raise VerificationError(
                "proof.log_altered",
                f"The first {checkpoint.size} entries of {log} are not those that were signed.",
                remedy="Run `isthmus-audit verify` on it: it says from which entry on.",
            )
        return Proof(index, tuple(tree.inclusion(index)), note, entry)


def _grow(tree: TreeHashes, log: Path, index: int, size: int) -> bytes:
    """Append the log's first ``size`` entries, or as many as there are, and return the bytes of entry ``index``."""
    found = b""
    try:
        with log.open("rb") as stream:
            for line in read_lines(stream):
                if not line.complete or tree.size == size:
                    break
                if tree.size == index:
                    found = line.data
                tree.append(line.data)
    except OSError as error:
        remedy = "Give this user the right to read it, and room for a temporary file."
        raise ProofUnusable("proof.unreadable", f"{log} cannot be read: {error.strerror}.", remedy=remedy) from None
    except DataError as error:
        raise ProofUnusable(error.code, f"{log}: {error.message}", remedy=error.remedy) from None
    return found


def _latest_checkpoint(folder: Path) -> tuple[bytes, Checkpoint]:
    path = folder / CHECKPOINT_FILE
    try:
        with path.open("rb") as file:
            note = file.read(NOTE_BYTES_MAX + 1)
        return note, parse_checkpoint(parse_note(note).text)
    except OSError as error:
        reason, code = f"{path} cannot be read: {error.strerror}.", "proof.no_checkpoint"
    except IsthmusError as error:
        reason, code = f"{path}: {error.message}", error.code
    raise ProofUnusable(code, reason, remedy="Give the whole log folder: a proof leads to the checkpoint in it.")
