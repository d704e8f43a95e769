"""The engine of several processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TypeVar

from audit.hardening import forbid_core_dumps
from node.errors import IsthmusError, UsageError

T = TypeVar("T")
R = TypeVar("R")

IN_FLIGHT_PER_WORKER = 2
"""One item being worked on and one waiting, so that no worker idles while a result travels."""
CLOSE_SECONDS = 3.0


def _start_worker(pool: Connection) -> None:
    """Leave Ctrl-C to the parent, which stops its workers; never outlive a parent that was killed, nor a pool that is over.

    Workers see private keys of Paillier, so they leave no core file either.
    """
    forbid_core_dumps()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave, args=(pool,), daemon=True).start()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _leave(pool: Connection) -> None:
    # Nothing is ever sent: it is readable once the other end is closed.  (An event would wait for waiters that are gone.)
    pool.poll(None)
    os._exit(1)


def _follow(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


@dataclass(frozen=True)
class _Refusal:
    """An error raised on purpose, in parts, on its way from a worker: pickle cannot rebuild exceptions with named arguments."""

    kind: type[IsthmusError]
    code: str
    message: str
    remedy: str


def _call(function: Callable[[T], R], item: T) -> R | _Refusal:
    try:
        return function(item)
    except IsthmusError as error:
        return _Refusal(type(error), error.code, error.message, error.remedy)


def _result(future: Future[R | _Refusal]) -> R:
    result = future.result()
    if isinstance(result, _Refusal):
        raise result.kind(result.code, result.message, remedy=result.remedy)
    return result


class PoolEngine:
    """A pool of worker processes, started by ``spawn``: a fork of a process that has gRPC's threads may hang.

    Items and results travel pickled through pipes between processes of one user on one machine, and nowhere else.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        context = multiprocessing.get_context("spawn")
        self._watched, self._alive = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(self._watched,))

    def __repr__(self) -> str:
        return f"PoolEngine({self.workers} workers)"

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """``function`` of every item, in order; at most two items per worker are in flight.

        Raises:
            UsageError: ``engine.worker_died`` when the operating system ended a worker (usually for want of memory).
        """
        waiting: deque[Future[R | _Refusal]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(_call, function, item))
                if len(waiting) >= IN_FLIGHT_PER_WORKER * self.workers:
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        except BrokenProcessPool:
            raise UsageError(
                "engine.worker_died",
                "A worker process was ended by the operating system.",
                remedy="Lower workers under [engine] (each needs memory of its own), restart the node and run the step again.",
            ) from None
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Stop the workers and wait until they are gone; an item that takes longer than ``CLOSE_SECONDS`` is given up."""
        late = threading.Timer(CLOSE_SECONDS, self._alive.close)
        late.daemon = True
        late.start()
        self._pool.shutdown(wait=True, cancel_futures=True)
        late.cancel()
        late.join()
        self._alive.close()
        self._watched.close()
