"""Runs the jobs: takes what arrives, asks the state machine, stores and logs what follows, and only then tells the nodes.

One lock guards everything; nothing under it waits for a node (directives go into queues that the streams empty).  Order of
every change: database, log, memory, directives.  A crash in between leaves a job that is continued with the next attempt.

When a node's stream ends during a step, the step waits for it a while (:mod:`coordinator.presence`); if the node comes back and has
not reported the step done, the step starts again on both nodes with the next attempt; if it does not, the job fails with
``coordinator.node_lost``.

The other node notices a crash too, as a cut link, and reports the step failed.  So a failure whose code says no more than that the
link or the other process went (``LINK_CODES``) fails the job only when both nodes stay attached for ``link_patience`` seconds more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from audit.entries import format_time
from audit.partner import Partner
from audit.receipts import verify_approval
from audit.record import LogWriter
from audit.witness import Refused, Witness
from coordinator import jobs
from coordinator.attachment import CONTROL_VERSION, Attachment, approvals, job_end
from coordinator.control_fields import step_report
from coordinator.cosigning import Cosigning
from coordinator.errors import PeerError, UsageError, VerificationError
from coordinator.job_log import JobLog
from coordinator.jobs import Decision, Job, Order, SendStep
from coordinator.logged import Logged
from coordinator.observe import SILENT, Observer
from coordinator.open_jobs import JOBS_OPEN, RECENT, OpenJobs
from coordinator.presence import Presence
from coordinator.standing import LINK_CODES, Progress, attempt_of
from coordinator.store import Store
from coordinator.submit import spec_for
from coordinator.timers import later
from protos import control_pb2

_log = logging.getLogger("isthmus.coordinator")


class Runner:
    """All open jobs and all attached nodes.

    Args:
        name: the coordinator's own name.
        partners: partner files by name: whose approvals and streams are known.
        witness: the coordinator's memory of the nodes' logs.
        clock: gives the time as a zone-aware ``datetime``.
        logged: what the log held of each job when it was opened.
        detach_grace: seconds a node may be away during a step.
        jobs_open: jobs that may be open at once.
        link_patience: seconds in which a cut link between the nodes may turn out to be a node that went.
    """

    def __init__(
        self,
        *,
        name: str,
        software: str,
        partners: Mapping[str, Partner],
        store: Store,
        log: LogWriter,
        witness: Witness,
        clock: Callable[[], datetime],
        logged: Logged | None = None,
        detach_grace: float = 30.0,
        link_patience: float = 2.0,
        jobs_open: int = JOBS_OPEN,
        observer: Observer = SILENT,
    ) -> None:
        self.observer = observer
        self.name, self.software, self.partners = name, software, partners
        self._store, self._clock, self._patience = store, clock, link_patience
        self._progress: dict[tuple[str, str], Progress] = {}
        self._stale: set[str] = set()
        self.relayed: Callable[[tuple[str, str, int, int]], int] = lambda attempt: 0
        """Sealed bytes that the relay passed on in an attempt (job, step, round, attempt)."""
        self._job_log = JobLog(log, name=name, logged=logged)
        self.changed = threading.Condition(threading.RLock())
        self.version = 0
        self.stopping = self.draining = False
        self._held: set[str] = set()
        self._cut: set[tuple[str, tuple[str, int, int]]] = set()
        """Attempts whose link was cut, with a timer that runs."""
        self._nodes = Presence(lock=self.changed, grace=detach_grace, lost=self._lost)
        self._jobs = OpenJobs(store, most=jobs_open)
        self._cosigning = Cosigning(log, witness, partners=partners, attached=self._nodes.streams, refused=self._refused)
        for job in (*self._jobs, *store.recent(RECENT)):
            self._cosigning.met(job)
            self._job_log.catch_up(job)
        self._cosigning.checkpoint()

    # -- nodes

    def attach(self, party: str) -> Attachment:
        """A node's stream opened; what it must know is queued: welcome, open jobs, ends it may have missed."""
        with self.changed:
            attachment = self._nodes.arrive(party)
            attachment.send(welcome=control_pb2.Welcome(protocol=CONTROL_VERSION, party=self.name, software=self.software))
            for job in self._store.recent(RECENT):
                if job.ended and party in job.offered:
                    attachment.send(job_end=job_end(job))
            for job in [job for job in self._jobs if party in job.parties]:
                self._brief(job, attachment)
            self._cosigning.attached(party)
            self._notify()
            return attachment

    def detach(self, attachment: Attachment) -> None:
        """A node's stream ended."""
        with self.changed:
            if not self._nodes.holds(attachment):
                return
            awaited = not self.stopping and any(self._waits_for(job, attachment.party) for job in self._jobs)
            self._nodes.leave(attachment, awaited=awaited)
            self._notify()

    def receive(self, attachment: Attachment, report: control_pb2.Report) -> None:
        """One checked report of an attached node.

        Raises:
            PeerError: ``control.unexpected``, ``control.unknown_job``.
            VerificationError: an approval that does not verify.
        """
        kind = report.WhichOneof("body")
        if kind in ("checkpoint", "cosignature"):
            self._cosign(attachment, report)
            return
        handlers: dict[str, Callable[[Job, str, Any], None]] = {
            "decision": self._decision,
            "step_done": self._step_done,
            "step_failed": self._step_failed,
            "progress": self._step_progress,
        }
        handler = handlers.get(str(kind))
        if handler is None:
            raise PeerError("control.unexpected", f"{attachment.party} sent a {kind} in the middle of its stream.")
        with self.changed:
            if not self._nodes.holds(attachment):
                return
            body = getattr(report, str(kind))
            job = self._jobs.get(body.job)
            if job is None:
                known = self._store.load(body.job)
                if known is None or attachment.party not in known.parties:
                    raise PeerError("control.unknown_job", f"{attachment.party} reported on a job that is not its own.")
                attachment.send(job_end=job_end(known))  # ended meanwhile: tell it again rather than argue
                return
            if attachment.party not in job.parties:
                raise PeerError("control.unknown_job", f"{attachment.party} reported on a job that is not its own.")
            handler(job, attachment.party, body)
            self._notify()

    def _cosign(self, attachment: Attachment, report: control_pb2.Report) -> None:
        with self.changed:
            if not self._nodes.holds(attachment):
                return
            if report.WhichOneof("body") == "checkpoint":
                self._cosigning.offered(attachment.party, report.checkpoint)
            else:
                self._cosigning.answered(attachment.party, report.cosignature)

    def _refused(self, refused: Refused) -> None:
        """A node's log does not continue what was cosigned: none of its jobs goes on."""
        for job in [job for job in self._jobs if refused.of in job.parties and job.state != "submitted"]:
            self._apply(job, jobs.fail(job, refused.code))

    def refuse(self, attachment: Attachment, report: control_pb2.Report, error: PeerError) -> None:
        """A report that has not its form: the step it speaks of can't end well, so its job fails now rather than after retries.

        Nothing of the report is used but the hash of a job that the node is a party of.
        """
        kind = report.WhichOneof("body")
        if kind not in ("step_done", "step_failed"):
            return
        with self.changed:
            job = self._jobs.get(getattr(report, kind).job)
            if job is not None and attachment.party in job.parties and job.running is not None:
                _log.warning(
                    "job %s: %s sent a report that was refused: %s",
                    job.identity[:12],
                    attachment.party,
                    error,
                    extra={"job": job.identity, "peer": attachment.party, "code": error.code},
                )
                self._apply(job, jobs.fail(job, error.code))
                self._notify()

    # -- operators

    def submit(self, data: bytes) -> Job:
        """Take a job in.

        Raises:
            UsageError: see :func:`audit.spec.parse_spec`; ``coordinator.other_coordinator``, ``coordinator.unknown_party``,
                ``coordinator.wrong_role``, ``coordinator.job_exists``, ``coordinator.too_many_jobs``.
        """
        spec = spec_for(self.name, data, self.partners)
        with self.changed:
            self._jobs.check_new(spec.identity())
            now = format_time(self._clock())
            job = Job(spec.identity(), spec, submitted=now, updated=now)
            self._store.save(job)
            _log.info("job %s submitted", job.identity[:12], extra={"job": job.identity})
            self._job_log.submission(job)
            self._jobs.keep(job)
            self._cosigning.met(job)
            self._cosigning.checkpoint()
            for party in job.parties:
                if party in self._nodes:
                    self._brief(self._jobs[job.identity], self._nodes.streams[party])
            self._notify()
            return job

    def cancel(self, identity: str) -> Job:
        """Give a job up.  Raises ``coordinator.unknown_job``, ``coordinator.illegal_transition`` when it has ended."""
        with self.changed:
            job = self.find(identity)
            if job.ended:
                raise UsageError(
                    "coordinator.illegal_transition",
                    f"The job {job.identity[:12]} is {job.state} already: it cannot be cancelled.",
                    remedy="There is nothing to do for it; `isthmus-coordinator jobs` lists the jobs that are still open.",
                )
            self._apply(job, jobs.cancel(job))
            return self.find(job.identity)

    def find(self, prefix: str) -> Job:
        """The one job whose identity begins with ``prefix``.  Raises ``coordinator.unknown_job``, ``coordinator.ambiguous_job``."""
        with self.changed:
            return self._jobs.find(prefix)

    def recent(self) -> list[Job]:
        """The newest jobs, newest first."""
        with self.changed:
            return self._jobs.recent()

    def standing(self, job: Job, party: str) -> tuple[bool, Progress]:
        """Whether a party is attached, and how far it is."""
        with self.changed:
            return party in self._nodes, self._progress.get((job.identity, party), Progress())

    def running(self, identity: str) -> tuple[tuple[str, str], tuple[str, int, int]] | None:
        """The parties of an open job, and step, round and attempt that run; None when none runs."""
        with self.changed:
            job = self._jobs.get(identity)
            key = attempt_of(job) if job is not None else None
            return None if job is None or key is None else (job.parties, key)

    def attached(self) -> int:
        """How many nodes are attached."""
        return len(self._nodes.streams)

    def waiting(self) -> int:
        """Directives that wait to go out."""
        with self.changed:
            return self._nodes.waiting()

    def drain(self) -> None:
        """Direct no step from now on.  Reports are still taken: what the nodes have done is not done again after the next start."""
        with self.changed:
            self.draining = True
            self._notify()

    def quiet(self) -> bool:
        """While draining: whether no node works on a step that was directed before."""
        with self.changed:
            running = {job.identity for job in self._jobs if job.running is not None}
            return not running - self._held or not self._nodes.streams

    def stop(self) -> None:
        """End all streams; open jobs stay open and are continued after the next start."""
        with self.changed:
            self.stopping = True
            self._nodes.stop()
            self._notify()

    # -- reports

    def _decision(self, job: Job, party: str, body: control_pb2.Decision) -> None:
        key = self.partners[party].log_key
        statement, signature = body.statement.encode(), bytes.fromhex(body.signature)
        approval = verify_approval(statement, signature, key=key, job=job.identity, party=party)
        if approval.peer != job.spec.peer_of(party).name:
            raise VerificationError("approval.other_peer", f"{party} signed a decision together with another party than the job's.")
        decision = Decision(approval.decision, body.statement, body.signature)
        if job.state == "submitted" and job.decisions.get(party) != decision:
            self._job_log.approval(job, body.statement, body.signature)
        self._apply(job, jobs.decide(job, party, decision))
        self._begin(job.identity)

    def _step_done(self, job: Job, party: str, body: control_pb2.StepDone) -> None:
        report, step = step_report(body), job.running
        if step is not None and attempt_of(job) == (report.step, report.round, report.attempt) and party not in step.reports:
            self._job_log.report(job, party, report)
        self._apply(job, jobs.report(job, party, report))

    def _step_failed(self, job: Job, party: str, body: control_pb2.StepFailed) -> None:
        key = (body.step, body.round, body.attempt)
        if attempt_of(job) != key or job.identity in self._stale:
            return  # an echo, or a step that starts again anyway
        extra = {"job": job.identity, "peer": party, "step": body.step, "attempt": body.attempt, "code": body.code}
        _log.info("job %s: %s reports that %s failed: %s", job.identity[:12], party, body.step, body.code, extra=extra)
        if body.code not in LINK_CODES:
            self._apply(job, jobs.fail(job, body.code))
        elif job.spec.peer_of(party).name not in self._nodes:
            self._stale.add(job.identity)  # the other node went: it has its grace to come back
        elif (job.identity, key) not in self._cut:  # a node that says it again and again starts no further timer
            self._cut.add((job.identity, key))
            later(self._patience, self._give_up, job.identity, key, body.code)

    def _give_up(self, identity: str, key: tuple[str, int, int], code: str) -> None:
        """A link was cut some time ago: if no node went meanwhile, that was the failure."""
        with self.changed:
            self._cut.discard((identity, key))
            job = self._jobs.get(identity)
            if self.stopping or job is None or attempt_of(job) != key or identity in self._stale:
                return
            if self._nodes.both(job):
                self._apply(job, jobs.fail(job, code))
            else:
                self._stale.add(identity)

    def _step_progress(self, job: Job, party: str, body: control_pb2.StepProgress) -> None:
        if attempt_of(job) == (body.step, body.round, body.attempt):
            self._progress[job.identity, party] = Progress(body.phase, body.done, body.total)

    # -- what follows

    def _brief(self, job: Job, attachment: Attachment) -> None:
        """Tell a node that attached how an open job stands, and go on with it."""
        if attachment.party not in job.offered:
            self._apply(job, jobs.offer(job, attachment.party))
            job = self._jobs[job.identity]
        attachment.send(offer=control_pb2.Offer(job=job.identity, spec=job.spec.canonical().decode()))
        if job.state == "submitted":
            return
        attachment.send(approvals=approvals(job))
        if job.running is not None and attachment.party not in job.running.reports:
            self._stale.add(job.identity)
        self._begin(job.identity)

    def _begin(self, identity: str) -> None:
        """Start, or start again, what waits for both nodes to be attached."""
        job = self._jobs.get(identity)
        if job is None or not self._nodes.both(job):
            return
        distrusted = [self._cosigning.refused[party] for party in job.parties if party in self._cosigning.refused]
        if distrusted and job.state != "submitted":
            self._apply(job, jobs.fail(job, distrusted[0].code))
        elif job.state == "approved":
            self._apply(job, jobs.start(job))
        elif identity in self._stale:
            self._apply(job, jobs.restart(job))

    def _apply(self, job: Job, outcome: jobs.Outcome) -> None:
        """Store, log, remember, then send."""
        after, orders = outcome
        if after == job:
            return
        after = replace(after, updated=format_time(self._clock()))
        self._store.save(after)
        self._job_log.moved(job, after, orders)
        if orders:
            self._cosigning.checkpoint()
        if attempt_of(after) != attempt_of(job):
            self._stale.discard(job.identity)
            self._progress = {key: value for key, value in self._progress.items() if key[0] != job.identity}
        self._jobs.keep(after)
        for order in orders:
            self._send(after, order)
        self.observer.moved(job, after)
        self._notify()

    def _send(self, job: Job, order: Order) -> None:
        if self.draining and isinstance(order, SendStep):
            self._held.add(job.identity)  # it begins after the next start, with the next attempt
            return
        self._nodes.tell(job, order)

    def _waits_for(self, job: Job, party: str) -> bool:
        return job.running is not None and party in job.parties

    def _lost(self, party: str) -> None:
        """A node did not come back in time."""
        if not self.stopping:
            for job in [job for job in self._jobs if self._waits_for(job, party)]:
                self._apply(job, jobs.fail(job, "coordinator.node_lost"))

    def _notify(self) -> None:
        self.version += 1
        self.changed.notify_all()
