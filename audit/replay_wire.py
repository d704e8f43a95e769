"""The other end of a replayed step: what it says is held against the log, and what it waits for is taken from what was kept.

The log's entries of the attempt are gone through in order, each once: what the step sends, commits to or chooses must be the next
one, and what it waits for must be received there.  The first entry that differs ends the attempt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from audit.entries import Json
from audit.errors import VerificationError
from audit.replay_record import Entry, RecordedAttempt


class ReplayDiffers(VerificationError):
    """Something comes out other than the log says: where, and of which type."""

    def __init__(self, reason: str, *, seq: int | None = None, type: str = "", code: str = "replay.differs") -> None:
        super().__init__(code, reason, remedy="Keep the node's folder as it is: it is evidence, which its owner has to explain.")
        self.seq, self.type = seq, type


class ReplayMissing(VerificationError):
    """What the replay needs is not there."""

    def __init__(self, reason: str) -> None:
        super().__init__("replay.not_kept", reason)


class EndOfRecord(VerificationError):
    """A failed attempt's record ends here; nothing after it was said."""

    def __init__(self) -> None:
        super().__init__("replay.end_of_record", "The record of this attempt ends here.")


class ReplayWire:
    """The other end of a replayed step: holds what it says against the log, and answers with what was received.

    Args:
        log: the log's name.
        attempt: which attempt.
        entries: its messages, commitments and choices, in the order of the log.
        inbound: the kept messages.
    """

    def __init__(self, log: str, attempt: RecordedAttempt, entries: Iterator[Entry], inbound: Iterator[bytes]) -> None:
        self._log, self._attempt, self._entries, self._inbound = log, attempt, entries, inbound
        self.reproduced = 0
        self.items_sent: dict[str, int] = {}
        """Items sent so far, by message type."""

    def send_payload(self, kind: str, payload: bytes, *, items: int = 1) -> None:
        """Take a message the step sends; it must be the log's next entry, byte for byte.

        Raises:
            ReplayDiffers.  EndOfRecord: a failed attempt's record has no more.
        """
        said: dict[str, Json] = {
            "direction": "sent",
            "type": kind,
            "length": len(payload),
            "sha256": hashlib.sha256(payload).hexdigest(),
            "items": items,
        }
        self._same(self._next(f"sends a {kind}"), "message", said, kind)
        self.reproduced += 1
        self.items_sent[kind] = self.items_sent.get(kind, 0) + items

    def recv_payload(self, kind: str) -> bytes:
        """The kept message that the log's next entry describes.

        Raises:
            ReplayDiffers: the log's next entry is another, or the kept bytes are not the ones it describes.  EndOfRecord.
            ReplayMissing: it was not kept.
        """
        entry = self._next(f"waits for a {kind}")
        self._same(entry, "message", {"direction": "received", "type": kind}, kind)
        payload = next(self._inbound, None)
        if payload is None:
            raise ReplayMissing(f"{self._attempt.name}: the {kind} received in entry {entry['seq']} was not kept.")
        if hashlib.sha256(payload).hexdigest() != entry.get("sha256"):
            raise ReplayDiffers(
                f"{self._where(entry)}: the kept {kind} is not the one that was received",
                seq=int(str(entry["seq"])),
                type=kind,
                code="replay.kept_differs",
            )
        return payload

    def commit(self, what: str, sha256: str, **sizes: int) -> None:
        """Take a commitment the step makes; it must be the log's next entry.

        Raises:
            ReplayDiffers, EndOfRecord.
        """
        said: dict[str, Json] = {"what": what, "sha256": sha256, **sizes}
        self._same(self._next(f"commits to the {what}"), "commitment", said, what)

    def choose(self, what: str, **fields: Json) -> None:
        """Take a choice the step makes; it must be the log's next entry.

        Raises:
            ReplayDiffers, EndOfRecord.
        """
        self._same(self._next(f"chooses the {what}"), "choice", {"what": what, **fields}, what)

    def finish(self) -> None:
        """The step has nothing more to say: neither may the log.

        Raises:
            ReplayDiffers.
        """
        for entry in self._entries:
            raise ReplayDiffers(
                f"{self._where(entry)}: the log goes on with {_describe(entry)} where the replay has ended",
                seq=int(str(entry["seq"])),
                type=str(entry.get("type", entry.get("what", ""))),
            )

    def _next(self, doing: str) -> Entry:
        entry = next(self._entries, None)
        if entry is not None:
            return entry
        if self._attempt.done:
            raise ReplayDiffers(f"{self._log}, {self._attempt.name}: the replay {doing} where the log's record has ended")
        raise EndOfRecord

    def _same(self, entry: Entry, kind: str, said: Mapping[str, Json], name: str) -> None:
        if entry["kind"] != kind or entry.get("direction") != said.get("direction"):
            reason = f"the replay has {_article(kind, said)} {name} here, the log {_describe(entry)}"
        else:
            other = [field for field, value in said.items() if entry.get(field) != value]
            if not other:
                return
            reason = f"{_describe(entry)} has another {', '.join(other)} in the replay"
        raise ReplayDiffers(
            f"{self._where(entry)}: {reason}",
            seq=int(str(entry["seq"])),
            type=str(entry.get("type", entry.get("what", ""))),
        )

    def _where(self, entry: Entry) -> str:
        return f"{self._log} entry {entry['seq']}, {self._attempt.name}"


def _article(kind: str, said: Mapping[str, Json]) -> str:
    return {"message": f"a {said.get('direction')}", "choice": "the choice of the"}.get(kind, "a commitment to the")


def _describe(entry: Entry) -> str:
    if entry["kind"] == "commitment":
        return f"the commitment to the {entry.get('what')}"
    if entry["kind"] == "choice":
        return f"the choice of the {entry.get('what')}"
    return f"the {entry.get('direction')} {entry.get('type')} (number {entry.get('number')})"
