"""One job's folder: every file written whole or not at all, readable by its owner alone, and no file that runs code when read."""

from __future__ import annotations

import contextlib
import io
import math
import os
import struct
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from numpy.typing import NDArray

from audit.record import sync_folder
from audit.split import Split
from node.errors import DataError, UsageError
from node.runtime.sealed_files import MAGIC, opened_parts, sealed_parts
from node.scratch import CHUNK_ROWS, packed

_PARTIAL = ".partial"
_DAMAGED = (
    ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError, OSError, RuntimeError, SyntaxError, TypeError,
    ValueError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What zip archives and headers of arrays raise in the standard library and numpy when a disk or a hand changed them."""

_LENGTH_MAX = 2**40
"""Longest side of an array; one of width 0 could else be of any length."""

_PARSING = threading.Lock()
"""numpy reads an array's header with Python's parser, which CPython before 3.11.8 and 3.12.2 lets two threads confuse: one of them
fails with SystemError ("AST constructor recursion depth mismatch")."""

T = TypeVar("T")


class JobFiles:
    """The files of one job.

    Args:
        key: 32 bytes under which files of arrays are sealed; without it they rest in clear.
    """

    def __init__(self, folder: Path, key: bytes | None = None) -> None:
        self.folder, self._key = folder, key

    def has(self, name: str) -> bool:
        """Whether the file is there."""
        return (self.folder / name).is_file()

    def write(self, name: str, data: bytes) -> None:
        """Replace a file as a whole; it is on disk when this returns.

        Raises:
            DataError: ``state.write_failed`` (a full disk, say); the old file, if any, is as it was.
        """
        self._write_parts(name, [data])

    def _write_parts(self, name: str, parts: Iterable[bytes | memoryview]) -> None:
        def write(file: IO[bytes]) -> None:
            for part in parts:
                file.write(part)

        self._write_by(name, write)

    def _write_by(self, name: str, write: Callable[[IO[bytes]], None]) -> None:
        path, partial = self.folder / name, self.folder / (name + _PARTIAL)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            sync_folder(self.folder)
        except BaseException as error:  # whatever it was, half a file with rows in it does not stay
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            if not isinstance(error, OSError):
                raise
            raise DataError(
                "state.write_failed",
                f"The file {path} cannot be written: {error.strerror}.",
                remedy="Make room on the disk, and submit the job again.",
            ) from None

    def read(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            UsageError: ``job.step_order`` when the step that writes it has not ended here.  DataError: ``state.unreadable``.
        """
        path = self.folder / name
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise UsageError(
                "job.step_order",
                f"The job's {name} is not there: the step that writes it has not ended on this node.",
                remedy="The coordinator must run the steps in order: align, prepare, rounds, finish, evaluate.",
            ) from None
        except OSError as error:
            raise DataError("state.unreadable", f"The file {path} cannot be read: {error.strerror}.") from None

    def write_arrays(self, name: str, arrays: Mapping[str, NDArray]) -> None:
        """Write arrays as one ``.npz``; object arrays, which only pickle can carry, are refused (``state.object_array``)."""
        for key, array in arrays.items():
            if np.asarray(array).dtype.hasobject:
                raise DataError("state.object_array", f"The array {key!r} of {name} holds Python objects, which are not stored.")
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **dict(arrays))
        with buffer.getbuffer() as data:
            self._write_parts(name, [data] if self._key is None else sealed_parts(self._key, name, data))

    def write_archive(self, name: str, arrays: Iterable[tuple[str, NDArray]]) -> None:
        """Write arrays, of which one is in memory at a time, as a compressed ``.npz`` in clear.

        Raises:
            DataError: ``state.write_failed``.
        """

        def write(file: IO[bytes]) -> None:
            # The least compression: a sixth larger than the default for columns of numbers, in a sixth of its time.
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for key, array in arrays:
                    with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)

        self._write_by(name, write)

    def read_arrays(self, name: str) -> dict[str, NDArray]:
        """Arrays of an ``.npz``; never unpickles.

        Raises:
            UsageError: ``job.step_order``.  DataError: ``state.unreadable``.
        """
        return self.read_as(name, dict)

    def each_array(self, name: str) -> Iterator[tuple[str, NDArray]]:
        """The arrays of an ``.npz`` in clear, one after the other as they stand there; never unpickles.

        Raises:
            DataError: ``state.unreadable``.
        """
        try:
            with (self.folder / name).open("rb") as file:
                yield from _each_array(file)
        except _DAMAGED:
            raise self._damaged(name) from None

    def read_as(self, name: str, make: Callable[[dict[str, NDArray]], T]) -> T:
        """What ``make`` makes of the arrays of an ``.npz``; never unpickles.

        Raises:
            UsageError: ``job.step_order``.  DataError: ``state.unreadable`` when archive or arrays are not what was written.
        """
        data = self.read(name)
        try:
            opened = io.BytesIO(data)
            if data.startswith(MAGIC):
                opened = io.BytesIO()
                for part in opened_parts(self._key or b"", name, data):
                    opened.write(part)
                del data
            return make(dict(_each_array(opened)))
        except _DAMAGED:
            raise self._damaged(name) from None

    def _damaged(self, name: str) -> DataError:
        return DataError(
            "state.unreadable",
            f"The file {self.folder / name} is damaged, or sealed under another key.",
            remedy="Restore it, or the keys the node had when it was written, from a backup; or submit the job again.",
        )


def _each_array(file: IO[bytes]) -> Iterator[tuple[str, NDArray]]:
    """The arrays of an ``.npz``.  An array is made only when the archive holds as many bytes as its header says."""
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            with _PARSING:
                with archive.open(member) as stream:
                    if np.lib.format.read_magic(stream) != (1, 0):
                        raise ValueError("another version of the array format")
                    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
                if math.prod(shape) * dtype.itemsize > member.file_size or not all(0 <= length <= _LENGTH_MAX for length in shape):
                    raise ValueError("an array that is larger than its file")
                with archive.open(member) as stream:
                    array = np.lib.format.read_array(stream, allow_pickle=False)
            yield member.filename.removesuffix(".npy"), array


def texts_to_arrays(texts: Sequence[str], rows: NDArray[np.int64] | None = None) -> dict[str, NDArray]:
    """Texts (of ``rows``, or all) as UTF-8 bytes and the offsets where they end: no object array, no padding to the longest."""
    data, ends = packed(texts, rows)
    return {"text": data, "ends": ends}


def texts_from_arrays(arrays: Mapping[str, NDArray]) -> list[str]:
    """Inverse of :func:`texts_to_arrays`."""
    data, ends = arrays["text"].tobytes(), arrays["ends"].tolist()
    starts = [0, *ends][: len(ends)]
    return [data[start:end].decode("utf-8", "surrogatepass") for start, end in zip(starts, ends, strict=True)]


def text_slices(arrays: Mapping[str, NDArray]) -> Iterator[list[str]]:
    """The same, so many at a time that a slice is no more than a chunk of rows; nothing of no text."""
    data, ends = arrays["text"], arrays["ends"]
    for first in range(0, len(ends), CHUNK_ROWS):
        stops = ends[first : first + CHUNK_ROWS]
        start = int(ends[first - 1]) if first else 0
        yield texts_from_arrays({"text": data[start : int(stops[-1])], "ends": stops - start})


def split_from_arrays(arrays: Mapping[str, NDArray]) -> Split:
    """Which shared rows serve for what, from ``align.npz``; before samples were known it held the rows held out alone."""
    holdout = arrays["holdout"]
    return Split(arrays.get("train", ~holdout), holdout)
