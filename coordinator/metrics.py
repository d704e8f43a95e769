"""The coordinator's figures for Prometheus, and the log lines of jobs and steps.

Seconds and bytes are what the nodes reported: the coordinator sees nothing else of a step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import Counter

from coordinator.jobs import TRANSITIONS, Job, Step
from operations.figures import Figures, Gauges, free_bytes, size_of

_log = logging.getLogger("isthmus.coordinator.jobs")


@dataclass(frozen=True)
class CoordinatorState:
    """What is read at each scrape."""

    attached: Callable[[], int]
    ready: Callable[[], bool]
    directives_waiting: Callable[[], int]
    jobs: Callable[[], Mapping[str, int]]
    log: Path
    folder: Path


class CoordinatorMetrics:
    """An observer that counts and writes the local log (``coordinator.observe.Observer``)."""

    def __init__(self) -> None:
        states = ("started", "done", "failed", "restarted")
        self.figures = Figures("isthmus_coordinator", states=states, directions=("sent",))
        self._restarts = Counter(
            "isthmus_coordinator_restarts",
            "Steps begun again after a node or the coordinator had gone.",
            registry=self.figures.registry,
        )

    def moved(self, before: Job, after: Job) -> None:
        """See ``Observer``."""
        for number, step in enumerate(after.steps):
            was = before.steps[number] if number < len(before.steps) else None
            if was is None:
                self.figures.count_step(step.step, "started")
                _tell(after, step, "started")
            if step.state != "running" and (was is None or was.state != step.state):
                self._ended(after, step)
        if after.state == "failed" and before.state != "failed":
            self.figures.count_error(after.code)
        if after.ended:
            level = logging.WARNING if after.state == "failed" else logging.INFO
            code = f" [{after.code}]" if after.code else ""
            _log.log(
                level, "job %s %s%s", after.identity[:12], after.state, code, extra={"job": after.identity, "code": after.code}
            )

    def _ended(self, job: Job, step: Step) -> None:
        self.figures.count_step(step.step, step.state)
        if step.state == "restarted":
            self._restarts.inc()
        if step.state == "done":
            self.figures.count_seconds(step.step, step.seconds)
            self.figures.count_bytes(step.step, "sent", sum(report.bytes_sent for report in step.reports.values()))
        _tell(job, step, step.state)

    def error(self, code: str) -> None:
        """See ``Observer``."""
        self.figures.count_error(code)

    def read_from(self, state: CoordinatorState) -> None:
        """Say where the rest is read.  Once, before the endpoint opens."""
        readings = (
            ("nodes_attached", "Nodes whose stream is open.", (), state.attached),
            ("ready", "1 while jobs could be directed.", (), lambda: float(state.ready())),
            ("jobs", "Jobs by state.", ("state",), lambda: dict.fromkeys(TRANSITIONS, 0) | dict(state.jobs())),
            ("directives_waiting", "Directives that wait for the network.", (), state.directives_waiting),
            ("log_size_bytes", "Size of the audit log.", (), lambda: size_of(state.log)),
            ("disk_free_bytes", "Free on the file system of the state folder.", (), lambda: free_bytes(state.folder)),
        )
        self.figures.registry.register(Gauges(self.figures.prefix, readings))


def _tell(job: Job, step: Step, what: str) -> None:
    fields = {"job": job.identity, "step": step.step, "round": step.round, "attempt": step.attempt}
    place = f"{step.step}{f' {step.round}' if step.round else ''} (attempt {step.attempt})"
    if what == "done":
        _log.info("job %s %s done in %.1f s", job.identity[:12], place, step.seconds, extra=fields | {"seconds": step.seconds})
    else:
        _log.info("job %s %s %s", job.identity[:12], place, what, extra=fields)
