"""The engine of one process: heavy loops run where they are called."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from node.engine.executor import ExecutorEngine, Item


class InlineExecutor(Executor):
    """An executor that computes at once, in the thread that submits."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The result of ``fn``; what it raises is raised here."""
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _here(item: Item[Any, Any]) -> Any:
    return item.function(item.argument)


class InlineEngine(ExecutorEngine):
    """Runs each item when its result is asked for; memory never holds more than one."""

    run = staticmethod(_here)

    def __init__(self) -> None:
        self._executor = InlineExecutor()

    def __repr__(self) -> str:
        return "InlineEngine()"

    @property
    def workers(self) -> int:
        """One: this thread."""
        return 1

    @property
    def in_flight(self) -> int:
        """An item is computed by being submitted."""
        return 1

    def executor(self) -> Executor:
        """The executor of this process."""
        return self._executor
