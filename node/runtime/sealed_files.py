"""Files of shares and keys as they rest on a node's disk: sealed in chunks, so that any size can be.

    8 bytes that name the format | 7 random bytes | chunks of 64 MiB and the rest, each with its tag of 16 bytes

AES-256-GCM (NIST SP 800-38D) in the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár, 2015): the nonce of a chunk is the
file's random bytes, the chunk's number in 4 bytes, and 1 for the last chunk, 0 for others.  So chunks that are cut off, left out or
exchanged do not open.  The file's name is authenticated with each; the job is, by its key.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"isthsf1\n"
CHUNK_BYTES = 64 * 2**20
_PREFIX_BYTES, _TAG_BYTES = 7, 16


def _nonce(prefix: bytes, number: int, last: bool) -> bytes:
    return prefix + number.to_bytes(4, "big") + bytes([last])


def sealed_parts(key: bytes, name: str, data: bytes | memoryview, *, chunk: int = CHUNK_BYTES) -> Iterator[bytes]:
    """``data`` as it rests in the file ``name`` under ``key`` (32 bytes), a part at a time: a file may be half of the memory."""
    cipher, prefix, bound, view = AESGCM(key), os.urandom(_PREFIX_BYTES), MAGIC + name.encode(), memoryview(data)
    starts = range(0, max(len(view), 1), chunk)
    yield MAGIC + prefix
    for number, start in enumerate(starts):
        yield cipher.encrypt(_nonce(prefix, number, number == len(starts) - 1), view[start : start + chunk], bound)


def opened_parts(key: bytes, name: str, data: bytes, *, chunk: int = CHUNK_BYTES) -> Iterator[bytes]:
    """What :func:`sealed_parts` was given, a part at a time; not to be used before the last has come.

    Raises:
        ValueError: it is no such file, damaged, cut off, another file's, or under another key.
    """
    start = len(MAGIC) + _PREFIX_BYTES
    if not data.startswith(MAGIC) or len(data) < start + _TAG_BYTES:
        raise ValueError("not a sealed file")
    cipher, prefix, bound, view = AESGCM(key), data[len(MAGIC) : start], MAGIC + name.encode(), memoryview(data)
    places = range(start, len(data), chunk + _TAG_BYTES)
    try:
        for number, place in enumerate(places):
            yield cipher.decrypt(_nonce(prefix, number, number == len(places) - 1), view[place : place + chunk + _TAG_BYTES], bound)
    except InvalidTag:
        raise ValueError("damaged, or under another key") from None
