"""The jobs by identity: those that are open in memory, all of them in the store.

How a job moves is told by ``coordinator.jobs``, and in which order a change is written and sent by ``coordinator.runner``; here
stands which job is meant, and whether one more may be taken in.
"""

from __future__ import annotations

from collections.abc import Iterator

from coordinator.errors import UsageError
from coordinator.jobs import Job
from coordinator.store import Store

JOBS_OPEN = 256
RECENT = 200
"""Ended jobs that a node is told about again when it attaches: it may have been away when they ended."""


class OpenJobs:
    """Not thread-safe: the runner's lock guards it.

    Args:
        most: jobs that may be open at once.
    """

    def __init__(self, store: Store, *, most: int) -> None:
        self._store, self.most = store, most
        self._open = {job.identity: job for job in store.open_jobs()}

    def __iter__(self) -> Iterator[Job]:
        """The open jobs as they are now: whoever goes through them may move them."""
        return iter(list(self._open.values()))

    def __getitem__(self, identity: str) -> Job:
        """The job of exactly this identity, which is open."""
        return self._open[identity]

    def get(self, identity: str) -> Job | None:
        """The job of exactly this identity, if it is open."""
        return self._open.get(identity)

    def keep(self, job: Job) -> None:
        """A job came in or moved; one that ended is open no more."""
        if job.ended:
            del self._open[job.identity]
        else:
            self._open[job.identity] = job

    def check_new(self, identity: str) -> None:
        """Whether a job may be taken in.

        Raises:
            UsageError: ``coordinator.job_exists``, ``coordinator.too_many_jobs``.
        """
        if self._store.load(identity) is not None:
            raise UsageError(
                "coordinator.job_exists",
                f"The job {identity[:12]} was submitted before.",
                remedy="Give the specification a new nonce (leave the key out) to run it again.",
            )
        if len(self._open) >= self.most:
            raise UsageError(
                "coordinator.too_many_jobs",
                f"{len(self._open)} jobs are open; at most {self.most} may be.",
                remedy="Wait for some to end or cancel them, or set a higher `open` under [jobs] in coordinator.toml.",
            )

    def find(self, prefix: str) -> Job:
        """The one job, open or not, whose identity begins with ``prefix``.

        Raises:
            UsageError: ``coordinator.unknown_job``, ``coordinator.ambiguous_job``.
        """
        found = self._store.find(prefix.lower()) if prefix else []
        if len(found) > 1:
            raise UsageError(
                "coordinator.ambiguous_job",
                f"Several jobs begin with {prefix!r}.",
                remedy="Give more digits of the job's hash.",
            )
        job = (self._open.get(found[0]) or self._store.load(found[0])) if found else None
        if job is None:
            raise UsageError(
                "coordinator.unknown_job",
                f"No job begins with {prefix!r}.",
                remedy="`isthmus-coordinator jobs` lists them.",
            )
        return job

    def recent(self) -> list[Job]:
        """The newest jobs, newest first."""
        return [self._open.get(job.identity, job) for job in self._store.recent(RECENT)]
