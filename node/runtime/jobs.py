"""The life of a job on this node, from the coordinator's offer to the disclosure receipt.

    Offer        the hash is recomputed, the policy asked; a rule or a person decides       -> Decision, signed
    Approvals    both signatures are verified with pinned keys, over this very hash
    StepStart    checked, put down as used, run in a thread (``execution``), stored         -> StepDone or StepFailed
    JobEnd       what runs is given up; the disclosure receipt is written

The coordinator is not trusted: it can delay a job or end it, but not alter it, run it without both approvals, or make a step's
randomness serve twice.  Everything it may need to hear again after a cut stands in the store (``on_attach``).
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from audit.identity import Identity
from audit.partner import Partner
from audit.receipts import approval_statement, parse_approval
from audit.spec import JobSpec, parse_spec
from audit.witness import Refused
from node.config import NodeConfig
from node.engine import Engine
from node.errors import IsthmusError, PolicyError, TransportError, UsageError, VerificationError
from node.limits import LIMITS, Limits
from node.policy import Decision, Policy, check_spec
from node.runtime import relations
from node.runtime.approving import author_of, not_approved, verify_decision
from node.runtime.cosigning import CosignedLog
from node.runtime.counting import check_budget
from node.runtime.disclosures import receipt
from node.runtime.execution import Connect, Execution
from node.runtime.journal import Log, StepLabels
from node.runtime.observe import SILENT, Observer
from node.runtime.retention import Sweeper, on_job_end
from node.runtime.seeds import draw_seed
from node.runtime.step_order import check_order
from node.runtime.steps import ORDERS
from node.runtime.store import FINAL, TRANSITIONS, JobRow, SignedDecision, StepRow, Store
from node.transport.errors import is_code
from operations.logs import Line, fault
from protos import control_pb2

_log = logging.getLogger("isthmus.node.jobs")
_HASH = re.compile(r"[0-9a-f]{64}")
CONCLUDE_SECONDS = 3600.0
"""How long the end of a job waits for a step that computes between two messages."""


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
        self._deciding = threading.RLock()
        """Held where a decision or a job's end is written: nothing of a job comes after its end in the log."""
        if parts.cosigning is not None:
            parts.cosigning.on_refused = self._refused
            for row in parts.store.jobs():
                self._meet(parse_spec(row.spec.encode()))

    # -- what the coordinator says
    def handle(self, directive: control_pb2.Directive) -> None:
        """Act on one directive; an error is printed for the operator, and what concerns a step is reported by its code."""
        kind = directive.WhichOneof("body")
        _log.debug("the coordinator said %s", kind)
        try:
            if kind == "offer":
                self.offer(directive.offer)
            elif kind == "approvals":
                self.approvals(directive.approvals)
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

    def offer(self, offer: control_pb2.Offer) -> None:
        """A job is offered; the same offer again only repeats the decision.

        Raises:
            VerificationError: ``job.spec_mismatch``.  UsageError: ``spec.*``.  PolicyError: ``job.too_many``; nothing is stored.
        """
        parts, data = self._parts, offer.spec.encode()
        if hashlib.sha256(data).hexdigest() != offer.job:
            raise VerificationError(
                "job.spec_mismatch",
                f"The coordinator offered job {offer.job[:12]} with a specification of another hash.",
                remedy="Nothing was stored; ask the coordinator's operators what happened.",
            )
        known = parts.store.job(offer.job)
        if known is not None:
            self._go_on(known)
            return
        self._check_room(offer.job)
        spec = parse_spec(data)
        try:
            allowed = self._allowed(spec)
        except IsthmusError as error:
            self._refuse(offer, spec, error)
            return
        self._take_in(offer)
        if allowed.auto_rule is not None:
            self.decide(offer.job, decision="approve", by=f"policy: {allowed.auto_rule}")
        else:
            short = offer.job[:12]
            wait = f"job {short} waits for approval: isthmus-node show {short}, then isthmus-node approve {short}"
            self._notify(Line(wait, job=offer.job))

    def _allowed(self, spec: JobSpec) -> Decision:
        """What the policy says of a job now.  Raises what :func:`check_spec` and :func:`check_budget` raise."""
        parts = self._parts
        allowed = check_spec(spec, config=parts.config, policy=parts.policy, partners=parts.partners)
        self._check_budget(spec)
        return allowed

    def _check_budget(self, spec: JobSpec) -> None:
        parts = self._parts
        check_budget(spec, me=parts.identity.name, policy=parts.policy, store=parts.store, now=parts.clock())

    def _check_room(self, job: str) -> None:
        """Whether another job may be taken in.  Raises ``PolicyError`` ``job.too_many``."""
        counts = self._parts.store.job_counts()
        if sum(count for state, count in counts.items() if state not in FINAL) >= self._parts.limits.jobs_open:
            raise PolicyError(
                "job.too_many",
                f"Job {job[:12]} is not taken in: {self._parts.limits.jobs_open} jobs wait or run here already.",
                remedy="Decide on those that wait, or have them cancelled; it is offered again when this node attaches again.",
            )

    def _go_on(self, known: JobRow) -> None:
        """A job that is known is offered again: repeat the decision, or take it where a crash came between the offer and it."""
        own = self._parts.store.decisions(known.job).get(self._parts.identity.name)
        if known.state == "waiting" and own is not None:
            approval = parse_approval(own.statement.encode())
            self.decide(known.job, decision=approval.decision, by=approval.by, code=known.code)
        elif known.state == "waiting" and known.code:
            self.decide(known.job, decision="reject", by="policy", code=known.code)
        elif known.state == "waiting":
            allowed = self._allowed(parse_spec(known.spec.encode()))
            if allowed.auto_rule is not None:
                self.decide(known.job, decision="approve", by=f"policy: {allowed.auto_rule}")
        else:
            self._report_decision(known.job)

    def _take_in(self, offer: control_pb2.Offer, *, code: str = "") -> None:
        """Log the specification, then store the job: whatever is decided, an auditor can read what about."""
        self._parts.log.append("spec", job=offer.job, document=offer.spec)
        self._meet(parse_spec(offer.spec.encode()))
        self._parts.store.add_job(offer.job, offer.spec, state="waiting", code=code, now=self._parts.now())

    def _meet(self, spec: JobSpec) -> None:
        """The other party of a job is a witness of this node's log."""
        name = self._parts.identity.name
        if self._parts.cosigning is not None and name in (spec.label_holder.name, spec.feature_holder.name):
            self._parts.cosigning.met(spec.peer_of(name).name)

    def _refused(self, refused: Refused) -> None:
        """A partner's log does not continue what was cosigned: nothing runs with it any more."""
        with self._lock:
            running = list(self._running.values())
        for execution in running:
            if refused.of in (execution.peer, self._parts.config.coordinator.partner):
                execution.cancel(refused)

    def _refuse(self, offer: control_pb2.Offer, spec: JobSpec, error: IsthmusError) -> None:
        parts = self._parts
        self._notify(Line(f"job {offer.job[:12]} refused by the policy: {error}", job=offer.job, code=error.code))
        named = parts.identity.name in (spec.label_holder.name, spec.feature_holder.name)
        self._take_in(offer, code=error.code)
        if named:
            self.decide(offer.job, decision="reject", by="policy", code=error.code)
        else:
            self._write_end(offer.job, "rejected", error.code)

    def approvals(self, approvals: control_pb2.Approvals) -> None:
        """Both nodes' signed decisions, as the coordinator passes them on; kept only if every signature holds.

        Raises:
            UsageError: ``job.unknown``.  VerificationError: ``approval.*``, ``audit.bad_signature``, ``job.not_approved``.
        """
        row, spec = self._known(approvals.job)
        for decision in approvals.decisions:
            if len(decision.statement) > 4096 or len(decision.signature) > 256:
                raise VerificationError("approval.malformed", "An approval passed on by the coordinator is too long.")
        found = {author_of(self._parts, row.job, spec, decision): decision for decision in approvals.decisions}
        for party in (spec.label_holder.name, spec.feature_holder.name):
            if party not in found:
                raise not_approved(row.job, f"the coordinator passed on no approval of {party}")
            signed = SignedDecision(found[party].statement, found[party].signature)
            with self._deciding:
                known = self._parts.store.decisions(row.job).get(party)
                if self._known(row.job)[0].state not in FINAL and known is None:
                    self._log_approval(row.job, signed)
                    self._parts.store.put_decision(row.job, party, signed)

    # -- decisions here
    def poll(self) -> None:
        """Act on what people asked for at the command line; remove, once a day, what is no longer to be kept."""
        self._sweeper.poll()
        for request in self._parts.store.requests():
            try:
                code = "job.rejected_here" if request.decision == "reject" else ""
                self.decide(request.job, decision=request.decision, by=request.by, code=code)
            except IsthmusError as error:
                self._parts.store.drop_request(request.job)  # the person is told, and can ask again
                self._notify(fault(error))

    def decide(self, job: str, *, decision: str, by: str, code: str = "") -> None:
        """Sign a decision, write it down and send it.  An approval draws the job's seed and commits to it first.

        Raises:
            UsageError: ``job.unknown``, ``job.ended``.  PolicyError: the policy no longer allows it.
        """
        with self._deciding:
            row, spec = self._known(job)
            if row.state in FINAL:
                raise UsageError("job.ended", f"Job {job[:12]} has ended here: {row.state}.", remedy="Submit a new job.")
            self._decide(job, spec, decision, by, code)

    def _decide(self, job: str, spec: JobSpec, decision: str, by: str, code: str) -> None:
        """Log first, then the database: a crash in between repeats the entries, and never leaves a decision that is in no log."""
        parts = self._parts
        name, peer = parts.identity.name, spec.peer_of(parts.identity.name).name
        own = parts.store.decisions(job).get(name)
        if own is not None:  # what was signed first counts
            decision = parse_approval(own.statement.encode()).decision
        else:
            statement = approval_statement(job=job, party=name, peer=peer, decision=decision, by=by, time=parts.now())
            own = SignedDecision(statement.decode(), parts.identity.log_key.sign(statement).hex())
            if decision == "approve":
                self._allowed(spec)
                seed = draw_seed(parts.store.files(job), job=job, identity=parts.identity)
                parts.log.append("commitment", job=job, what="seed", sha256=seed.commitment)
            self._log_approval(job, own)
            parts.store.put_decision(job, name, own)
        if decision == "approve":
            parts.log.checkpoint()
            parts.store.move(job, "approved", now=parts.now(), code=code)
        else:
            self._write_end(job, "rejected", code)
        self._notify(Line(f"job {job[:12]} {'approved' if decision == 'approve' else 'rejected'} by {by}", job=job))
        self._report_decision(job)

    def _log_approval(self, job: str, signed: SignedDecision) -> None:
        self._parts.log.append("approval", job=job, statement=signed.statement, signature=signed.signature)

    def _report_decision(self, job: str) -> None:
        own = self._parts.store.decisions(job).get(self._parts.identity.name)
        if own is not None:
            body = control_pb2.Decision(job=job, statement=own.statement, signature=own.signature)
            self._report(control_pb2.Report(decision=body))

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
        row, spec = self._known(labels.job)
        if row.state in FINAL:
            raise UsageError("job.ended", f"Job {labels.job[:12]} has ended here: {row.state}.", remedy="Submit a new job.")
        decisions = self._parts.store.decisions(labels.job)
        for party in (spec.label_holder.name, spec.feature_holder.name):
            if party not in decisions:
                raise not_approved(labels.job, f"{party} has not approved it")
            verify_decision(self._parts, labels.job, spec, party, decisions[party])
        if self._parts.cosigning is not None:
            self._parts.cosigning.check_trusted(spec.peer_of(self._parts.identity.name).name, spec.coordinator)
        check_order(labels, spec, self._parts.store.steps(labels.job))
        self._check_budget(spec)
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
        with self._deciding:
            row, _ = self._known(end.job)
            if row.state not in FINAL:
                self._write_conclusion(row, end)

    def _write_conclusion(self, row: JobRow, end: control_pb2.JobEnd) -> None:
        state, code = end.outcome, end.code if is_code(end.code) else ""
        if state not in TRANSITIONS[row.state]:
            _log.warning("job %s: the coordinator said %r while it was %s here", end.job[:12], end.outcome, row.state)
            state, code = "failed", "job.illegal_end"
        self._write_receipt(end.job)
        self._write_end(end.job, state, code)
        self._notify(Line(f"job {end.job[:12]} {state}" + (f" [{code}]" if code else ""), job=end.job, code=code))

    def _write_end(self, job: str, state: str, code: str) -> None:
        """The job's last entry.  After a crash between log and database it is written once more, the same."""
        self._parts.log.append("job", job=job, state=state, code=code)
        self._parts.log.checkpoint()
        self._parts.store.move(job, state, now=self._parts.now(), code=code)
        on_job_end(self._parts.store.files(job), self._parts.policy.retention)

    def _write_receipt(self, job: str) -> None:
        rows = self._parts.store.disclosures(job)
        if not rows:
            return
        items = receipt(rows)
        self._parts.log.append("disclosures", job=job, items=items)
        document = {"v": 1, "job": job, "party": self._parts.identity.name, "items": items, "entries": rows}
        self._parts.store.files(job).write("disclosures.json", json.dumps(document, indent=2).encode())

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
                self._report_decision(row.job)
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

    def _known(self, job: str) -> tuple[JobRow, JobSpec]:
        row = self._parts.store.job(job)
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
