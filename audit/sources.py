"""Where a log's parts are: its entries, its key, its checkpoints and their cosignatures, from whatever path was given.

Errors here are of input that cannot be used, or of checkpoints that do not verify; the steps of :mod:`audit.verify` say which.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from audit.checkpoint import NOTE_BYTES_MAX, Checkpoint, log_of, parse_checkpoint, parse_note, verify_checkpoint
from audit.cosigned import Sighting
from audit.entries import parse_entry, read_lines
from audit.errors import DataError, VerificationError
from audit.ledger import ASK_AGAIN, LogRejected
from audit.record import CHECKPOINT_FILE, CHECKPOINT_FOLDER, KEY_FILE, LOG_FILE
from audit.signing import VerifierKey

READABLE = "Give this user the right to read it, or ask its owner for the whole log folder again."


@dataclass
class LogSource:
    """One log as it was given: where its parts are, whose it says to be, and what its checkpoints say."""

    path: Path
    folder: Path
    name: str
    key: VerifierKey | None = None
    checkpoints: dict[int, Checkpoint] = field(default_factory=dict)
    cosigners: dict[int, frozenset[str]] = field(default_factory=dict)
    """Who cosigned the checkpoint of each size, of the witnesses whose keys are known."""
    sightings: list[Sighting] = field(default_factory=list)
    """What this log's owner cosigned of other logs."""

    @property
    def signed_size(self) -> int:
        """Entries that a checkpoint covers."""
        return max(self.checkpoints, default=0)


def unusable(code: str, message: str, remedy: str = "", *, step: int = 0) -> LogRejected:
    """Input that cannot be used: exit status 3."""
    return LogRejected(code, message, step=step, remedy=remedy, unusable=True)


def read_small(path: Path) -> bytes:
    """A checkpoint or key file, never more than a note can have."""
    with path.open("rb") as file:
        return file.read(NOTE_BYTES_MAX + 1)


def verified(path: Path, key: VerifierKey, *, step: int, log: str) -> Checkpoint:
    """The checkpoint in a file, when ``key`` signed it; step and log are for the error."""
    try:
        return verify_checkpoint(read_small(path), key)
    except VerificationError as error:
        raise LogRejected(error.code, f"{path.name}: {error.message}", step=step, log=log, remedy=error.remedy) from None
    except OSError as error:
        raise unusable("audit.unreadable", f"{path} cannot be read: {error.strerror}.", READABLE, step=step) from None


def checkpoint_files(source: LogSource) -> list[Path]:
    """Every checkpoint that was kept, the latest last."""
    folder = source.folder / CHECKPOINT_FOLDER
    kept = sorted(path for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []
    latest = source.folder / CHECKPOINT_FILE
    return [*kept, latest] if latest.is_file() else kept


def own_key(source: LogSource) -> VerifierKey | None:
    """The key beside a log: the log's own word."""
    path = source.folder / KEY_FILE
    if not path.is_file():
        return None
    try:
        key = VerifierKey.parse(read_small(path).decode(errors="replace").strip())
    except (VerificationError, OSError):
        raise unusable("audit.bad_key", f"{path} holds no verifier key.", "Give --policy or --partner instead.") from None
    if log_of(key.name) != source.name:
        raise unusable("audit.bad_key", f"{path} is the key of {log_of(key.name)!r}, but the log is {source.name!r}'s.", ASK_AGAIN)
    return key


def locate(given: Path) -> LogSource:
    """Find a log's file and name from its file, its folder, or the state or node folder above it."""
    if given.is_dir():
        places = [given / LOG_FILE, given / "log" / LOG_FILE, given / "state" / "log" / LOG_FILE]
        path = next((place for place in places if place.is_file()), None)
    else:
        path = given if given.is_file() else None
    if path is None:
        raise unusable("audit.no_log", f"There is no log at {given}.", f"Give a folder that holds {LOG_FILE}, or that file.")
    source = LogSource(path, path.parent, "")
    source.name = _name(source)
    return source


def _name(source: LogSource) -> str:
    """Whose log it says to be: by a checkpoint, else by its first entry; a malformed checkpoint is for step (1) to report."""
    for path in reversed(checkpoint_files(source)):
        with contextlib.suppress(VerificationError, OSError):
            return log_of(parse_checkpoint(parse_note(read_small(path)).text).origin)
    try:
        with source.path.open("rb") as stream:
            for line in read_lines(stream):
                return str(parse_entry(line.data)["log"])
    except DataError as error:
        reason = f"Its first line (byte 0) is no log entry. {error.message}"
        remedy = f"Give a log folder or its {LOG_FILE}; if this is one, ask its owner for an untouched copy of the whole folder."
        log = str(source.path)
        raise LogRejected(error.code, reason, step=0, log=log, seq=0, offset=0, remedy=remedy, unusable=True) from None
    except OSError as error:
        raise unusable("audit.unreadable", f"{source.path} cannot be read: {error.strerror}.", READABLE) from None
    raise unusable("audit.empty", f"{source.path} is empty: nothing was logged.", ASK_AGAIN)
