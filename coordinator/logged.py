"""What the coordinator's log holds of its jobs, heard while it is opened and kept up since.

The database is written before the log, so a crash in between leaves a job whose submission or end no entry tells of: the runner
logs it at the next start.  A job's disclosure receipt is the sum over the log's own entries, never over the database: a report that
was logged and lost with a crash was told all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from audit.entries import Json
from coordinator.jobs import ENDED

Item = tuple[str, str, str, str]
"""Party, what, to, clause."""


@dataclass
class Logged:
    """Jobs by what the log tells of them: begun, ended, and what was disclosed in those that have not ended."""

    begun: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    _told: dict[str, dict[Item, int]] = field(default_factory=dict)

    def hear(self, entry: Mapping[str, Json]) -> None:
        """Take in an entry that is in the log."""
        job, kind = str(entry["job"]), entry["kind"]
        if kind == "disclosure" and isinstance(count := entry.get("count"), int):
            party, what, to, clause = (str(entry.get(name, "")) for name in ("party", "what", "to", "clause"))
            self.disclosed(job, (party, what, to, clause), count)
        elif kind == "job" and entry.get("state") in ENDED:
            self.ended.add(job)
            self._told.pop(job, None)
        elif kind == "job":
            self.begun.add(job)

    def disclosed(self, job: str, item: Item, count: int) -> None:
        """A disclosure entry was written."""
        totals = self._told.setdefault(job, {})
        totals[item] = totals.get(item, 0) + count

    def receipt(self, job: str) -> list[Json]:
        """Everything the coordinator was told in the course of a job: what, by whom, how many values, what allowed it."""
        return [
            {"party": party, "what": what, "to": to, "count": count, "clause": clause}
            for (party, what, to, clause), count in self._told.get(job, {}).items()
        ]
