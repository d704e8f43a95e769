"""The facts of a job (:mod:`audit.facts`), put together from verified logs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from audit.accuracy import Accuracy, accuracy_of
from audit.disclosure_rules import expected_of
from audit.errors import VerificationError
from audit.facts import ApprovalFact, DisclosureFact, JobFacts, StepFact
from audit.figures import JobView
from audit.history import JobRecord
from audit.ledger import Ledger
from audit.receipts import parse_approval


def facts_of(ledgers: Sequence[Ledger], job: str, view: JobView | None) -> JobFacts:
    """What the logs tell of a job; without its specification, only what needs none."""
    known = [(ledger, ledger.jobs[job]) for ledger in ledgers if job in ledger.jobs]
    ends = [record.end for _, record in known if record.end is not None]
    outcome = ends[0].state if ends else next((r.outcome for _, r in known if r.outcome in ("rejected",)), "")
    times = [act.time for _, record in known for act in record.acts]
    facts = {
        "outcome": outcome,
        "code": next((end.code for end in ends if end.code), ""),
        "approvals": tuple(_approvals(record for _, record in known)),
        "timeline": tuple(_timeline(known)),
        "disclosures": tuple(_disclosures(known, view)),
        "commitments": tuple((ledger.name, act.data.what, act.data.sha256) for ledger, r in known for act in r.of("commitment")),
        "started": min(times, default=""),
        "ended": max(times, default="") if ends else "",
    }
    if view is None:
        return JobFacts(job, **facts)  # type: ignore[arg-type]
    spec, split = view.spec, view.split
    policies = {name: node.record.policy for name, node in view.nodes.items()}
    done = view.last_done("round")
    prepared = view.last_done("prepare") is not None
    aligned, counted = view.last_done("align") is not None, view.last_done("count")
    return JobFacts(
        job,
        **facts,  # type: ignore[arg-type]
        spec=spec,
        title=spec.title,
        label_holder=view.parties[0],
        feature_holder=view.parties[1],
        coordinator=spec.coordinator,
        set_sizes=view.set_sizes,
        matching=_matching(view),
        intersection=view.shared if aligned else None,
        counted=next(iter(view.told(counted, "rounded_size")), ""),
        rows_train=split[0] if split and aligned else None,
        rows_holdout=split[1] if split and aligned else None,
        accuracy=_accuracy(view) if prepared else None,
        columns=view.columns,
        base_rate=(view.base_rate or "") if prepared else "",
        rounds_done=done.round if done else 0,
        key_bits=spec.model.key_bits if prepared else None,
        lookup_entries=spec.model.lookup_entries_of(split[0]) if split and prepared else None,
        inner_products=tuple(_inner_products(view)),
        minimum=max([spec.align.minimum, *(policy.minimum_intersection for policy in policies.values() if policy)]),
        small_keys=tuple(name for name, policy in policies.items() if policy and policy.small_keys),
    )


def _matching(view: JobView) -> tuple[str, str] | None:
    key = view.last_done("align")
    found = [node.choice(key) for node in view.nodes.values()] if key else []
    return next(((choice.method, choice.reason) for choice in found if choice is not None), None)


def _accuracy(view: JobView) -> Accuracy | None:
    """By sizes alone, which every party knows."""
    if view.sizes is None or len(view.columns) < len(view.parties):
        return None
    return accuracy_of(rows=view.sizes.train, available=view.sizes.train_available, columns=sum(view.columns.values()))


def _approvals(records: Iterator[JobRecord]) -> Iterator[ApprovalFact]:
    seen = set()
    for record in records:
        for approval in record.approvals:
            if approval.statement in seen:
                continue
            seen.add(approval.statement)
            try:
                said = parse_approval(approval.statement)
            except VerificationError:
                continue
            yield ApprovalFact(said.party, said.decision, said.by, said.time)


def _timeline(known: Sequence[tuple[Ledger, JobRecord]]) -> Iterator[StepFact]:
    for ledger, record in known:
        for attempt in record.attempts.values():
            step, number, again = attempt.key
            messages = attempt.sent.count + attempt.received.count
            yield StepFact(ledger.name, step, number, again, attempt.state, attempt.started, attempt.ended, attempt.code, messages)


def _disclosures(known: Sequence[tuple[Ledger, JobRecord]], view: JobView | None) -> Iterator[DisclosureFact]:
    """The nodes' entries, or the coordinator's where the node's log was not given; and what a crash kept from being listed."""
    logs = {ledger.name for ledger, _ in known}
    for ledger, record in known:
        for act in record.of("disclosure"):
            said = act.data
            if said.by == ledger.name or said.by not in logs:
                yield DisclosureFact(said.by, said.to, said.what, said.count, said.clause, said.value, *act.key)
    for node in view.nodes.values() if view is not None else ():
        for attempt in node.record.attempts.values():
            if not attempt.interrupted or view is None:
                continue
            told = {(act.data.what, act.data.to) for act in node.disclosures(attempt.key)}
            for item in expected_of(view, node.name, attempt.key, attempt.sent.items, done=False):
                if (item.what, item.to) not in told:
                    yield DisclosureFact(
                        item.by, item.to, item.what, item.count or 0, item.clause, item.value or "", *attempt.key, listed=False
                    )


def _inner_products(view: JobView) -> Iterator[tuple[str, ...]]:
    """Of each round, the last attempt's that was done."""
    rounds: dict[int, tuple[int, str]] = {}
    for log in view.views():
        for act in log.record.of("disclosure"):
            if act.data.what == "inner_products" and act.data.value:
                rounds[act.key.round] = max(rounds.get(act.key.round, (-1, "")), (act.key.attempt, act.data.value))
    for number in sorted(rounds):
        yield tuple(json.loads(rounds[number][1]))
