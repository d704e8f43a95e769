"""The one way to a worker: bounded submission to a ``concurrent.futures.Executor``, results in order, errors by name.

    items -> submit (at most two a worker in flight) -> executor -> results in the order of the items

An executor computes here, in processes of this machine or on a cluster; nothing above this module knows which.  Functions stand
at the top level of modules of the installed package, so that a worker finds them by name, and an item carries all that its
function reads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from node.errors import IsthmusError, UsageError

T = TypeVar("T")
R = TypeVar("R")

IN_FLIGHT_PER_WORKER = 2
"""One item being worked on and one waiting, so that no worker idles while a result travels."""


@dataclass(frozen=True)
class Item(Generic[T, R]):
    """A function and what it is called on, on their way to a worker.  It prints neither: both may hold secrets, and what runs tasks
    likes to log the arguments of one that failed."""

    function: Callable[[T], R] = field(repr=False)
    argument: T = field(repr=False)


@dataclass(frozen=True)
class Refusal:
    """An error raised on purpose, in parts, on its way from a worker: pickle cannot rebuild exceptions with named arguments."""

    kind: type[IsthmusError]
    code: str
    message: str
    remedy: str


def call(item: Item[T, R]) -> R | Refusal:
    """Run an item in a worker."""
    try:
        return item.function(item.argument)
    except IsthmusError as error:
        return Refusal(type(error), error.code, error.message, error.remedy)


def closed() -> UsageError:
    """The engine was stopped while somebody waited for a result."""
    return UsageError(
        "engine.closed", "The engine was stopped while work was under way.", remedy="Start the node and run the step again."
    )


class ExecutorEngine:
    """What every engine shares; see :class:`node.engine.base.Engine`."""

    run: Callable[[Any], Any] = staticmethod(call)
    """What a worker is asked to call: :func:`call`, or the same with what a worker of this kind has to do first."""

    @property
    def workers(self) -> int:
        """How many items are worked on at once."""
        raise NotImplementedError

    @property
    def private(self) -> ExecutorEngine:
        """Where work runs that needs a private key, a secret scalar or identifiers: here, unless an engine says otherwise."""
        return self

    @property
    def in_flight(self) -> int:
        """Most items submitted and not taken."""
        return IN_FLIGHT_PER_WORKER * self.workers

    def executor(self) -> Executor:
        """The executor, started or connected when it is not yet.  Raises ``UsageError`` or ``TransportError`` when it cannot be."""
        raise NotImplementedError

    def renew(self, executor: Executor) -> bool:
        """Whether :meth:`executor` gives another one, now that this one is broken and takes nothing more."""
        return False

    def explain(self, error: Exception) -> IsthmusError | None:
        """The named error for one that the executor raised; None when it is the function's own."""
        return None

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """``function`` of every item, in order; see :class:`node.engine.base.Engine`.

        Raises:
            UsageError: ``engine.closed``; and those of :meth:`explain`.
        """
        waiting: deque[Future[R | Refusal]] = deque()
        try:
            for item in items:
                waiting.append(self._submit(Item(function, item)))
                while len(waiting) >= self.in_flight:
                    yield self._result(waiting.popleft())
            while waiting:
                yield self._result(waiting.popleft())
        finally:
            for future in waiting:
                future.cancel()

    def _submit(self, item: Item[T, R]) -> Future[R | Refusal]:
        executor = self.executor()
        try:
            try:
                return executor.submit(self.run, item)
            except BrokenExecutor:
                if not self.renew(executor):
                    raise
                return self.executor().submit(self.run, item)
        except Exception as error:  # noqa: BLE001 - what is not explained goes on as it is
            raise self._named(error) from None

    def _result(self, future: Future[R | Refusal]) -> R:
        try:
            result = future.result()
        except Exception as error:  # noqa: BLE001 - what is not explained goes on as it is
            raise self._named(error) from None
        if isinstance(result, Refusal):
            raise result.kind(result.code, result.message, remedy=result.remedy)
        return result

    def _named(self, error: Exception) -> Exception:
        return error if isinstance(error, IsthmusError) else self.explain(error) or error

    def close(self) -> None:
        """Stop the workers; the engine cannot be used afterwards."""
