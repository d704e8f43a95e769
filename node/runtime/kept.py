"""What a node keeps of a job for its replay, in the folder ``kept`` of the job's own, where the policy says so.

    table-<attempt>.npz                    the data set as that attempt of ``align`` loaded it, and how its columns were declared
    <step>-<round>-<attempt>.inbound       the messages received in one attempt, in order

A file of messages is appended to as they come: eight bytes that name the format, then for each message its length in 4 bytes,
big-endian, and its bytes.  Type and digest of each stand in the log.  It is on disk when the attempt ends; what a crash cuts off is
missed by the replay, which says so.  Nothing here runs code when read.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from audit.record import sync_folder
from node.config import ColumnConfig
from node.data.identifiers import Unfit, normaliser
from node.data.load import Table
from node.errors import DataError
from node.limits import LIMITS
from node.runtime.files import JobFiles, text_slices, texts_from_arrays, texts_to_arrays
from node.scratch import CHUNK_ROWS, Column, NumbersBuilder, Scratch, TextsBuilder

FOLDER = "kept"
_MAGIC = b"isthin1\n"
_LENGTH = struct.Struct(">I")


def kept_files(files: JobFiles) -> JobFiles:
    """The folder of what is kept of a job."""
    return JobFiles(files.folder / FOLDER)


# ---- messages received ----------------------------------------------------------------------------------------------------------


def inbound_name(step: str, round: int, attempt: int) -> str:
    """The file of one attempt's received messages."""
    return f"{step}-{round}-{attempt}.inbound"


class InboundWriter:
    """Appends the messages of one attempt to its file, made with the first of them; holds no message in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def add(self, payload: bytes) -> None:
        """Append one message.

        Raises:
            DataError: ``state.write_failed``.
        """
        try:
            if self._handle is None:
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
                self._write(_MAGIC)
            self._write(_LENGTH.pack(len(payload)))
            self._write(payload)
        except OSError as error:
            raise _unwritten(self._path, error) from None

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._handle or 0, rest) :]

    def close(self) -> None:
        """Put the file on disk; nothing is made where nothing was received.

        Raises:
            DataError: ``state.write_failed``.
        """
        handle, self._handle = self._handle, None
        if handle is None:
            return
        try:
            os.fsync(handle)
            sync_folder(self._path.parent)
        except OSError as error:
            raise _unwritten(self._path, error) from None
        finally:
            os.close(handle)


def _unwritten(path: Path, error: OSError) -> DataError:
    return DataError(
        "state.write_failed",
        f"The file {path} cannot be written: {error.strerror}.",
        remedy="Make room on the disk, or set `retention` in the policy to keep less, and submit the job again.",
    )


def read_inbound(path: Path) -> Iterator[bytes]:
    """The messages of an attempt, one in memory at a time; ends early where the file is cut off.

    Raises:
        DataError: ``kept.unreadable`` where it is no such file.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise DataError("kept.unreadable", f"The file {path} is damaged: it does not begin as kept messages do.")
            while len(head := file.read(_LENGTH.size)) == _LENGTH.size:
                (length,) = _LENGTH.unpack(head)
                if length > LIMITS.message_bytes:
                    raise DataError("kept.unreadable", f"The file {path} is damaged: a message in it is too long.")
                payload = file.read(length)
                if len(payload) < length:
                    return
                yield payload
    except OSError as error:
        raise DataError("kept.unreadable", f"The file {path} cannot be read: {error.strerror}.") from None


# ---- the data set ---------------------------------------------------------------------------------------------------------------


def table_name(attempt: int) -> str:
    """The file of the data set that an attempt of ``align`` loaded."""
    return f"table-{attempt}.npz"


def write_table(files: JobFiles, attempt: int, table: Table, features: Sequence[str], declared: dict[str, ColumnConfig]) -> None:
    """Keep a data set as loaded; where an earlier attempt loaded the very same, both names mean one file.

    Raises:
        DataError: ``state.write_failed``.
    """
    name = table_name(attempt)
    files.write_archive(name, _table_arrays(table, features, declared))
    earlier = next((table_name(before) for before in range(attempt - 1, -1, -1) if files.has(table_name(before))), "")
    link = files.folder / (name + ".link")
    with contextlib.suppress(OSError):  # a file system without links, say, keeps it twice
        if earlier and filecmp.cmp(files.folder / earlier, files.folder / name, shallow=False):
            link.unlink(missing_ok=True)
            os.link(files.folder / earlier, link)
            link.replace(files.folder / name)
            link.unlink(missing_ok=True)  # two names of one file: then POSIX renames nothing
            sync_folder(files.folder)


def _table_arrays(table: Table, features: Sequence[str], declared: dict[str, ColumnConfig]) -> Iterator[tuple[str, NDArray]]:
    """What is kept of a data set, one array in memory at a time."""
    columns = {name: column.model_dump(mode="json") for name, column in declared.items()}
    head = {"declared": columns, "rows_read": table.rows_read, "duplicates": table.duplicates}
    yield "head", np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
    yield from _named("identifiers", table.raw_identifiers)
    for place, name in enumerate(features):
        yield f"column_{place}", np.asarray(table.columns[name])
        if name in table.levels:
            yield from _named(f"levels_{place}", table.levels[name])
    for place, key in enumerate(table.raw_keys):
        yield from _named(f"key_{place}", key)
    if table.label is not None:
        yield "label", table.label


def _named(prefix: str, texts: Sequence[str]) -> Iterator[tuple[str, NDArray]]:
    return ((f"{prefix}_{part}", array) for part, array in texts_to_arrays(texts).items())


def read_table(
    files: JobFiles,
    attempt: int,
    features: Sequence[str],
    normalise: str,
    keys: Sequence[str] = (),
    scratch: Scratch | None = None,
) -> tuple[Table, dict[str, ColumnConfig]]:
    """A kept data set, its identifiers normalised anew, and how its columns were declared.

    ``keys`` are the rules of the job's keys, in its order; ``scratch`` takes identifiers that are too many for memory.

    Raises:
        DataError: ``kept.unreadable``.
    """
    name = table_name(attempt)
    try:
        arrays: dict[str, Any] = {}
        for key, array in files.each_array(name):
            arrays[key] = _column(array, scratch) if key.startswith("column_") else array
        head = json.loads(arrays["head"].tobytes())
        declared = {column: ColumnConfig.model_validate(fields) for column, fields in head["declared"].items()}
        raw = _built(text_slices(_texts(arrays, "identifiers")), None, scratch)
        raw_keys = [_built(text_slices(_texts(arrays, f"key_{place}")), None, scratch) for place in range(len(keys))]
        table = Table(
            identifiers=_built(_slices(raw), normaliser(normalise), scratch),
            raw_identifiers=raw,
            columns={feature: arrays[f"column_{place}"] for place, feature in enumerate(features)},
            label=arrays.get("label"),
            duplicates=int(head["duplicates"]),
            rows_read=int(head["rows_read"]),
            levels={
                feature: texts_from_arrays(_texts(arrays, f"levels_{place}"))
                for place, feature in enumerate(features)
                if f"levels_{place}_ends" in arrays
            },
            keys=[_built(_slices(texts), normaliser(rule), scratch) for rule, texts in zip(keys, raw_keys, strict=True)],
            raw_keys=raw_keys,
        )
    except (DataError, KeyError, ValueError, TypeError, ValidationError, Unfit, zipfile.BadZipFile) as error:
        if isinstance(error, DataError) and error.code == "state.scratch":
            raise
        raise DataError("kept.unreadable", f"The kept data set {files.folder / name} is damaged.") from None
    lengths = {len(column) for column in (*table.columns.values(), *([] if table.label is None else [table.label]))}
    if (lengths | {len(key) for key in raw_keys}) - {len(raw)}:
        raise DataError("kept.unreadable", f"The kept data set {files.folder / name} is damaged: its columns differ in length.")
    return table, declared


def _column(array: NDArray, scratch: Scratch | None) -> Column:
    if array.ndim != 1:
        raise ValueError("a column of rows of numbers")
    built = NumbersBuilder(array.dtype, scratch)
    built.append(array)
    return built.result()


def _built(parts: Iterable[list[str]], rule: Callable[[str], str] | None, scratch: Scratch | None) -> Sequence[str]:
    """Texts, each but the empty one by a rule, packed where they are many."""
    built = TextsBuilder(scratch)
    for part in parts:
        built.extend(part if rule is None else [rule(text) if text else "" for text in part])
    return built.result()


def _slices(texts: Sequence[str]) -> Iterator[list[str]]:
    return (list(texts[first : first + CHUNK_ROWS]) for first in range(0, len(texts), CHUNK_ROWS))


def _texts(arrays: dict[str, Any], prefix: str) -> dict[str, NDArray]:
    return {key: arrays[f"{prefix}_{key}"] for key in ("text", "ends")}
