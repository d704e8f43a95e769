"""How a job stands: the attempt under way, its state as the log names it, how far a party says it is."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator import jobs
from coordinator.jobs import Job

LINK_CODES = frozenset(
    {
        "job.interrupted",
        "node.stopping",
        "relay.absent",
        "relay.left",
        "relay.stalled",
        "relay.stopping",
        "relay.superseded",
        "relay.truncated",
        "transport.closed",
        "transport.no_stream",
        "transport.not_accepted",
        "transport.not_started",
        "transport.not_tls",
        "transport.session_lost",
        "transport.silent",
        "transport.stopping",
        "transport.superseded",
        "transport.timeout",
        "transport.unreachable",
    }
)
"""Codes of failures that say no more than that the link or the process at its other end went."""


@dataclass(frozen=True)
class Progress:
    """How far a party says it is in the running step."""

    phase: str = ""
    done: int = 0
    total: int = 0


def attempt_of(job: Job) -> tuple[str, int, int] | None:
    """Which attempt of which step is under way."""
    step = job.running
    return (step.step, step.round, step.attempt) if step is not None else None


def outward(job: Job) -> str:
    """The job's state as the log names it: every step is `running`."""
    return "running" if job.state in jobs.STEPS else job.state
