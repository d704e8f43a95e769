"""What the benchmarks share: the machine they ran on, timing side by side, and the file they write."""

from __future__ import annotations

import json
import os
import platform
import queue
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from google.protobuf.message import Message


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": model,
        "cores": usable,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def medians(tasks: Mapping[str, tuple[Callable[[], object], int]], repeats: int) -> dict[str, float]:
    """CPU seconds per unit of work of each task: the median over ``repeats`` rounds.

    The tasks take turns within a round, so that what is compared ran at the same time and clock speed; CPU time of this process, so
    that others on the machine disturb less.

    Args:
        tasks: by name, what to run and how many units of work it does.
        repeats: rounds; one more is run first and not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(repeats + 1):
        for name, (task, units) in tasks.items():
            start = time.process_time()
            task()
            if turn:
                times[name].append((time.process_time() - start) / units)
    return {name: statistics.median(values) for name, values in times.items()}


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write the figures, with the machine, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **document}, indent=2) + "\n")


_SEND_QUEUE = 4
"""Messages that wait for the pipe before ``send`` blocks."""


class PipeChannel:
    """A channel over a pipe; like the real transport it sends from a short queue, in a thread of its own."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_SEND_QUEUE)
        self._sender = threading.Thread(target=self._drain)
        self._sender.start()
        self.sent = 0

    def _drain(self) -> None:
        while (payload := self._waiting.get()) is not None:
            self._pipe.send_bytes(payload)

    def send(self, message: Message) -> None:
        payload = message.SerializeToString()
        self.sent += len(payload)
        self._waiting.put(payload)

    def recv(self, kind: Any) -> Any:
        return kind.FromString(self._pipe.recv_bytes())

    def close(self) -> None:
        self._waiting.put(None)
        self._sender.join()
