"""A participant's identity: the key that signs its log, and the key and certificate of its links.

A folder holds ``log.key`` (Ed25519, audit/signing.py), ``tls.key`` (ECDSA P-256, PKCS 8), ``tls.crt`` and ``identity.json``
(name and role).  The private ones are readable by their owner alone, or they are not read; with a ``secret.json`` beside them
they are sealed (audit/sealed.py).  The certificate is its own issuer and no authority (CA:FALSE): partners pin it, nobody's
signature could stand in for it.  It names the host ``<name>.isthmus``, whatever the address.
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
from audit.sealed import Kind, Secret, derive, is_sealed, kind_of, new_root, seal, unseal, unwrap_root, wrap_root
from audit.signing import SigningKey
from audit.spec import Name, explain
from audit.unlocking import ask_passphrase, default_key_file, read_key_file, read_private

Role = Literal["bank", "platform", "coordinator"]

LOG_KEY, TLS_KEY, TLS_CERTIFICATE, DESCRIPTION = "log.key", "tls.key", "tls.crt", "identity.json"
SECRET = "secret.json"
_STATE = "secrets of jobs"
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
    state_key: bytes | None = field(repr=False, default=None)
    """What the secrets of jobs are sealed under: 32 bytes; None where the keys rest in clear."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


def create_identity(
    folder: Path, *, name: str, role: str, clock: Callable[[], datetime] = _utc_now, secret: Secret | None = None
) -> Identity:
    """Make new keys in ``folder``, sealed with ``secret`` if there is one, and return the identity.

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
    for file in (SECRET, LOG_KEY, TLS_KEY, TLS_CERTIFICATE, DESCRIPTION):
        if (folder / file).exists():
            raise UsageError(
                "identity.exists",
                f"{folder / file} is already there; keys are never overwritten.",
                remedy="Choose another folder, or move the old keys away if they are no longer needed.",
            )
    key_pem, certificate_pem = _new_certificate(name, clock())
    log_key = SigningKey.generate(origin_of(name))
    root = None if secret is None else new_root()
    private = {LOG_KEY: f"{log_key.private_text()}\n".encode(), TLS_KEY: key_pem}
    # identity.json comes last: a folder that has it has all.
    files = (
        *([] if root is None or secret is None else [(SECRET, wrap_root(root, secret), 0o600)]),
        *((file, data if root is None else seal(root, file, data), 0o600) for file, data in private.items()),
        (TLS_CERTIFICATE, certificate_pem, 0o644),
        (DESCRIPTION, f"{description.model_dump_json()}\n".encode(), 0o644),
    )
    _write_all(folder, files)
    return Identity(name, role, log_key, key_pem, certificate_pem, None if root is None else derive(root, _STATE))


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
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        "identity.unwritable",
        f"The keys cannot be written to {folder}: {error.strerror}.",
        remedy="Give this user write access to the folder, or choose another.",
    )


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


def load_identity(folder: Path, *, key_file: Path | None = None) -> Identity:
    """Read the identity in ``folder``.

    Args:
        key_file: what opens keys that were sealed with a key file; without it the one beside ``folder``
            (:func:`audit.unlocking.default_key_file`).  A passphrase is asked for.

    Raises:
        UsageError: ``identity.missing`` (a file is not there or cannot be read), ``identity.permissions`` (a private file that
            group or others can read), ``identity.invalid`` (a file does not hold what it should, or the certificate is of
            another key), ``identity.locked`` (what opens the keys is not there), ``identity.wrong_secret``.
    """
    private = {file: _read_private(folder / file) for file in (LOG_KEY, TLS_KEY)}
    root = open_root(folder, key_file=key_file)
    if root is None and any(map(is_sealed, private.values())):
        raise _invalid(folder, f"its keys are sealed and {SECRET} is not there")
    try:
        if root is not None:
            private = {file: unseal(root, file, data) if is_sealed(data) else data for file, data in private.items()}
        description = _Description.model_validate_json(_read(folder / DESCRIPTION))
        log_key = SigningKey.parse(private[LOG_KEY].decode().strip())
        tls_key_pem, certificate_pem = private[TLS_KEY], _read(folder / TLS_CERTIFICATE)
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
    state_key = None if root is None else derive(root, _STATE)
    return Identity(description.name, description.role, log_key, tls_key_pem, certificate_pem, state_key)


def sealed_by(folder: Path) -> Kind | None:
    """By what the keys in ``folder`` are sealed; None where they, or one of them, rest in clear.

    Raises:
        UsageError: ``identity.missing``, ``identity.permissions``, ``identity.invalid``.
    """
    if not (folder / SECRET).exists() or not all(is_sealed(_read_private(folder / file)) for file in (LOG_KEY, TLS_KEY)):
        return None
    try:
        return kind_of(_read_private(folder / SECRET))
    except ValueError:
        raise _invalid(folder, f"{SECRET} does not hold what it should") from None


_opened: dict[bytes, bytes] = {}
"""Roots that a passphrase opened in this process, by the content of their secret.json: a person is asked once."""


def open_root(folder: Path, *, key_file: Path | None = None) -> bytes | None:
    """The root under which the keys in ``folder`` are sealed; None where there is none.

    Raises:
        UsageError: ``identity.locked``, ``identity.wrong_secret``, ``identity.permissions``, ``identity.key_file``,
            ``identity.invalid``, ``identity.missing``.
    """
    if not (folder / SECRET).exists():
        return None
    wrapped = _read_private(folder / SECRET)
    try:
        if kind_of(wrapped) == "key-file":
            return unwrap_root(wrapped, read_key_file(key_file or default_key_file(folder)))
        if wrapped not in _opened:
            _opened[wrapped] = unwrap_root(wrapped, ask_passphrase())
        return _opened[wrapped]
    except ValueError:
        raise _invalid(folder, f"{SECRET} does not hold what it should") from None


def seal_identity(folder: Path, secret: Secret, *, key_file: Path | None = None) -> None:
    """Seal keys that rest in clear, or put sealed ones under another ``secret``; the keys stay the same.

    Cut off at any place, it leaves a folder that opens: with the new secret once ``secret.json`` is written, and as before until
    then.

    Args:
        key_file: what opens them now, as in :func:`load_identity`.

    Raises:
        UsageError: those of :func:`load_identity`; ``identity.unwritable``.
    """
    load_identity(folder, key_file=key_file)
    root = open_root(folder, key_file=key_file) or new_root()
    private = {file: _read_private(folder / file) for file in (LOG_KEY, TLS_KEY)}
    files = {SECRET: wrap_root(root, secret)} | {
        file: seal(root, file, data) for file, data in private.items() if not is_sealed(data)
    }
    try:
        for file, data in files.items():
            partial = folder / f"{file}.partial"
            partial.unlink(missing_ok=True)
            _write_all(folder, ((partial.name, data, 0o600),))
            partial.replace(folder / file)
            sync_folder(folder)
    except OSError as error:
        raise _unwritable(folder, error) from None


def _invalid(folder: Path, reason: str) -> UsageError:
    return UsageError(
        "identity.invalid",
        f"The identity in {folder} is not valid: {reason}.",
        remedy="Restore the folder from a backup.",
    )


def _read_private(path: Path) -> bytes:
    try:
        return read_private(path, FILE_BYTES_MAX)
    except OSError:
        raise _missing(path) from None


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
