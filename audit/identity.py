"""A participant's identity: the key that signs its log, and the key and certificate of its links.

A folder holds ``log.key`` (Ed25519, audit/signing.py), ``tls.key`` (ECDSA P-256, PKCS 8), ``tls.crt`` (audit/certificates.py) and
``identity.json`` (name and role).  The private ones are readable by their owner alone, or they are not read; with a ``secret.json``
beside them they are sealed (audit/sealed.py).  While the certificate is being renewed (audit/renewal.py) ``next.key`` and
``next.crt`` are there too; which certificate counts is that of ``tls.key``, at every moment.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from pydantic import BaseModel, ConfigDict, ValidationError

from audit.certificates import is_of_key, new_certificate
from audit.checkpoint import origin_of
from audit.errors import UsageError, VerificationError
from audit.record import sync_folder
from audit.sealed import Kind, Secret, derive, is_sealed, kind_of, new_root, seal, unseal, unwrap_root, wrap_root
from audit.signing import SigningKey
from audit.spec import Name, explain
from audit.unlocking import ask_passphrase, default_key_file, read_key_file, read_private

Role = Literal["bank", "platform", "coordinator"]

LOG_KEY, TLS_KEY, TLS_CERTIFICATE, DESCRIPTION = "log.key", "tls.key", "tls.crt", "identity.json"
NEXT_KEY, NEXT_CERTIFICATE = "next.key", "next.crt"
RETIRED_KEYS = "retired.keys"
"""What was sealed under former TLS keys still opens: hexadecimal, a line for each (:func:`audit.certificates.seed_key_of`)."""
SECRET = "secret.json"
_STATE = "secrets of jobs"
FILE_BYTES_MAX = 64 * 2**10


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
    next_certificate_pem: bytes | None = None
    """The certificate that will replace the present one; its key is not held."""
    retired_keys: tuple[bytes, ...] = field(repr=False, default=())
    """What former TLS keys sealed seeds under."""


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
    for file in (SECRET, LOG_KEY, TLS_KEY, TLS_CERTIFICATE, NEXT_KEY, NEXT_CERTIFICATE, RETIRED_KEYS, DESCRIPTION):
        if (folder / file).exists():
            raise UsageError(
                "identity.exists",
                f"{folder / file} is already there; keys are never overwritten.",
                remedy="Choose another folder, or move the old keys away if they are no longer needed.",
            )
    key_pem, certificate_pem = new_certificate(name, clock())
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
        raise unwritable_keys(folder, error) from None


def unwritable_keys(folder: Path, error: OSError) -> UsageError:
    """``identity.unwritable``."""
    return UsageError(
        "identity.unwritable",
        f"The keys cannot be written to {folder}: {error.strerror}.",
        remedy="Give this user write access to the folder, or choose another.",
    )


def load_identity(folder: Path, *, key_file: Path | None = None, root: bytes | None = None) -> Identity:
    """Read the identity in ``folder``.

    Args:
        key_file: what opens keys that were sealed with a key file; without it the one beside ``folder``
            (:func:`audit.unlocking.default_key_file`).  A passphrase is asked for.
        root: what :func:`open_root` gave before; then nothing is asked for.

    Raises:
        UsageError: ``identity.missing`` (a file is not there or cannot be read), ``identity.permissions`` (a private file that
            group or others can read), ``identity.invalid`` (a file does not hold what it should, or the certificate is of
            another key), ``identity.locked`` (what opens the keys is not there), ``identity.wrong_secret``.
    """
    root = root or open_root(folder, key_file=key_file)
    # A certificate that is put in the place of another meanwhile is seen whole at the second look: see audit.renewal.activate.
    identity = _load(folder, root) or _load(folder, root)
    if identity is None:
        raise _invalid(folder, f"{TLS_CERTIFICATE} is not the certificate of {TLS_KEY}")
    return identity


def _load(folder: Path, root: bytes | None) -> Identity | None:
    """One look; None where no certificate is that of the TLS key."""
    private = {file: open_private(folder, file, root) for file in (LOG_KEY, TLS_KEY)}
    tls_key_pem = private[TLS_KEY]
    certificate, following = _read(folder / TLS_CERTIFICATE), _read_optional(folder / NEXT_CERTIFICATE)
    retired = open_private(folder, RETIRED_KEYS, root) if (folder / RETIRED_KEYS).exists() else b""
    try:
        description = _Description.model_validate_json(_read(folder / DESCRIPTION))
        log_key = SigningKey.parse(private[LOG_KEY].decode().strip())
        if following is not None and is_of_key(following, tls_key_pem):  # an activation was cut short, or is going on
            certificate, following = following, None
        if not is_of_key(certificate, tls_key_pem):
            return None
        retired_keys = tuple(bytes.fromhex(line) for line in retired.decode().split())
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, VerificationError):
        # Never the parser's own text: it may quote the key.
        raise _invalid(folder, "a file does not hold what it should") from None
    if log_key.name != origin_of(description.name):
        raise _invalid(folder, f"{LOG_KEY} is the key of {log_key.name!r}, not of {description.name!r}")
    state_key = None if root is None else derive(root, _STATE)
    return Identity(description.name, description.role, log_key, tls_key_pem, certificate, state_key, following, retired_keys)


def open_private(folder: Path, file: str, root: bytes | None) -> bytes:
    """A private file's content, opened where it is sealed.

    Raises:
        UsageError: ``identity.missing``, ``identity.permissions``, ``identity.invalid``.
    """
    data = _read_private(folder / file)
    if not is_sealed(data):
        return data
    if root is None:
        raise _invalid(folder, f"its keys are sealed and {SECRET} is not there")
    try:
        return unseal(root, file, data)
    except ValueError:
        raise _invalid(folder, "a file does not hold what it should") from None


def sealed_by(folder: Path) -> Kind | None:
    """By what the keys in ``folder`` are sealed; None where they, or one of them, rest in clear.

    Raises:
        UsageError: ``identity.missing``, ``identity.permissions``, ``identity.invalid``.
    """
    if not (folder / SECRET).exists() or not all(is_sealed(_read_private(folder / file)) for file in private_files(folder)):
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
    private = {file: _read_private(folder / file) for file in private_files(folder)}
    files = {SECRET: wrap_root(root, secret)} | {
        file: seal(root, file, data) for file, data in private.items() if not is_sealed(data)
    }
    for file, data in files.items():
        replace_file(folder, file, data, 0o600)


def private_files(folder: Path) -> list[str]:
    """The private files that are there, or should be."""
    return [LOG_KEY, TLS_KEY, *(file for file in (NEXT_KEY, RETIRED_KEYS) if (folder / file).exists())]


def replace_file(folder: Path, file: str, data: bytes, mode: int) -> None:
    """Put ``data`` in the place of a file of the folder, whole or not at all.

    Raises:
        UsageError: ``identity.unwritable``.
    """
    partial = folder / f"{file}.partial"
    try:
        partial.unlink(missing_ok=True)
        _write_all(folder, ((partial.name, data, mode),))
        partial.replace(folder / file)
        sync_folder(folder)
    except OSError as error:
        raise unwritable_keys(folder, error) from None


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
    found = _read_optional(path)
    if found is None:
        raise _missing(path)
    return found


def _read_optional(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX)
    except FileNotFoundError:  # not asked for beforehand: it may be renamed in between
        return None
    except OSError:
        raise _missing(path) from None


def _missing(path: Path) -> UsageError:
    return UsageError(
        "identity.missing",
        f"{path} is not there or cannot be read.",
        remedy="Make an identity with `isthmus-node init` or `isthmus-coordinator init`, or point `keys` to its folder.",
    )
