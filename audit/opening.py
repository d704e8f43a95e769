"""The first entries of every run: what runs, and which keys it runs under.  Nodes and coordinator write the same.

A certificate that is renewed while the process runs is committed to by one more entry, before it is used.
"""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib import metadata
from typing import Any, Protocol

from audit.certificates import certificate_sha256
from audit.identity import Identity
from audit.record import LogWriter

PACKAGE = "isthmus"


class Appends(Protocol):
    """What is needed of a log."""

    def append(self, kind: str, **fields: Any) -> int:
        """Write an entry."""


def software_fields() -> dict[str, str]:
    """What runs: the versions of this package and of Python, and SHA-256 over the names and versions of all installed packages."""
    version, lock = _installed()
    return {"version": version, "python": platform.python_version(), "lock_sha256": lock}


@cache
def _installed() -> tuple[str, str]:
    """Looked up once, a tenth of a second: a process runs what it loaded, whatever is installed while it does."""
    installed = sorted({f"{(d.metadata['Name'] or '').lower()}=={d.version}" for d in metadata.distributions()})
    return metadata.version(PACKAGE), hashlib.sha256("\n".join(installed).encode()).hexdigest()


def key_commitments(identity: Identity) -> dict[str, str]:
    """SHA-256 of the log key (32 bytes, public half) and of the certificate (DER), by what the log calls them."""
    return {
        "log key": hashlib.sha256(identity.log_key.verifier.public).hexdigest(),
        "tls certificate": certificate_sha256(identity.tls_certificate_pem),
    }


def write_opening(log: LogWriter, identity: Identity) -> None:
    """Write the entries ``software`` and the two ``commitment`` of the keys.

    Raises:
        DataError: ``log.write_failed``.
    """
    software = software_fields()
    log.append("software", version=software["version"], python=software["python"], lock_sha256=software["lock_sha256"])
    for what, sha256 in key_commitments(identity).items():
        log.append("commitment", what=what, sha256=sha256)


def write_renewal(log: Appends, identity: Identity) -> None:
    """Write the ``commitment`` of a certificate that takes the place of the one before.

    Raises:
        DataError: ``log.write_failed``.
    """
    what = "tls certificate"
    log.append("commitment", what=what, sha256=key_commitments(identity)[what])
