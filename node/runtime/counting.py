"""How often this node answers how many customers it shares with a partner.

Two counts over data that differ by one customer tell whether that one is shared, so the policy bounds how many are answered in a
period.  An attempt counts from its beginning, whatever came of it: one that fails late may have told its learner the number.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from audit.spec import JobSpec, parse_spec
from node.errors import PolicyError
from node.policy import Policy
from node.runtime.store import Store


def check_budget(spec: JobSpec, *, me: str, policy: Policy, store: Store, now: datetime) -> None:
    """Whether another attempt of a count may begin.  Jobs of other kinds pass.

    Raises:
        PolicyError: ``policy.count_period``.
    """
    if spec.kind != "count":
        return
    peer, section = spec.peer_of(me).name, policy.count
    begun = recent_attempts(store, me=me, peer=peer, since=now - timedelta(days=section.period_days))
    if begun >= section.per_period:
        raise PolicyError(
            "policy.count_period",
            f"{begun} counts with {peer} began within {section.period_days} days; policy count.per_period is {section.per_period}.",
            remedy="Submit the job later, or raise count.per_period in the policy.",
        )


def recent_attempts(store: Store, *, me: str, peer: str, since: datetime) -> int:
    """Attempts of counts with a partner that began after a time."""
    begun = 0
    for row in store.jobs():
        spec = parse_spec(row.spec.encode())
        if spec.kind == "count" and {spec.label_holder.name, spec.feature_holder.name} == {me, peer}:
            begun += sum(datetime.fromisoformat(step.started) > since for step in store.steps(row.job))
    return begun
