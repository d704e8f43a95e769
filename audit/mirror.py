"""A second place for a log, so that another machine can continue it when this one is gone.

A log that two coordinators may write in turn is in a database both reach, and in the folder of the one that writes.  The mirror is
written first, the folder second, and only then does anything happen on the entry's strength:

- a crash after the mirror and before the folder: the entry stands, though nothing followed from it, as after a crash between an
  entry and its message.  Whoever continues the log, here or elsewhere, takes it over with :meth:`Mirror.restore`.
- a crash while the folder is written: the torn line is cut off and comes whole from the mirror; no ``recovery`` entry is needed.
- the mirror refuses (another writes now) or fails: nothing is written here, and this writer writes nothing more.  After a failure
  nobody knows whether the mirror has the entry; another entry with the same number could fork the log, opening it again cannot.

So the folder never holds what the mirror lacks, and a writer that was overtaken cannot add to either.  The order is the same for
signed tree heads and for what was cosigned of other logs: whoever takes over must know both, or witnesses would see a log that
went back, and the new witness could cosign another past of a log than the old one did.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Mirror(Protocol):
    """What :class:`audit.record.LogWriter` and :class:`audit.witness.Witness` ask of it.  Each call is durable when it returns."""

    def restore(self, folder: Path) -> None:
        """Bring the log in ``folder`` up to date; called once, with the folder's log locked, before it is read."""

    def entry(self, seq: int, line: bytes) -> None:
        """Keep entry ``seq``, the line's bytes without the newline."""

    def checkpoint(self, size: int, note: bytes) -> None:
        """Keep the signed tree head of ``size`` entries in place of an earlier form with fewer cosignatures."""

    def witnessed(self, log: str, size: int, note: bytes) -> None:
        """Keep what was last cosigned of another log."""
