"""What an engine is, and how one is made from the configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from node.engine.inline import InlineEngine
from node.engine.pool import PoolEngine
from node.errors import UsageError

T = TypeVar("T")
R = TypeVar("R")

WORKERS_MAX = 256


class Engine(Protocol):
    """Runs a pure function over items, somewhere, and gives the results in the order of the items.

    ``map`` is lazy on both sides: it takes items as it goes and never has more than a few per worker waiting or unread, so a
    caller may feed it a stream far larger than memory.  Functions stand at the top level of a module, and everything they read
    comes with the item (a worker shares no state with its caller).  Randomness is drawn by the caller, in order, so that every
    engine gives the same bits.
    """

    workers: int

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """``function`` of every item, in order; the first exception of a function is raised to the caller."""

    def close(self) -> None:
        """Stop the workers; the engine cannot be used afterwards."""


def make_engine(kind: str, workers: int = 1) -> Engine:
    """The engine the configuration asks for.

    Args:
        kind: ``"inline"`` or ``"processes"``.
        workers: number of worker processes, 1 to 256 (ignored inline).

    Raises:
        UsageError: ``engine.kind``, ``engine.workers``.
    """
    if kind == "inline":
        return InlineEngine()
    if kind != "processes":
        raise UsageError(
            "engine.kind", f"There is no engine {kind!r}.", remedy='Set kind = "inline" or "processes" under [engine].'
        )
    if not 1 <= workers <= WORKERS_MAX:
        raise UsageError(
            "engine.workers",
            f"An engine cannot have {workers} workers.",
            remedy=f"Set workers to 1 to {WORKERS_MAX} under [engine].",
        )
    return PoolEngine(workers)
