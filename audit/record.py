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
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

import rfc8785

from audit.checkpoint import NOTE_BYTES_MAX, Checkpoint, log_of, origin_of, sign_checkpoint, verify_checkpoint
from audit.cosignature import with_cosignature
from audit.errors import DataError, UsageError, VerificationError
from audit.merkle import TreeHashes
from audit.mirror import Mirror
from audit.signing import SigningKey, VerifierKey

Json: TypeAlias = "str | int | bool | list[Json] | dict[str, Json] | None"

ENTRY_VERSION = 1
LINE_BYTES_MAX = 2**20
INTEGER_MAX = 2**53 - 1
LOG_FILE, KEY_FILE, CHECKPOINT_FILE, CHECKPOINT_FOLDER = "log.jsonl", "log.pub", "checkpoint", "checkpoints"
FRAME_FIELDS = ("v", "log", "seq", "prev", "time", "kind", "job", "step", "attempt", "round")
_RENAMED = {"seq": "number"}


class Line(NamedTuple):
    """One line of a log file: ``data`` without its newline, ``complete`` when the newline is there."""

    offset: int
    data: bytes
    complete: bool


def read_lines(stream: BinaryIO, *, offset: int = 0) -> Iterator[Line]:
    """The lines of a log from the stream's position on, one in memory at a time.

    Raises:
        DataError: ``log.line_too_long`` names the byte where the line begins.
    """
    while data := stream.readline(LINE_BYTES_MAX + 2):
        complete = data.endswith(b"\n")
        if len(data) - complete > LINE_BYTES_MAX:
            raise DataError(
                "log.line_too_long", f"The line at byte {offset} has more than {LINE_BYTES_MAX} bytes: this is no isthmus log."
            )
        yield Line(offset, data[:-1] if complete else data, complete)
        offset += len(data)


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_float(text: str) -> Json:
    raise ValueError(f"{text[:20]} is not an integer")


def _exact(text: str) -> int:
    if len(text) > 15 and (len(text) > 17 or abs(int(text)) > INTEGER_MAX):
        raise ValueError(f"{text[:20]} is beyond 2**53")
    return int(text)


# RFC 8785 for documents of text and integers is what Python's own encoder writes with these settings: the same escapes, keys in
# the order of code points, which is that of UTF-16 units as long as no character beyond U+FFFF (four bytes in UTF-8) is there.
_decoder = json.JSONDecoder(parse_float=_no_float, parse_int=_exact, parse_constant=_no_float)
_encoder = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False, allow_nan=False)
_strict = json.JSONDecoder(parse_float=_no_float, parse_int=_exact, parse_constant=_no_float, object_pairs_hook=_unique)
_FRAME_TYPES = tuple((name, int if name in ("v", "seq", "attempt", "round") else str) for name in FRAME_FIELDS)


_NUMBER, _DIGEST, _WORD = "(0|[1-9][0-9]{0,14})", '"([0-9a-f]{64})"', '"([A-Za-z0-9-]{1,63})"'
_MESSAGE = re.compile(
    rf'\{{"attempt":{_NUMBER},"direction":{_WORD},"items":{_NUMBER},"job":{_DIGEST},"kind":"message","length":{_NUMBER}'
    rf',"log":{_WORD},"number":{_NUMBER},"peer":{_WORD},"prev":{_DIGEST},"round":{_NUMBER},"seq":{_NUMBER},"sha256":{_DIGEST}'
    rf',"step":{_WORD},"time":"([0-9TZ:.-]{{1,40}})","type":{_WORD},"v":{ENTRY_VERSION}\}}'
)
"""The canonical form of a message entry, of which large logs consist: what matches is canonical, and read already."""


def _message(text: str) -> dict[str, Json] | None:
    """A message entry of the usual form; None for anything else."""
    found = _MESSAGE.fullmatch(text)
    if found is None:
        return None
    attempt, direction, items, job, length, log, number, peer, prev, round, seq, sha256, step, time, kind = found.groups()
    return {
        "v": ENTRY_VERSION, "log": log, "seq": int(seq), "prev": prev, "time": time, "kind": "message", "job": job, "step": step,
        "attempt": int(attempt), "round": int(round), "direction": direction, "items": int(items), "length": int(length),
        "number": int(number), "peer": peer, "sha256": sha256, "type": kind,
    }  # fmt: skip


def _canonical(text: str, data: bytes) -> Json:
    """The document that ``data`` is the canonical form of: by the quick way where it is certain, else by the reference."""
    document: Json = _decoder.decode(text)
    if _encoder.encode(document) == text and (text.isascii() or max(data) < 0xF0):
        return document
    document = _strict.decode(text)
    if rfc8785.dumps(document) != data:
        raise ValueError("it is not in canonical form (RFC 8785)")
    return document


def parse_entry(data: bytes) -> dict[str, Json]:
    """One line as an entry: canonical JSON, no number but integers, the frame's fields present with their types.

    Raises:
        DataError: ``log.entry_malformed``; the message gives the reason, never the content.
    """
    try:
        text = data.decode()
        if (message := _message(text)) is not None:
            return message
        entry = _canonical(text, data)
        if not isinstance(entry, dict):
            raise ValueError("it is no object")
        for name, wanted in _FRAME_TYPES:
            value = entry.get(name)
            if type(value) is not wanted or (wanted is int and value < 0):  # type: ignore[operator]
                raise ValueError(f"its field {name!r} is missing, negative or of the wrong type")
        if entry["v"] != ENTRY_VERSION:
            raise ValueError(f"its version is {entry['v']}, and this program reads version {ENTRY_VERSION}")
    except UnicodeDecodeError:
        raise DataError("log.entry_malformed", "It is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise DataError("log.entry_malformed", f"It is not JSON: {error.msg}.") from None
    except (ValueError, RecursionError, rfc8785.CanonicalizationError) as error:
        raise DataError("log.entry_malformed", f"It is no entry: {error}.") from None
    return entry


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds: as text it sorts as it does in time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _refuse_inexact(value: object, where: str) -> None:
    """No float and no large integer stands in an entry: other readers of JSON would change them."""
    if isinstance(value, float) or (isinstance(value, int) and abs(value) > INTEGER_MAX):
        raise UsageError(
            "log.number", f"The field {where!r} holds a number that JSON cannot carry exactly.", remedy="Write it as a string."
        )
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_inexact(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_inexact(item, where)
    elif not isinstance(value, str | int | None):
        raise UsageError("log.field", f"The field {where!r} holds a {type(value).__name__}, which JSON has not.")


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
        _refuse_inexact(own, kind)
        with self._lock:
            self._refuse_unusable()
            now = self._now()
            frame: dict[str, Json] = {
                "v": ENTRY_VERSION, "log": self._name, "seq": self._tree.size, "prev": self._prev, "time": now,
                "kind": kind, "job": job, "step": step, "attempt": attempt, "round": round,
            }  # fmt: skip
            _refuse_inexact(frame, kind)
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
