"""Step (7) of the verification: a job's entries, steps and messages in their legal order, nothing missing, nothing after the end.

The orders themselves are the tables of :mod:`audit.orders` and :mod:`audit.protocol`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal

from audit.choosing import bad_choices
from audit.committing import bad_commitments
from audit.disclosed_values import are_numbers
from audit.errors import VerificationError
from audit.figures import JobView, NodeView, Views, shapes_of
from audit.history import Act, Attempt, AttemptKey, Directive
from audit.ledger import Ledger, LogRejected
from audit.orders import COORDINATOR_ORDER, NODE_ORDER, ORDERS, Table, bad_numbers, follows, masks_left
from audit.plain import altered
from audit.protocol import legal_messages
from audit.receipts import parse_approval
from audit.sequence import Unlawful, check_sequence

Missing = Callable[[str], None]


def check_order(ledgers: Sequence[Ledger], views: Views, missing: Missing) -> str:
    """(7) Every job whose specification is known ran as the protocol says, as far as its logs go."""
    for ledger in ledgers:
        if 7 in ledger.faults:
            raise ledger.faults[7]
    attempts = 0
    for job, view in views:
        if view is None:
            missing(f"the specification of job {job[:12]} is in no log given")
            continue
        attempts += _Order(view, missing).check()
    return f"{attempts} attempts of steps in legal order"


class _Order:
    """One job."""

    def __init__(self, view: JobView, missing: Missing) -> None:
        self.view, self.missing = view, missing
        self.steps = ORDERS[view.spec.kind]

    def _refuse(self, log: str, seq: int | None, code: str, reason: str) -> LogRejected:
        return LogRejected(code, f"{self.view.short}: {reason}", step=7, log=log, seq=seq)

    def check(self) -> int:
        """All rules; returns the attempts looked at."""
        view = self.view
        for ledger in view.strangers:
            raise self._refuse(ledger.name, None, "audit.stranger", "it tells of a job that is not its own")
        for node in view.nodes.values():
            self._walk(node, NODE_ORDER, lambda act, node=node: _node_event(act, node.name))  # type: ignore[misc]
            self._node_steps(node)
            self._choices(node)
        if view.coordinator is not None:
            self._walk(view.coordinator, COORDINATOR_ORDER, _coordinator_event)
            self._directed(view.coordinator)
        self._directives()
        self._figures_agree()
        self._ends_agree()
        return sum(self._messages(node) for node in view.nodes.values())

    # ---- entries ----------------------------------------------------------------------------------------------------------

    def _walk(self, node: NodeView, table: Table, event_of: Callable[[Act], str]) -> None:
        """The entries' kinds follow the table."""
        state = "new"
        for act in node.record.acts:
            event = event_of(act)
            following = table[state].get(event)
            if following is None:
                reason = f"{_a(event)} entry may not stand here (the job is {state!r} in this log)"
                raise self._refuse(node.name, act.seq, "audit.order", reason)
            state = following

    # ---- steps at a node --------------------------------------------------------------------------------------------------

    def _node_steps(self, node: NodeView) -> None:
        steps = _Steps()
        for act in node.record.acts:
            attempt = node.record.attempts.get(act.key)
            if act.kind == "start" and attempt is not None:
                self._begin(steps, node.name, act, attempt.directive)
            elif act.kind in ("done", "failed"):
                steps.done = act.kind == "done" if act.key == steps.key else steps.done
        self._commitments(node)
        end = node.record.end
        if end is not None and end.state == "finished":
            self._finished(steps, node.name, node.record.last_seq)

    def _begin(self, steps: _Steps, log: str, act: Act, directive: Directive) -> None:
        """An attempt begins: it is due, its number is new, and it runs on the numbers of those before it."""
        key, seq = act.key, act.seq
        if key.step not in self.steps or (key.round > 0) != (key.step == "round"):
            raise self._refuse(log, seq, "audit.step_order", f"there is no step {key.step!r} with round {key.round}")
        place = (key.step, key.round)
        if place == steps.place:
            if key.attempt <= steps.attempt:
                raise self._refuse(log, seq, "audit.step_order", f"{key} follows attempt {steps.attempt} of the same step")
            if directive != steps.directive:
                reason = f"{key} runs on other numbers than the attempt before it"
                raise self._refuse(log, seq, "audit.directive_changed", reason)
        else:
            self._check_next(steps, log, seq, key, directive)
            if key.step == "evaluate" and Decimal(self.view.spec.model.holdout) == 0:
                raise self._refuse(log, seq, "audit.step_order", "it is evaluated, though the specification holds no rows out")
            if key.step == "evaluate" and directive != steps.directive:
                raise self._refuse(log, seq, "audit.directive_changed", "the evaluation runs on other numbers than the finish")
        wanted = {"round": key.round - 1, "finish": steps.rounds, "evaluate": steps.rounds}.get(key.step, 0)
        if len(directive.coefficients) != wanted:
            reason = f"{key} was given {len(directive.coefficients)} coefficients; {wanted} are due"
            raise self._refuse(log, seq, "audit.coefficients", reason)
        steps.enter(key, directive)

    def _check_next(self, steps: _Steps, log: str, seq: int, key: AttemptKey, directive: Directive) -> None:
        """Another step than before: the next one, a second preparation for a round that found no mask, or that round after it."""
        before = f"{steps.place[0]} {steps.place[1] or ''}".strip() or "nothing"
        rounds = self.view.spec.model.rounds
        if key.step == "prepare" and steps.place[0] == "round" and key.attempt > steps.attempt:
            # For the round itself, or where this log has it done for the next one, of which it may have seen no attempt.
            if masks_left(steps.place[1] + steps.done, key.attempt, prepared=steps.prepared, rounds=rounds):
                raise self._refuse(log, seq, "audit.step_order", f"{key} prepares again, though {before} had masks left")
            return
        waiting = steps.waiting if steps.place[0] == "prepare" else {}
        place = (key.step, key.round)
        legal = place in waiting if waiting else follows(*place, after=steps.place, kind=self.view.spec.kind)
        if not steps.done or not legal or key.attempt < steps.attempt:
            state = "done" if steps.done else "not done"
            raise self._refuse(log, seq, "audit.step_order", f"{key} follows {before}, which is {state}")
        if waiting.get(place) not in (None, directive):
            raise self._refuse(log, seq, "audit.directive_changed", f"{key} runs on other numbers than before its preparation")

    def _finished(self, steps: _Steps, log: str, seq: int) -> None:
        last = self.steps[-1]
        if last == "evaluate" and Decimal(self.view.spec.model.holdout) == 0:
            last = "finish"
        if steps.place[0] != last or not steps.done:
            place = f"{steps.place[0]} {steps.place[1] or ''}".strip() or "its beginning"
            raise self._refuse(log, seq, "audit.unfinished", f"it is said to be finished after {place}; {last} is not done")

    def _commitments(self, node: NodeView) -> None:
        """See :mod:`audit.committing`."""
        for seq, code, reason in bad_commitments(self.view, node):
            raise self._refuse(node.name, seq, code, reason)

    def _choices(self, node: NodeView) -> None:
        """See :mod:`audit.choosing`."""
        for seq, reason in bad_choices(self.view, node):
            raise self._refuse(node.name, seq, "audit.choice", reason)

    # ---- the coordinator's steps ------------------------------------------------------------------------------------------

    def _directed(self, coordinator: NodeView) -> None:
        """Directives in order, the next step only after both reports of the one before; reports of the step under way alone."""
        steps, heard = _Steps(), set[str]()
        for act in coordinator.record.acts:
            if act.kind == "directive":
                self._begin(steps, coordinator.name, act, act.data)
                heard = set()
            elif act.kind == "report":
                if act.key != steps.key or act.data not in self.view.parties:
                    reason = f"{act.data} reported {act.key}, which was not under way"
                    raise self._refuse(coordinator.name, act.seq, "audit.report_order", reason)
                heard.add(act.data)
                steps.done = len(heard) == 2
        end = coordinator.record.end
        if end is not None and end.state == "finished":
            self._finished(steps, coordinator.name, coordinator.record.last_seq)

    def _directives(self) -> None:
        """What a node started is what the coordinator directed, and both nodes the same."""
        coordinator = self.view.coordinator
        directed = {act.key: act.data for act in coordinator.record.of("directive")} if coordinator else {}
        started: dict[AttemptKey, tuple[str, Directive]] = {}
        for node in self.view.nodes.values():
            for act in node.record.of("start"):
                own = node.record.attempts[act.key].directive
                other, numbers = started.setdefault(act.key, (node.name, own))
                if own != numbers:
                    reason = f"{act.key}: {other} ran it on other numbers"
                    raise self._refuse(node.name, act.seq, "audit.directive_differs", reason)
                if coordinator is None:
                    continue
                if act.key in directed and directed[act.key] != own:
                    reason = f"{act.key}: the coordinator directed other numbers"
                    raise self._refuse(node.name, act.seq, "audit.directive_differs", reason)
                if act.key not in directed:
                    self._undirected(node, act, coordinator, directed)

    def _undirected(self, node: NodeView, act: Act, coordinator: NodeView, directed: dict[AttemptKey, Directive]) -> None:
        places = [(self.steps.index(key.step), key.round, key.attempt) for key in directed]
        later = max(places, default=(0, 0, -1)) > (self.steps.index(act.key.step), act.key.round, act.key.attempt)
        if later or coordinator.record.end is not None:
            raise self._refuse(node.name, act.seq, "audit.undirected", f"{act.key}: the coordinator's log has no directive for it")
        self.missing(f"the log of {coordinator.name} ends before {act.key} of {self.view.short}: ask for a newer copy")

    # ---- figures ----------------------------------------------------------------------------------------------------------

    def _figures_agree(self) -> None:
        """The shared rows split by the public coin, and each round's inner products are the same wherever they stand.

        What the keys found adds up to the shared rows, and no key found more than either side brought of it.
        """
        self._keys_agree()
        told: dict[AttemptKey, dict[str, list[tuple[str, int]]]] = {}
        for view in self.view.views():
            for act in view.record.of("disclosure"):
                if act.data.what == "inner_products" and act.data.value:
                    told.setdefault(act.key, {}).setdefault(act.data.value, []).append((view.name, act.seq))
        for key, values in told.items():
            if len(values) > 1:
                log, seq = min(values.values(), key=len)[0]
                raise self._refuse(log, seq, "audit.inner_products", f"{key}: its inner products stand otherwise elsewhere")
            text = next(iter(values))
            log, seq = values[text][0]
            if not are_numbers(text, key.round):
                raise self._refuse(log, seq, "audit.inner_products", f"{key}: {key.round} inner products are due")

    def _keys_agree(self) -> None:
        view, key = self.view, self.view.last_done("align")
        if key is None or not view.spec.align.keys:
            return
        found = view.found_by_key
        sizes = [view.sizes_by_key(key, party) for party in view.parties]
        possible = len(found) == len(view.spec.align.keys) and sum(found) == view.shared
        if not possible or any(count > size for one in sizes for count, size in zip(found, one, strict=False)):
            said = ((log.name, act) for log in view.views() for act in log.record.of("disclosure"))
            log, seq = next(((name, act.seq) for name, act in said if act.data.what == "by_key"), (view.parties[0], None))
            reason = f"{key}: the customers found by each key ({list(found)}) do not add up to those shared"
            raise self._refuse(log, seq, "audit.by_key", reason)

    def _ends_agree(self) -> None:
        """A job that is finished in one log did not end otherwise in another."""
        ends = [(view, view.record.end.state) for view in self.view.views() if view.record.end is not None]
        finished = [view for view, state in ends if state == "finished"]
        others = [view for view, state in ends if state != "finished"]
        if finished and others:
            view = min(finished, others, key=len)[0]
            reason = f"it ended as {view.record.end.state} here, and otherwise in another log" if view.record.end else ""
            raise self._refuse(view.name, view.record.last_seq, "audit.ends_differ", reason)

    # ---- messages ---------------------------------------------------------------------------------------------------------

    def _messages(self, node: NodeView) -> int:
        """Types, counts and lengths of every attempt's messages, each direction for itself."""
        view = self.view
        for attempt in node.record.attempts.values():
            if not attempt.peer:
                if attempt.was_done:
                    raise self._refuse(node.name, attempt.state_seq, "audit.order", f"{attempt.key} is done without a message")
                continue
            key = attempt.key
            for sender, way in ((node.name, "sent"), (attempt.peer, "received")):
                figures = view.figures(node, attempt, sender)
                parts = legal_messages(key.step, figures, round=key.round, directive=attempt.directive)
                try:
                    check_sequence(parts, shapes_of(node.ledger, view.job, attempt, way), complete=attempt.was_done)
                except Unlawful as fault:
                    seq = self._seq_of(node, attempt, way, fault.index)
                    raise self._refuse(node.name, seq, "audit.message_order", f"{key}, {way}: {fault.reason}") from None
            if attempt.was_done:
                self._numbers(node, attempt)
        return len(node.record.attempts)

    def _numbers(self, node: NodeView, attempt: Attempt) -> None:
        """What a step that was done ran on, what the nodes told each other of it, and how much they say to have exchanged."""
        key = attempt.key
        if wrong := bad_numbers(key.step, key.round, attempt.directive):
            raise self._refuse(node.name, attempt.first_seq, *wrong)
        if attempt.bytes_told not in (None, (attempt.sent.bytes, attempt.received.bytes)):
            reason = f"{key}: its messages have {attempt.sent.bytes} bytes sent and {attempt.received.bytes} received"
            raise self._refuse(node.name, attempt.state_seq, "audit.bytes", reason)
        for way, kind in altered(self.view, node, attempt):
            if kind == "DirectiveEcho":
                reason = f"{key}, {way}: the numbers that the nodes told each other are not those of the directive"
                raise self._refuse(node.name, attempt.first_message, "audit.directive_differs", reason)

    def _seq_of(self, node: NodeView, attempt: Attempt, way: str, index: int | None) -> int:
        """The entry of a direction's message."""
        if index is None:
            return attempt.state_seq
        for seq, message in node.ledger.messages(self.view.job, attempt, way):
            if message.number == index:
                return seq
        return attempt.state_seq


class _Steps:
    """How far a job has come: the place begun last, whether it is done, and on what numbers it runs."""

    def __init__(self) -> None:
        self.place = ("", 0)
        self.key: AttemptKey | None = None
        self.attempt = 0
        self.done = True
        self.rounds = 0
        self.directive = Directive()
        self.prepared = 0
        """The attempt of the last preparation."""
        self.waiting: dict[tuple[str, int], Directive | None] = {}
        """The round that a second preparation is for, with its numbers; where it was done, it may have to start again all the
        same, or the next round is due."""

    def enter(self, key: AttemptKey, directive: Directive) -> None:
        """An attempt began."""
        if key.step == "prepare":
            self.prepared = key.attempt
            if self.place[0] == "round":
                self.waiting = {self.place: self.directive}
                if self.done:
                    self.waiting[self.place[0], self.place[1] + 1] = None
        elif key.step == "round":
            self.waiting = {}
        self.key, self.place, self.attempt, self.directive = key, (key.step, key.round), key.attempt, directive
        self.done = False
        self.rounds = max(self.rounds, key.round)


def _a(event: str) -> str:
    return f"{'an' if event[:1] in 'aeio' else 'a'} {event!r}"


def _decision(act: Act, own: str) -> str:
    try:
        approval = parse_approval(act.data.statement)
    except VerificationError:
        return "approval"
    verb = "approves" if approval.decision == "approve" else "rejects"
    return verb if approval.party == own or not own else f"other {verb}"


def _node_event(act: Act, own: str) -> str:
    """What an entry is in the table of a node's log."""
    if act.kind == "approval":
        return _decision(act, own)
    if act.kind == "commitment":
        return act.data.what if not act.key.step else "commitment"
    return act.kind


def _coordinator_event(act: Act) -> str:
    """What an entry is in the table of the coordinator's log."""
    if act.kind == "approval":
        return _decision(act, "")
    if act.kind == "job":
        return "job" if act.data.state in ("finished", "failed", "cancelled", "rejected") else str(act.data.state)
    return act.kind
