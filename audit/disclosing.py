"""Step (9) of the verification: the disclosures written down are exactly those that the messages carried, and each is allowed.

What an attempt discloses is the table of :mod:`audit.disclosure_rules`.  An attempt that a crash cut could not write down
everything: there, entries may be missing, and what the messages show counts all the same.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from audit.disclosure_rules import RULES, Expected, expected_of
from audit.figures import JobView, NodeView, Views
from audit.history import Act, Attempt, AttemptKey, DisclosureRecord
from audit.ledger import Ledger, LogRejected
from audit.plain import altered

Missing = Callable[[str], None]


def check_disclosures(ledgers: Sequence[Ledger], views: Views, missing: Missing) -> str:
    """(9) Entries, receipts and what the coordinator heard are one, and the specification allows each."""
    for ledger in ledgers:
        if 9 in ledger.faults:
            raise ledger.faults[9]
    entries = 0
    for job, view in views:
        if view is None:
            missing(f"the specification of job {job[:12]} is in no log given")
            continue
        entries += _Disclosures(view, missing).check()
    return f"{entries} disclosures, each carried by messages and allowed by its job"


class _Disclosures:
    """One job."""

    def __init__(self, view: JobView, missing: Missing) -> None:
        self.view, self.missing = view, missing

    def _refuse(self, log: str, seq: int | None, code: str, reason: str) -> LogRejected:
        return LogRejected(code, f"{self.view.short}: {reason}", step=9, log=log, seq=seq)

    def check(self) -> int:
        """All logs of the job; returns the entries looked at."""
        entries = 0
        for node in self.view.nodes.values():
            optional: Counter[tuple[str, str, str, str]] = Counter()
            for attempt in node.record.attempts.values():
                self._attempt(node, attempt, optional)
                for way, kind in altered(self.view, node, attempt):
                    reason = f"{attempt.key}: the {kind} {way} carried other figures than all logs tell"
                    raise self._refuse(node.name, attempt.state_seq, "audit.disclosure_differs", reason)
            entries += self._own(node)
            self._receipt(node, optional)
        if self.view.coordinator is not None:
            entries += self._heard(self.view.coordinator)
        self._values()
        return entries

    def _own(self, node: NodeView) -> int:
        """Every entry is of an attempt of its own, and its leaf hash has a salt that no other entry shows."""
        salts = {""}
        for act in node.record.of("disclosure"):
            if act.key not in node.record.attempts or act.data.by != node.name:
                raise self._refuse(node.name, act.seq, "audit.disclosure_extra", "a disclosure of no attempt of its own")
            if act.data.salt in salts:
                code = "audit.salt_twice" if act.data.salt else "audit.salt_missing"
                raise self._refuse(node.name, act.seq, code, "its value can be guessed: it has no salt of its own")
            salts.add(act.data.salt)
        return len(salts) - 1

    # ---- a node's attempts ------------------------------------------------------------------------------------------------

    def _attempt(self, node: NodeView, attempt: Attempt, optional: Counter[tuple[str, str, str, str]]) -> None:
        """The entries of one attempt against its messages."""
        entries = node.disclosures(attempt.key)
        self._allowed(node, entries)
        if attempt.state == "start" and node.record.end is None:
            # It still runs, or was cut: only what is said can be checked.
            self._among(node, attempt, entries)
            return
        if attempt.interrupted:
            self._among(node, attempt, entries)
            for form in (self._expected(node, attempt, done=False), self._expected(node, attempt, done=True)):
                for item in form:
                    key = (item.by, item.what, item.to, item.clause)
                    optional[key] = max(optional[key], item.count or 0)
            return
        wanted = self._expected(node, attempt, done=attempt.was_done)
        if not attempt.was_done and entries and any(act.data.value for act in entries):
            # It failed after its figures were written down: they count as those of a step done.
            wanted = self._expected(node, attempt, done=True)
        self._exactly(node, attempt, entries, wanted)

    def _expected(self, node: NodeView, attempt: Attempt, *, done: bool) -> list[Expected]:
        return expected_of(self.view, node.name, attempt.key, attempt.sent.items, done=done)

    def _allowed(self, node: NodeView, entries: Sequence[Act]) -> None:
        for act in entries:
            rules = [rule for rule in RULES if (rule.what, rule.clause) == (act.data.what, act.data.clause)]
            if not rules:
                reason = f"no clause {act.data.clause!r} allows {act.data.what}"
                raise self._refuse(node.name, act.seq, "audit.disclosure_clause", reason)
            if not any(rule.flag(self.view.spec) for rule in rules):
                reason = f"{act.data.what} went to {act.data.to}, which the specification does not allow"
                raise self._refuse(node.name, act.seq, "audit.disclosure_forbidden", reason)

    def _exactly(self, node: NodeView, attempt: Attempt, entries: Sequence[Act], wanted: list[Expected]) -> None:
        left = list(wanted)
        for act in entries:
            match = next((item for item in left if item.is_said_by(act.data)), None)
            if match is None:
                raise self._wrong(node, attempt, act, left)
            left.remove(match)
        if left:
            item = left[0]
            reason = f"{attempt.key}: {item.what} went to {item.to} (the messages show it), and no entry says so"
            raise self._refuse(node.name, attempt.state_seq, "audit.disclosure_missing", reason)

    def _among(self, node: NodeView, attempt: Attempt, entries: Sequence[Act]) -> None:
        left = self._expected(node, attempt, done=True) + self._expected(node, attempt, done=False)
        for act in entries:
            match = next((item for item in left if item.is_said_by(act.data)), None)
            if match is None:
                raise self._wrong(node, attempt, act, left)
            left.remove(match)

    def _wrong(self, node: NodeView, attempt: Attempt, act: Act, left: Sequence[Expected]) -> LogRejected:
        said: DisclosureRecord = act.data
        near = next((item for item in left if (item.what, item.to) == (said.what, said.to)), None)
        if near is None:
            reason = f"{attempt.key}: {said.what} to {said.to} is in none of its messages"
            return self._refuse(node.name, act.seq, "audit.disclosure_extra", reason)
        parts = [
            f"{name} is {getattr(said, name)!r} where {getattr(near, name)!r} was carried"
            for name in ("count", "clause", "value")
            if getattr(near, name) is not None and getattr(near, name) != getattr(said, name)
        ]
        reason = f"{attempt.key}: {said.what} to {said.to}: {'; '.join(parts) or 'its count is not that of its value'}"
        return self._refuse(node.name, act.seq, "audit.disclosure_differs", reason)

    # ---- receipts ---------------------------------------------------------------------------------------------------------

    def _receipt(self, view: NodeView, optional: Mapping[tuple[str, str, str, str], int]) -> None:
        """The receipt's totals are those of the entries; what a crash kept from being listed may be in it or not."""
        record = view.record
        if record.end is None and record.receipt is None:
            return
        if any(act.data != record.receipt for act in record.of("disclosures")):
            raise self._refuse(view.name, self._receipt_seq(view), "audit.receipt_items", "there are two receipts that differ")
        least: Counter[tuple[str, str, str, str]] = Counter()
        most: Counter[tuple[str, str, str, str]] = Counter(optional)
        for act in record.of("disclosure"):
            attempt = record.attempts.get(act.key)
            key = (act.data.by, act.data.what, act.data.to, act.data.clause)
            if attempt is None or not attempt.interrupted:
                least[key] += act.data.count
                most[key] += act.data.count
        told = Counter[tuple[str, str, str, str]]()
        for item in record.receipt or ():
            key = (item.by, item.what, item.to, item.clause)
            if key in told:
                reason = f"{item.what} to {item.to} stands twice"
                raise self._refuse(view.name, self._receipt_seq(view), "audit.receipt_items", reason)
            told[key] = item.count
        for key in {*least, *told}:
            if not least[key] <= told[key] <= most[key] or (key in told and key not in most):
                by, what, to, _ = key
                reason = f"the receipt says {told[key]} of {what} from {by} to {to}; the entries say {least[key]}"
                raise self._refuse(view.name, self._receipt_seq(view), "audit.receipt_items", reason)

    def _receipt_seq(self, view: NodeView) -> int:
        return max((act.seq for act in view.record.of("disclosures")), default=view.record.last_seq)

    # ---- what the coordinator heard ---------------------------------------------------------------------------------------

    def _heard(self, coordinator: NodeView) -> int:
        """Each report's disclosures: by the rules, and as the node's own log says."""
        said: dict[tuple[AttemptKey, str], list[Act]] = {}
        for act in coordinator.record.acts:
            if act.kind == "report":
                said[act.key, act.data] = []  # said again after a restart: the same once more
            elif act.kind == "disclosure":
                if (act.key, act.data.by) not in said:
                    reason = f"{act.key}: {act.data.what} by {act.data.by} without its report"
                    raise self._refuse(coordinator.name, act.seq, "audit.disclosure_extra", reason)
                said[act.key, act.data.by].append(act)
        for (key, party), acts in said.items():
            self._report(coordinator, key, party, acts)
        counted = [act for acts in said.values() for act in acts]
        self._coordinator_receipt(coordinator, counted)
        return len(counted)

    def _report(self, coordinator: NodeView, key: AttemptKey, party: str, acts: Sequence[Act]) -> None:
        if party not in self.view.parties:
            return
        self._allowed(coordinator, acts)
        # Every message type that a done attempt of this step sends: what was carried is known without the node's log.
        carried = {rule.carried: max(key.round, 1) for rule in RULES if rule.step == key.step}
        wanted = [e for e in expected_of(self.view, party, key, carried, done=True) if e.to == self.view.spec.coordinator]
        seq = self.view.coordinator.record.reports[key, party].seq if self.view.coordinator else None
        left = list(wanted)
        for act in acts:
            match = next((item for item in left if item.is_said_by(act.data)), None)
            if match is None:
                reason = f"{key}: {party} is said to have told {act.data.what}: {act.data.count} of value {act.data.value!r}"
                raise self._refuse(coordinator.name, act.seq, "audit.disclosure_differs", reason)
            left.remove(match)
        if left:
            raise self._refuse(coordinator.name, seq, "audit.disclosure_missing", f"{key}: {left[0].what} by {party} is not listed")
        node = self.view.nodes.get(party)
        if node is None or key not in node.record.attempts or not node.record.attempts[key].was_done:
            return
        own = Counter(act.data for act in node.disclosures(key) if act.data.to == self.view.spec.coordinator)
        heard = Counter(act.data for act in acts)
        for record in (own - heard) + (heard - own):
            at = next((act.seq for act in acts if act.data == record), seq)
            reason = f"{key}: {record.what} by {party} stands otherwise in the log of {party}"
            raise self._refuse(coordinator.name, at, "audit.disclosure_differs", reason)

    def _coordinator_receipt(self, coordinator: NodeView, acts: Sequence[Act]) -> None:
        record = coordinator.record
        if record.receipt is None:
            return
        totals: Counter[tuple[str, str, str, str]] = Counter()
        for act in acts:
            totals[act.data.by, act.data.what, act.data.to, act.data.clause] += act.data.count
        told = Counter({(item.by, item.what, item.to, item.clause): item.count for item in record.receipt})
        if told != totals or len(told) != len(record.receipt):
            by, what, *_ = next(iter((told - totals) + (totals - told)), ("", "an item", "", ""))
            reason = f"the receipt's {what} from {by} is not what the entries add up to"
            raise self._refuse(coordinator.name, self._receipt_seq(coordinator), "audit.receipt_items", reason)

    # ---- values -----------------------------------------------------------------------------------------------------------

    def _values(self) -> None:
        """What one party told of one attempt to several is one value: aggregates, the base rate."""
        seen: dict[tuple[AttemptKey, str, str], tuple[str, object]] = {}
        for view in self.view.views():
            for act in view.record.of("disclosure"):
                if not act.data.value:
                    continue
                value = _comparable(act.data)
                if value is None:
                    raise self._refuse(
                        view.name, act.seq, "audit.disclosure_value", f"{act.key}: {act.data.what} has no readable value"
                    )
                other, known = seen.setdefault((act.key, act.data.by, act.data.what), (view.name, value))
                if known != value:
                    reason = f"{act.key}: {act.data.what} by {act.data.by} is another value than elsewhere ({other})"
                    raise self._refuse(view.name, act.seq, "audit.disclosure_differs", reason)


def _comparable(record: DisclosureRecord) -> object:
    """A value in a form that is the same for all recipients: aggregates without the gains, which the coordinator alone gets."""
    if record.what != "aggregates":
        return record.value
    try:
        values = json.loads(record.value)
        return tuple(str(values[name]) for name in ("auc", "ks", "log_loss", "base_rate", "rows"))
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
