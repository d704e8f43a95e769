"""The engine of several processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import CancelledError, Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection

from audit.hardening import forbid_core_dumps
from node.engine.executor import ExecutorEngine, closed
from node.errors import IsthmusError, UsageError

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


class PoolEngine(ExecutorEngine):
    """A pool of worker processes, started by ``spawn``: a fork of a process that has gRPC's threads may hang.

    They start with the first item.  Items and results travel pickled through pipes between processes of one user on one machine,
    and nowhere else.  After a worker was ended from outside, the next call starts a new pool.
    """

    def __init__(self, workers: int) -> None:
        self._workers, self._lock, self._closed = workers, threading.Lock(), False
        self._pool: _Pool | None = None

    def __repr__(self) -> str:
        return f"PoolEngine({self.workers} workers)"

    @property
    def workers(self) -> int:
        """Processes."""
        return self._workers

    def executor(self) -> Executor:
        """The pool.

        Raises:
            UsageError: ``engine.closed``.
        """
        with self._lock:
            if self._closed:
                raise closed()
            self._pool = self._pool or _Pool(self._workers)
            return self._pool.executor

    def renew(self, executor: Executor) -> bool:
        """A pool that lost a worker takes nothing more: put another in its place, unless somebody did."""
        with self._lock:
            broken, current = self._pool, self._pool is not None and self._pool.executor is executor
            if current:
                self._pool = None
        if current and broken is not None:
            broken.close()
        return True

    def explain(self, error: Exception) -> IsthmusError | None:
        """``engine.worker_died`` when the operating system ended a worker (usually for want of memory)."""
        if self._closed and isinstance(error, (CancelledError, BrokenProcessPool, RuntimeError)):
            return closed()
        if not isinstance(error, (CancelledError, BrokenProcessPool)):
            return None
        return UsageError(
            "engine.worker_died",
            "A worker process was ended by the operating system.",
            remedy="Lower workers under [engine] (each needs memory of its own) and run the step again.",
        )

    def close(self) -> None:
        """Stop the workers and wait until they are gone; an item that takes longer than ``CLOSE_SECONDS`` is given up."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()


class _Pool:
    """One pool and the pipe whose closing ends its workers."""

    def __init__(self, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._watched, self._alive = context.Pipe(duplex=False)
        self.executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(self._watched,))

    def close(self) -> None:
        late = threading.Timer(CLOSE_SECONDS, self._alive.close)
        late.daemon = True
        late.start()
        self.executor.shutdown(wait=True, cancel_futures=True)
        late.cancel()
        late.join()
        self._alive.close()
        self._watched.close()
