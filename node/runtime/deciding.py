"""What is offered to this node and what it decides: a rule of the policy or a person approves a job, or one of them rejects it.

    Offer        hash recomputed, policy asked, specification logged and stored     -> approved by a rule, refused, or it waits
    person       asks at the command line; the serving node acts on it (``poll``)   -> Decision: signed, logged, stored, sent
    Approvals    both parties' decisions, kept only if every signature holds

A decision is in the log before it is in the database, and only the first one counts.  Before an approval is logged, the job's seed
is drawn and the log holds the commitment to it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable

from audit.receipts import approval_statement, parse_approval
from audit.spec import JobSpec, parse_spec
from node.admission import Decision, check_spec
from node.errors import IsthmusError, PolicyError, UsageError, VerificationError
from node.runtime.approving import author_of, not_approved
from node.runtime.counting import check_budget
from node.runtime.ending import write_end
from node.runtime.parts import NodeParts
from node.runtime.seeds import draw_seed
from node.runtime.store import FINAL, JobRow, SignedDecision
from operations.logs import Line, fault
from protos import control_pb2


class Decisions:
    """The decisions on all jobs of one node.

    Args:
        parts: the node.
        report: sends a report to the coordinator if attached; never blocks.
        notify: prints one readable line for the operator.
    """

    def __init__(self, parts: NodeParts, *, report: Callable[[control_pb2.Report], None], notify: Callable[[str], None]) -> None:
        self._parts, self._report, self._notify = parts, report, notify
        self.lock = threading.RLock()
        """Held where a decision or a job's end is written: nothing of a job comes after its end in the log."""

    # -- what the coordinator passes on
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
        check_budget(spec, me=parts.identity.name, policy=parts.policy, store=parts.store, now=parts.clock())
        return allowed

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
            self.repeat(known.job)

    def _take_in(self, offer: control_pb2.Offer, *, code: str = "") -> None:
        """Log the specification, then store the job: whatever is decided, an auditor can read what about."""
        self._parts.log.append("spec", job=offer.job, document=offer.spec)
        self.meet(parse_spec(offer.spec.encode()))
        self._parts.store.add_job(offer.job, offer.spec, state="waiting", code=code, now=self._parts.now())

    def meet(self, spec: JobSpec) -> None:
        """The other party of a job is a witness of this node's log."""
        name = self._parts.identity.name
        if self._parts.cosigning is not None and name in (spec.label_holder.name, spec.feature_holder.name):
            self._parts.cosigning.met(spec.peer_of(name).name)

    def _refuse(self, offer: control_pb2.Offer, spec: JobSpec, error: IsthmusError) -> None:
        parts = self._parts
        self._notify(Line(f"job {offer.job[:12]} refused by the policy: {error}", job=offer.job, code=error.code))
        named = parts.identity.name in (spec.label_holder.name, spec.feature_holder.name)
        self._take_in(offer, code=error.code)
        if named:
            self.decide(offer.job, decision="reject", by="policy", code=error.code)
        else:
            write_end(self._parts, offer.job, "rejected", error.code)

    def approvals(self, approvals: control_pb2.Approvals) -> None:
        """Both nodes' signed decisions, as the coordinator passes them on; kept only if every signature holds.

        Raises:
            UsageError: ``job.unknown``.  VerificationError: ``approval.*``, ``audit.bad_signature``, ``job.not_approved``.
        """
        row, spec = self._parts.known_job(approvals.job)
        for decision in approvals.decisions:
            if len(decision.statement) > 4096 or len(decision.signature) > 256:
                raise VerificationError("approval.malformed", "An approval passed on by the coordinator is too long.")
        found = {author_of(self._parts, row.job, spec, decision): decision for decision in approvals.decisions}
        for party in (spec.label_holder.name, spec.feature_holder.name):
            if party not in found:
                raise not_approved(row.job, f"the coordinator passed on no approval of {party}")
            signed = SignedDecision(found[party].statement, found[party].signature)
            with self.lock:
                known = self._parts.store.decisions(row.job).get(party)
                if self._parts.known_job(row.job)[0].state not in FINAL and known is None:
                    self._log_approval(row.job, signed)
                    self._parts.store.put_decision(row.job, party, signed)

    # -- decisions here
    def poll(self) -> None:
        """Act on what people asked for at the command line."""
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
        with self.lock:
            row, spec = self._parts.known_job(job)
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
            write_end(self._parts, job, "rejected", code)
        self._notify(Line(f"job {job[:12]} {'approved' if decision == 'approve' else 'rejected'} by {by}", job=job))
        self.repeat(job)

    def _log_approval(self, job: str, signed: SignedDecision) -> None:
        self._parts.log.append("approval", job=job, statement=signed.statement, signature=signed.signature)

    def repeat(self, job: str) -> None:
        """Send the coordinator this node's decision on a job, if there is one."""
        own = self._parts.store.decisions(job).get(self._parts.identity.name)
        if own is not None:
            body = control_pb2.Decision(job=job, statement=own.statement, signature=own.signature)
            self._report(control_pb2.Report(decision=body))
