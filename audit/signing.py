"""Ed25519 keys with names, in the text forms of C2SP ``signed-note``.

A public key travels as ``<name>+<key id>+<base64(0x01 || key)>``, its key id being the first four bytes of
``SHA-256(name || 0x0A || 0x01 || key)`` (C2SP signed-note, "Verifier keys" and "Signatures").  A private key rests as
``PRIVATE+KEY+<name>+<key id>+<base64(0x01 || seed)>``, the form of golang.org/x/mod/sumdb/note.  Signatures are Ed25519 (RFC
8032, section 5.1).

One key signs five kinds of bytes, which cannot be mistaken for each other: checkpoints begin with ``isthmus.log/``, cosignatures
with ``cosignature/v1``; approvals, receipts and the proofs of relayed sessions are JSON objects that name their own kind.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.errors import UsageError, VerificationError

ALGORITHM_ED25519 = b"\x01"
SEED_BYTES = 32
KEY_BYTES = 32
SIGNATURE_BYTES = 64
NAME_CHARACTERS_MAX = 255
_PRIVATE_PREFIX = "PRIVATE+KEY+"
_TEXT_CHARACTERS_MAX = len(_PRIVATE_PREFIX) + NAME_CHARACTERS_MAX + 64


def key_id(name: str, public: bytes) -> bytes:
    """The four bytes that tell a signature line which key made it (C2SP signed-note)."""
    return hashlib.sha256(name.encode() + b"\n" + ALGORITHM_ED25519 + public).digest()[:4]


def valid_key_name(name: str) -> bool:
    """Whether ``name`` may name a key: not empty, no white space, no plus, nothing that cannot be printed."""
    return 0 < len(name) <= NAME_CHARACTERS_MAX and "+" not in name and " " not in name and name.isprintable()


def _base64(text: str) -> bytes:
    return base64.b64decode(text.encode("ascii"), validate=True)


def _split(text: str, what: str) -> tuple[str, bytes]:
    """``name+hash8+base64`` to (name, 32 key bytes); the hash is left to the caller, who knows the public half."""
    try:
        name, _, encoded = text.split("+", 2)
        data = _base64(encoded)
    except (ValueError, binascii.Error):
        raise VerificationError("audit.bad_key", f"The {what} is not of the form name+hash+base64.") from None
    if not valid_key_name(name):
        raise VerificationError("audit.bad_key", f"The {what} has a name that is empty, too long or not printable.")
    if len(data) != 1 + KEY_BYTES or data[:1] != ALGORITHM_ED25519:
        raise VerificationError(
            "audit.bad_key", f"The {what} of {name!r} is not an Ed25519 key.", remedy="Ask its owner for the key again."
        )
    return name, data[1:]


class VerifierKey:
    """A public Ed25519 key and the name it signs under."""

    def __init__(self, name: str, public: bytes) -> None:
        if not valid_key_name(name) or len(public) != KEY_BYTES:
            raise VerificationError("audit.bad_key", "A verifier key needs a printable name without spaces or plus, and 32 bytes.")
        self.name = name
        self.public = bytes(public)
        self._key = Ed25519PublicKey.from_public_bytes(self.public)

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read ``name+hash8+base64(0x01 || key)``.

        Raises:
            VerificationError: ``audit.bad_key``.
        """
        if len(text) > _TEXT_CHARACTERS_MAX:
            raise VerificationError("audit.bad_key", f"The verifier key has {len(text)} characters; no key is that long.")
        name, public = _split(text, "verifier key")
        key = cls(name, public)
        # Comparing the whole text also refuses a wrong hash, upper-case digits and base64 with stray bits.
        if str(key) != text:
            raise VerificationError(
                "audit.bad_key",
                f"The verifier key of {name!r} does not match its own hash.",
                remedy="It was changed on its way: ask its owner for the key again.",
            )
        return key

    @property
    def key_id(self) -> bytes:
        """The first four bytes of the key's hash, as they stand before each signature in a note."""
        return key_id(self.name, self.public)

    def verify(self, message: bytes, signature: bytes) -> None:
        """Return when ``signature`` (64 bytes) is this key's over ``message``.

        Raises:
            VerificationError: ``audit.bad_signature``.
        """
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            raise VerificationError(
                "audit.bad_signature",
                f"The signature is not one of {self.name!r} over these bytes.",
                remedy="Either the bytes were changed or another key signed: compare the key's fingerprint with its owner.",
            ) from None

    def __str__(self) -> str:
        encoded = base64.b64encode(ALGORITHM_ED25519 + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    def __repr__(self) -> str:
        return f"VerifierKey({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerifierKey) and (self.name, self.public) == (other.name, other.public)

    def __hash__(self) -> int:
        return hash((self.name, self.public))


class SigningKey:
    """A private Ed25519 key and the name it signs under; neither ``repr`` nor ``str`` shows the key."""

    def __init__(self, name: str, seed: bytes) -> None:
        if not valid_key_name(name):
            raise UsageError(
                "audit.key_name", f"{name!r} cannot name a key.", remedy="Use printable characters without spaces and plus."
            )
        if len(seed) != SEED_BYTES:
            raise UsageError("audit.key_seed", f"An Ed25519 seed has {SEED_BYTES} bytes, not {len(seed)}.")
        self.name = name
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._verifier = VerifierKey(name, self._key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, name: str) -> SigningKey:
        """A new key from the operating system's randomness."""
        return cls(name, Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> SigningKey:
        """Read the private form that :meth:`private_text` writes.

        Raises:
            VerificationError: ``audit.bad_key``; its message never shows the text.
        """
        if len(text) > _TEXT_CHARACTERS_MAX or not text.startswith(_PRIVATE_PREFIX):
            raise VerificationError("audit.bad_key", f"The signing key does not begin with {_PRIVATE_PREFIX!r}.")
        name, seed = _split(text.removeprefix(_PRIVATE_PREFIX), "signing key")
        key = cls(name, seed)
        if key.private_text() != text:
            raise VerificationError("audit.bad_key", f"The signing key of {name!r} does not match its own hash.")
        return key

    def private_text(self) -> str:
        """The private form, for a file that only its owner can read."""
        encoded = base64.b64encode(ALGORITHM_ED25519 + self._key.private_bytes_raw()).decode()
        return f"{_PRIVATE_PREFIX}{self.name}+{self._verifier.key_id.hex()}+{encoded}"

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature over ``message`` (deterministic: RFC 8032, section 5.1.6)."""
        return self._key.sign(message)

    @property
    def verifier(self) -> VerifierKey:
        """The public half."""
        return self._verifier

    def __repr__(self) -> str:
        return f"SigningKey({self.name!r}, <secret>)"
