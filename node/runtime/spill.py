"""What a step puts away: in memory up to a bound, beyond it in a file that nobody can open.

The file has no name (``tempfile.TemporaryFile``), so it is gone when its step or the process ends, however it ends.  What
is in it is encrypted piece by piece (AES-256-GCM, NIST SP 800-38D) under a key that is drawn for it and never leaves the process;
a piece's nonce is its number, and no piece is written twice.  So neither a stolen disk nor a file system's journal shows a row.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from pathlib import Path
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node.errors import DataError
from node.limits import LIMITS
from node.scratch import Held, Piece

_KEY_BITS = 256
_NONCE_BYTES = 12


class SpillingScratch:
    """A :class:`node.scratch.Scratch` of bounded memory.  Closing it closes the file; pieces in it cannot be read any more.

    Args:
        folder: where the file is made, once it is needed; on a disk with room for it.
        memory_bytes: bytes of pieces that stay in memory.
    """

    def __init__(self, folder: Path, *, memory_bytes: int = LIMITS.scratch_bytes) -> None:
        self._folder, self._most = folder, memory_bytes
        self._held = self._end = self._number = 0
        self._file: IO[bytes] | None = None
        self._cipher = AESGCM(AESGCM.generate_key(_KEY_BITS))
        self._closed = False
        self._lock = threading.RLock()  # a piece may go, and give its bytes back, while its own thread puts another

    @property
    def bytes_on_disk(self) -> int:
        """Size of the file."""
        return self._end

    def put(self, data: bytes) -> Piece:
        """See :class:`node.scratch.Scratch`."""
        with self._lock:
            if self._held + len(data) <= self._most:
                self._held += len(data)
                piece = Held(data)
                weakref.finalize(piece, self._release, len(data)).atexit = False
                return piece
            return self._write(data)

    def _release(self, size: int) -> None:
        with self._lock:
            self._held -= size

    def _write(self, data: bytes) -> Piece:
        number, start = self._number, self._end
        if self._closed:
            raise self._failed("written", None)
        try:
            if self._file is None:
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - it lives as long as the object
            self._number += 1
            sealed = self._cipher.encrypt(number.to_bytes(_NONCE_BYTES), data, None)
            handle, rest = self._file.fileno(), memoryview(sealed)
            while rest:
                rest = rest[os.pwrite(handle, rest, self._end) :]
                self._end = start + len(sealed) - len(rest)
        except OSError as error:
            raise self._failed("written", error) from None
        return _OnDisk(self, number, start, len(sealed))

    def read(self, number: int, start: int, size: int) -> bytes:
        """A piece of the file.

        Raises:
            DataError: ``state.scratch``.
        """
        try:
            if self._file is not None:
                return self._cipher.decrypt(number.to_bytes(_NONCE_BYTES), os.pread(self._file.fileno(), size, start), None)
        except OSError as error:
            raise self._failed("read", error) from None
        except InvalidTag:
            pass
        raise self._failed("read", None)

    def _failed(self, what: str, error: OSError | None) -> DataError:
        reason = (error.strerror if error else None) or "it is closed or its disk gave back other bytes"
        return DataError(
            "state.scratch",
            f"The scratch file of a step in {self._folder} cannot be {what}: {reason}.",
            remedy="Make room on that disk, or name another folder (`scratch` under `[node]`), and submit the job again: a step"
            " needs about 100 bytes a customer, as many for each key, and 8 for each number.",
        )

    def __enter__(self) -> SpillingScratch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go."""
        self._closed = True
        if self._file is not None:
            self._file.close()
            self._file = None


def scratch_of_command(folder: Path) -> SpillingScratch:
    """The scratch of a command: in the node's folder where that is there for this user to write in, else among temporary files.

    The folder is not made: the user may be another than the service's, which then could not use it.
    """
    own = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    return SpillingScratch(folder if own else Path(tempfile.gettempdir()))


class _OnDisk:
    def __init__(self, scratch: SpillingScratch, *place: int) -> None:
        self._scratch, self._place = scratch, place

    def __repr__(self) -> str:
        return "Piece(<secret>)"

    def read(self) -> bytes:
        """See :class:`node.scratch.Piece`."""
        number, start, size = self._place
        return self._scratch.read(number, start, size)
