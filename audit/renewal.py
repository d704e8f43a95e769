"""A new TLS key and certificate, without a moment at which partners know neither.

    prepare    next.key and next.crt appear beside the present pair; the partner file has both certificates from now on
    ...        partners add that file, and accept both
    activate   the next pair becomes the present one; the former key is gone
    ...        partners add the partner file once more, and accept the new certificate alone

The log key stays, and so does every signature.  ``activate`` commits by one rename, that of ``tls.key``: which certificate counts
is the one of that key (:func:`audit.identity.load_identity`), so that a crash at any place leaves a folder that opens, and
``activate`` again finishes what it left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from audit.certificates import is_of_key, new_certificate, seed_key_of
from audit.errors import UsageError
from audit.identity import (
    NEXT_CERTIFICATE,
    NEXT_KEY,
    RETIRED_KEYS,
    TLS_CERTIFICATE,
    TLS_KEY,
    Identity,
    load_identity,
    open_private,
    open_root,
    replace_file,
    unwritable_keys,
)
from audit.record import sync_folder
from audit.sealed import seal


def _utc_now() -> datetime:
    return datetime.now(UTC)


def prepare(
    folder: Path, *, key_file: Path | None = None, again: bool = False, clock: Callable[[], datetime] = _utc_now
) -> Identity:
    """Make the next TLS key and certificate; returns the identity, which names the certificate as its next.

    Args:
        key_file: what opens the keys, as in :func:`audit.identity.load_identity`.
        again: put another pair in the place of a next one that is there and was not activated.

    Raises:
        UsageError: ``identity.next_exists``; ``identity.unwritable``; those of :func:`audit.identity.load_identity`.
    """
    root = open_root(folder, key_file=key_file)
    identity = load_identity(folder, root=root)
    if _left_over(folder, identity):
        activate(folder, key_file=key_file)
    if identity.next_certificate_pem is not None and not again:
        raise UsageError(
            "identity.next_exists",
            f"A next certificate is in {folder} already.",
            remedy="Export the partner file with `partner export`, and use the certificate with `keys activate`; or make another "
            "one with --again, which no partner knows.",
        )
    key_pem, certificate_pem = new_certificate(identity.name, clock())
    try:
        (folder / NEXT_CERTIFICATE).unlink(missing_ok=True)  # without it the pair is not there: it is never half of two
    except OSError as error:
        raise unwritable_keys(folder, error) from None
    replace_file(folder, NEXT_KEY, key_pem if root is None else seal(root, NEXT_KEY, key_pem), 0o600)
    replace_file(folder, NEXT_CERTIFICATE, certificate_pem, 0o644)
    return replace(identity, next_certificate_pem=certificate_pem)


def next_identity(folder: Path, *, key_file: Path | None = None) -> Identity:
    """The identity as it will be when the next certificate is used: for trying whether partners accept it.

    Raises:
        UsageError: ``identity.no_next``, ``identity.invalid``; those of :func:`audit.identity.load_identity`.
    """
    root = open_root(folder, key_file=key_file)
    identity = load_identity(folder, root=root)
    certificate_pem = identity.next_certificate_pem
    if certificate_pem is None:
        raise UsageError(
            "identity.no_next",
            f"There is no next certificate in {folder}.",
            remedy="Make one with `keys renew-certificate`, and give partners the file it writes.",
        )
    key_pem = open_private(folder, NEXT_KEY, root)
    with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        if is_of_key(certificate_pem, key_pem):
            kept = tuple(dict.fromkeys((*identity.retired_keys, seed_key_of(identity.tls_key_pem))))
            return replace(
                identity,
                tls_key_pem=key_pem,
                tls_certificate_pem=certificate_pem,
                next_certificate_pem=None,
                retired_keys=kept,
            )
    raise UsageError(
        "identity.invalid",
        f"{NEXT_CERTIFICATE} in {folder} is not the certificate of {NEXT_KEY}, or one of them is damaged.",
        remedy="Make another pair with `keys renew-certificate --again`.",
    )


def activate(folder: Path, *, key_file: Path | None = None) -> Identity:
    """Use the next certificate from now on; returns the identity as it is then.  A serving process takes it up by itself.

    Raises:
        UsageError: as :func:`next_identity`; ``identity.unwritable``.
    """
    root = open_root(folder, key_file=key_file)
    identity = load_identity(folder, root=root)
    if not _left_over(folder, identity):
        identity = next_identity(folder, key_file=key_file)
        lines = "".join(f"{key.hex()}\n" for key in identity.retired_keys).encode()
        private = {RETIRED_KEYS: lines, TLS_KEY: identity.tls_key_pem}
        for file, data in private.items():
            replace_file(folder, file, data if root is None else seal(root, file, data), 0o600)
    replace_file(folder, TLS_CERTIFICATE, identity.tls_certificate_pem, 0o644)
    try:
        # The certificate last: while it is there, an interrupted activation is recognised.
        (folder / NEXT_KEY).unlink(missing_ok=True)
        (folder / NEXT_CERTIFICATE).unlink(missing_ok=True)
        sync_folder(folder)
    except OSError as error:
        raise unwritable_keys(folder, error) from None
    return identity


def _left_over(folder: Path, identity: Identity) -> bool:
    """Whether an activation was cut short: the certificate in use lies where the next one does."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / NEXT_CERTIFICATE).read_bytes() == identity.tls_certificate_pem
    return False
