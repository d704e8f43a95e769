"""What becomes of a job's files when it ends, and when the time that the policy gives is over.

After a job, the commands need its model, its aggregates, its disclosure receipt and, with a model, which customers were shared
(``model --members``).  A replay needs the sealed seed and what is kept (:mod:`node.runtime.kept`).  Everything else, the masks,
shares and keys of the steps, serves nobody once the job is over and goes at its end, whatever the policy says.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from node.policy import RetentionSection
from node.runtime.files import JobFiles
from node.runtime.kept import FOLDER
from node.runtime.seeds import SEED_FILE
from node.runtime.store import FINAL, Store

_log = logging.getLogger("isthmus.node.retention")

RESULTS = frozenset({"model.json", "metrics.json", "count.json", "disclosures.json"})
"""What a node's own commands show of a job that ended."""
MEMBERS = "align.npz"
"""Which customers were shared: kept with a model."""
FOR_REPLAY = frozenset({SEED_FILE, FOLDER})
SWEEP_EVERY = timedelta(hours=24)


def on_job_end(files: JobFiles, policy: RetentionSection) -> None:
    """Remove what an ended job has no more use for; under ``none`` what a replay needs, too.

    What cannot be removed is named in the node's own log lines and tried again by the next :func:`sweep`.
    """
    _leave(files.folder, RESULTS | FOR_REPLAY if policy.keeps else RESULTS)


def sweep(store: Store, policy: RetentionSection, now: datetime) -> int:
    """Go through the jobs that have ended and remove what is no longer to be kept; returns for how many jobs there was any.

    A crash between a job's end and the removal, and a policy that was made stricter since, are put right here.
    """
    swept = 0
    for row in store.jobs():
        if row.state in FINAL:
            keep = policy.keeps and (policy.days is None or now - _moment(row.updated) < timedelta(days=policy.days))
            swept += _leave(store.files(row.job).folder, RESULTS | FOR_REPLAY if keep else RESULTS)
    return swept


def _leave(folder: Path, names: frozenset[str]) -> bool:
    """Remove all but ``names`` (and the members of a model); whether there was anything to remove."""
    try:
        if (folder / "model.json").is_file():
            names |= {MEMBERS}
        found = [path for path in folder.iterdir() if path.name not in names]
    except FileNotFoundError:
        return False
    except OSError as error:
        _log.warning("%s cannot be looked through: %s", folder, error.strerror)
        return False
    for path in found:
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError as error:
            _log.warning("%s cannot be removed: %s", path, error.strerror)
    return bool(found)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


class Sweeper:
    """Sweeps when first asked and then once a day; asked often, it looks at the clock alone."""

    def __init__(
        self,
        store: Store,
        policy: RetentionSection,
        clock: Callable[[], datetime],
        *,
        also: Callable[[datetime], object] = lambda now: None,
    ) -> None:
        self._store, self._policy, self._clock, self._also = store, policy, clock, also
        self._next: datetime | None = None
        self._lock = threading.Lock()

    def poll(self) -> None:
        """Sweep if it is time."""
        with self._lock:
            now = self._clock()
            if self._next is None or now >= self._next:
                self._next = now + SWEEP_EVERY
                sweep(self._store, self._policy, now)
                self._also(now)


@dataclass(frozen=True)
class Cost:
    """What is kept for replays: bytes on disk of the data sets, the messages and the seeds, and of how many jobs."""

    jobs: int = 0
    tables: int = 0
    messages: int = 0
    seeds: int = 0

    @property
    def total(self) -> int:
        """All bytes."""
        return self.tables + self.messages + self.seeds


def cost(state_folder: Path) -> Cost:
    """Look through the job folders; a file with two names counts once."""
    seen: set[tuple[int, int]] = set()
    sizes = {".npz": 0, ".inbound": 0, ".sealed": 0}
    jobs = 0
    for folder in sorted((state_folder / "jobs").glob("*")):
        files = [path for path in (*folder.glob(f"{FOLDER}/*"), folder / SEED_FILE) if path.is_file() and path.suffix in sizes]
        jobs += bool(files)
        for path in files:
            status = path.stat()
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                sizes[path.suffix] += status.st_size
    return Cost(jobs=jobs, tables=sizes[".npz"], messages=sizes[".inbound"], seeds=sizes[".sealed"])
