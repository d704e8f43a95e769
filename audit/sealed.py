"""What rests encrypted: an envelope of our own around each private file, and the file that opens them all.

Each private file is sealed by AES-256-GCM (NIST SP 800-38D) under a key of its own, derived by HKDF-SHA256 (RFC 5869) from one
random *root* of 32 bytes.  The root lies in ``secret.json``, itself sealed under what the operator holds: a key file (32 random
bytes, HKDF) or a passphrase (scrypt, RFC 7914).  So another passphrase or key file means to write ``secret.json`` anew and nothing
else.

Both files are canonical JSON; everything in them but ``data`` is authenticated with it.
"""

from __future__ import annotations

import base64
import binascii
import os
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import rfc8785
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from audit.errors import UsageError

ROOT_BYTES = 32
KEY_FILE_BYTES = 32
_NONCE_BYTES = 12
_SALT_BYTES = 32
_DOMAIN = b"isthmus sealed v1 "
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**17, 8, 1
"""128 MiB and some tenths of a second for each guess (RFC 7914, section 2; the interactive strength that OWASP advises)."""

Kind = Literal["key-file", "passphrase"]
_Hex = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2}){8,64}$")]
_Base64 = Annotated[str, StringConstraints(max_length=90_000)]


@dataclass(frozen=True)
class Secret:
    """What the operator holds; it does not print.

    Args:
        kind: ``key-file`` or ``passphrase``.
        value: the 32 bytes of the key file, or the passphrase in UTF-8.
    """

    kind: Kind
    value: bytes = field(repr=False)


class _Envelope(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    kind: Literal["isthmus.sealed"] = "isthmus.sealed"
    v: Literal[1] = 1
    what: Annotated[str, StringConstraints(max_length=64)]
    nonce: _Hex
    data: _Base64 = ""


class _Scrypt(BaseModel):
    """Bounds keep a damaged or planted file from taking the machine's memory: at most 1 GiB."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    n: Annotated[int, Field(ge=2**14, le=2**20)] = SCRYPT_N
    r: Annotated[int, Field(ge=8, le=8)] = SCRYPT_R
    p: Annotated[int, Field(ge=1, le=4)] = SCRYPT_P


class _Root(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    kind: Literal["isthmus.secret"] = "isthmus.secret"
    v: Literal[1] = 1
    by: Kind
    salt: _Hex
    scrypt: _Scrypt | None = None
    nonce: _Hex
    data: _Base64 = ""


def _header(document: BaseModel) -> bytes:
    return rfc8785.dumps(document.model_dump(mode="json", exclude={"data"}))


def _derived(key: bytes, info: bytes, salt: bytes | None = None) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=_DOMAIN + info).derive(key)


def _with_data(document: Any, data: bytes) -> bytes:
    sealed = document.model_copy(update={"data": base64.b64encode(data).decode()})
    return rfc8785.dumps(sealed.model_dump(mode="json")) + b"\n"


def new_root() -> bytes:
    """32 random bytes of the operating system."""
    return os.urandom(ROOT_BYTES)


def derive(root: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose, from the root."""
    return _derived(root, purpose.encode())


def is_sealed(data: bytes) -> bool:
    """Whether these are the bytes of an envelope (they begin as its JSON does) and not a key in clear."""
    return data.startswith(b"{")


def seal(root: bytes, what: str, data: bytes) -> bytes:
    """``data`` in an envelope that says what it is, for example ``log.key``."""
    nonce = os.urandom(_NONCE_BYTES)
    document = _Envelope(what=what, nonce=nonce.hex())
    return _with_data(document, AESGCM(derive(root, what)).encrypt(nonce, data, _header(document)))


def unseal(root: bytes, what: str, data: bytes) -> bytes:
    """What :func:`seal` was given.

    Raises:
        ValueError: it is no envelope, one of something else, damaged, or of another root; the text quotes nothing.
    """
    try:
        document = _Envelope.model_validate_json(data)
        content = base64.b64decode(document.data, validate=True)
    except (ValidationError, binascii.Error):
        raise ValueError("not an envelope") from None
    if document.what != what:
        raise ValueError("an envelope of something else")
    try:
        return AESGCM(derive(root, what)).decrypt(bytes.fromhex(document.nonce), content, _header(document))
    except InvalidTag:
        raise ValueError("damaged, or sealed under another root") from None


# ---- the root --------------------------------------------------------------------------------------------------------------------


def _wrapping_key(secret: Secret, document: _Root) -> bytes:
    salt = bytes.fromhex(document.salt)
    if document.scrypt is None:
        return _derived(secret.value, b"root by key file", salt)
    found = document.scrypt
    return Scrypt(salt=salt, length=32, n=found.n, r=found.r, p=found.p).derive(secret.value)


def wrap_root(root: bytes, secret: Secret) -> bytes:
    """The content of ``secret.json``: the root, sealed under what the operator holds."""
    nonce = os.urandom(_NONCE_BYTES)
    scrypt = _Scrypt() if secret.kind == "passphrase" else None
    document = _Root(by=secret.kind, salt=os.urandom(_SALT_BYTES).hex(), scrypt=scrypt, nonce=nonce.hex())
    return _with_data(document, AESGCM(_wrapping_key(secret, document)).encrypt(nonce, root, _header(document)))


def kind_of(data: bytes) -> Kind:
    """By what the root in this ``secret.json`` is sealed.

    Raises:
        ValueError: it is no such file.
    """
    return _parse(data).by


def _parse(data: bytes) -> _Root:
    try:
        document = _Root.model_validate_json(data)
    except ValidationError:
        raise ValueError("not a secret.json") from None
    if (document.scrypt is None) != (document.by == "key-file") or len(document.nonce) != 2 * _NONCE_BYTES:
        raise ValueError("not a secret.json")
    return document


def unwrap_root(data: bytes, secret: Secret) -> bytes:
    """The root.

    Raises:
        ValueError: it is no ``secret.json``.
        UsageError: ``identity.wrong_secret``: the passphrase or key file is another, or the file is damaged; which of them, nobody
            can tell.
    """
    document = _parse(data)
    try:
        content = base64.b64decode(document.data, validate=True)
        root = AESGCM(_wrapping_key(secret, document)).decrypt(bytes.fromhex(document.nonce), content, _header(document))
    except (binascii.Error, InvalidTag):
        root = b""
    if secret.kind != document.by or len(root) != ROOT_BYTES:
        what = "passphrase" if document.by == "passphrase" else "key file"
        raise UsageError(
            "identity.wrong_secret",
            f"The keys do not open with this {what}: it is another one, or secret.json is damaged.",
            remedy=f"Give the {what} with which the keys were sealed last, or restore the keys folder from a backup.",
        )
    return root
