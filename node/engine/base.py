"""What an engine is, and how one is made from the configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from node.engine.inline import InlineEngine
from node.engine.pool import PoolEngine
from node.errors import UsageError

T = TypeVar("T")
R = TypeVar("R")

WORKERS_MAX = 256
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class Engine(Protocol):
    """Runs a pure function over items, somewhere, and gives the results in the order of the items.

    ``map`` is lazy on both sides: it takes items as it goes and never has more than a few per worker waiting or unread, so a
    caller may feed it a stream far larger than memory.  Functions stand at the top level of a module, and everything they read
    comes with the item (a worker shares no state with its caller).  Randomness is drawn by the caller, in order, so that every
    engine gives the same bits.
    """

    @property
    def workers(self) -> int:
        """How many items are worked on at once."""

    @property
    def private(self) -> Engine:
        """Where work runs that needs a private key, a secret scalar or identifiers."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """``function`` of every item, in order; the first exception of a function is raised to the caller."""

    def close(self) -> None:
        """Stop the workers; the engine cannot be used afterwards."""


def cores() -> int:
    """Processors that this process may use: its affinity and the quota of its control group (Linux), whichever is less."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return count


def default_workers() -> int:
    """All cores but one, which is left to the node itself; at least one."""
    return min(max(1, cores() - 1), WORKERS_MAX)


def make_engine(kind: str = "processes", workers: int | None = None) -> Engine:
    """An engine of this machine.

    Args:
        kind: ``"inline"`` or ``"processes"``.
        workers: number of worker processes, 1 to 256; None: :func:`default_workers`.  Ignored inline.

    Raises:
        UsageError: ``engine.kind``, ``engine.workers``.
    """
    if kind == "inline":
        return InlineEngine()
    if kind != "processes":
        raise UsageError(
            "engine.kind", f"There is no engine {kind!r}.", remedy='Set kind = "processes", "inline" or "dask" under [engine].'
        )
    chosen = default_workers() if workers is None else workers
    if not 1 <= chosen <= WORKERS_MAX:
        raise UsageError(
            "engine.workers",
            f"An engine cannot have {chosen} workers.",
            remedy=f"Set workers to 1 to {WORKERS_MAX} under [engine].",
        )
    return PoolEngine(chosen)
