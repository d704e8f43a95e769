"""The coordinator's log in the database, beside the folder of whichever coordinator leads (:mod:`audit.mirror` has the why).

::

    leader                      database                                   new leader
      entry, tree head   --->   log_entries, log_checkpoints   --- restore --->   its own folder, checked, then opened
      (then its folder)         witness_notes

A folder that is ahead of the database is that of a coordinator which kept SQLite until now, or of one whose database lost its last
transactions (a replica took over, a backup was restored).  Where it continues what the database has, the rest is brought there;
where the two differ in an entry that both have, neither is touched.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import Connection, Engine, delete, func, insert, select
from sqlalchemy.exc import DBAPIError

from audit.checkpoint import Checkpoint, parse_note, verify_checkpoint
from audit.entries import parse_entry, read_lines
from audit.errors import IsthmusError
from audit.merkle import Frontier, leaf_hash
from audit.record import CHECKPOINT_FILE, CHECKPOINT_FOLDER, LOG_FILE
from audit.signing import VerifierKey
from audit.witness import WITNESS_FOLDER, size_of
from coordinator.errors import DataError, VerificationError
from coordinator.store.engine import read_failed, write_failed
from coordinator.store.jobs import Fence
from coordinator.store.tables import LogCheckpointRow, LogEntryRow, WitnessNoteRow

_log = logging.getLogger("isthmus.coordinator")

BATCH = 500


@dataclass
class _Folder:
    """A log as the folder has it: its tree, its last line, the byte after it, and whether a torn line follows."""

    tree: Frontier
    last: bytes
    end: int
    torn: bool
    at: bytes
    """The line with the number that was asked for; empty where there is none."""


class LogMirror:
    """The :class:`audit.mirror.Mirror` of a coordinator that leads.  Thread-safe.

    Args: engine: the database. key: the log's own. fence: refuses when another leads now. failed: told when the database could
        not be written: nobody then knows what it holds, so this coordinator should lead no more.
    """

    def __init__(self, engine: Engine, *, key: VerifierKey, fence: Fence, failed: Callable[[str], None]) -> None:
        self._engine, self._key, self._fence, self._failed = engine, key, fence, failed

    def entry(self, seq: int, line: bytes) -> None:
        """Keep an entry.

        Raises:
            DataError: ``coordinator.not_leader``, ``store.write_failed``.
        """
        with self._writing() as connection:
            connection.execute(insert(LogEntryRow).values(seq=seq, line=line))

    def checkpoint(self, size: int, note: bytes) -> None:
        """Keep a signed tree head; raises as :meth:`entry`."""
        with self._writing() as connection:
            connection.execute(delete(LogCheckpointRow).where(LogCheckpointRow.size == size))
            connection.execute(insert(LogCheckpointRow).values(size=size, note=note))

    def witnessed(self, log: str, size: int, note: bytes) -> None:
        """Keep what was last cosigned of another log; raises as :meth:`entry`."""
        with self._writing() as connection:
            connection.execute(delete(WitnessNoteRow).where(WitnessNoteRow.log == log))
            connection.execute(insert(WitnessNoteRow).values(log=log, size=size, note=note))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                self._fence(connection)
                yield connection
        except DBAPIError as error:
            failure = write_failed(self._engine.url, error)
            self._failed(failure.message)
            raise failure from None

    # -- taking over

    def restore(self, folder: Path) -> None:
        """Bring the folder's log, its tree heads and what was cosigned of others up to date, and the database where it is behind.

        Raises:
            VerificationError: ``log.forked``; ``log.broken``, ``log.altered``, ``log.shortened``: what the database has is no
                continuation of the folder's log.  The folder is as it was.
            DataError: ``coordinator.not_leader``, ``store.read_failed``, ``store.write_failed``, ``log.write_failed``.
        """
        try:
            with self._engine.connect() as connection:
                size = self._size(connection)
                connection.commit()  # a long log is read below, and the server lets no transaction stand idle for long
                ours = _read(folder / LOG_FILE, size - 1)
                self._compare(connection, ours, min(size, ours.tree.size))
                signed = self._newest(connection)
                if size > ours.tree.size:
                    self._download(connection, folder / LOG_FILE, ours, size, signed)
                heads = {
                    size: bytes(note) for size, note in connection.execute(select(LogCheckpointRow.size, LogCheckpointRow.note))
                }
                seen = {log: bytes(note) for log, note in connection.execute(select(WitnessNoteRow.log, WitnessNoteRow.note))}
        except DBAPIError as error:
            raise read_failed(self._engine.url, error) from None
        except OSError as error:
            raise _unwritten(folder, error) from None
        if size < ours.tree.size:
            self._upload(folder / LOG_FILE, size, ours.tree.size)
        try:
            self._heads(folder, heads)
            self._seen(folder / WITNESS_FOLDER, seen)
        except OSError as error:
            raise _unwritten(folder, error) from None

    def _size(self, connection: Connection) -> int:
        count, last = connection.execute(select(func.count(LogEntryRow.seq), func.max(LogEntryRow.seq))).one()
        if count and last != count - 1:
            raise self._broken(f"it has {count} entries, but the last one is number {last}")
        return int(count)

    def _compare(self, connection: Connection, ours: _Folder, common: int) -> None:
        """Each line holds the hash of the one before it: where the last one that both have is the same, so are all before it."""
        if not common:
            return
        theirs = connection.scalar(select(LogEntryRow.line).where(LogEntryRow.seq == common - 1))
        mine = ours.last if common == ours.tree.size else ours.at
        if bytes(theirs or b"") != mine:
            raise VerificationError(
                "log.forked",
                f"Entry {common - 1} of the coordinator's log is another in this folder than in the database: two coordinators"
                " wrote under one name.",
                remedy="Keep both as evidence; if the nodes cosigned the database's, move this log folder away and start again.",
            )

    def _newest(self, connection: Connection) -> Checkpoint | None:
        query = select(LogCheckpointRow.note).order_by(LogCheckpointRow.size.desc()).limit(1)
        note = connection.scalar(query)
        return verify_checkpoint(bytes(note), self._key) if note is not None else None

    def _download(self, connection: Connection, path: Path, ours: _Folder, size: int, signed: Checkpoint | None) -> None:
        if signed is not None and signed.size > size:
            raise VerificationError(
                "log.shortened",
                f"The database has {size} entries of the coordinator's log, but {signed.size} were signed.",
                remedy="Restore the database from a backup.",
            )
        query = select(LogEntryRow.line).where(LogEntryRow.seq >= ours.tree.size).order_by(LogEntryRow.seq)
        rows = connection.execution_options(stream_results=True).execute(query).scalars().yield_per(BATCH)
        prev = leaf_hash(ours.last).hex() if ours.tree.size else ""
        with tempfile.TemporaryFile(dir=path.parent) as checked:
            for line in map(bytes, rows):
                self._check(line, ours.tree.size, prev)
                prev = ours.tree.append(line).hex()
                checked.write(line + b"\n")
                if signed is not None and signed.size == ours.tree.size and signed.root != ours.tree.root():
                    raise VerificationError(
                        "log.altered",
                        f"The first {signed.size} entries of the coordinator's log in the database are not those that were signed.",
                        remedy="Restore the database from a backup; this folder's log was not touched.",
                    )
            checked.seek(0)
            _extend(path, ours.end, checked)
        _log.info("the log in %s was brought to %d entries from the database", path.parent, ours.tree.size)

    def _check(self, line: bytes, seq: int, prev: str) -> None:
        try:
            entry = parse_entry(line)
        except IsthmusError as error:
            raise self._broken(f"entry {seq}: {error.message}") from None
        if b"\n" in line or (entry["seq"], entry["prev"]) != (seq, prev):
            raise self._broken(f"entry {seq} does not follow from the one before it")

    def _broken(self, reason: str) -> VerificationError:
        return VerificationError(
            "log.broken",
            f"The coordinator's log in the database cannot be continued: {reason.rstrip('.')}.",
            remedy="Restore the database from a backup; this folder's log was not touched.",
        )

    def _upload(self, path: Path, first: int, end: int) -> None:
        if first:
            _log.warning("the database lacks %d entries of the log in %s; they are brought there", end - first, path.parent)
        with path.open("rb") as stream:
            lines = ((seq, line.data) for seq, line in enumerate(read_lines(stream)) if first <= seq < end)
            while batch := list(itertools.islice(lines, BATCH)):
                with self._writing() as connection:
                    connection.execute(insert(LogEntryRow), [{"seq": seq, "line": line} for seq, line in batch])

    def _heads(self, folder: Path, known: dict[int, bytes]) -> None:
        own = {int(path.name): path for path in (folder / CHECKPOINT_FOLDER).iterdir() if path.name.isdigit()}
        latest = folder / CHECKPOINT_FILE
        if latest.exists():
            own.setdefault(size_of(latest.read_bytes()), latest)
        for size in sorted(own.keys() | known.keys()):
            theirs, path = known.get(size, b""), own.get(size)
            mine = path.read_bytes() if path is not None else b""
            known[size] = self._fuller(mine, theirs)
            if known[size] != theirs:
                self.checkpoint(size, known[size])
            _put(folder / CHECKPOINT_FOLDER / f"{size:012d}", known[size])
        if known:
            _put(latest, known[max(known)])

    def _fuller(self, mine: bytes, theirs: bytes) -> bytes:
        """Of two forms of one tree head the one with more cosignatures; what this log's key did not sign counts for nothing."""

        def lines(note: bytes) -> int:
            try:
                verify_checkpoint(note, self._key)
                return len(parse_note(note).signatures)
            except VerificationError:
                return -1

        return mine if theirs != mine and lines(mine) > lines(theirs) else theirs

    def _seen(self, folder: Path, known: dict[str, bytes]) -> None:
        folder.mkdir(exist_ok=True)
        own = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        for log in sorted(own.keys() | known.keys()):
            mine, theirs = _size_or_less(own.get(log, b"")), _size_or_less(known.get(log, b""))
            if mine > theirs:
                self.witnessed(log, mine, own[log])
            elif log in known:
                _put(folder / log, known[log])


def _read(path: Path, wanted: int) -> _Folder:
    found = _Folder(Frontier(), b"", 0, False, b"")
    with path.open("rb") as stream:
        for line in read_lines(stream):
            if not line.complete:
                found.torn = True
                break
            if found.tree.size == wanted:
                found.at = line.data
            found.tree.append(line.data)
            found.last, found.end = line.data, line.offset + len(line.data) + 1
    return found


def _extend(path: Path, end: int, more: BinaryIO) -> None:
    """Put checked lines in place of whatever follows the last whole one: a line that a crash tore comes back whole."""
    with path.open("r+b") as file:
        file.truncate(end)
        file.seek(end)
        shutil.copyfileobj(more, file)
        file.flush()
        os.fsync(file.fileno())


def _put(path: Path, data: bytes) -> None:
    """Write a file that could be made again from the database at any start: hence whole, but without waiting for the disk."""
    if path.exists() and path.read_bytes() == data:
        return
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)


def _size_or_less(note: bytes) -> int:
    try:
        return size_of(note)
    except VerificationError:
        return -1


def _unwritten(folder: Path, error: OSError) -> DataError:
    return DataError(
        "log.write_failed",
        f"The log in {folder} cannot be brought up to date: {error.strerror}.",
        remedy="Make room on the disk, give this user write access to the folder, and start again.",
    )
