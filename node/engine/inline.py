"""The engine of one process: heavy loops run where they are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class InlineEngine:
    """Runs each item when its result is asked for; memory never holds more than one."""

    workers = 1

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """``function`` of every item, in order, lazily."""
        for item in items:
            yield function(item)

    def close(self) -> None:
        """Nothing to stop."""
