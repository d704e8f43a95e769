"""Labelled random streams: all randomness of a protocol comes from here.

One 32-byte seed per job and node (audit-log.md, "Seeds").  Every use names a purpose; its stream is AES-256-CTR under
``HKDF-SHA256(seed, info = job | step | round | attempt | purpose)``.  A purpose may be opened once per :class:`Drbg`, and
an attempt of a step has a ``Drbg`` of its own, so no stream ever serves twice; the same seed and labels give the same bytes
on every machine, which is what an audit replay needs.
"""

from __future__ import annotations

import struct

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from node.errors import UsageError

SEED_BYTES = 32


def _field(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


class Stream:
    """One AES-256-CTR key stream, read forwards only."""

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def __repr__(self) -> str:
        return "Stream(<secret>)"

    def bytes(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        return self._encryptor.update(bytes(count))

    def bits(self, count: int) -> int:
        """A uniform integer of ``count`` bits, in [0, 2**count)."""
        size = (count + 7) // 8
        return int.from_bytes(self.bytes(size), "little") & ((1 << count) - 1)

    def bits_many(self, count: int, bits: int) -> list[int]:
        """``count`` uniform integers of ``bits`` bits (one read, so quicker than :meth:`bits` in a loop)."""
        size = (bits + 7) // 8
        data = self.bytes(size * count)
        mask = (1 << bits) - 1
        return [int.from_bytes(data[i : i + size], "little") & mask for i in range(0, size * count, size)]

    def below(self, bound: int) -> int:
        """A uniform integer in [0, bound), by rejection."""
        if bound < 1:
            raise UsageError("drbg.bound", f"A random integer below {bound} does not exist.")
        width = (bound - 1).bit_length()
        while True:
            value = self.bits(width) if width else 0
            if value < bound:
                return value

    def uint64(self, shape: int | tuple[int, ...]) -> NDArray[np.uint64]:
        """Uniform 64-bit words of the given shape."""
        count = int(np.prod(shape))
        return np.frombuffer(self.bytes(8 * count), dtype="<u8").astype(np.uint64, copy=True).reshape(shape)

    def permutation(self, count: int) -> NDArray[np.int64]:
        """A uniform permutation of ``range(count)``: the order of 128-bit random sort keys.

        Two keys are equal with a chance below ``count**2 / 2**129``.
        """
        words = self.uint64((2, count))
        return np.lexsort((words[0], words[1])).astype(np.int64)


class Drbg:
    """The random streams of one attempt of one step of one job."""

    def __init__(self, seed: bytes, *, job: str, step: str, round: int = 0, attempt: int = 0) -> None:
        if len(seed) != SEED_BYTES:
            raise UsageError("drbg.seed", f"A seed has {SEED_BYTES} bytes, not {len(seed)}.")
        self._seed = seed
        self._context = b"isthmus drbg v1" + b"".join(_field(part.encode()) for part in (job, step, str(round), str(attempt)))
        self._opened: set[str] = set()

    def __repr__(self) -> str:
        return "Drbg(<secret>)"

    def stream(self, purpose: str) -> Stream:
        """Open the stream called ``purpose``.

        Raises:
            UsageError: ``drbg.reused`` when this purpose was opened before.
        """
        if purpose in self._opened:
            raise UsageError(
                "drbg.reused",
                f"The random stream {purpose!r} was opened a second time.",
                remedy="This is a programming error: name each use of randomness differently.",
            )
        self._opened.add(purpose)
        info = self._context + _field(purpose.encode())
        return Stream(HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(self._seed))
