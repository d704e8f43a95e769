"""A participant's identity: the key that signs its log, and the key and certificate of its links.

A folder holds four files: ``log.key`` (Ed25519, audit/signing.py), ``tls.key`` (ECDSA P-256, PKCS 8), ``tls.crt`` and
``identity.json`` (name and role).  The private ones are readable by their owner alone, or they are not read.  The certificate is
its own issuer and no authority (CA:FALSE): partners pin it, nobody's signature could stand in for it.  It names the host
``<name>.isthmus``, whatever the address.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import BaseModel, ConfigDict, ValidationError

from audit.checkpoint import origin_of
from audit.errors import UsageError, VerificationError
from audit.record import sync_folder
from audit.signing import SigningKey
from audit.spec import Name, explain

Role = Literal["bank", "platform", "coordinator"]

LOG_KEY, TLS_KEY, TLS_CERTIFICATE, DESCRIPTION = "log.key", "tls.key", "tls.crt", "identity.json"
CERTIFICATE_YEARS = 10
FILE_BYTES_MAX = 64 * 2**10


def host_of(name: str) -> str:
    """The name a participant's certificate holds and its partners ask for, at whatever address."""
    return f"{name}.isthmus"


class _Description(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    v: Literal[1] = 1
    name: Name
    role: Role


@dataclass(frozen=True)
class Identity:
    """Who this participant is.  The private keys do not print."""

    name: str
    role: str
    log_key: SigningKey = field(repr=False)
    tls_key_pem: bytes = field(repr=False)
    tls_certificate_pem: bytes


def _utc_now() -> datetime:
    return datetime.now(UTC)


def create_identity(folder: Path, *, name: str, role: str, clock: Callable[[], datetime] = _utc_now) -> Identity:
    """Make new keys in ``folder`` and return the identity.

    Raises:
        UsageError: ``identity.invalid`` (name or role), ``identity.exists`` (keys are never overwritten), ``identity.unwritable``.
    """
    try:
        description = _Description.model_validate({"name": name, "role": role})
    except ValidationError as error:
        raise UsageError(
            "identity.invalid",
            f"{name!r} as {role!r} cannot be an identity: {explain(error)}.",
            remedy="Use lower-case letters, digits and hyphens; the role is bank, platform or coordinator.",
        ) from None
    for file in (LOG_KEY, TLS_KEY, TLS_CERTIFICATE, DESCRIPTION):
        if (folder / file).exists():
            raise UsageError(
                "identity.exists",
                f"{folder / file} is already there; keys are never overwritten.",
                remedy="Choose another folder, or move the old keys away if they are no longer needed.",
            )
    key_pem, certificate_pem = _new_certificate(name, clock())
    log_key = SigningKey.generate(origin_of(name))
    # identity.json comes last: a folder that has it has all.
    files = (
        (LOG_KEY, f"{log_key.private_text()}\n".encode(), 0o600),
        (TLS_KEY, key_pem, 0o600),
        (TLS_CERTIFICATE, certificate_pem, 0o644),
        (DESCRIPTION, f"{description.model_dump_json()}\n".encode(), 0o644),
    )
    _write_all(folder, files)
    return Identity(name, role, log_key, key_pem, certificate_pem)


def _write_all(folder: Path, files: tuple[tuple[str, bytes, int], ...]) -> None:
    made: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for file, data, mode in files:
            path = folder / file
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            made.append(path)
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(handle)
        sync_folder(folder)
    except OSError as error:
        # Half an identity would be in the way of the next attempt.
        for path in made:
            with contextlib.suppress(OSError):
                path.unlink()
        raise UsageError(
            "identity.unwritable",
            f"The keys cannot be written to {folder}: {error.strerror}.",
            remedy="Give this user write access to the folder, or choose another.",
        ) from None


def _new_certificate(name: str, now: datetime) -> tuple[bytes, bytes]:
    """A P-256 key (PKCS 8 PEM) and its self-signed certificate (PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host_of(name))])
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A day back, for partners whose clock is behind.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365 * CERTIFICATE_YEARS + CERTIFICATE_YEARS // 4))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host_of(name))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), certificate.public_bytes(Encoding.PEM)


def load_identity(folder: Path) -> Identity:
    """Read the identity in ``folder``.

    Raises:
        UsageError: ``identity.missing`` (a file is not there or cannot be read), ``identity.permissions`` (a private key that
            group or others can read), ``identity.invalid`` (a file does not hold what it should, or the certificate is of
            another key).
    """
    for file in (LOG_KEY, TLS_KEY):
        _check_private(folder / file)
    try:
        description = _Description.model_validate_json(_read(folder / DESCRIPTION))
        log_key = SigningKey.parse(_read(folder / LOG_KEY).decode().strip())
        tls_key_pem, certificate_pem = _read(folder / TLS_KEY), _read(folder / TLS_CERTIFICATE)
        tls_key = load_pem_private_key(tls_key_pem, password=None)
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        of_key = tls_key.public_key() == certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, VerificationError):
        # Never the parser's own text: it may quote the key.
        raise _invalid(folder, "a file does not hold what it should") from None
    if log_key.name != origin_of(description.name):
        raise _invalid(folder, f"{LOG_KEY} is the key of {log_key.name!r}, not of {description.name!r}")
    if not of_key:
        raise _invalid(folder, f"{TLS_CERTIFICATE} is not the certificate of {TLS_KEY}")
    return Identity(description.name, description.role, log_key, tls_key_pem, certificate_pem)


def _invalid(folder: Path, reason: str) -> UsageError:
    return UsageError(
        "identity.invalid",
        f"The identity in {folder} is not valid: {reason}.",
        remedy="Restore the folder from a backup.",
    )


def _check_private(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError:
        raise _missing(path) from None
    if mode & 0o077:
        raise UsageError(
            "identity.permissions",
            f"The private key {path} can be read by others (mode {mode & 0o777:04o}).",
            remedy=f"Run `chmod 600 {path}`, and replace the key if others may have read it.",
        )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX)
    except OSError:
        raise _missing(path) from None


def _missing(path: Path) -> UsageError:
    return UsageError(
        "identity.missing",
        f"{path} is not there or cannot be read.",
        remedy="Make an identity with `isthmus-node init` or `isthmus-coordinator init`, or point `keys` to its folder.",
    )
