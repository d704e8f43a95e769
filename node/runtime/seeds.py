"""The job's seed: 32 bytes from the operating system, committed in the log, sealed on disk under the node's key.

The sealing key comes from the root that the operator's passphrase or key file opens (audit/sealed.py); where keys rest in clear,
and in files from before they were sealed, it is HKDF-SHA256 (RFC 5869) of the node's TLS private key of that time, which renewing
the certificate keeps (``retired.keys``).  The file is AES-256-GCM
(NIST SP 800-38D) over salt and seed, bound to the job.  The commitment is SHA-256("isthmus seed v1" | salt | seed): the salt keeps
it from being searched, and both are shown to an auditor on the node's premises alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit.certificates import seed_key_of
from audit.identity import Identity
from audit.sealed import derive
from node.crypto.drbg import SEED_BYTES
from node.errors import DataError
from node.runtime.files import JobFiles

SEED_FILE = "seed.sealed"
_SALT_BYTES = 32
_NONCE_BYTES = 12
_DOMAIN = b"isthmus seed v1"


@dataclass(frozen=True)
class Seed:
    """A job's seed and the salt of its commitment."""

    value: bytes = field(repr=False)
    salt: bytes = field(repr=False)

    @property
    def commitment(self) -> str:
        """What the log holds (hex)."""
        return hashlib.sha256(_DOMAIN + self.salt + self.value).hexdigest()


def _sealing_keys(identity: Identity) -> list[AESGCM]:
    """What seeds are sealed under: the first of these now, any of them before."""
    clear = [seed_key_of(identity.tls_key_pem), *identity.retired_keys]
    keys = clear if identity.state_key is None else [derive(identity.state_key, "seeds"), *clear]
    return [AESGCM(key) for key in keys]


def draw_seed(files: JobFiles, *, job: str, identity: Identity) -> Seed:
    """Draw and seal the seed of a job; the one that is there already is kept."""
    if files.has(SEED_FILE):
        return open_seed(files, job=job, identity=identity)
    seed = Seed(value=os.urandom(SEED_BYTES), salt=os.urandom(_SALT_BYTES))
    nonce = os.urandom(_NONCE_BYTES)
    files.write(SEED_FILE, nonce + _sealing_keys(identity)[0].encrypt(nonce, seed.salt + seed.value, job.encode()))
    return seed


def open_seed(files: JobFiles, *, job: str, identity: Identity) -> Seed:
    """The sealed seed of a job.

    Raises:
        DataError: ``seed.unreadable`` when it was sealed under another key or for another job, or is damaged.
    """
    data, opened = files.read(SEED_FILE), b""
    for key in _sealing_keys(identity):
        with contextlib.suppress(InvalidTag, ValueError):
            opened = key.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], job.encode())
            break
    if len(opened) != _SALT_BYTES + SEED_BYTES:
        raise DataError(
            "seed.unreadable",
            f"The seed of job {job[:12]} cannot be opened: the file is damaged or was sealed under another key.",
            remedy="Restore the keys the node had when the job was approved, or submit the job again.",
        )
    return Seed(salt=opened[:_SALT_BYTES], value=opened[_SALT_BYTES:])
