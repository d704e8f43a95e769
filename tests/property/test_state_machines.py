"""State machines under any sequence of events: a coordinator's job, the attempts of a node's steps, the windows of a session."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coordinator import jobs
from coordinator.reports import StepReport
from node.errors import IsthmusError
from node.limits import Limits
from node.runtime.store import Store
from node.transport.windows import Inbox, Outbox, Part
from protos import peer_pb2
from tests.fuzz.events import check_course
from tests.unit.test_jobs import APPROVE, METRICS, PARTIES, REJECT, done, new_count, new_job

FEW = settings(max_examples=60, stateful_step_count=40, deadline=None)


class CoordinatorJob(RuleBasedStateMachine):
    """Events of nodes, operators and crashes; the nodes tell the truth, repeat themselves, come late, or lie."""

    @initialize(rounds=st.integers(0, 4), holdout=st.sampled_from(["0", "0.2"]))
    def submit(self, rounds: int, holdout: str) -> None:
        self.job = new_job(rounds=rounds, holdout=holdout) if rounds else new_count()
        self.past: list[tuple[str, StepReport]] = []

    def go(self, outcome: jobs.Outcome) -> None:
        before, (self.job, orders) = self.job, outcome
        check_course(before, self.job, orders)
        if self.job.ended and not before.ended:
            assert orders == (jobs.SendEnd(),)

    @rule(party=st.sampled_from(PARTIES), decision=st.sampled_from([APPROVE, APPROVE, APPROVE, REJECT]))
    def decide(self, party: str, decision: jobs.Decision) -> None:
        self.go(jobs.decide(self.job, party, decision))

    @rule(party=st.sampled_from(PARTIES))
    def offer(self, party: str) -> None:
        self.go(jobs.offer(self.job, party))

    @rule()
    def start(self) -> None:
        if self.job.state == "approved":
            self.go(jobs.start(self.job))
        else:
            assert code_of(lambda: jobs.start(self.job)) == "coordinator.illegal_transition"

    @precondition(lambda self: self.job.running is not None)
    @rule(party=st.sampled_from(PARTIES))
    def report(self, party: str) -> None:
        step = self.job.running
        assert step is not None
        honest = done(step, **({"metrics": METRICS} if step.step == "evaluate" else {}))
        self.past.append((party, honest))
        self.go(jobs.report(self.job, party, honest))
        assert self.job.code == ""

    @precondition(lambda self: self.past)
    @rule(data=st.data())
    def echo(self, data: st.DataObject) -> None:
        """What was said before changes nothing when it is said again."""
        before = self.job
        self.go(jobs.report(self.job, *data.draw(st.sampled_from(self.past))))
        assert self.job == before

    @precondition(lambda self: self.job.running is not None and self.job.running.reports)
    @rule(party=st.sampled_from(PARTIES))
    def contradict(self, party: str) -> None:
        step = self.job.running
        assert step is not None
        self.go(jobs.report(self.job, party, replace(done(step), transcript_sha256="cd" * 32)))
        assert (self.job.state, self.job.code) == ("failed", "coordinator.reports_differ")

    @rule()
    def restart(self) -> None:
        before = self.job
        self.go(jobs.restart(self.job))
        if before.running is not None:
            assert self.job.attempt == before.attempt + 1
            assert self.job.running is not None
            assert not self.job.running.reports

    @precondition(lambda self: len(self.job.steps) > 5)
    @rule()
    def cancel(self) -> None:
        if self.job.ended:
            assert code_of(lambda: jobs.cancel(self.job)) == "coordinator.illegal_transition"
        else:
            self.go(jobs.cancel(self.job))

    @invariant()
    def rounds_within_the_job(self) -> None:
        if hasattr(self, "job"):
            assert all(step.round <= self.job.spec.model.rounds for step in self.job.steps)
            assert [step.round for step in self.job.rounds_done] == list(range(1, len(self.job.rounds_done) + 1))


def code_of(event: Callable[[], object]) -> str:
    """The code with which an event is refused; empty when it is not."""
    try:
        event()
    except IsthmusError as error:
        return error.code
    return ""


class Attempts(RuleBasedStateMachine):
    """What a coordinator may ask of ``begin_step``, with crashes in between: no random stream and no mask serves twice."""

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.home.name))
        self.used: list[tuple[str, int, int]] = []

    @rule(step=st.sampled_from(["align", "prepare", "round", "finish"]), round=st.integers(0, 3), attempt=st.integers(0, 4))
    def begin(self, step: str, round: int, attempt: int) -> None:
        round = max(round, 1) if step == "round" else 0
        # Said again in other words: an attempt above all others is new; a round's place among the masks only grows.
        low = any(attempt < before for _, _, before in self.used)
        slot = round - 1 + attempt
        taken = step == "round" and any(slot <= r - 1 + a for s, r, a in self.used if s == "round")
        allowed = not low and not taken and (step, round, attempt) not in self.used
        code = code_of(lambda: self.store.begin_step("ab", step, round, attempt, now="2026-01-01T00:00:00Z"))
        assert code == ("" if allowed else "job.attempt_reused")
        if allowed:
            self.used.append((step, round, attempt))

    @rule()
    def crash(self) -> None:
        self.store.close()
        self.store = Store(Path(self.home.name))
        self.store.interrupt_steps(now="2026-01-01T00:00:01Z")

    @invariant()
    def no_slot_twice(self) -> None:
        rows = self.store.steps("ab")
        assert [(row.step, row.round, row.attempt) for row in rows] == self.used
        slots = [row.round - 1 + row.attempt for row in rows if row.step == "round"]
        assert len(set(slots)) == len(slots)

    def teardown(self) -> None:
        self.store.close()
        self.home.cleanup()


SMALL = Limits(message_bytes=1000, chunk_bytes=100, window_bytes=400, window_frames=6)


class Windows(RuleBasedStateMachine):
    """Both ends of one direction over a link that is cut at any place: everything arrives, once, in order, and no end holds more
    than a window."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox, self.inbox = Outbox("bank", SMALL), Inbox("bank", SMALL)
        self.way: list[peer_pb2.Data] = []
        self.cursor = self.put_next = self.got_next = 0

    @rule(size=st.integers(8, 100))
    def put(self, size: int) -> None:
        if self.outbox.has_room(size):
            self.outbox.put(Part("PsiStart", self.put_next.to_bytes(8, "big").ljust(size, b"."), more=False))
            self.put_next += 1

    @rule()
    def send(self) -> None:
        if self.cursor < self.outbox.put_count:
            self.way.append(self.outbox.frame(self.cursor, 0).data)
            self.cursor += 1

    @rule()
    def arrive(self) -> None:
        if self.way:
            self.inbox.put(self.way.pop(0))

    @rule()
    def cut(self) -> None:
        """What is on the way is lost; the sender hears how far the receiver came."""
        self.way.clear()
        self.outbox.check_resume(self.inbox.received)
        self.cursor = self.inbox.received

    @rule()
    def take(self) -> None:
        if len(self.inbox):
            part = self.inbox.get()
            assert int.from_bytes(part.payload[:8], "big") == self.got_next
            self.got_next += 1

    @rule()
    def acknowledge(self) -> None:
        self.outbox.acknowledge(self.inbox.taken)
        assert self.outbox.taken == self.inbox.taken

    @rule(count=st.integers(0, 2**64 - 1))
    def lie(self, count: int) -> None:
        """A count that cannot be is refused and changes nothing."""
        before = (self.outbox.taken, self.outbox.sent, self.outbox.held)
        if not self.outbox.taken <= count <= self.outbox.sent:
            assert code_of(lambda: self.outbox.acknowledge(count)) == "transport.bad_ack"
            assert code_of(lambda: self.outbox.check_resume(count)) == "transport.bad_resume"
        assert before == (self.outbox.taken, self.outbox.sent, self.outbox.held)

    @rule(ahead=st.integers(1, 2**63))
    def gap(self, ahead: int) -> None:
        received = self.inbox.received
        frame = peer_pb2.Data(type="PsiStart", seq=received + ahead, payload=b"x")
        assert code_of(lambda: self.inbox.put(frame)) == "transport.out_of_order"
        assert self.inbox.received == received

    @invariant()
    def bounded(self) -> None:
        for held, count in ((self.outbox.held, len(self.outbox)), (self.inbox.held, len(self.inbox))):
            assert 0 <= held <= SMALL.window_bytes
            assert count <= SMALL.window_frames
        assert self.outbox.taken <= self.inbox.taken <= self.inbox.received <= self.outbox.sent <= self.outbox.put_count


TestCoordinatorJob = CoordinatorJob.TestCase
TestCoordinatorJob.settings = FEW
TestAttempts = Attempts.TestCase
TestAttempts.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
TestWindows = Windows.TestCase
TestWindows.settings = FEW
