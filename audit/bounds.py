"""Step (8) of the verification: what ran stayed within the specification, each node's own policy and the auditor's bounds.

A node decides on a job by the policy in force when it approves, and aligns and prepares by the one in force at the attempt; its log
has an entry of its policy at every start.  Keys below 2048 bits, or below a node's own bound, are only lawful where that node's
log says that it allows small keys; that is a warning in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from audit.figures import JobView, NodeView, Views
from audit.filters import check_filters
from audit.history import Attempt, PolicyRecord
from audit.ledger import LogRejected
from audit.policy import Limits

KEY_BITS_MIN = 2048

Missing = Callable[[str], None]


def check_bounds(views: Views, missing: Missing, bounds: Limits) -> tuple[str, str]:
    """(8) Key sizes, intersections, rounds, bands, who received what, and published filters.

    Returns:
        "passed" or "warning", and the line for people.
    """
    checked, small = 0, []
    for job, view in views:
        if view is None:
            missing(f"the specification of job {job[:12]} is in no log given")
            continue
        checker = _Bounds(view, missing, bounds)
        checker.check()
        small += checker.small
        checked += 1
    check_filters([view for _, view in views if view is not None])
    if small:
        return "warning", f"{'; '.join(small[:3])}{f'; and {len(small) - 3} more' if len(small) > 3 else ''}"
    return "passed", f"{checked} jobs within the specification and each node's policy"


class _Bounds:
    """One job."""

    def __init__(self, view: JobView, missing: Missing, bounds: Limits) -> None:
        self.view, self.missing, self.bounds = view, missing, bounds
        self.small: list[str] = []

    def _refuse(self, log: str, seq: int | None, code: str, reason: str) -> LogRejected:
        return LogRejected(code, f"{self.view.short}: {reason}", step=8, log=log, seq=seq)

    def check(self) -> None:
        """All bounds."""
        for node in self.view.nodes.values():
            if node.record.acted_seq is None:
                continue  # nothing ran here: whatever was asked for, it was not done
            self._approved(node)
            self._ran(node)
        for view in self.view.views():
            self._recipients(view)

    def _policies(self, node: NodeView) -> Iterator[tuple[PolicyRecord, int]]:
        """The policy at the approval, and where it is another, at the attempts; with the entry it mattered for."""
        approved = node.record.acted_seq or 0
        found: list[PolicyRecord] = []
        for policy, seq in ((node.record.policy, approved), *((a.policy, a.first_seq) for a in node.record.attempts.values())):
            if policy is None:
                self.missing(f"the log of {node.name} does not say which bounds its policy had for {self.view.short}")
            elif policy not in found:
                found.append(policy)
                yield policy, seq

    def _approved(self, node: NodeView) -> None:
        """What the specification asks is within the policy that the node decided by."""
        model, seq = self.view.spec.model, node.record.acted_seq
        policies = list(self._policies(node))
        if self.view.spec.kind == "count":
            return  # no key, no rounds, no bands
        for policy_then, where in policies:
            self._key_bits(node, policy_then, where)
            if model.key_kind == "short-order" and not policy_then.short_order_keys:
                reason = f"short-order keys were asked for; the policy of {node.name} does not name them"
                raise self._refuse(node.name, where, "audit.key_kind", reason)
        policy = node.record.policy
        for what, asked, most in (
            ("rounds", model.rounds, policy.rounds_max if policy else None),
            ("rounds", model.rounds, self.bounds.rounds_max),
            ("bands", model.bands, policy.bands_max if policy else None),
        ):
            if most is not None and asked > most:
                whose = "the auditor's bound" if most == self.bounds.rounds_max and what == "rounds" else "its policy"
                raise self._refuse(node.name, seq, f"audit.{what}", f"{asked} {what} were asked for; {whose} allows {most}")
        for whose, least in (
            (f"the policy of {node.name}", policy.minimum_intersection if policy else None),
            ("the auditor", self.bounds.minimum_intersection),
        ):
            for name, rows in (("train_rows", model.train_rows), ("evaluate_rows", model.evaluate_rows)):
                if least is not None and rows is not None and rows < least:
                    reason = f"{name} is {rows}; {whose} asks for figures over {least} customers or more"
                    raise self._refuse(node.name, seq, "audit.sample", reason)

    def _key_bits(self, node: NodeView, policy: PolicyRecord, seq: int) -> None:
        bits = self.view.spec.model.key_bits
        least = max(policy.key_bits_min, KEY_BITS_MIN)
        if self.bounds.key_bits_min is not None and bits < self.bounds.key_bits_min:
            reason = f"its keys have {bits} bits; the auditor asks for {self.bounds.key_bits_min}"
            raise self._refuse(node.name, seq, "audit.key_bits", reason)
        if bits >= least:
            return
        if not policy.small_keys:
            raise self._refuse(node.name, seq, "audit.key_bits", f"its keys have {bits} bits; {node.name} accepts {least} or more")
        warning = f"{self.view.short}: keys of {bits} bits, which {node.name} allows as unsafe"
        if warning not in self.small:
            self.small.append(warning)

    def _ran(self, node: NodeView) -> None:
        """What ran is what was asked for, and enough customers were shared."""
        view, model = self.view, self.view.spec.model
        for act in node.record.of("commitment"):
            if act.data.what == "paillier key" and act.data.bits not in (None, model.key_bits):
                reason = f"its key has {act.data.bits} bits; the specification says {model.key_bits}"
                raise self._refuse(node.name, act.seq, "audit.key_bits", reason)
        for key, attempt in node.record.attempts.items():
            if key.round > model.rounds:
                reason = f"round {key.round} was begun; the specification allows {model.rounds}"
                raise self._refuse(node.name, attempt.first_seq, "audit.rounds", reason)
            if attempt.was_done and key.step == "align" and view.shared is not None:
                self._enough(node, attempt, view.shared, "customers are shared")
            elif attempt.was_done and key.step == "count":
                self._counted(node, attempt)

    def _enough(self, node: NodeView, attempt: Attempt, shared: int, what: str) -> None:
        for whose, least in (
            ("the specification", self.view.spec.align.minimum),
            (f"the policy of {node.name}", attempt.policy.minimum_intersection if attempt.policy else None),
            ("the auditor", self.bounds.minimum_intersection),
        ):
            if least is not None and shared < least:
                reason = f"{shared} {what}; {whose} asks for {least}"
                raise self._refuse(node.name, attempt.state_seq, "audit.intersection", reason)

    def _counted(self, node: NodeView, attempt: Attempt) -> None:
        """Neither set was smaller than the minimum, and what was told of the number is rounded and not below it."""
        sizes = [attempt.direction(way).items.get("MaskedPoints", 0) for way in ("sent", "received")]
        self._enough(node, attempt, min(sizes), "customers are in the smaller set")
        spec, told = self.view.spec, self.view.counted(attempt.key)
        if not told:
            return
        self._enough(node, attempt, told, "shared customers were told of")
        if told != spec.count.told(told, spec.align.minimum) or told > min(sizes):
            reason = f"{told} shared customers were told of, which is no number that may be told"
            raise self._refuse(node.name, attempt.state_seq, "audit.rounding", reason)

    def _recipients(self, view: NodeView) -> None:
        """Messages go to the job's other party, disclosures there and to the job's coordinator; nowhere else."""
        spec = self.view.spec
        for attempt in view.record.attempts.values():
            if attempt.peer and (view.name not in self.view.parties or attempt.peer != spec.peer_of(view.name).name):
                raise self._refuse(view.name, attempt.first_seq, "audit.recipient", f"messages were exchanged with {attempt.peer}")
        for act in view.record.of("disclosure"):
            by, to = act.data.by, act.data.to
            allowed = {*self.view.parties, spec.coordinator} - {by}
            if by not in self.view.parties or to not in allowed:
                raise self._refuse(view.name, act.seq, "audit.recipient", f"{by} disclosed {act.data.what} to {to}")
