"""The node's figures for Prometheus: counted as they happen, or read when they are asked for."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from node.runtime.journal import StepLabels
from node.runtime.observe import Queues, StepLog
from node.runtime.retention import cost
from node.runtime.store import TRANSITIONS
from operations.figures import Figures, Gauges, free_bytes, size_of


@dataclass(frozen=True)
class NodeState:
    """What is read at each scrape."""

    attached: Callable[[], bool]
    ready: Callable[[], bool]
    reports_waiting: Callable[[], int]
    jobs: Callable[[], Mapping[str, int]]
    workers: int
    log: Path
    folder: Path


class NodeMetrics(StepLog):
    """An observer that counts and writes the local log (``node.runtime.observe.Observer``)."""

    def __init__(self) -> None:
        self.figures = Figures("isthmus_node", states=("started", "done", "failed"), directions=("sent", "received"))
        self._links: weakref.WeakSet[Queues] = weakref.WeakSet()
        self._lock = threading.Lock()

    def step_started(self, labels: StepLabels) -> None:
        """See ``Observer``."""
        super().step_started(labels)
        self.figures.count_step(labels.step, "started")

    def step_done(self, labels: StepLabels, *, seconds: float, sent: int, received: int) -> None:
        """See ``Observer``."""
        super().step_done(labels, seconds=seconds, sent=sent, received=received)
        self.figures.count_step(labels.step, "done")
        self.figures.count_seconds(labels.step, seconds)
        self._count_bytes(labels.step, sent, received)

    def step_failed(self, labels: StepLabels, code: str, *, sent: int, received: int) -> None:
        """See ``Observer``."""
        self.figures.count_step(labels.step, "failed")
        self.figures.count_error(code)
        self._count_bytes(labels.step, sent, received)

    def error(self, code: str) -> None:
        """See ``Observer``."""
        self.figures.count_error(code)

    def linked(self, link: Queues) -> None:
        """See ``Observer``."""
        with self._lock:
            self._links.add(link)

    def read_from(self, state: NodeState) -> None:
        """Say where the rest is read.  Once, before the endpoint opens."""
        readings = (
            ("attached", "1 while the stream to the coordinator is open.", (), lambda: float(state.attached())),
            ("ready", "1 while this node could take a step.", (), lambda: float(state.ready())),
            ("jobs", "Jobs by state.", ("state",), lambda: dict.fromkeys(TRANSITIONS, 0) | dict(state.jobs())),
            ("queue_messages", "Messages waiting on open links.", ("queue",), lambda: self._queues(state.reports_waiting())),
            ("engine_workers", "Processes for the heavy loops; 1 where they run inline.", (), lambda: state.workers),
            ("log_size_bytes", "Size of the audit log.", (), lambda: size_of(state.log)),
            ("retained_bytes", "Kept for replays: data sets, messages and seeds.", (), lambda: cost(state.folder).total),
            ("disk_free_bytes", "Free on the file system of the state folder.", (), lambda: free_bytes(state.folder)),
        )
        self.figures.registry.register(Gauges(self.figures.prefix, readings))

    def _count_bytes(self, step: str, sent: int, received: int) -> None:
        self.figures.count_bytes(step, "sent", sent)
        self.figures.count_bytes(step, "received", received)

    def _queues(self, reports: int) -> dict[str, int]:
        with self._lock:
            depths = [link.depths() for link in self._links]
        waiting = {"peer_out": sum(out for out, _ in depths), "peer_in": sum(taken for _, taken in depths)}
        return waiting | {"coordinator_out": reports}
