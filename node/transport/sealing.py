"""Sealing of frames that pass through the coordinator's relay: keys that only the two nodes can have, records that cannot be
changed, repeated, reordered, left out or cut off unnoticed.  No input or output here.

    label holder                          (coordinator)                         feature holder
    X25519 key a  ------------------------------------------------------------>
                  <------------------------------------------------------------  X25519 key b
    proof, sealed: signature over the transcript -------------------------->
                  <--------------------------  proof, sealed: signature over the transcript
    frames, sealed, each way; nothing of a frame leaves before the peer's proof has verified
    end, sealed, each way

* The **transcript** is the SHA-256 of one canonical JSON document: version, job, step, round, attempt, and for the label holder and
  the feature holder their name, pinned log key and fresh X25519 key.  Two nodes that disagree in any of these get different keys.
* **Keys**: HKDF-SHA256 (RFC 5869) over the X25519 value (RFC 7748, an all-zero one refused), salted with the transcript; one for
  each direction.
* **Proof**: an Ed25519 signature by the log key that partner files pin, over a canonical statement of the kind ``isthmus.relay``
  that names signer, peer, role, attempt and transcript: signed Diffie-Hellman with both fresh keys and both names under each
  signature (ISO/IEC 9798-3; discussed in Krawczyk, SIGMA, CRYPTO 2003).  A key substituted on the way, a proof of another
  session and a node's own proof sent back verify nowhere.
* **Records**: ChaCha20-Poly1305 (RFC 8439).  The nonce is the record's number in its direction; it is not sent, so a record opens
  at its own place alone.  An opened record is ``kind (1) || length (4, big-endian) || content || zeros``.
* **Sizes**: a record is padded to a power of two of at least 256 bytes, above 64 KiB to a multiple of 64 KiB.  So lengths of error
  codes and of aggregates in decimal do not show; how much is sent, and when, does.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from audit.signing import SIGNATURE_BYTES, SigningKey, VerifierKey
from node.errors import PeerError, TransportError, UsageError, VerificationError

SEALING_VERSION = 1
KEY_BYTES = 32
RECORD_BYTES = 256 * 2**10
"""Largest record before it is sealed, header and padding included."""
TAG_BYTES = 16
RECORDS_MAX = 2**48
"""Records of one direction; a session never comes near it, and then ends rather than repeat a number."""
_HEADER = struct.Struct(">BI")
_CONTENT_BYTES = RECORD_BYTES - _HEADER.size
_SMALLEST, _COARSE = 256, 64 * 2**10
_INFO = b"isthmus relay v1: label holder to feature holder, feature holder to label holder"


class Kind(IntEnum):
    """What a record is."""

    PROOF = 1
    PART = 2  # of a frame that the next record continues
    FRAME = 3  # the last part of a frame, or the whole
    END = 4


@dataclass(frozen=True)
class Side:
    """One node as both see it: its name and the log key that its partner file pins."""

    name: str
    log_key: VerifierKey


@dataclass(frozen=True)
class Meeting:
    """What a session is for, the same at both nodes."""

    job: str
    step: str
    round: int
    attempt: int
    label_holder: Side
    feature_holder: Side

    def other(self, name: str) -> Side:
        """The side that is not ``name``."""
        return self.feature_holder if name == self.label_holder.name else self.label_holder

    def fields(self) -> dict[str, Any]:
        """The attempt's labels."""
        return {"job": self.job, "step": self.step, "round": self.round, "attempt": self.attempt}


def transcript(meeting: Meeting, *, label_holder_key: bytes, feature_holder_key: bytes) -> bytes:
    """The SHA-256 (32 bytes) that keys and proofs hang on."""

    def side(one: Side, ephemeral: bytes) -> dict[str, Any]:
        return {"name": one.name, "log_key": str(one.log_key), "ephemeral": ephemeral.hex()}

    document = {
        "v": SEALING_VERSION,
        "kind": "isthmus.relay.session",
        **meeting.fields(),
        "label_holder": side(meeting.label_holder, label_holder_key),
        "feature_holder": side(meeting.feature_holder, feature_holder_key),
    }
    return hashlib.sha256(rfc8785.dumps(document)).digest()


def statement(meeting: Meeting, signer: str, digest: bytes) -> bytes:
    """The bytes that ``signer`` signs: it is in this session with the other side."""
    role = "label_holder" if signer == meeting.label_holder.name else "feature_holder"
    return rfc8785.dumps(
        {
            "v": SEALING_VERSION,
            "kind": "isthmus.relay",
            **meeting.fields(),
            "from": signer,
            "to": meeting.other(signer).name,
            "role": role,
            "transcript": digest.hex(),
        }
    )


def padded(length: int) -> int:
    """The size to which ``length`` bytes are filled up."""
    if length <= _COARSE:
        return max(_SMALLEST, 1 << (length - 1).bit_length())
    return -(-length // _COARSE) * _COARSE


class _Numbered:
    """A direction's key and the number of its next record, which is the nonce."""

    def __init__(self, key: bytes) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._next = 0

    def _nonce(self) -> bytes:
        if self._next >= RECORDS_MAX:
            raise TransportError(
                "relay.exhausted", "A relayed stream has reached its last record number.", remedy="The step is tried again."
            )
        nonce = self._next.to_bytes(12, "big")
        self._next += 1
        return nonce


class Sealer(_Numbered):
    """Seals this node's records, in order.  Raises ``TransportError`` ``relay.exhausted`` after ``RECORDS_MAX``."""

    def seal(self, kind: Kind, content: bytes = b"") -> bytes:
        """One record of at most ``RECORD_BYTES`` with its header."""
        size = _HEADER.size + len(content)
        return self._cipher.encrypt(self._nonce(), (_HEADER.pack(kind, len(content)) + content).ljust(padded(size), b"\0"), None)

    def frame(self, frame: bytes) -> Iterator[bytes]:
        """The records of one frame."""
        last = max(0, (len(frame) - 1) // _CONTENT_BYTES) * _CONTENT_BYTES
        for first in range(0, last, _CONTENT_BYTES):
            yield self.seal(Kind.PART, frame[first : first + _CONTENT_BYTES])
        yield self.seal(Kind.FRAME, frame[last:])


class Opener(_Numbered):
    """Opens the peer's records, in order.

    Args:
        frame_bytes: the largest frame that is put together.
    """

    def __init__(self, key: bytes, *, peer: str, frame_bytes: int) -> None:
        super().__init__(key)
        self._peer, self._frame_bytes = peer, frame_bytes
        self._parts: list[bytes] = []
        self._ended = False

    def open(self, record: bytes) -> tuple[Kind, bytes]:
        """The next record's kind and content.

        Raises:
            VerificationError: ``relay.bad_seal``: it was changed, or is not the record that is due.
            PeerError: ``relay.malformed``: the peer sealed something that is no record.
        """
        try:
            plain = self._cipher.decrypt(self._nonce(), record, None)
        except InvalidTag:
            raise VerificationError(
                "relay.bad_seal",
                f"A record that came through the relay is not the one that {self._peer} sealed at its place.",
                remedy="It was changed, repeated, reordered, left out or sealed by somebody else: nothing of it was used.  Ask the"
                " coordinator's operators, and compare fingerprints with the partner.",
            ) from None
        if self._ended or len(plain) < _HEADER.size:
            raise self._malformed()
        kind, length = _HEADER.unpack_from(plain)
        content = plain[_HEADER.size : _HEADER.size + length]
        whole = len(content) == length and len(plain) == padded(_HEADER.size + length) and not any(plain[_HEADER.size + length :])
        # A part that is not full would be another way to say the same, and empty ones would cost memory without end.
        if not whole or kind not in list(Kind) or (kind == Kind.PART and length != _CONTENT_BYTES):
            raise self._malformed()
        return Kind(kind), content

    def take(self, record: bytes) -> tuple[Kind, bytes]:
        """The next record of the frames: ``PART`` when a frame is not whole yet, ``FRAME`` with a whole frame, or ``END``.

        Raises:
            VerificationError, PeerError: as :meth:`open`; ``transport.oversized``.
        """
        kind, content = self.open(record)
        if kind is Kind.PROOF or (kind is Kind.END and (content or self._parts)):
            raise self._malformed()
        if kind is Kind.END:
            self._ended = True
            return kind, b""
        self._parts.append(content)
        if sum(map(len, self._parts)) > self._frame_bytes:
            raise PeerError(
                "transport.oversized",
                f"{self._peer} sent more than {self._frame_bytes} bytes in one frame.",
                remedy="Both nodes must use the same message limit.",
            )
        if kind is Kind.PART:
            return kind, b""
        whole, self._parts = b"".join(self._parts), []
        return kind, whole

    def _malformed(self) -> PeerError:
        return PeerError(
            "relay.malformed",
            f"{self._peer} sealed a record of no known form.",
            remedy="Check that both nodes run the same version.",
        )


class Handshake:
    """One node's part of agreeing on keys; used once.

    Args:
        meeting: what the session is for.
        key: this node's log key; its name among the meeting's sides is ``me``.
        frame_bytes: the largest frame accepted from the peer.
    """

    def __init__(self, meeting: Meeting, *, me: str, key: SigningKey, frame_bytes: int) -> None:
        self._meeting, self._me, self._key, self._frame_bytes = meeting, me, key, frame_bytes
        self._peer = meeting.other(me)
        secret = X25519PrivateKey.generate()
        self._secret: X25519PrivateKey | None = secret
        self._digest = b""
        self.ephemeral = secret.public_key().public_bytes_raw()
        """This node's fresh X25519 key (32 bytes): its first message."""

    def meet(self, theirs: bytes) -> tuple[Sealer, Opener]:
        """The two directions, from the peer's X25519 key; once, because two sealers of one key would number alike.

        Raises:
            VerificationError: ``relay.bad_key``: no key, one of low order, or this node's own sent back.
            UsageError: ``relay.met_twice``.
        """
        secret, self._secret = self._secret, None
        if secret is None:
            raise UsageError("relay.met_twice", "A handshake serves one session.")
        if len(theirs) != KEY_BYTES or theirs == self.ephemeral:
            raise self._bad_key()
        try:
            shared = secret.exchange(X25519PublicKey.from_public_bytes(theirs))
        except ValueError:  # the all-zero value of a point of low order (RFC 7748, section 6.1)
            raise self._bad_key() from None
        mine = self._me == self._meeting.label_holder.name
        first, second = (self.ephemeral, theirs) if mine else (theirs, self.ephemeral)
        self._digest = transcript(self._meeting, label_holder_key=first, feature_holder_key=second)
        keys = HKDF(algorithm=SHA256(), length=2 * KEY_BYTES, salt=self._digest, info=_INFO).derive(shared)
        forth, back = keys[:KEY_BYTES], keys[KEY_BYTES:]
        own, other = (forth, back) if mine else (back, forth)
        return Sealer(own), Opener(other, peer=self._peer.name, frame_bytes=self._frame_bytes)

    def proof(self) -> bytes:
        """This node's signature (64 bytes) over the session; after :meth:`meet`."""
        return self._key.sign(statement(self._meeting, self._me, self._digest))

    def check(self, opener: Opener, record: bytes) -> None:
        """Return when the peer's first record is its proof.

        Raises:
            VerificationError: ``relay.wrong_identity``, also when the record does not open: then the two hold different keys,
                because they pin different log keys or somebody in between exchanged the fresh ones.
            PeerError: ``relay.malformed``.
        """
        try:
            kind, proof = opener.open(record)
            if kind is not Kind.PROOF or len(proof) != SIGNATURE_BYTES:
                raise VerificationError("relay.wrong_identity", "no proof")
            self._peer.log_key.verify(statement(self._meeting, self._peer.name, self._digest), proof)
        except VerificationError:
            raise VerificationError(
                "relay.wrong_identity",
                f"Whoever answered through the relay did not prove to be {self._peer.name}: the log key is not the pinned one, or"
                " the session is another.",
                remedy=f"If {self._peer.name} or this node has made new keys, exchange partner files again; if not, somebody stands"
                " in between: ask the coordinator's operators.",
            ) from None

    def _bad_key(self) -> VerificationError:
        return VerificationError(
            "relay.bad_key",
            f"The key that came through the relay for {self._peer.name} cannot be one of a node.",
            remedy="Nothing was sent; ask the coordinator's operators what happened.",
        )

    def __repr__(self) -> str:
        return f"Handshake({self._me!r} with {self._peer.name!r}, <secret>)"
