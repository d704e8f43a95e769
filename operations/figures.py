"""The figures that node and coordinator have in common, in a registry of their own: nothing is kept in a global of the process.

Labels are bounded: steps, states and directions are fixed words, codes those of :mod:`operations.codes`.  No job, no name and
nothing that a partner or a data set could choose is a label.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from operations import codes

STEPS = ("align", "count", "prepare", "round", "finish", "evaluate")
OTHER = "other"
SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0, 30_000.0)
"""Buckets of a step's duration: a round of a small job takes a tenth of a second, the preparation of a large one hours."""


def step_label(step: str) -> str:
    """A step's name, if it is one."""
    return step if step in STEPS else OTHER


class Figures:
    """Counters of one process.

    Args:
        prefix: ``isthmus_node`` or ``isthmus_coordinator``.
        states: what may become of a step here.
        directions: of bytes.
    """

    def __init__(self, prefix: str, *, states: tuple[str, ...], directions: tuple[str, ...]) -> None:
        self.prefix = prefix
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        made = self.registry
        self.steps = Counter(f"{prefix}_steps", "Attempts of steps, by what became of them.", ["step", "state"], registry=made)
        self.rounds = Counter(f"{prefix}_rounds_done", "Training rounds done.", registry=made)
        self.seconds = Histogram(f"{prefix}_step_seconds", "Time of a step done.", ["step"], buckets=SECONDS, registry=made)
        self.bytes = Counter(f"{prefix}_bytes", "Bytes of messages between the nodes.", ["step", "direction"], registry=made)
        self.errors = Counter(f"{prefix}_errors", "Errors by code.", ["code"], registry=made)
        for step in STEPS:  # a series that is there from the start can be alerted on
            self.seconds.labels(step)
            for state in states:
                self.steps.labels(step, state)
            for direction in directions:
                self.bytes.labels(step, direction)

    def count_step(self, step: str, state: str) -> None:
        """One attempt of a step was started, done or given up."""
        self.steps.labels(step_label(step), state).inc()
        if (step, state) == ("round", "done"):
            self.rounds.inc()

    def count_seconds(self, step: str, seconds: float) -> None:
        """How long a step took that was done."""
        self.seconds.labels(step_label(step)).observe(seconds)

    def count_bytes(self, step: str, direction: str, count: int) -> None:
        """Bytes of messages, of steps that were done and of those given up."""
        self.bytes.labels(step_label(step), direction).inc(count)

    def count_error(self, code: str) -> None:
        """One error; a code that is not ours counts as unknown."""
        self.errors.labels(codes.label(code)).inc()


Reading = tuple[str, str, tuple[str, ...], Callable[[], float | Mapping[str, float]]]
"""Name without its prefix, help, label names (none or one), and what to read: a number, or one for each value of the label."""


class Gauges(Collector):
    """What is read at the moment it is asked for.  What cannot be read is left out: one fault must not hide the rest."""

    def __init__(self, prefix: str, readings: Iterable[Reading]) -> None:
        self._prefix, self._readings = prefix, tuple(readings)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See :class:`prometheus_client.registry.Collector`."""
        for name, text, labels, read in self._readings:
            family = GaugeMetricFamily(f"{self._prefix}_{name}", text, labels=labels)
            with contextlib.suppress(Exception):
                value = read()
                for key, number in value.items() if isinstance(value, Mapping) else [("", value)]:
                    family.add_metric([key] if labels else [], float(number))
            yield family


def size_of(path: Path) -> int:
    """Bytes of a file."""
    return path.stat().st_size


def free_bytes(folder: Path) -> int:
    """Bytes that this user can still write to the folder's file system."""
    return shutil.disk_usage(folder).free
