"""What `isthmus-node doctor` says of published filters: what the policy allows, how many queries are used up, what lies on disk."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from node.config import NodeConfig
from node.doctor_report import Check, failed
from node.errors import IsthmusError
from node.policy import FilterClause, load_policy
from node.runtime.relations import FOLDER, asker_of
from node.runtime.store import DATABASE, Store

NEARLY = 9
"""Tenths of the queries of a period from which on the doctor warns."""


def filters(config: NodeConfig, now: datetime) -> Iterator[Check]:
    """One check for each clause of the policy, and the size of what is kept."""
    try:
        clauses = load_policy(config.policy_path).filter
    except IsthmusError:
        return  # the check of the policy tells
    folder = config.state_folder
    files = [path for path in (folder / FOLDER).glob("*/state-*") if path.is_file()]
    if not clauses and not files:
        return
    if files:
        size = sum(path.stat().st_size for path in files) / 2**20
        yield Check("filters", "ok", f"{len(files)} kept from job to job, {size:,.1f} MiB on disk")
    try:
        store = Store(folder) if (folder / DATABASE).is_file() else None
        for clause in clauses:
            yield _clause(clause, store, now)
        if store is not None:
            store.close()
    except IsthmusError as error:
        yield failed("filters", error)


def _clause(clause: FilterClause, store: Store | None, now: datetime) -> Check:
    name = f"filter {clause.dataset}"
    reuse = f"keys serve {clause.reuse_days} days" if clause.reuse_days else "each job starts afresh"
    if clause.queries is None:
        return Check(name, "ok", f"asks about its own customers in the filter of {clause.partner}; {reuse}")
    since = (now - timedelta(days=clause.period_days)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    used = store.queries(asker_of(clause), since=since) if store is not None else 0
    text = f"published to {clause.partner}; {reuse}; {used:,} of {clause.queries:,} queries used in {clause.period_days} days"
    if 10 * used >= NEARLY * clause.queries:
        remedy = "Jobs of which it would have to answer more fail: wait, or raise `queries` of the [[filter]] clause."
        return Check(name, "warn", text, remedy, "policy.filter_queries")
    return Check(name, "ok", text)
