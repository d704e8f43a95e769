"""What the runtime of a serving node works with: its configuration, keys, partners, state, log and clock, in one place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from audit.identity import Identity
from audit.partner import Partner
from audit.spec import JobSpec, parse_spec
from node.config import NodeConfig
from node.engine import Engine
from node.errors import UsageError, VerificationError
from node.limits import LIMITS, Limits
from node.policy import Policy
from node.runtime.cosigning import CosignedLog
from node.runtime.execution import Connect
from node.runtime.journal import Log
from node.runtime.observe import SILENT, Observer
from node.runtime.store import JobRow, Store


@dataclass(frozen=True)
class NodeParts:
    """What the runtime of a serving node works with."""

    config: NodeConfig
    policy: Policy
    identity: Identity
    partners: Mapping[str, Partner]
    store: Store
    log: Log
    connect: Connect
    engine: Engine
    cosigning: CosignedLog | None = None
    """``log`` itself, where it has witnesses: everywhere but in tests of other things."""
    limits: Limits = LIMITS
    observer: Observer = SILENT
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))

    def now(self) -> str:
        """The time as text, RFC 3339 in UTC."""
        return self.clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def known_job(self, job: str) -> tuple[JobRow, JobSpec]:
        """A job of this node and its specification, whose hash is the job's name.

        Raises:
            UsageError: ``job.unknown``.  VerificationError: ``job.spec_mismatch``.
        """
        row = self.store.job(job)
        if row is None:
            raise UsageError("job.unknown", f"The coordinator named a job that is not known here ({job[:12]!r}).")
        data = row.spec.encode()
        if hashlib.sha256(data).hexdigest() != job:
            raise VerificationError(
                "job.spec_mismatch",
                f"The stored specification of job {job[:12]} is not the one that was approved.",
                remedy="The node's database was altered: restore it from a backup, or submit the job again.",
            )
        return row, parse_spec(data)
