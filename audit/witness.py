"""A participant as a witness of others' logs: it cosigns a checkpoint only when it continues the one it cosigned before.

::

    log's owner                                            witness
      checkpoint, old size, consistency proof   ------>    signed by the log's key?  old size the one it kept?  proof holds?
                                                           the new checkpoint is stored (fsync), then
      cosignature                               <------    answered

What it kept of each log lies in ``witness/<log>`` of its own log folder, as a signed note with its own cosignature: an auditor who
gets that folder can hold the other log against it.  A log that was rolled back or forked is refused with both checkpoints in the
error, and nothing is stored: the next honest checkpoint still has to continue the one kept.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from audit.checkpoint import NOTE_BYTES_MAX, Checkpoint, log_of, parse_checkpoint, parse_note, verify_checkpoint
from audit.cosignature import cosign, with_cosignature
from audit.errors import DataError, VerificationError
from audit.merkle import EMPTY_ROOT, verify_consistency
from audit.mirror import Mirror
from audit.record import write_atomic
from audit.signing import SigningKey, VerifierKey

WITNESS_FOLDER = "witness"
_LOG_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True)
class Answer:
    """What a witness answers: ``line`` is the cosignature; where it is empty, ``size`` is what the proof should have begun at."""

    size: int
    line: str


class Refused(VerificationError):
    """A checkpoint that does not continue the one kept: evidence that the log was rolled back or forked.

    Attributes:
        of: the log's name.
        kept, shown: both tree heads.
    """

    def __init__(self, code: str, reason: str, *, of: str, kept: Checkpoint, shown: Checkpoint) -> None:
        both = "".join(
            f"\n  {what}: {head.origin}, {head.size} entries, root {head.root.hex()}"
            for what, head in (("cosigned before", kept), ("shown now", shown))
        )
        super().__init__(
            code,
            f"The log of {of} {reason}.{both}\n ",
            remedy=f"Keep this folder as evidence and ask {of} to explain; no job with it goes on before that.",
        )
        self.of, self.kept, self.shown = of, kept, shown

    def fields(self) -> dict[str, Any]:
        """As fields of the witness's ``refusal`` entry."""
        return {
            "of": self.of,
            "code": self.code,
            "kept_size": self.kept.size,
            "kept_root": self.kept.root.hex(),
            "shown_size": self.shown.size,
            "shown_root": self.shown.root.hex(),
        }


class Witness:
    """One participant's memory of the others' logs.  Thread-safe.

    Args:
        folder: the participant's own log folder.
        key: its log key, which also cosigns.
        clock: gives the time as a zone-aware ``datetime``.
        mirror: keeps what was cosigned for whoever takes over; written first (:mod:`audit.mirror`).
    """

    def __init__(self, folder: Path, *, key: SigningKey, clock: Callable[[], datetime], mirror: Mirror | None = None) -> None:
        self._folder, self._key, self._clock, self._mirror = folder / WITNESS_FOLDER, key, clock, mirror
        self._lock = threading.Lock()

    def kept(self, key: VerifierKey) -> Checkpoint | None:
        """The last checkpoint of the log with this key that was cosigned here.

        Raises:
            DataError: ``witness.unreadable``: what was kept is damaged, so nothing of this log can be cosigned any more.
        """
        path = self._path(key)
        try:
            with path.open("rb") as file:
                return verify_checkpoint(file.read(NOTE_BYTES_MAX + 1), key)
        except FileNotFoundError:
            return None
        except (OSError, VerificationError):
            raise DataError(
                "witness.unreadable",
                f"{path}, the last checkpoint seen of {log_of(key.name)}, is damaged or of another key.",
                remedy="Restore it from a backup; without it a rolled-back log could not be told from an honest one.",
            ) from None

    def cosign(self, note: bytes, *, key: VerifierKey, old_size: int, proof: Sequence[bytes]) -> Answer:
        """Check a checkpoint against the one kept, keep it, and cosign it.

        Args:
            note: the signed note.
            key: the log's, as its partner file has it.
            old_size, proof: where the consistency proof begins, and its hashes (32 bytes each).

        Raises:
            VerificationError: ``audit.bad_note``, ``audit.not_signed``, ``audit.bad_signature``, ``audit.bad_checkpoint``,
                ``audit.wrong_origin``.
            Refused: ``witness.rolled_back``, ``witness.forked``.
            DataError: ``witness.unreadable``, ``witness.unwritable``.
        """
        shown = verify_checkpoint(note, key)
        with self._lock:
            kept = self.kept(key) or Checkpoint(shown.origin, 0, EMPTY_ROOT)
            self._check(log_of(key.name), kept, shown)
            if old_size != kept.size and shown.size != kept.size:
                return Answer(kept.size, "")
            try:
                if shown.size != kept.size:
                    verify_consistency(old=kept.size, new=shown.size, old_root=kept.root, new_root=shown.root, proof=proof)
            except VerificationError as error:
                reason = f"does not continue what was cosigned before ({error.message.rstrip('.')})"
                raise Refused("witness.forked", reason, of=log_of(key.name), kept=kept, shown=shown) from None
            return self._store(note, key, shown)

    def _check(self, log: str, kept: Checkpoint, shown: Checkpoint) -> None:
        if shown.size < kept.size:
            raise Refused("witness.rolled_back", "has fewer entries than were cosigned before", of=log, kept=kept, shown=shown)
        if shown.size == kept.size and shown.root != kept.root:
            raise Refused("witness.forked", "has other entries than those cosigned before", of=log, kept=kept, shown=shown)

    def _store(self, note: bytes, key: VerifierKey, shown: Checkpoint) -> Answer:
        parsed = parse_note(note)
        line = cosign(parsed.text, self._key, time=int(self._clock().timestamp()))
        cosigned, path = with_cosignature(note, line, self._key.verifier), self._path(key)
        if self._mirror is not None:
            self._mirror.witnessed(log_of(key.name), shown.size, cosigned)
        try:
            self._folder.mkdir(exist_ok=True)
            write_atomic(path, cosigned)
        except OSError as error:
            raise DataError(
                "witness.unwritable",
                f"{self._path(key)} cannot be written: {error.strerror}.",
                remedy="Make room on the disk; the checkpoint is cosigned with the next one.",
            ) from None
        return Answer(shown.size, line)

    def _path(self, key: VerifierKey) -> Path:
        name = log_of(key.name)
        if not _LOG_NAME.fullmatch(name):
            raise VerificationError("audit.wrong_origin", "The log's name is none of a participant.")
        return self._folder / name


def size_of(note: bytes) -> int:
    """The size that a signed note names; nothing of it is verified.

    Raises:
        VerificationError: ``audit.bad_note``, ``audit.bad_checkpoint``.
    """
    return parse_checkpoint(parse_note(note).text).size
