"""Signed tree heads: C2SP ``tlog-checkpoint`` text in a C2SP ``signed-note``.

::

    isthmus.log/bank                                 origin: which log
    42                                               number of entries
    qINS1GRFhWHwdkUeqLEoP4yEMkTBBzxBkGwGQlVlVcs=     Merkle root over them, base64
                                                     (an empty line)
    — isthmus.log/bank Az3grl...                     base64(key id || Ed25519 signature over the text above)

The signature covers the text with its last newline, not the empty line.  Further signature lines, by keys the reader does not
know, are ignored.  Those of witnesses are cosignatures (:mod:`audit.cosignature`).
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from audit.errors import VerificationError
from audit.merkle import HASH_BYTES, TREE_SIZE_MAX
from audit.signing import SIGNATURE_BYTES, SigningKey, VerifierKey, valid_key_name

ORIGIN_PREFIX = "isthmus.log/"
NOTE_BYTES_MAX = 64 * 2**10
SIGNATURES_MAX = 100
_DASH = "\u2014 "


def origin_of(log: str) -> str:
    """The origin line, and the key name, of the log called ``log``."""
    return log if log.startswith(ORIGIN_PREFIX) else ORIGIN_PREFIX + log


def log_of(origin: str) -> str:
    """The log's name out of an origin line or a key's name."""
    return origin.removeprefix(ORIGIN_PREFIX)


def _bad(reason: str) -> VerificationError:
    return VerificationError("audit.bad_note", f"The signed note is malformed: {reason}.", remedy="Ask for the checkpoint again.")


@dataclass(frozen=True)
class NoteSignature:
    """One signature line: who says to have signed, with which key, what."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True)
class Note:
    """A parsed signed note; nothing in it is verified yet."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def verify(self, key: VerifierKey) -> str:
        """The text, when ``key`` signed it.  Every line that names this key must hold.

        Raises:
            VerificationError: ``audit.not_signed`` when no line names the key, ``audit.bad_signature`` when one does and is wrong.
        """
        mine = [line for line in self.signatures if (line.name, line.key_id) == (key.name, key.key_id)]
        if not mine:
            raise VerificationError(
                "audit.not_signed",
                f"The note has no signature by {key.name} with key {key.key_id.hex()}.",
                remedy="Compare the key in the policy or partner file with the log's owner.",
            )
        for line in mine:
            key.verify(self.text.encode(), line.signature)
        return self.text


def sign_note(text: str, key: SigningKey) -> str:
    """The signed note over ``text``, which must end in a newline.

    Raises:
        VerificationError: ``audit.bad_note``.
    """
    if not text.endswith("\n") or _control(text):
        raise _bad("its text must end in a newline and hold no control characters")
    return f"{text}\n{signature_line(key.name, key.verifier.key_id, key.sign(text.encode()))}"


def signature_line(name: str, key_id: bytes, signature: bytes) -> str:
    """One signature line of a note, newline included."""
    return f"{_DASH}{name} {base64.b64encode(key_id + signature).decode()}\n"


def _control(text: str) -> bool:
    return any(ord(character) < 0x20 and character != "\n" for character in text)


def parse_note(data: bytes) -> Note:
    """Read a signed note; no signature is checked.

    Raises:
        VerificationError: ``audit.bad_note``.
    """
    if len(data) > NOTE_BYTES_MAX:
        raise _bad(f"it has more than {NOTE_BYTES_MAX} bytes")
    try:
        whole = data.decode()
    except UnicodeDecodeError:
        raise _bad("it is not UTF-8") from None
    if _control(whole):
        raise _bad("it holds a control character")
    text, gap, tail = whole.rpartition("\n\n")
    if not gap or not text or not tail.endswith("\n"):
        raise _bad("it has no signatures after an empty line")
    lines = tail[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise _bad(f"it has more than {SIGNATURES_MAX} signatures")
    return Note(text + "\n", tuple(_parse_signature(line) for line in lines))


def _parse_signature(line: str) -> NoteSignature:
    name, gap, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not gap or not valid_key_name(name):
        raise _bad("a signature line is not of the form '— name base64'")
    try:
        data = base64.b64decode(encoded.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        raise _bad("a signature is not base64") from None
    # A cosignature/v1 carries eight bytes of time more; anything shorter than Ed25519's is no signature of any kind known here.
    if len(data) < 5 or base64.b64encode(data).decode() != encoded:
        raise _bad("a signature is too short or not canonical base64")
    return NoteSignature(name, data[:4], data[4:])


@dataclass(frozen=True)
class Checkpoint:
    """A tree head: the log of this origin had ``size`` entries, whose Merkle root was ``root`` (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The text that is signed (C2SP tlog-checkpoint)."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> str:
    """The signed note of a tree head."""
    return sign_note(checkpoint.text(), key)


def parse_checkpoint(text: str) -> Checkpoint:
    """Read the text of a tree head; extension lines after the third are allowed, as C2SP demands, and ignored.

    Raises:
        VerificationError: ``audit.bad_checkpoint``.
    """
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise _bad_checkpoint("it needs an origin, a size and a root, each on a line of its own")
    origin, size, root = lines[:3]
    if not origin.startswith(ORIGIN_PREFIX) or not valid_key_name(origin) or origin == ORIGIN_PREFIX:
        raise _bad_checkpoint(f"its origin does not begin with {ORIGIN_PREFIX!r} and a name")
    if not size.isascii() or not size.isdigit() or len(size) > 19 or str(int(size)) != size or int(size) > TREE_SIZE_MAX:
        raise _bad_checkpoint("its size is not a plain decimal number")
    try:
        value = base64.b64decode(root.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        raise _bad_checkpoint("its root is not base64") from None
    if len(value) != HASH_BYTES or base64.b64encode(value).decode() != root:
        raise _bad_checkpoint("its root has not 32 bytes")
    return Checkpoint(origin, int(size), value)


def _bad_checkpoint(reason: str) -> VerificationError:
    return VerificationError(
        "audit.bad_checkpoint", f"The checkpoint is malformed: {reason}.", remedy="Ask for the checkpoint again."
    )


def verify_checkpoint(data: bytes, key: VerifierKey) -> Checkpoint:
    """The tree head in a signed note, when ``key`` signed it and the origin is the key's own log.

    Raises:
        VerificationError: ``audit.bad_note``, ``audit.not_signed``, ``audit.bad_signature``, ``audit.bad_checkpoint``,
        ``audit.wrong_origin``.
    """
    checkpoint = parse_checkpoint(parse_note(data).verify(key))
    if checkpoint.origin != origin_of(key.name):
        raise VerificationError("audit.wrong_origin", f"{key.name} signed a checkpoint of another log, {checkpoint.origin}.")
    return checkpoint


__all__ = [
    "ORIGIN_PREFIX",
    "SIGNATURE_BYTES",
    "Checkpoint",
    "Note",
    "NoteSignature",
    "log_of",
    "origin_of",
    "parse_checkpoint",
    "parse_note",
    "sign_checkpoint",
    "sign_note",
    "signature_line",
    "verify_checkpoint",
]
