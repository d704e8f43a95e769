"""One life of a node's control stream, and what is said on it: the directives by which the coordinator moves a job."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from audit.errors import IsthmusError
from coordinator.jobs import Job, Step
from protos import control_pb2

CONTROL_VERSION = 1


@dataclass(eq=False)
class Attachment:
    """One life of one node's stream: the directives waiting to go out."""

    party: str
    waiting: queue.SimpleQueue[control_pb2.Directive | None] = field(default_factory=queue.SimpleQueue)
    reason: IsthmusError | None = None

    def send(self, **body: Any) -> None:
        """Queue one directive."""
        self.waiting.put(control_pb2.Directive(**body))

    def close(self, reason: IsthmusError | None = None) -> None:
        """End the stream after what is queued."""
        self.reason = self.reason or reason
        self.waiting.put(None)

    def directives(self) -> Iterator[control_pb2.Directive]:
        """What to send, until the stream is closed; raises the reason if there is one."""
        while (directive := self.waiting.get()) is not None:
            yield directive
        if self.reason is not None:
            raise self.reason


def approvals(job: Job) -> control_pb2.Approvals:
    """Both nodes' signed decisions."""
    decisions = [
        control_pb2.Decision(job=job.identity, statement=decision.statement, signature=decision.signature)
        for decision in job.decisions.values()
    ]
    return control_pb2.Approvals(job=job.identity, decisions=decisions)


def step_start(job: Job, step: Step) -> control_pb2.StepStart:
    """One attempt of a step."""
    return control_pb2.StepStart(
        job=job.identity,
        step=step.step,
        attempt=step.attempt,
        round=step.round,
        coefficients=step.coefficients,
        lookup_range=step.lookup_range,
    )


def job_end(job: Job) -> control_pb2.JobEnd:
    """How a job ended."""
    return control_pb2.JobEnd(job=job.identity, outcome=job.state, code=job.code)
