"""The job's seed: 32 bytes from the operating system, committed in the log, sealed on disk under the node's key.

The sealing key is HKDF-SHA256 (RFC 5869) of the node's TLS private key; the file is AES-256-GCM (NIST SP 800-38D) over salt
and seed, bound to
the job.  The commitment is SHA-256("isthmus seed v1" | salt | seed): the salt keeps it from being searched, and both are shown to
an auditor on the node's premises alone.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

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


def _sealing_key(tls_key_pem: bytes) -> AESGCM:
    key = load_pem_private_key(tls_key_pem, password=None)
    material = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return AESGCM(HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_DOMAIN + b" sealing").derive(material))


def draw_seed(files: JobFiles, *, job: str, tls_key_pem: bytes) -> Seed:
    """Draw and seal the seed of a job; the one that is there already is kept."""
    if files.has(SEED_FILE):
        return open_seed(files, job=job, tls_key_pem=tls_key_pem)
    seed = Seed(value=os.urandom(SEED_BYTES), salt=os.urandom(_SALT_BYTES))
    nonce = os.urandom(_NONCE_BYTES)
    files.write(SEED_FILE, nonce + _sealing_key(tls_key_pem).encrypt(nonce, seed.salt + seed.value, job.encode()))
    return seed


def open_seed(files: JobFiles, *, job: str, tls_key_pem: bytes) -> Seed:
    """The sealed seed of a job.

    Raises:
        DataError: ``seed.unreadable`` when it was sealed under another key or for another job, or is damaged.
    """
    data = files.read(SEED_FILE)
    try:
        opened = _sealing_key(tls_key_pem).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], job.encode())
    except (InvalidTag, ValueError):
        opened = b""
    if len(opened) != _SALT_BYTES + SEED_BYTES:
        raise DataError(
            "seed.unreadable",
            f"The seed of job {job[:12]} cannot be opened: the file is damaged or was sealed under another key.",
            remedy="Restore the keys the node had when the job was approved, or submit the job again.",
        )
    return Seed(salt=opened[:_SALT_BYTES], value=opened[_SALT_BYTES:])
