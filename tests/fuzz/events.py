"""Targets: the coordinator's and the node's own state machines, driven by sequences of what the other may say."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from google.protobuf.message import DecodeError

from audit.errors import IsthmusError, PeerError, VerificationError
from audit.identity import create_identity
from audit.receipts import approval_statement
from coordinator import jobs
from coordinator import runner as coordinator_runner
from coordinator.control_fields import check_report, step_report
from coordinator.reports import StepReport
from coordinator.runner import Runner
from coordinator.server import Server
from node.runtime import jobs as node_jobs
from protos import control_pb2
from tests.coordinator_world import World
from tests.coordinator_world import report as honest_report
from tests.fuzz.documents import folder
from tests.fuzz.messages import mutate
from tests.fuzz.reader import Reader
from tests.nodes import TestNode, approvals_of, node, spec_of, write_node
from tests.unit.test_jobs import APPROVE, METRICS, REJECT, done, new_count, new_job

# ---- the coordinator -------------------------------------------------------------------------------------------------------------


def report(data: bytes) -> None:
    """One report of a node: raw bytes, or a good one with fields changed."""
    reader = Reader(data)
    found = control_pb2.Report()
    if reader.byte() < 128:
        try:
            found = control_pb2.Report.FromString(reader.rest())
        except DecodeError:
            return
    else:
        found.CopyFrom(reader.pick(_good_reports()))
        mutate(found, reader)
    checked = check_report(found)
    if checked.WhichOneof("body") == "step_done":
        step_report(checked.step_done)


@functools.cache
def _good_reports() -> tuple[control_pb2.Report, ...]:
    done_fields: dict[str, Any] = {"job": "ab" * 32, "transcript_sha256": "ab" * 32, "seconds": 1.0}
    made = [
        control_pb2.Report(hello=control_pb2.Hello(protocol=1, party="bank", software="0.1.0")),
        control_pb2.Report(step_done=control_pb2.StepDone(step="align", set_size=5, intersection=4, rows_train=4, **done_fields)),
        control_pb2.Report(step_done=control_pb2.StepDone(step="round", round=1, inner_products=[0.5], **done_fields)),
        control_pb2.Report(step_done=control_pb2.StepDone(step="evaluate", metrics=control_pb2.Metrics(auc=0.5), **done_fields)),
        control_pb2.Report(step_done=control_pb2.StepDone(step="count", set_size=5000, intersection=1200, **done_fields)),
        control_pb2.Report(step_failed=control_pb2.StepFailed(job="ab" * 32, step="align", code="psi.too_few_shared")),
        control_pb2.Report(progress=control_pb2.StepProgress(job="ab" * 32, step="align", phase="align", done=1, total=2)),
    ]
    return tuple(made)


_DECISIONS = (APPROVE, REJECT)


def course(data: bytes) -> None:
    """A job of the coordinator under any sequence of events, its nodes' reports as untrue as their form allows."""
    reader = Reader(data)
    rounds, holdout, options = 1 + reader.byte() % 4, reader.pick(("0", "0.2")), reader.byte()
    job = new_count() if options & 2 else new_job(rounds=rounds, holdout=holdout, to_coordinator=bool(options & 1))
    while reader.left:
        before, way, party = job, reader.byte(), reader.pick(job.parties)
        try:
            job, orders = _event(job, party, way, reader)
        except IsthmusError as error:
            if error.code != "coordinator.illegal_transition":
                raise AssertionError(error.code) from error
            continue
        check_course(before, job, orders)


def _event(job: jobs.Job, party: str, way: int, reader: Reader) -> jobs.Outcome:
    if way < 30:
        return jobs.decide(job, party, reader.pick(_DECISIONS))
    if way < 45:
        return jobs.start(job)
    if way < 60:
        return jobs.restart(job)
    if way < 62:
        return jobs.fail(job, "psi.too_few_shared")
    if way < 64:
        return jobs.cancel(job)
    if way < 66:
        return jobs.offer(job, party)
    step = job.running or jobs.Step("align", 0, 0)
    honest = done(step, **({"metrics": METRICS} if step.step == "evaluate" else {}))
    if way < 200:
        return jobs.report(job, party, honest)
    both, changed = job.parties if way & 1 else (party,), _untrue(honest, reader)
    orders: tuple[jobs.Order, ...] = ()
    for name in both:
        job, more = jobs.report(job, name, changed)
        orders += more
    return job, orders


def _untrue(honest: StepReport, reader: Reader) -> StepReport:
    """A report that passes the form check and says anything."""
    way = reader.byte() % 6
    if way == 0:
        return replace(honest, rows_train=reader.integer(48), intersection=reader.integer(48), set_size=reader.integer(48))
    if way == 1:
        return replace(honest, inner_products=tuple(_in_range(reader.number()) for _ in range(reader.byte() % 6)))
    if way == 2:
        return replace(honest, inner_products=tuple(_in_range(reader.number()) for _ in honest.inner_products))
    if way == 3:
        return replace(honest, base_rate=reader.pick(("", "0.0", "0.00000001", "0.99999999", "0.21", "0.5")))
    if way == 4:
        return replace(honest, columns=reader.integer(48))
    return replace(honest, attempt=reader.integer(32), round=reader.integer(32))


def _in_range(value: float) -> float:
    """As the form check lets it through."""
    return max(-1e6, min(1e6, value)) if value == value else 0.0


def check_course(before: jobs.Job, job: jobs.Job, orders: tuple[jobs.Order, ...]) -> None:
    """What holds of every job after every event."""
    assert job.attempt >= before.attempt
    assert len(job.steps) >= len(before.steps)
    assert not before.ended or job.state == before.state
    running = [step for step in job.steps if step.state == "running"]
    assert len(running) == (1 if job.state in jobs.STEPS else 0)
    places = [(step.step, step.round, step.attempt) for step in job.steps]
    assert len(set(places)) == len(places), "an attempt serves twice"
    slots = [step.round - 1 + step.attempt for step in job.steps if step.step == "round"]
    assert all(later > earlier for earlier, later in itertools.pairwise(slots)), "a mask serves twice"
    assert all(step.attempt <= job.attempt for step in job.steps)
    if job.state in jobs.STEPS:
        assert {name: d.decision for name, d in job.decisions.items()} == dict.fromkeys(job.parties, "approve")
        assert running[0].step == job.state
    assert bool(job.code) == (job.state in ("failed", "cancelled", "rejected"))
    started = [order for order in orders if isinstance(order, jobs.SendStep)]
    assert all(order.step == job.steps[-1] for order in started[-1:])


@functools.cache
def _world() -> tuple[World, Runner]:
    """A coordinator that listens to nobody."""
    world = World(folder() / "world")
    server = Server(world.config)
    atexit.register(server.stop)
    return world, server.runner


def runner(data: bytes) -> None:
    """Reports of both nodes at the coordinator itself: database, log and directives, and not only the state machine."""
    with mock.patch.object(coordinator_runner, "RECENT", 2):  # earlier inputs' jobs are not told again at every attaching
        _run_job(data)


def _run_job(data: bytes) -> None:
    world, coordinator = _world()
    reader = Reader(data)
    job = coordinator.submit(world.spec(rounds=1 + reader.byte() % 3).canonical())
    attached = {name: coordinator.attach(name) for name in job.parties}
    try:
        while reader.left:
            now = coordinator.find(job.identity)
            party, way = reader.pick(job.parties), reader.byte()
            said = _next_report(world, now, party)
            if way >= 128:
                mutate(said, reader)
            if way % 16 == 7:
                coordinator.detach(attached[party])
                attached[party] = coordinator.attach(party)
            try:
                coordinator.receive(attached[party], check_report(said))
            except PeerError as error:
                coordinator.refuse(attached[party], said, error)
            except VerificationError:
                continue
            check_course(now, coordinator.find(job.identity), ())
    finally:
        if not coordinator.find(job.identity).ended:
            coordinator.cancel(job.identity)
        for attachment in attached.values():
            coordinator.detach(attachment)


def _next_report(world: World, job: jobs.Job, party: str) -> control_pb2.Report:
    """What an honest node would say now."""
    if job.running is None:
        statement = approval_statement(
            job=job.identity,
            party=party,
            peer=job.spec.peer_of(party).name,
            decision="approve",
            by="Ana",
            time="2026-01-01T00:00:00Z",
        )
        signature = world.identities[party].log_key.sign(statement).hex()
        return control_pb2.Report(
            decision=control_pb2.Decision(job=job.identity, statement=statement.decode(), signature=signature)
        )
    step = job.running
    start = control_pb2.StepStart(job=job.identity, step=step.step, round=step.round, attempt=step.attempt)
    return honest_report(party, start)


# ---- the node --------------------------------------------------------------------------------------------------------------------


@functools.cache
def _bank() -> tuple[TestNode, dict[str, Any]]:
    """A node that never serves; the job's steps have no data to run on and end at once."""
    home = Path(tempfile.mkdtemp(dir=folder()))
    known = {name: create_identity(home / name, name=name, role=name) for name in ("bank", "platform", "coordinator")}
    dataset = '[[dataset]]\nname = "cards"\nsource = "csv"\npath = "cards.csv"\nidentifier = "id"\n' + "".join(
        f'[dataset.columns.{name}]\nkind = "{"label" if name == "y" else "number"}"\n' for name in ("a", "b", "y")
    )
    stack = contextlib.ExitStack()
    atexit.register(stack.close)  # before the folder goes
    return stack.enter_context(node(write_node(home, "bank", dataset), known, {})), known


def directives(data: bytes) -> None:
    """The coordinator says anything to a node; a step that would run is put down as used and not run."""
    bank, known = _bank()
    reader = Reader(data)
    spec = spec_of(nonce=reader.take(16).hex().ljust(32, "0"))
    good = (
        control_pb2.Directive(offer=control_pb2.Offer(job=spec.identity(), spec=spec.canonical().decode())),
        control_pb2.Directive(approvals=approvals_of(spec, known)),
        control_pb2.Directive(step_start=control_pb2.StepStart(job=spec.identity(), step="align")),
        control_pb2.Directive(step_start=control_pb2.StepStart(job=spec.identity(), step="prepare", attempt=1)),
        control_pb2.Directive(job_end=control_pb2.JobEnd(job=spec.identity(), outcome="failed", code="psi.too_few_shared")),
    )
    with _not_run():
        for _ in range(6):
            if not reader.left:
                return
            directive = control_pb2.Directive()
            directive.CopyFrom(reader.pick(good))
            if reader.byte() >= 128:
                mutate(directive, reader)
            bank.jobs.handle(directive)
            if reader.byte() >= 240:
                bank.jobs.on_attach()
    for line in bank.heard.lines:
        assert "Traceback" not in line
    bank.heard.lines.clear()
    for found in bank.heard.reports:
        check_report(found)
    bank.heard.reports.clear()


def _not_run() -> Any:
    class Never:
        alive = False
        peer = "platform"

        def __init__(self, parts: Any, labels: Any, *rest: Any, **named: Any) -> None:
            self.labels = labels
            parts.store.begin_step(labels.job, labels.step, labels.round, labels.attempt, now=parts.now())

        def start(self, after: Any = None) -> None:
            return None

        def cancel(self, error: Exception) -> None:
            return None

        def join(self, seconds: float) -> None:
            return None

    return mock.patch.object(node_jobs, "Execution", Never)


def seeds(name: str) -> list[bytes]:
    """Valid inputs of a target."""
    if name == "report":
        return [b"\0" + found.SerializeToString(deterministic=True) for found in _good_reports()] + [
            bytes([200, i]) for i in range(6)
        ]
    if name == "runner":
        return [bytes([1]) + bytes([0, 0, 1, 0]) * 6, bytes([1]) + bytes([0, 0, 1, 0]) * 2 + bytes([0, 7, 1, 0])]
    if name == "course":
        honest = bytes([100, 0, 100, 1])
        return [bytes([2, 1, 1, 0, 0, 0, 0, 1, 0, 40, 0]) + honest * 8, bytes([0, 0, 0, 0, 0, 0, 0, 1, 0, 40, 0]) + honest * 2]
    if name == "directives":
        return [bytes(16) + bytes([0, 0, 0, 1, 0, 0, 2, 0, 0, 3, 0, 0, 4, 0, 0])]
    return [bytes(40), bytes(range(60))]
