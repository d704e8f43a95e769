"""The two signals that end a serving process: the first asks it to finish what it is doing, the second to stop at once."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Stop:
    """What was asked for so far."""

    asked: threading.Event = field(default_factory=threading.Event)
    """Set by the first signal."""
    at_once: threading.Event = field(default_factory=threading.Event)
    """Set by the second."""

    def ask(self) -> None:
        """As a signal does."""
        if self.asked.is_set():
            self.at_once.set()
        self.asked.set()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """A :class:`Stop` that SIGTERM and SIGINT ask; the former handlers come back at the end."""
    stop = Stop()
    former = {number: signal.signal(number, lambda *_: stop.ask()) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def wait_for(done: Callable[[], bool], seconds: float, at_once: threading.Event) -> bool:
    """Wait until ``done``, at most ``seconds``, and not at all once ``at_once`` is set; whether it was done."""
    deadline = time.monotonic() + seconds
    while not done():
        if at_once.wait(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic()))) or time.monotonic() >= deadline:
            return done()
    return True
