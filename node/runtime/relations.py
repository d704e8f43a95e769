"""What a node keeps of a published filter from one job to the next, under which terms, and how many queries it answered.

    relations/<relation>/relation.json       which file is the state, by which clause of the policy, since when its key serves, and
                                             since when its filter as a whole
    relations/<relation>/state-<random>.npz  the publisher's key and masked customers, or the querier's filter and own masked ones
    state.db, filter_queries                 queries by partner and data set, counted before they are answered

A state is written beside the one before, then named in ``relation.json``, then the old one goes: after a crash either is whole.  It
is sealed where the node's own keys are.  What a replay of an attempt needs, the state as the attempt found it and the terms, is
linked into the job's folder of kept things, where the policy keeps any.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from audit.record import sync_folder
from audit.sealed import derive
from audit.spec import JobSpec
from node.errors import DataError, IsthmusError, PolicyError, UsageError
from node.policy import FilterClause, Policy
from node.protocols.filter_state import Held, Published, Terms
from node.protocols.psi_filter import Outcome
from node.runtime.files import JobFiles
from node.runtime.store import Store

_log = logging.getLogger("isthmus.node.relations")

DESCRIPTION = "relation.json"
FOLDER = "relations"
EXPIRED = 10**6
"""Days of what has no readable beginning, or one in the future: older than any policy allows."""


@dataclass(frozen=True)
class Relation:
    """One relation, as an attempt of ``align`` finds it.

    Attributes:
        identity: SHA-256 of what the key may serve for (:meth:`audit.spec.JobSpec.relation`), hex.
        published, held: what is kept, by role; None where nothing is.
        reserve: counts queries before they are answered (publisher).
        save: keeps what was masked under a new key, before the attempt is through (publisher).
        keep: puts an attempt's outcome in the place of what is kept.
        source: the file that the state is in.
    """

    identity: str
    publishes: bool
    terms: Terms
    published: Published | None = field(repr=False, default=None)
    held: Held | None = field(repr=False, default=None)
    reserve: Callable[[int], None] = field(repr=False, default=lambda count: None)
    save: Callable[[Published], None] = field(repr=False, default=lambda state: None)
    keep: Callable[[Outcome], None] = field(repr=False, default=lambda outcome: None)
    source: Path | None = None


def open_relation(store: Store, policy: Policy, spec: JobSpec, *, me: str, job: str, attempt: int, now: datetime) -> Relation:
    """The relation of a job, for one attempt.

    Args:
        now: when the attempt began: ages and the period of queries are counted from it.

    Raises:
        PolicyError: ``policy.filter``; ``reserve`` raises ``policy.filter_queries``.
    """
    clause, identity = policy.filter_clause(spec, me), spec.relation()
    files = store.relation_files(identity)
    found, name, since = _read(files, publishes=clause.role == "publisher")
    terms = Terms(
        reuse_days=clause.reuse_days,
        key_age=_days(since.get("key", ""), now),
        filter_days=clause.filter_days,
        filter_age=_days(since.get("whole", ""), now),
    )

    def reserve(count: int) -> None:
        _reserve(store, clause, job=job, attempt=attempt, count=count, now=now)

    kept = _Kept(files, clause, since, now)

    return Relation(
        identity=identity,
        publishes=clause.role == "publisher",
        terms=terms,
        published=found if isinstance(found, Published) else None,
        held=found if isinstance(found, Held) else None,
        reserve=reserve,
        save=kept.save,
        keep=kept.keep,
        source=files.folder / name if found is not None else None,
    )


def asker_of(clause: FilterClause) -> str:
    """Under what name queries are counted: the partner, whatever it calls its own data set, and the set asked about."""
    return f"{clause.partner}/{clause.dataset}"


def clause_key(clause: FilterClause) -> list[str]:
    """What names a clause: only one stands for it in a policy."""
    return [clause.partner, clause.dataset, clause.role]


def _reserve(store: Store, clause: FilterClause, *, job: str, attempt: int, count: int, now: datetime) -> None:
    since, most = _text(now - timedelta(days=clause.period_days)), clause.queries or 0
    asker = asker_of(clause)
    if count and not store.count_queries(asker, job=job, attempt=attempt, count=count, now=_text(now), since=since, most=most):
        used = store.queries(asker, since=since)
        raise PolicyError(
            "policy.filter_queries",
            f"{clause.partner} asks about {count} customers of {clause.dataset!r}, and used up {used} of its {most} queries in"
            f" {clause.period_days} days.",
            remedy="Wait until the period is over, or raise `queries` of the [[filter]] clause.",
        )


# ---- on disk --------------------------------------------------------------------------------------------------------------------


def _read(files: JobFiles, *, publishes: bool) -> tuple[Published | Held | None, str, dict[str, str]]:
    """What is kept, the name of its file, and since when; what cannot be read is as if there were none."""
    if not files.has(DESCRIPTION):
        return None, "", {}
    try:
        description = json.loads(files.read(DESCRIPTION))
        name, since = str(description["state"]), {part: str(description[part]) for part in ("key", "whole")}
        return (files.read_as(name, Published.from_arrays) if publishes else files.read_as(name, Held.from_arrays)), name, since
    except (IsthmusError, ValueError, LookupError, TypeError, RecursionError):
        _log.warning("%s cannot be read: the next alignment starts afresh", files.folder)
        return None, "", {}


class _Kept:
    """The state of one relation, as one attempt replaces it."""

    def __init__(self, files: JobFiles, clause: FilterClause, since: dict[str, str], now: datetime) -> None:
        self._files, self._clause, self._since, self._now = files, clause_key(clause), since, _text(now)
        self._saved: Published | None = None

    def save(self, state: Published) -> None:
        """Keep a whole set that was masked under a new key."""
        self._saved = state
        self._write(state, new_key=True, whole=True)

    def keep(self, outcome: Outcome) -> None:
        """Put the outcome in the place of what was kept; where a policy allows no reuse, nothing stays."""
        if outcome.state is None:
            forget(self._files.folder)
        elif outcome.state is not self._saved:
            self._write(outcome.state, new_key=outcome.new_key, whole=outcome.whole)

    def _write(self, state: Published | Held, *, new_key: bool, whole: bool) -> None:
        name = f"state-{os.urandom(8).hex()}.npz"
        self._files.write_arrays(name, state.to_arrays())
        for part, renewed in (("key", new_key), ("whole", whole)):
            self._since[part] = self._now if renewed else self._since.get(part, self._now)
        self._files.write(DESCRIPTION, json.dumps({"state": name, "clause": self._clause, **self._since}).encode())
        for other in self._files.folder.glob("state-*"):
            if other.name != name:
                other.unlink(missing_ok=True)


def forget(folder: Path) -> None:
    """Remove what is kept of a relation."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def sweep(state_folder: Path, policy: Policy, now: datetime) -> int:
    """Remove what no clause of the policy lets serve any longer; returns of how many relations."""
    days = {tuple(clause_key(clause)): clause.reuse_days for clause in policy.filter}
    removed = 0
    for folder in sorted((state_folder / FOLDER).glob("*")):
        try:
            description = json.loads((folder / DESCRIPTION).read_bytes())
            since, longest = str(description["key"]), days.get(tuple(map(str, description["clause"])), 0)
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            since, longest = "", 0
        if _days(since, now) >= longest:
            forget(folder)
            removed += 1
    return removed


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _days(since: str, now: datetime) -> int:
    """Whole days since a moment."""
    try:
        passed = now - datetime.fromisoformat(since)
    except (ValueError, TypeError):
        return EXPIRED
    return passed.days if passed >= timedelta(0) else EXPIRED


# ---- for a replay ---------------------------------------------------------------------------------------------------------------


def keep_for_replay(kept: JobFiles, attempt: int, relation: Relation) -> None:
    """Keep the terms of an attempt, and its state by a second name of the same file, which is never written again.

    Raises:
        DataError: ``state.write_failed``.
    """
    name = ""
    if relation.source is not None:
        name = relation.source.name
        if not kept.has(name):
            _link(relation.source, kept, name)
    kept.write(f"relation-{attempt}.json", json.dumps({"state": name, "terms": asdict(relation.terms)}).encode())


def _link(source: Path, kept: JobFiles, name: str) -> None:
    try:
        kept.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.link(source, kept.folder / name)
        sync_folder(kept.folder)
    except OSError:  # a file system without links keeps it twice
        try:
            kept.write(name, source.read_bytes())
        except OSError as error:
            raise DataError("state.unreadable", f"The file {source} cannot be read: {error.strerror}.") from None


def kept_relation(kept: JobFiles, attempt: int, spec: JobSpec, *, me: str, state_key: bytes | None) -> Relation | None:
    """The relation as an attempt found it, from what was kept; None where nothing was.

    Raises:
        DataError: ``state.unreadable``, ``kept.unreadable``.
    """
    name = f"relation-{attempt}.json"
    if not kept.has(name):
        return None
    publishes = spec.publisher is not None and spec.publisher.name == me
    identity = spec.relation()
    sealed = JobFiles(kept.folder, None if state_key is None else derive(state_key, f"relation {identity}"))
    try:
        document: dict[str, Any] = json.loads(kept.read(name))
        terms = Terms(**{part: int(days) for part, days in document["terms"].items()})
        state = str(document["state"])
        published = sealed.read_as(state, Published.from_arrays) if state and publishes else None
        held = sealed.read_as(state, Held.from_arrays) if state and not publishes else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, UsageError):
        raise DataError("kept.unreadable", f"The file {kept.folder / name} is damaged, or what it names is gone.") from None
    return Relation(identity, publishes, terms, published, held)
