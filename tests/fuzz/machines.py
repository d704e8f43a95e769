"""Targets: streams and state machines, driven by sequences of what a peer or the coordinator may say."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from audit.errors import IsthmusError
from audit.identity import create_identity
from audit.signing import SigningKey
from coordinator import jobs
from coordinator.control_fields import check_report, step_report
from coordinator.rooms import RelayLimits, Rooms
from node.crypto.curve import Blinder, check_canonical
from node.limits import Limits
from node.transport.channel import MESSAGE_TYPES, GrpcChannel, parse
from node.transport.errors import told_by
from node.transport.opening import check_open
from node.transport.options import Timeouts
from node.transport.relay import Carrier
from node.transport.sealing import Handshake, Kind, Meeting, Opener, Sealer, Side
from node.transport.session import Session
from node.transport.windows import Inbox, Outbox, Part
from protos import control_pb2, peer_pb2
from tests.fuzz import halves
from tests.fuzz.documents import folder
from tests.fuzz.messages import mutate
from tests.fuzz.reader import Reader
from tests.nodes import TestNode, approvals_of, node, spec_of, write_node
from tests.unit.test_jobs import APPROVE, METRICS, REJECT, done, new_job

TINY = Limits(message_bytes=4096, chunk_bytes=512, window_bytes=2048, window_frames=8)
AT_ONCE = Timeouts(patience=0.0, peer=0.0, open=0.0, close=0.0, silence=0.0)
_TYPES = sorted(MESSAGE_TYPES)


# ---- the peer's stream -----------------------------------------------------------------------------------------------------------


def message(data: bytes) -> None:
    """Every type of message that a protocol takes."""
    reader = Reader(data)
    kind = getattr(peer_pb2, reader.pick(_TYPES))
    payload = reader.rest()
    assert parse(kind, payload).SerializeToString(deterministic=True) == payload


def opening(data: bytes) -> None:
    """An ``Open`` that is nearly right."""
    reader = Reader(data)
    mine = peer_pb2.Open(protocol=2, party="bank", job="ab" * 32, step="align", session=bytes(16))
    theirs = peer_pb2.Open.FromString(mine.SerializeToString())
    mutate(theirs, reader)
    check_open(mine, theirs, peer="bank")


def frames(data: bytes) -> None:
    """A whole session, its frames and both windows, as a peer's stream brings them; the protocol asks for what is there."""
    reader = Reader(data)
    session = Session(peer="bank", calls=True, token=bytes(16), limits=TINY, timeouts=AT_ONCE)
    mine = peer_pb2.Open(protocol=2, party="shop", job="ab" * 32, step="align", session=bytes(16))
    session.claim(mine)
    leg = session.begin()
    assert session.next(leg) is not None  # our own Open
    session.put(Part("PsiStart", b"\x08\x05", more=False))
    channel = GrpcChannel(session, limits=TINY)
    while reader.left:
        frame = peer_pb2.Frame()
        way = reader.byte()
        if way < 32:
            frame.open.CopyFrom(mine)
            frame.open.party = "bank"
        elif way < 160:
            frame.data.type, frame.data.seq = reader.pick(_TYPES), session.inbox.received
            frame.data.payload, frame.data.more = reader.take(reader.byte()), bool(way & 1)
        elif way < 224:
            mutate(frame, reader)
        else:
            try:
                frame = peer_pb2.Frame.FromString(reader.take(reader.byte()))
            except DecodeError:
                continue
        if not session.take(leg, frame):
            break
        if leg.joined and not session.settled and leg.cursor < session.outbox.put_count:
            session.next(leg)  # our message goes out, and may be acknowledged
        if way & 2 and len(session.inbox):
            channel.recv_payload(reader.pick(_TYPES))
        assert session.inbox.held <= TINY.window_bytes + TINY.chunk_bytes
        assert len(session.inbox) <= TINY.window_frames
    if session._failure is not None:
        raise session._failure


def windows(data: bytes) -> None:
    """Both ends of one direction, told anything."""
    reader = Reader(data)
    outbox, inbox = Outbox("bank", TINY), Inbox("bank", TINY)
    while reader.left:
        way = reader.byte() % 6
        if way == 0 and outbox.has_room(64):
            outbox.put(Part("PsiStart", bytes(64), more=False))
        elif way == 1 and outbox.put_count > outbox.taken:
            outbox.frame(outbox.taken, 0)
        elif way == 2:
            outbox.acknowledge(reader.integer(64))
        elif way == 3:
            outbox.check_resume(reader.integer(64))
        elif way == 4:
            inbox.put(peer_pb2.Data(type="PsiStart", seq=inbox.received + (reader.byte() == 255), payload=reader.take(64)))
        elif len(inbox):
            inbox.get()
        assert 0 <= outbox.taken <= outbox.sent <= outbox.put_count
        assert inbox.held <= TINY.window_bytes


def points(data: bytes) -> None:
    """Points of the peer: refused, or masked to something that is not zero."""
    whole = data[: len(data) // 32 * 32]
    check_canonical(whole)
    assert len(Blinder(b"s" * 32).blind(whole)) == len(whole)


def abort_code(data: bytes) -> None:
    """What a peer says when it gives up is never repeated unless it is a code."""
    text = data.decode("utf-8", "replace")
    raise told_by("bank", text)


# ---- the relay -------------------------------------------------------------------------------------------------------------------

_KEYS = {name: SigningKey(f"isthmus.log/{name}", bytes([place]) * 32) for place, name in enumerate(("bank", "shop"), start=1)}
_SIDES = {name: Side(name, key.verifier) for name, key in _KEYS.items()}


def _meeting() -> Meeting:
    return Meeting("ab" * 32, "align", 0, 0, _SIDES["bank"], _SIDES["shop"])


def sealed(data: bytes) -> None:
    """Sealed by the true peer, but of any content: kinds, lengths, padding and frames that lie."""
    reader = Reader(data)
    sealer, opener = Sealer(b"k" * 32), Opener(b"k" * 32, peer="bank", frame_bytes=2**20)
    taken = 0
    while reader.left:
        way = reader.byte()
        content = reader.take(reader.byte())
        if way < 128:
            record = sealer.seal(reader.pick(tuple(Kind)), content)
        elif way < 200:  # a header that lies, in a record that opens
            record = sealer._cipher.encrypt(sealer._nonce(), content, None)
        else:
            record = content
        kind, frame = opener.take(record)
        taken += len(frame)
        if kind is Kind.FRAME:
            try:
                peer_pb2.Frame.FromString(frame)
            except DecodeError:
                return
    assert taken <= len(data)


def carried(data: bytes) -> None:
    """The records that a relay hands over, before anyone has proven anything."""
    reader = Reader(data)
    records = []
    while reader.left:
        records.append(reader.take(32 if reader.byte() < 128 else reader.byte()))
    handshake = Handshake(_meeting(), me="bank", key=_KEYS["bank"], frame_bytes=2**16)
    for _ in Carrier(handshake, [], peer="shop").frames(iter(records)):
        raise AssertionError("a frame came out of a session that nobody proved")


def rooms(data: bytes) -> None:
    """Rooms of the relay: streams that come, send, leave and come again in any order."""
    reader = Reader(data)
    clock = [0.0]
    limits = RelayLimits(buffer_bytes=1000, buffer_records=8, record_bytes=400, rooms=2, streams_of_one=2, check=0.0, linger=0.0)
    found = Rooms(limits, runs=lambda attempt: bool(reader.byte() & 1), clock=lambda: clock[0])
    open_rooms: list[Any] = []
    while reader.left:
        way, party = reader.byte() % 6, reader.pick(("bank", "shop"))
        attempt = ("ab" * 32, "align", 0, reader.byte() % 3)
        try:
            if way == 0:
                with found.stream(party):
                    open_rooms.append(found.enter(attempt, party, ("bank", "shop"), lambda: None))
            elif open_rooms and way == 1:
                room = reader.pick(open_rooms)
                if room._fits(room.other(party), 64) or reader.byte() > 200:
                    room.put(party, reader.take(64) if room._fits(room.other(party), 64) else bytes(401))
            elif open_rooms and way == 2:
                reader.pick(open_rooms).left(party)
            elif open_rooms and way == 3:
                reader.pick(open_rooms).finish(party)
            elif open_rooms and way == 4:
                reader.pick(open_rooms).check()
            else:
                clock[0] += reader.byte() * 100
        except IsthmusError as error:
            if not error.code.startswith("relay."):  # nothing else may come of it
                raise
        assert len(found._rooms) <= limits.rooms
        assert all(sum(map(len, room._for[p])) <= limits.buffer_bytes for room in open_rooms for p in ("bank", "shop"))


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
        control_pb2.Report(step_failed=control_pb2.StepFailed(job="ab" * 32, step="align", code="psi.too_few_shared")),
        control_pb2.Report(progress=control_pb2.StepProgress(job="ab" * 32, step="align", phase="align", done=1, total=2)),
    ]
    return tuple(made)


_DECISIONS = (APPROVE, REJECT)


def course(data: bytes) -> None:
    """A job of the coordinator under any sequence of events, its nodes' reports as untrue as their form allows."""
    reader = Reader(data)
    job = new_job(rounds=1 + reader.byte() % 4, holdout=reader.pick(("0", "0.2")), to_coordinator=bool(reader.byte() & 1))
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


def _untrue(honest: jobs.StepReport, reader: Reader) -> jobs.StepReport:
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
    from unittest import mock

    from node.runtime import jobs as module

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

    return mock.patch.object(module, "Execution", Never)


def seeds(name: str) -> list[bytes]:
    """Valid inputs of a target."""
    if name == "message":
        return [bytes([_TYPES.index(kind)]) + payload for kind, payload in sorted(_recorded().items())]
    if name == "report":
        return [b"\0" + found.SerializeToString(deterministic=True) for found in _good_reports()] + [
            bytes([200, i]) for i in range(6)
        ]
    if name == "frames":
        return [bytes([0, 32, 5, 2, 1, 2, 36, 5, 2, 1, 2]), bytes([0, 33, 0, 9]) + b"x" * 9 + bytes([34, 0, 3, 1, 2, 3, 0])]
    if name == "course":
        honest = bytes([100, 0, 100, 1])
        return [bytes([2, 1, 1, 0, 0, 0, 0, 1, 0, 40, 0]) + honest * 8, bytes([0, 0, 0, 0, 0, 0, 0, 1, 0, 40, 0]) + honest * 2]
    if name == "directives":
        return [bytes(16) + bytes([0, 0, 0, 1, 0, 0, 2, 0, 0, 3, 0, 0, 4, 0, 0])]
    if name == "sealed":
        return [bytes([0, 4]) + b"abcd" + bytes([2, 0, 0, 3])]
    if name == "points":
        return [Blinder(b"t" * 32).blind((9).to_bytes(32, "little")) * 2]
    if name == "abort-code":
        return [b"psi.too_few_shared", b"<script>"]
    return [bytes(40), bytes(range(60))]


def _recorded() -> dict[str, bytes]:
    """One message of each type that an honest job sends."""
    runs = [halves.aligning(), halves.preparing(), halves.rounding(1), halves.rounding(2), halves.finishing(), halves.evaluating()]
    return {kind: payload for run in runs for sent in run.sent.values() for kind, payload in sent}
