"""Steps (4), (5) and (6) of the verification: the logs of a job against each other, by the rules atop :mod:`audit.verify`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest

from audit.errors import VerificationError
from audit.history import Attempt, AttemptKey, JobRecord
from audit.ledger import Ledger, LogRejected
from audit.receipts import Approval, parse_approval, receipt_statement, verify_approval
from audit.signing import VerifierKey

Keys = Mapping[str, VerifierKey | None]
Missing = Callable[[str], None]


def _raise_faults(ledgers: Sequence[Ledger], step: int) -> None:
    for ledger in ledgers:
        if step in ledger.faults:
            raise ledger.faults[step]


def _jobs(ledgers: Sequence[Ledger]) -> list[str]:
    return sorted({job for ledger in ledgers for job in ledger.jobs})


# ---- (4) ------------------------------------------------------------------------------------------------------------------------


def check_approvals(ledgers: Sequence[Ledger], keys: Keys, missing: Missing) -> str:
    """(4) Every approval is what it says, and no step began before both nodes had approved this very job."""
    _raise_faults(ledgers, 4)
    checked = 0
    for ledger in ledgers:
        for job in ledger.jobs.values():
            approvals: dict[str, Approval] = {}
            for record in job.approvals:
                try:
                    claimed = parse_approval(record.statement)
                    key = keys.get(claimed.party)
                    if key is None:
                        missing(f"no key for {claimed.party}, who approved job {job.job[:12]} in the log of {ledger.name}")
                        approval = claimed
                    else:
                        approval = verify_approval(record.statement, record.signature, key=key, job=job.job, party=claimed.party)
                except VerificationError as error:
                    raise LogRejected(error.code, error.message, step=4, log=ledger.name, seq=record.seq) from None
                if approval.job != job.job:
                    raise LogRejected("approval.other_job", "it approves another job", step=4, log=ledger.name, seq=record.seq)
                checked += 1
                if approval.decision == "reject":
                    job.outcome = job.outcome or "rejected"
                if job.acted_seq is None or record.seq < job.acted_seq:
                    approvals[approval.party] = approval
            _check_both_approved(ledger, job, approvals)
    return f"{checked} approvals of {len(_jobs(ledgers))} jobs"


def _check_both_approved(ledger: Ledger, job: JobRecord, approvals: dict[str, Approval]) -> None:
    """Once a job was acted on: two parties, each naming the other, had approved; at a node, its owner and its only peer are
    these two."""
    if job.acted_seq is None:
        return

    def refuse(code: str, reason: str, seq: int | None) -> LogRejected:
        return LogRejected(code, f"job {job.job[:12]}: {reason}", step=4, log=ledger.name, seq=seq)

    given = sorted(name for name, approval in approvals.items() if approval.decision == "approve")
    if len(given) != 2 or len(approvals) != 2:
        raise refuse("audit.not_approved", f"it began with the approval of {' and '.join(given) or 'nobody'}", job.acted_seq)
    first, second = (approvals[name] for name in given)
    if first.peer != second.party or second.peer != first.party:
        raise refuse("audit.not_approved", "the two approvals do not name each other", job.acted_seq)
    for attempt in job.attempts.values():
        if attempt.peer and {ledger.name, attempt.peer} != set(given):
            raise refuse("audit.stranger", f"messages went to {attempt.peer}, which is not the approved party", attempt.first_seq)


# ---- (5) ------------------------------------------------------------------------------------------------------------------------


def check_messages(ledgers: Sequence[Ledger], keys: Keys, missing: Missing) -> str:
    """(5) Every message stands in both nodes' logs alike, as far as the attempt must be whole."""
    _raise_faults(ledgers, 5)
    by_name = {ledger.name: ledger for ledger in ledgers}
    messages = 0
    for job in _jobs(ledgers):
        compared: set[frozenset[str]] = set()
        for ledger in ledgers:
            record = ledger.jobs.get(job)
            if record is None:
                continue
            messages += record.messages
            for peer in sorted({attempt.peer for attempt in record.attempts.values() if attempt.peer}):
                other = by_name.get(peer)
                if other is None:
                    missing(
                        f"the log of {peer} was not given, so the messages of job {job[:12]} at {ledger.name} have no counterpart"
                    )
                elif (pair := frozenset((ledger.name, peer))) not in compared:
                    compared.add(pair)
                    _Pair(job, ledger, other, missing).check()
    return f"{messages} message entries"


class _Pair:
    """Two nodes' logs of one job."""

    def __init__(self, job: str, left: Ledger, right: Ledger, missing: Missing) -> None:
        self.job, self.left, self.right, self.missing = job, left, right, missing
        self.records = {ledger.name: ledger.jobs.get(job, JobRecord(job)) for ledger in (left, right)}

    def check(self) -> None:
        """Compare every attempt that either log knows."""
        mine, theirs = (self.records[ledger.name].attempts for ledger in (self.left, self.right))
        for key in [*mine, *(key for key in theirs if key not in mine)]:
            whole = any(attempt is not None and attempt.done for attempt in (mine.get(key), theirs.get(key)))
            self._direction(key, self.left, self.right, whole)
            self._direction(key, self.right, self.left, whole)

    def _direction(self, key: AttemptKey, sender: Ledger, receiver: Ledger, whole: bool) -> None:
        sent, received = (self.records[ledger.name].attempts.get(key) for ledger in (sender, receiver))
        counts = (sent.sent.count if sent else 0, received.received.count if received else 0)
        if counts == (0, 0) or (sent and received and sent.sent.fingerprint() == received.received.fingerprint()):
            return
        outgoing = sender.messages(self.job, sent, "sent") if sent else iter(())
        incoming = receiver.messages(self.job, received, "received") if received else iter(())
        for out, into in zip_longest(outgoing, incoming):
            if out is not None and into is not None:
                if out[1] != into[1]:
                    fields = ", ".join(name for name, a, b in zip(out[1]._fields, out[1], into[1], strict=True) if a != b)
                    reason = f"{key}: {sender.name} entry {out[0]} records this message otherwise ({fields})"
                    raise LogRejected("audit.message_differs", reason, step=5, log=receiver.name, seq=into[0])
            elif into is not None:
                self._lacks(key, sender, "audit.never_sent", f"{sender.name} never recorded sending it", receiver, into[0])
                return
            elif out is not None and whole:
                self._lacks(key, receiver, "audit.never_received", f"{receiver.name} never recorded receiving it", sender, out[0])
                return
            else:
                return

    def _lacks(self, key: AttemptKey, ledger: Ledger, code: str, reason: str, witness: Ledger, seq: int) -> None:
        if not self._stops(ledger, witness, key):
            raise LogRejected(code, f"{key}: {reason}", step=5, log=witness.name, seq=seq)
        self.missing(f"the log of {ledger.name} ends before {key} of job {self.job[:12]} is complete: ask for a newer copy")

    def _stops(self, ledger: Ledger, witness: Ledger, key: AttemptKey) -> bool:
        """Whether ``ledger`` shows nothing of the job after this attempt, so that it may just be older than ``witness``."""
        record, other = self.records[ledger.name], self.records[witness.name]
        if record.outcome:
            return False
        attempt = record.attempts.get(key)
        if attempt is not None:
            return attempt.state not in ("done", "failed") and attempt.last_seq == record.last_seq
        begun = other.attempts[key].first_seq
        return not any(a.first_seq > begun and later in record.attempts for later, a in other.attempts.items())


# ---- (6) ------------------------------------------------------------------------------------------------------------------------


def check_receipts(ledgers: Sequence[Ledger], keys: Keys, missing: Missing) -> str:
    """(6) Every step done has both nodes' signatures over the digest that its messages give."""
    _raise_faults(ledgers, 6)
    checked = 0
    label_holders: dict[str, str] = {}
    for ledger in ledgers:
        for job in ledger.jobs.values():
            for attempt in job.attempts.values():
                # A log without messages and receipts (the coordinator's) tells of steps that others took.
                if attempt.done and (attempt.peer or attempt.done_digest):
                    _Receipts(ledger, job.job, attempt, keys, missing).check(label_holders)
                    checked += 1
            _check_reports(ledgers, ledger, job, missing)
    return f"{checked} steps done, each signed by both"


class _Receipts:
    """The receipts of one attempt that a node recorded as done."""

    def __init__(self, ledger: Ledger, job: str, attempt: Attempt, keys: Keys, missing: Missing) -> None:
        self.ledger, self.job, self.attempt, self.keys, self.missing = ledger, job, attempt, keys, missing

    def _refuse(self, code: str, reason: str, seq: int) -> LogRejected:
        return LogRejected(code, f"{self.attempt.key}: {reason}", step=6, log=self.ledger.name, seq=seq)

    def check(self, label_holders: dict[str, str]) -> None:
        """Signatures, digests, and that the digest is the one of the recorded messages."""
        attempt = self.attempt
        digest = self._recomputed(label_holders)
        for way, signer in (("sent", self.ledger.name), ("received", attempt.peer)):
            receipt = attempt.receipts.get(way)
            if receipt is None or receipt.seq > attempt.state_seq:
                raise self._refuse("audit.receipt_missing", f"it is done without a receipt {way}", attempt.state_seq)
            if receipt.digest != digest:
                reason = f"the receipt of {signer} is over other messages than those recorded"
                raise self._refuse("audit.receipt_digest", reason, receipt.seq)
            key = self.keys.get(signer)
            if key is None:
                self.missing(f"no key for {signer}, who signed receipts in the log of {self.ledger.name}")
                continue
            step, number, again = attempt.key
            statement = receipt_statement(job=self.job, step=step, round=number, attempt=again, digest=digest)
            try:
                key.verify(statement, receipt.signature)
            except VerificationError as error:
                raise self._refuse(error.code, error.message, receipt.seq) from None
        if attempt.done_digest and attempt.done_digest != digest:
            raise self._refuse("audit.receipt_digest", "it reports another transcript than its messages give", attempt.state_seq)

    def _recomputed(self, label_holders: dict[str, str]) -> bytes:
        """The transcript digest of the recorded messages.

        The specification, which names the label holder, is not in the log: the receipts tell which of the two orders of the
        parties was meant, and all of a job must mean the same.
        """
        attempt = self.attempt
        if attempt.transcript is None:
            raise self._refuse("audit.receipt_missing", "it is done without a message or receipt", attempt.state_seq)
        orders = {attempt.transcript.digest(): self.ledger.name, attempt.transcript.digest_reversed(): attempt.peer}
        own = attempt.receipts.get("sent") or attempt.receipts.get("received")
        if own is None or own.digest not in orders:
            seq = attempt.state_seq if own is None else own.seq
            code = "audit.receipt_missing" if own is None else "audit.receipt_digest"
            raise self._refuse(code, "there is no receipt over the messages recorded", seq)
        if label_holders.setdefault(self.job, orders[own.digest]) != orders[own.digest]:
            raise self._refuse("audit.receipt_digest", "its parties have changed roles within the job", own.seq)
        return own.digest


def _check_reports(ledgers: Sequence[Ledger], coordinator: Ledger, job: JobRecord, missing: Missing) -> None:
    """What the coordinator was told about a step is what the node's own log says."""
    for (key, party), report in job.reports.items():
        node = next((ledger for ledger in ledgers if ledger.name == party), None)
        if node is None:
            continue
        record = node.jobs.get(job.job, JobRecord(job.job))
        attempt = record.attempts.get(key)
        if attempt is None or not attempt.done:
            if attempt is not None and (attempt.state == "failed" or attempt.last_seq != record.last_seq):
                reason = f"{key}: {party} reported it done, but its own log does not say so"
                raise LogRejected("audit.report_differs", reason, step=6, log=coordinator.name, seq=report.seq)
            missing(f"{party} reported {key} done, but its log does not say so yet")
        elif attempt.done_digest and attempt.done_digest != report.digest:
            reason = f"{key}: {party} reported another transcript than its own log has"
            raise LogRejected("audit.report_differs", reason, step=6, log=coordinator.name, seq=report.seq)
