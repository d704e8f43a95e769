"""Published filters over all jobs of a log: part of step (8) of the verification.

A filter's key serves many jobs, so what its policy bounds shows only over them together:

    allowed       the clause of the policy in force names the partner, the data set and the role
    queries       in no period the publisher answered more than its clause allows
    key           a key serves no longer than either node's clause allows, counted from its first commitment in that node's log
    filter        since the last publication as a whole no more days passed than the publisher's clause allows
    version       under one key numbers only grow, and one number has one digest; both nodes commit to the same

Times are those of the log's entries.  A node decides by its clock a moment before it writes an attempt's beginning, hence a minute
of grace.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from audit.figures import JobView, NodeView
from audit.history import Attempt, CommitmentRecord, FilterRecord
from audit.ledger import LogRejected

GRACE = timedelta(minutes=1)


@dataclass(frozen=True)
class _Use:
    """One attempt of an alignment by a published filter, in one node's log."""

    view: JobView
    node: NodeView
    attempt: Attempt
    clause: FilterRecord | None
    made: dict[str, CommitmentRecord]

    @property
    def partner(self) -> str:
        return self.view.spec.peer_of(self.node.name).name

    @property
    def dataset(self) -> str:
        return self.view.spec.party(self.node.name).dataset

    @property
    def publishes(self) -> bool:
        return self.view.spec.publisher is not None and self.view.spec.publisher.name == self.node.name

    @property
    def key(self) -> str:
        """The key's commitment; empty where the attempt did not come so far."""
        return self.made["filter key"].sha256 if "filter key" in self.made else ""

    @property
    def began(self) -> datetime:
        return datetime.fromisoformat(self.attempt.started)

    def refuse(self, code: str, reason: str) -> LogRejected:
        return LogRejected(
            code, f"{self.view.short}: {self.attempt.key}: {reason}", step=8, log=self.node.name, seq=self.attempt.first_seq
        )


def check_filters(views: Sequence[JobView]) -> None:
    """Check every log's alignments by published filters.

    Raises:
        LogRejected: ``audit.filter_not_allowed``, ``audit.filter_queries``, ``audit.filter_key_age``, ``audit.filter_age``,
            ``audit.filter_version``, ``audit.filter_differs``.
    """
    uses: dict[str, list[_Use]] = {}
    for view in views:
        if view.spec.publisher is None:
            continue
        _same_at_both(view)
        for node in view.nodes.values():
            for attempt in node.record.attempts.values():
                if attempt.key.step == "align" and attempt.started:
                    uses.setdefault(node.name, []).append(_use(view, node, attempt))
    for of_node in uses.values():
        of_node.sort(key=lambda use: use.attempt.first_seq)
        for use in of_node:
            _allowed(use)
        _queries(of_node)
        _ages(of_node)
        _versions(of_node)


def _use(view: JobView, node: NodeView, attempt: Attempt) -> _Use:
    made = {act.data.what: act.data for act in node.record.of("commitment") if act.key == attempt.key}
    spec = view.spec
    role = "publisher" if spec.publisher is not None and spec.publisher.name == node.name else "querier"
    wanted = (spec.peer_of(node.name).name, spec.party(node.name).dataset, role)
    clauses = attempt.policy.filters if attempt.policy else ()
    clause = next((clause for clause in clauses if (clause.partner, clause.dataset, clause.role) == wanted), None)
    return _Use(view, node, attempt, clause, made)


def _same_at_both(view: JobView) -> None:
    """Where an attempt was done, both nodes name the same key, version and digest."""
    for key in {key for node in view.nodes.values() for key, attempt in node.record.attempts.items() if attempt.was_done}:
        if key.step != "align":
            continue
        told: dict[tuple[str, object, object], str] = {}
        for node in view.nodes.values():
            for act in node.record.of("commitment"):
                if act.key != key or act.data.what not in ("filter key", "filter"):
                    continue
                told.setdefault((act.data.what, act.data.sha256, act.data.version), node.name)
                if sum(what == act.data.what for what, *_ in told) > 1:
                    reason = f"{view.short}: {key}: the two nodes committed to another {act.data.what!r} each"
                    raise LogRejected("audit.filter_differs", reason, step=8, log=node.name, seq=act.seq)


def _allowed(use: _Use) -> None:
    if use.clause is None and use.attempt.policy is not None and (use.attempt.sent.count or use.attempt.received.count):
        what = "published to" if use.publishes else "asked"
        raise use.refuse("audit.filter_not_allowed", f"it {what} {use.partner}, and no clause of its policy allows that")


def _queries(uses: Iterable[_Use]) -> None:
    """In every period that ends with an attempt, the queries received are within the clause in force."""
    before: dict[tuple[str, str], list[tuple[datetime, int]]] = {}
    for use in uses:
        if not use.publishes or use.clause is None or use.clause.queries is None:
            continue
        past = before.setdefault((use.partner, use.dataset), [])
        past.append((use.began, use.attempt.received.items.get("BlindedPoints", 0)))
        start = use.began - timedelta(days=use.clause.period_days) + GRACE
        counted = sum(count for moment, count in past if moment > start)
        if counted > use.clause.queries:
            reason = f"{use.partner} asked {counted} times in {use.clause.period_days} days; the policy allows {use.clause.queries}"
            raise use.refuse("audit.filter_queries", reason)


def _ages(uses: Iterable[_Use]) -> None:
    drawn: dict[str, datetime] = {}
    whole: dict[str, datetime] = {}
    for use in uses:
        if not use.key:
            continue
        again, first = use.key in drawn, drawn.setdefault(use.key, use.began)
        if again and use.clause is not None and _over(use.began - first, use.clause.reuse_days):
            reason = f"its filter key is from {first.isoformat()}; the policy lets one serve {use.clause.reuse_days} days"
            raise use.refuse("audit.filter_key_age", reason)
        if not use.publishes:
            continue
        if use.attempt.sent.items.get("FilterRemainders"):
            whole[use.key] = use.began
        elif use.attempt.was_done and use.clause is not None:
            since = whole.get(use.key)
            if since is None or _over(use.began - since, use.clause.filter_days):
                reason = f"its filter was not published as a whole within {use.clause.filter_days} days"
                raise use.refuse("audit.filter_age", reason)


def _over(age: timedelta, days: int) -> bool:
    """Whether something is older than so many days allow; 0 days allow no second use at all."""
    return days == 0 or age >= timedelta(days=days) + GRACE


def _versions(uses: Iterable[_Use]) -> None:
    """Of attempts that were done, one after the other: alignments that ran at one time may both follow the same version."""
    last: dict[str, tuple[_Use, CommitmentRecord]] = {}
    for use in uses:
        now = use.made.get("filter")
        if not use.publishes or not use.attempt.was_done or not use.key or now is None:
            continue
        if use.key in last:
            before, then = last[use.key]
            if before.attempt.state_seq < use.attempt.first_seq:
                number, earlier = now.version or 0, then.version or 0
                if number < earlier or (number == earlier and now.sha256 != then.sha256):
                    reason = f"version {number} of its filter follows version {earlier} with another digest"
                    raise use.refuse("audit.filter_version", reason)
        last[use.key] = (use, now)
