"""The end of a job on this node: disclosure receipt and last entry in the log, then the move in the database, then what is kept.

In this order a crash repeats what was not finished, and no job is at its end without the receipt of what crossed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from node.runtime.disclosures import receipt
from node.runtime.parts import NodeParts
from node.runtime.retention import on_job_end
from node.runtime.store import TRANSITIONS, JobRow
from node.transport.errors import is_code
from operations.logs import Line
from protos import control_pb2

_log = logging.getLogger("isthmus.node.jobs")


def conclude(parts: NodeParts, row: JobRow, end: control_pb2.JobEnd, *, notify: Callable[[str], None]) -> None:
    """The coordinator ended a job that had not ended here: receipt, last entry, and one line for the operator."""
    state, code = end.outcome, end.code if is_code(end.code) else ""
    if state not in TRANSITIONS[row.state]:
        _log.warning("job %s: the coordinator said %r while it was %s here", end.job[:12], end.outcome, row.state)
        state, code = "failed", "job.illegal_end"
    _write_receipt(parts, end.job)
    write_end(parts, end.job, state, code)
    notify(Line(f"job {end.job[:12]} {state}" + (f" [{code}]" if code else ""), job=end.job, code=code))


def write_end(parts: NodeParts, job: str, state: str, code: str) -> None:
    """The job's last entry.  After a crash between log and database it is written once more, the same."""
    parts.log.append("job", job=job, state=state, code=code)
    parts.log.checkpoint()
    parts.store.move(job, state, now=parts.now(), code=code)
    on_job_end(parts.store.files(job), parts.policy.retention)


def _write_receipt(parts: NodeParts, job: str) -> None:
    rows = parts.store.disclosures(job)
    if not rows:
        return
    items = receipt(rows)
    parts.log.append("disclosures", job=job, items=items)
    document = {"v": 1, "job": job, "party": parts.identity.name, "items": items, "entries": rows}
    parts.store.files(job).write("disclosures.json", json.dumps(document, indent=2).encode())
