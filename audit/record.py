"""The log as it is written: a canonical JSON entry a line, chained, hashed into a Merkle tree, on disk before anyone acts on it.

A folder holds one log::

    log.jsonl            the entries; the bytes of a line, without its newline, are a leaf of the tree
    log.pub              the owner's verifier key, for convenience: a reader trusts its own policy or partner file alone
    checkpoint           the latest signed tree head
    checkpoints/         every signed tree head, named by its size; cosignatures are added as they come
    witness/             the last checkpoint of each other log that was cosigned here (:mod:`audit.witness`)

Decisions: ``prev`` of the first entry is the empty string, since there is nothing it could be the hash of.  ``time`` never goes
back: when the clock does, an entry repeats its predecessor's time.  A message's own number within its direction is given to
:meth:`LogWriter.append` as ``seq`` and written as ``number``, because ``seq`` in an entry is its place in the log.  A last line
without a newline is what a crash while writing leaves: nothing was done on its strength, so it is cut off, and an entry of kind
``recovery`` says how much was cut.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import rfc8785

from audit.checkpoint import NOTE_BYTES_MAX, Checkpoint, log_of, origin_of, sign_checkpoint, verify_checkpoint
from audit.cosignature import with_cosignature
from audit.entries import (
    ENTRY_VERSION,
    FRAME_FIELDS,
    LINE_BYTES_MAX,
    Json,
    Line,
    format_time,
    parse_entry,
    read_lines,
    refuse_inexact,
)
from audit.errors import DataError, UsageError, VerificationError
from audit.merkle import TreeHashes
from audit.mirror import Mirror
from audit.signing import SigningKey, VerifierKey

LOG_FILE, KEY_FILE, CHECKPOINT_FILE, CHECKPOINT_FOLDER = "log.jsonl", "log.pub", "checkpoint", "checkpoints"
_RENAMED = {"seq": "number"}


def sync_folder(folder: Path) -> None:
    """Put a folder's list of names on disk, so that a file made or renamed in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file as a whole: a reader sees the old bytes or the new ones, never a part."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    sync_folder(path.parent)


class LogWriter:
    """Appends to one log.  Thread-safe; one process at a time has a log open (held by a lock on the file)."""

    def __init__(
        self, folder: Path, *, key: SigningKey, clock: Callable[[], datetime], file: BinaryIO, mirror: Mirror | None = None
    ) -> None:
        self._folder, self._key, self._clock, self._file, self._mirror = folder, key, clock, file, mirror
        self._lock = threading.Lock()
        self._tree = TreeHashes(folder)
        self._name = log_of(key.name)
        self._end = 0
        self._prev = ""
        self._time = ""
        self._signed_size = -1
        self._usable = True

    def __repr__(self) -> str:
        return f"LogWriter({self._name!r}, {self._tree.size} entries)"

    @property
    def name(self) -> str:
        """The log's name: its owner's."""
        return self._name

    @property
    def size(self) -> int:
        """How many entries the log has."""
        return self._tree.size

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        key: SigningKey,
        clock: Callable[[], datetime],
        mirror: Mirror | None = None,
        told: Callable[[dict[str, Json]], None] | None = None,
    ) -> LogWriter:
        """Create the log in ``folder``, or continue the one that is there after reading it through.

        With a ``mirror`` the folder is first brought up to date, and everything is written there before it is written here
        (:mod:`audit.mirror`).  ``told`` hears every entry that is there already, in order.

        Raises:
            UsageError: ``log.in_use`` (another process), ``log.other_owner``, ``log.unwritable``.
            VerificationError: ``log.broken`` (an entry does not follow from the one before it), ``log.altered`` (the log is not
                the one that was signed), ``log.shortened`` (entries that were signed are gone).
        """
        try:
            (folder / CHECKPOINT_FOLDER).mkdir(parents=True, exist_ok=True)
            file = (folder / LOG_FILE).open("a+b", buffering=0)
        except OSError as error:
            raise UsageError(
                "log.unwritable",
                f"The log in {folder} cannot be opened: {error.strerror}.",
                remedy="Give this user write access to the folder.",
            ) from None
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(
                    "log.in_use", f"The log in {folder} is open in another process.", remedy="Stop the other process first."
                ) from None
            if mirror is not None:
                mirror.restore(folder)
            writer = cls(folder, key=key, clock=clock, file=file, mirror=mirror)
            writer._continue(told)
        except BaseException:
            file.close()
            raise
        return writer

    def _continue(self, told: Callable[[dict[str, Json]], None] | None) -> None:
        signed = self._read_checkpoint()
        torn = b""
        # A second, buffered handle: the log is read through once, one line in memory.
        with (self._folder / LOG_FILE).open("rb") as stream:
            for line in read_lines(stream):
                if not line.complete:
                    torn = line.data
                    break
                entry = self._take(line, signed)
                if told:
                    told(entry)
        if signed is not None and signed.size > self._tree.size:
            raise VerificationError(
                "log.shortened",
                f"The log {self._name!r} has {self._tree.size} entries, but {signed.size} were signed.",
                remedy="Restore the log from a backup; do not delete the checkpoint.",
            )
        if torn:
            self._file.truncate(self._end)
            os.fsync(self._file.fileno())
        try:
            write_atomic(self._folder / KEY_FILE, f"{self._key.verifier}\n".encode())
        except OSError as error:
            raise self._unwritten(error) from None
        if torn:
            self.append("recovery", cut_bytes=len(torn), cut_sha256=hashlib.sha256(torn).hexdigest())

    def _read_checkpoint(self) -> Checkpoint | None:
        path = self._folder / CHECKPOINT_FILE
        if not path.exists():
            return None
        with path.open("rb") as file:
            checkpoint = verify_checkpoint(file.read(NOTE_BYTES_MAX + 1), self._key.verifier)
        self._signed_size = checkpoint.size
        return checkpoint

    def _take(self, line: Line, signed: Checkpoint | None) -> dict[str, Json]:
        """Follow one entry that is already in the file."""
        seq = self._tree.size
        try:
            entry = parse_entry(line.data)
        except DataError as error:
            raise self._broken(seq, line.offset, error.message) from None
        if entry["log"] != self._name:
            raise UsageError("log.other_owner", f"The log in {self._folder} belongs to {entry['log']!r}, not to {self._name!r}.")
        if entry["seq"] != seq or entry["prev"] != self._prev:
            raise self._broken(seq, line.offset, "It does not follow from the entry before it.")
        self._prev = self._tree.append(line.data).hex()
        self._time = str(entry["time"])
        self._end = line.offset + len(line.data) + 1
        if signed is not None and signed.size == self._tree.size and signed.root != self._tree.root():
            raise VerificationError(
                "log.altered",
                f"The first {signed.size} entries of the log {self._name!r} are not those that were signed.",
                remedy="Restore the log from a backup.",
            )
        return entry

    def _broken(self, seq: int, offset: int, reason: str) -> VerificationError:
        return VerificationError(
            "log.broken",
            f"Entry {seq} of the log {self._name!r} (byte {offset}) cannot be continued. {reason}",
            remedy="Restore the log from a backup.",
        )

    def append(self, kind: str, *, job: str = "", step: str = "", attempt: int = 0, round: int = 0, **fields: Json) -> int:
        """Write one entry and return its ``seq``; it is on disk (fsync) before this returns.

        Args:
            kind: what happened; with ``job``, ``step``, ``attempt`` and ``round`` where it belongs to one.
            fields: the kind's own; ``seq`` is written as ``number``.  Integers within 2**53, no floats.

        Raises:
            UsageError: ``log.field``, ``log.number``, ``log.entry_too_large``, ``log.closed``.
            DataError: ``log.write_failed`` (a full disk, say); the log then refuses more until it is opened again.
        """
        own: dict[str, Json] = {_RENAMED.get(name, name): value for name, value in fields.items()}
        if len(own) != len(fields) or not own.keys().isdisjoint(FRAME_FIELDS):
            raise UsageError("log.field", f"An entry of kind {kind!r} names a field of its own as the frame or another one does.")
        refuse_inexact(own, kind)
        with self._lock:
            self._refuse_unusable()
            now = self._now()
            frame: dict[str, Json] = {
                "v": ENTRY_VERSION, "log": self._name, "seq": self._tree.size, "prev": self._prev, "time": now,
                "kind": kind, "job": job, "step": step, "attempt": attempt, "round": round,
            }  # fmt: skip
            refuse_inexact(frame, kind)
            data = rfc8785.dumps(frame | own)
            if len(data) > LINE_BYTES_MAX:
                raise UsageError("log.entry_too_large", f"An entry of kind {kind!r} has {len(data)} bytes, over {LINE_BYTES_MAX}.")
            seq = self._tree.size
            if self._mirror is not None:
                with self._unusable_on_failure():
                    self._mirror.entry(seq, data)
            self._write(data + b"\n")
            self._prev = self._tree.append(data).hex()
            self._time = now
            return seq

    def _now(self) -> str:
        moment = self._clock()
        if moment.tzinfo is None:
            raise UsageError("log.clock", "The log's clock gives times without a time zone.")
        return max(self._time, format_time(moment))

    def _refuse_unusable(self) -> None:
        if not self._usable:
            raise UsageError("log.closed", f"The log {self._name!r} is closed, or failed before.", remedy="Open it again.")

    @contextlib.contextmanager
    def _unusable_on_failure(self) -> Iterator[None]:
        """The mirror refused, or nobody knows what it holds: this writer writes no more."""
        try:
            yield
        except BaseException:
            self._usable = False
            raise

    def _write(self, data: bytes) -> None:
        try:
            if self._file.write(data) != len(data):
                raise OSError(0, "only a part was written")
            os.fsync(self._file.fileno())
        except OSError as error:
            # After a failed write or fsync nobody knows what is on disk: take the entry back and stop.
            self._usable = False
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
            raise self._unwritten(error) from None
        self._end += len(data)

    def _unwritten(self, error: OSError) -> DataError:
        return DataError(
            "log.write_failed",
            f"The log in {self._folder} cannot be written: {error.strerror}.",
            remedy="Make room on the disk and start again; nothing was done that is not in the log.",
        )

    def checkpoint(self) -> str:
        """Sign the tree head over all entries, store it, and return the signed note.

        Raises:
            UsageError: ``log.closed``.  DataError: ``log.write_failed``.
        """
        with self._lock:
            self._refuse_unusable()
            return self._sign()

    def _sign(self) -> str:
        size = self._tree.size
        note = sign_checkpoint(Checkpoint(origin_of(self._name), size, self._tree.root()), self._key)
        self._mirror_checkpoint(size, note.encode())
        try:
            write_atomic(self._folder / CHECKPOINT_FOLDER / f"{size:012d}", note.encode())
            write_atomic(self._folder / CHECKPOINT_FILE, note.encode())
        except OSError as error:
            raise self._unwritten(error) from None
        self._signed_size = size
        return note

    def _mirror_checkpoint(self, size: int, note: bytes) -> None:
        if self._mirror is not None:
            with self._unusable_on_failure():
                self._mirror.checkpoint(size, note)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the first ``old`` entries begin the first ``new`` ones, for a witness (RFC 6962, section 2.1.2).

        Raises:
            UsageError: ``merkle.range``, ``log.closed``.
        """
        with self._lock:
            self._refuse_unusable()
            return self._tree.consistency(old, new)

    def add_cosignature(self, size: int, line: str, key: VerifierKey) -> None:
        """Add a witness's cosignature to the checkpoint of ``size`` entries.

        Raises:
            VerificationError: ``audit.not_cosigned``, ``audit.bad_signature``, ``audit.bad_note``; the file is as it was.
            DataError: ``log.no_checkpoint`` when none of that size was signed here, ``log.write_failed``.
        """
        with self._lock:
            path = self._folder / CHECKPOINT_FOLDER / f"{size:012d}"
            try:
                note = with_cosignature(path.read_bytes(), line, key)
                self._mirror_checkpoint(size, note)
                write_atomic(path, note)
                if size == self._signed_size:
                    write_atomic(self._folder / CHECKPOINT_FILE, note)
            except FileNotFoundError:
                raise DataError("log.no_checkpoint", f"The log {self._name!r} has no checkpoint of {size} entries.") from None
            except OSError as error:
                raise self._unwritten(error) from None

    def close(self) -> None:
        """Sign what is not yet signed and let the log go.  A second call does nothing."""
        with self._lock:
            try:
                if self._usable and self._signed_size != self._tree.size:
                    self._sign()
            finally:
                self._usable = False
                self._file.close()
                self._tree.close()
