"""The life of a job on this node, from the coordinator's offer to the disclosure receipt.

    Offer        the hash is recomputed, the policy asked; a rule or a person decides (``deciding``)     -> Decision, signed
    Approvals    both signatures are verified with pinned keys, over this very hash (``deciding``)
    StepStart    checked, put down as used, run in a thread (``execution``), stored                      -> StepDone or StepFailed
    JobEnd       what runs is given up; the disclosure receipt is written (``ending``)

The coordinator is not trusted: it can delay a job or end it, but not alter it, run it without both approvals, or make a step's
randomness serve twice.  Everything it may need to hear again after a cut stands in the store (``on_attach``).
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable

from audit.spec import JobSpec, parse_spec
from audit.witness import Refused
from node.errors import IsthmusError, PolicyError, TransportError, UsageError
from node.runtime import relations
from node.runtime.approving import not_approved, verify_decision
from node.runtime.counting import check_budget
from node.runtime.deciding import Decisions
from node.runtime.ending import conclude
from node.runtime.execution import Execution
from node.runtime.journal import StepLabels
from node.runtime.parts import NodeParts
from node.runtime.retention import Sweeper
from node.runtime.step_order import check_order
from node.runtime.steps import ORDERS
from node.runtime.store import FINAL, StepRow
from operations.logs import fault
from protos import control_pb2

_log = logging.getLogger("isthmus.node.jobs")
_HASH = re.compile(r"[0-9a-f]{64}")
CONCLUDE_SECONDS = 3600.0
"""How long the end of a job waits for a step that computes between two messages."""


class Jobs:
    """All jobs of one node.

    Args:
        parts: the node.
        report: sends a report to the coordinator if attached; never blocks.
        progress: reports a running step's progress, throttled.
        notify: prints one readable line for the operator.
    """

    def __init__(
        self,
        parts: NodeParts,
        *,
        report: Callable[[control_pb2.Report], None],
        progress: Callable[..., None],
        notify: Callable[[str], None],
    ) -> None:
        self._parts, self._report, self._progress, self._notify = parts, report, progress, notify
        self._running: dict[str, Execution] = {}
        self._draining = False
        self._sweeper = Sweeper(
            parts.store,
            parts.policy.retention,
            parts.clock,
            also=lambda now: relations.sweep(parts.store.folder, parts.policy, now),
        )
        self._lock = threading.RLock()
        self.decisions = Decisions(parts, report=report, notify=notify)
        if parts.cosigning is not None:
            parts.cosigning.on_refused = self._refused
            for row in parts.store.jobs():
                self.decisions.meet(parse_spec(row.spec.encode()))

    # -- what the coordinator says
    def handle(self, directive: control_pb2.Directive) -> None:
        """Act on one directive; an error is printed for the operator, and what concerns a step is reported by its code."""
        kind = directive.WhichOneof("body")
        _log.debug("the coordinator said %s", kind)
        try:
            if kind == "offer":
                self.decisions.offer(directive.offer)
            elif kind == "approvals":
                self.decisions.approvals(directive.approvals)
            elif kind == "step_start":
                self.step_start(directive.step_start)
            elif kind == "job_end":
                self.job_end(directive.job_end)
            elif kind == "checkpoint" and self._parts.cosigning is not None:
                self._parts.cosigning.cosign(directive.checkpoint)
            elif kind == "cosignature" and self._parts.cosigning is not None:
                self._parts.cosigning.cosigned(directive.cosignature)
        except IsthmusError as error:
            self._notify(fault(error))

    def poll(self) -> None:
        """Act on what people asked for at the command line; remove, once a day, what is no longer to be kept."""
        self._sweeper.poll()
        self.decisions.poll()

    def _refused(self, refused: Refused) -> None:
        """A partner's log does not continue what was cosigned: nothing runs with it any more."""
        with self._lock:
            running = list(self._running.values())
        for execution in running:
            if refused.of in (execution.peer, self._parts.config.coordinator.partner):
                execution.cancel(refused)

    # -- steps
    def step_start(self, start: control_pb2.StepStart) -> None:
        """Run a step; said again, it only repeats the outcome."""
        labels = StepLabels(job=start.job, step=start.step, round=start.round, attempt=start.attempt)
        with self._lock:
            if self._draining:  # not a failure: the coordinator starts it again when this node is back
                return
            before = self._running.get(start.job)
            if before is not None and before.labels == labels and before.alive:
                return
            for row in self._parts.store.steps(start.job):
                if (row.step, row.round, row.attempt) == (labels.step, labels.round, labels.attempt) and row.state != "started":
                    self._report_outcome(row)
                    return
            try:
                spec = self.check_start(labels)
            except IsthmusError as error:
                self._notify(fault(error))
                self.report_failure(labels, error.code)
                return
            execution = Execution(
                self._parts, labels, spec, start, report=self._report, progress=self._progress, notify=self._notify
            )
            execution.start(after=before)
            self._running[start.job] = execution

    def check_start(self, labels: StepLabels) -> JobSpec:
        """Whether a step may run at all.

        Raises:
            UsageError: ``job.unknown``, ``job.ended``, ``job.unknown_step``, ``job.step_order``, ``job.attempt_reused``.
            VerificationError: ``job.spec_mismatch`` (the stored specification is not the one both approved), ``job.not_approved``;
                ``witness.forked``, ``witness.rolled_back``: the peer's or the coordinator's log does not continue what was
                cosigned.
            PolicyError: ``policy.count_period``.
        """
        parts = self._parts
        row, spec = parts.known_job(labels.job)
        if row.state in FINAL:
            raise UsageError("job.ended", f"Job {labels.job[:12]} has ended here: {row.state}.", remedy="Submit a new job.")
        decisions = parts.store.decisions(labels.job)
        for party in (spec.label_holder.name, spec.feature_holder.name):
            if party not in decisions:
                raise not_approved(labels.job, f"{party} has not approved it")
            verify_decision(parts, labels.job, spec, party, decisions[party])
        if parts.cosigning is not None:
            parts.cosigning.check_trusted(spec.peer_of(parts.identity.name).name, spec.coordinator)
        check_order(labels, spec, parts.store.steps(labels.job))
        check_budget(spec, me=parts.identity.name, policy=parts.policy, store=parts.store, now=parts.clock())
        return spec

    def _report_outcome(self, row: StepRow) -> None:
        if row.state == "done":
            self._report(control_pb2.Report(step_done=control_pb2.StepDone.FromString(row.report)))
        elif row.state == "failed":
            self.report_failure(StepLabels(row.job, row.step, row.round, row.attempt), row.code)

    def report_failure(self, labels: StepLabels, code: str) -> None:
        """Tell the coordinator that an attempt failed: the code alone.  What is no step of any job it cannot hear."""
        known = {step for steps in ORDERS.values() for step in steps}
        if labels.step not in known or (labels.round > 0) != (labels.step == "round") or not _HASH.fullmatch(labels.job):
            return
        self._report(control_pb2.Report(step_failed=control_pb2.StepFailed(**labels.fields(), code=code)))

    def permit(self, peer: str, job: str) -> None:
        """Whether ``peer`` may open a stream for ``job`` here.

        Raises:
            UsageError: ``job.unknown``.  PolicyError: ``job.not_approved``.
        """
        row = self._parts.store.job(job) if _HASH.fullmatch(job) else None
        if row is None:
            raise UsageError("job.unknown", f"{peer} opened a stream for a job that is not known here.")
        spec = parse_spec(row.spec.encode())
        if row.state not in ("approved", "running") or spec.peer_of(self._parts.identity.name).name != peer:
            raise PolicyError("job.not_approved", f"{peer} opened a stream for a job that is not approved here.")

    # -- the end
    def job_end(self, end: control_pb2.JobEnd) -> None:
        """The job is over: give up what runs, keep the outcome, write the disclosure receipt."""
        if self._parts.store.job(end.job) is None:  # it ended before it was offered here
            return
        with self._lock:
            execution = self._running.pop(end.job, None)
        if execution is not None:
            execution.cancel(TransportError("job.ended", "The coordinator ended the job."))
            execution.join(2.0)
            if execution.alive:  # it notices at its next message; what it still has to log comes before the job's end
                threading.Thread(target=self._conclude_after, args=(execution, end), name=f"end-{end.job[:8]}", daemon=True).start()
                return
        self._conclude(end)

    def _conclude_after(self, execution: Execution, end: control_pb2.JobEnd) -> None:
        execution.join(CONCLUDE_SECONDS)
        try:
            self._conclude(end)
        except IsthmusError as error:
            self._notify(fault(error))

    def _conclude(self, end: control_pb2.JobEnd) -> None:
        """Write the disclosure receipt and the end into the log, then move the job."""
        with self.decisions.lock:
            row, _ = self._parts.known_job(end.job)
            if row.state not in FINAL:
                conclude(self._parts, row, end, notify=self._notify)

    # -- start, reconnect and stop
    def recover(self) -> None:
        """After a restart: attempts that were running are over."""
        for row in self._parts.store.interrupt_steps(now=self._parts.now()):
            labels = StepLabels(row.job, row.step, row.round, row.attempt)
            self._parts.log.append("step", **labels.fields(), state="failed", code="job.interrupted")

    def on_attach(self) -> None:
        """Say again what the coordinator may have missed."""
        if self._parts.cosigning is not None:
            self._parts.cosigning.offer()
        for row in self._parts.store.jobs():
            if row.state == "rejected" or row.state not in FINAL:
                self.decisions.repeat(row.job)
            steps = self._parts.store.steps(row.job)
            if row.state not in FINAL and steps:
                self._report_outcome(steps[-1])

    def drain(self) -> None:
        """Begin no step from now on."""
        with self._lock:
            self._draining = True

    def running(self) -> list[StepLabels]:
        """The attempts that run now."""
        with self._lock:
            return [execution.labels for execution in self._running.values() if execution.alive]

    def stop(self, seconds: float) -> None:
        """Give up every running step; their failure is reported as ``node.stopping``."""
        with self._lock:
            running = list(self._running.values())
        for execution in running:
            execution.cancel(TransportError("node.stopping", "This node is stopping."))
        for execution in running:
            execution.join(seconds / max(len(running), 1))
