"""A gate before a service: how many streams one caller may hold, how often it may be refused, and how fast it may speak.

A caller here has proven who it is, so there are as many names as pinned certificates.  Without a gate, one of them could take all
threads of a server, or keep it busy refusing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from audit.errors import IsthmusError, TransportError


class Rate:
    """So many at once, and then so many a second.  Thread-safe."""

    def __init__(self, burst: int, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst, self._per_second, self._clock = float(burst), per_second, clock
        self._left, self._at = self._burst, clock()
        self._lock = threading.Lock()

    def left(self) -> bool:
        """Whether another one may come now."""
        with self._lock:
            now = self._clock()
            self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
            self._at = now
            return self._left >= 1.0

    def take(self) -> bool:
        """Count one; returns whether it might come."""
        allowed = self.left()
        with self._lock:
            self._left = max(0.0, self._left - 1.0)
        return allowed


class Gate:
    """Counts the streams of every caller.

    Args:
        area: the first part of the codes.
        streams: of one caller at once.
        refusals, per_second: of one caller's streams at once, and then per second; beyond it, its streams are refused unread.
    """

    def __init__(
        self,
        area: str,
        *,
        streams: int,
        refusals: int = 32,
        per_second: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._area, self._streams = area, streams
        self._new_rate = lambda: Rate(refusals, per_second, clock)
        self._open: dict[str, int] = {}
        self._refused: dict[str, Rate] = {}
        self._lock = threading.Lock()

    @contextmanager
    def passing(self, caller: str) -> Iterator[None]:
        """Around one stream; an error that comes out of it counts as a refusal.

        Raises:
            TransportError: ``<area>.too_many_streams``, ``<area>.too_often``.
        """
        with self._lock:
            rate = self._refused.setdefault(caller, self._new_rate())
            if not rate.left():
                raise TransportError(
                    f"{self._area}.too_often", f"{caller} was refused too often: its streams are not read for a while."
                )
            if self._open.get(caller, 0) >= self._streams:
                raise TransportError(f"{self._area}.too_many_streams", f"{caller} holds {self._streams} streams already.")
            self._open[caller] = self._open.get(caller, 0) + 1
        try:
            yield
        except IsthmusError:
            rate.take()
            raise
        finally:
            with self._lock:
                self._open[caller] -= 1
