"""Cosignatures of checkpoints (C2SP tlog-cosignature, cosignature/v1, Ed25519): a witness saw this tree head follow from the last.

A cosignature is a further signature line of the checkpoint's note::

    — isthmus.log/platform base64( key id (4) || time (8, seconds since 1970, big-endian) || Ed25519 signature (64) )

over these bytes::

    cosignature/v1
    time 1679315147
    isthmus.log/bank                                 the note's text, whole
    42
    qINS1GRFhWHwdkUeqLEoP4yEMkTBBzxBkGwGQlVlVcs=

Its key id is ``SHA-256(name || 0x0A || 0x04 || public key)[:4]``: another than that of the same key's log signatures, so that no
line is taken for the other kind.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from audit.checkpoint import Note, parse_note, signature_line
from audit.errors import VerificationError
from audit.signing import SIGNATURE_BYTES, SigningKey, VerifierKey

ALGORITHM_COSIGNATURE = b"\x04"
TIME_MAX = 2**63 - 1
_TIME = struct.Struct(">Q")


@dataclass(frozen=True)
class Cosignature:
    """A verified cosignature: whose, and when (seconds since 1970, the witness's clock)."""

    name: str
    time: int


def cosigner_id(key: VerifierKey) -> bytes:
    """The four bytes that tell whose cosignature a line is (C2SP tlog-cosignature, "Format")."""
    return hashlib.sha256(key.name.encode() + b"\n" + ALGORITHM_COSIGNATURE + key.public).digest()[:4]


def parse_cosigner(text: str) -> VerifierKey:
    """A cosigner's key: ``name+<key id>+base64(0x04 || key)`` (C2SP tlog-cosignature), or a log key, whose owner cosigns with it.

    Raises:
        VerificationError: ``audit.bad_key``.
    """
    name, _, rest = text.partition("+")
    identifier, _, encoded = rest.partition("+")
    try:
        data = base64.b64decode(encoded.encode("ascii"), validate=True)
    except ValueError:
        data = b""
    if data[:1] != ALGORITHM_COSIGNATURE:
        return VerifierKey.parse(text)
    key = VerifierKey(name, data[1:])
    if cosigner_id(key).hex() != identifier or base64.b64encode(data).decode() != encoded:
        raise VerificationError("audit.bad_key", f"The cosigner key of {name!r} does not match its own hash.")
    return key


def _message(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def cosign(text: str, key: SigningKey, *, time: int) -> str:
    """The signature line, newline included, that ``key`` adds to a checkpoint with this text.

    Args:
        text: the note's text, with its last newline.
        time: seconds since 1970.
    """
    return signature_line(key.name, cosigner_id(key.verifier), _TIME.pack(time) + key.sign(_message(text, time)))


def verify_cosignature(note: Note, key: VerifierKey) -> Cosignature:
    """The latest cosignature of ``key`` on the note.  Every line that names this key must hold.

    Raises:
        VerificationError: ``audit.not_cosigned`` when no line names the key, ``audit.bad_signature`` when one does and is wrong.
    """
    identifier = cosigner_id(key)
    times = []
    for line in note.signatures:
        if (line.name, line.key_id) != (key.name, identifier):
            continue
        stamp, signature = line.signature[: _TIME.size], line.signature[_TIME.size :]
        if len(signature) != SIGNATURE_BYTES or _TIME.unpack(stamp)[0] > TIME_MAX:
            raise VerificationError("audit.bad_signature", f"A cosignature that names {key.name} is malformed.")
        times.append(_TIME.unpack(stamp)[0])
        key.verify(_message(note.text, times[-1]), signature)
    if not times:
        raise VerificationError("audit.not_cosigned", f"The checkpoint has no cosignature by {key.name}.")
    return Cosignature(key.name, max(times))


def with_cosignature(note: bytes, line: str, key: VerifierKey) -> bytes:
    """The note with one more signature line, a cosignature of ``key``; an older one of the same key gives way.

    Raises:
        VerificationError: ``audit.bad_note``, ``audit.not_cosigned``, ``audit.bad_signature``: nothing else is ever added.
    """
    parsed = parse_note(note)
    added = parse_note(f"{parsed.text}\n{line}".encode())
    verify_cosignature(added, key)
    if len(added.signatures) != 1:
        raise VerificationError("audit.bad_note", "A cosignature is one line.")
    identifier = cosigner_id(key)
    kept = [each for each in parsed.signatures if (each.name, each.key_id) != (key.name, identifier)]
    lines = [signature_line(each.name, each.key_id, each.signature) for each in (*kept, *added.signatures)]
    return f"{parsed.text}\n{''.join(lines)}".encode()


def cosignatures_of(note: Note, witnesses: Iterable[VerifierKey]) -> list[Cosignature]:
    """The cosignatures that these witnesses have put on a checkpoint, by name; lines of others are ignored.

    Raises:
        VerificationError: ``audit.bad_signature``: a line names a witness's key, and is not by it.
    """
    found = []
    for key in witnesses:
        try:
            found.append(verify_cosignature(note, key))
        except VerificationError as error:
            if error.code != "audit.not_cosigned":
                raise
    return sorted(found, key=lambda cosignature: cosignature.name)


def cosigned_at(cosignature: Cosignature) -> str:
    """When, by the witness's own clock, as RFC 3339."""
    try:
        return datetime.fromtimestamp(cosignature.time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"{cosignature.time} seconds after 1970"
