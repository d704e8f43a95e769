"""The relay over real gRPC and TLS: two nodes that meet there, and everything that a partner could try with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from audit.identity import Identity, create_identity
from audit.partner import export_partner, partner_of
from audit.spec import JobSpec, parse_spec
from node.errors import IsthmusError, PeerAborted, TransportError, VerificationError
from node.limits import Limits
from node.transport.channel import PROTOCOL_VERSION, GrpcChannel
from node.transport.options import Timeouts
from node.transport.relay import meet
from node.transport.switchboard import Switchboard
from protos import peer_pb2, relay_pb2, relay_pb2_grpc, tls
from protos.peer_pb2 import MaskedPoints, PsiStart
from tests.coordinator_world import World

pytestmark = pytest.mark.timed

QUICK = Timeouts(patience=3.0, peer=5.0, open=2.0, close=1.0, heartbeat=0.5, silence=2.5, backoff=0.05, backoff_max=0.2)
LIMITS = Limits(message_bytes=2**20, window_bytes=2**22)
WAIT = 10.0


class Relayed(World):
    """A coordinator with a job whose alignment runs, and a third partner who has no part in it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.stranger = create_identity(folder / "stranger", name="stranger", role="bank")
        (self.home / "partners" / "stranger.partner.json").write_bytes(export_partner(self.stranger, address=""))

    def begin(self) -> None:
        self.serve()
        for name in ("bank", "platform"):
            self.node(name, script=lambda start: None).attached.wait(WAIT)
        self.job = self.submit(rounds=2)
        self.until(self.job, "align")
        self.spec: JobSpec = parse_spec(self.show(self.job).spec.encode())
        self.limit(open=1.0, join=1.0, check=0.1, linger=0.2)

    def limit(self, **changes: Any) -> None:
        assert self.server is not None
        self.server.relay.rooms.limits = replace(self.server.relay.rooms.limits, **changes)

    def opening(self, name: str, **changes: Any) -> peer_pb2.Open:
        return peer_pb2.Open(**({"protocol": PROTOCOL_VERSION, "party": name, "job": self.job, "step": "align"} | changes))

    def meet(self, name: str, *, peer: Identity | None = None, **changes: Any) -> GrpcChannel:
        """A real node's end."""
        other = peer or self.identities["platform" if name == "bank" else "bank"]
        coordinator = partner_of(self.own, address=f"127.0.0.1:{self.port}")
        opening = self.opening(name, **changes)
        partner = partner_of(other, address="")
        board = Switchboard()
        return meet(coordinator, self.identities[name], partner, self.spec, opening, board=board, limits=LIMITS, timeouts=QUICK)

    def both(self) -> tuple[GrpcChannel, GrpcChannel]:
        found: dict[str, GrpcChannel] = {}
        threads = [threading.Thread(target=lambda name=name: found.update({name: self.meet(name)})) for name in self.identities]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        return found["bank"], found["platform"]

    def room(self, peer: str, **changes: Any) -> relay_pb2.Sealed:
        return relay_pb2.Sealed(room=relay_pb2.Room(**({"protocol": 1, "job": self.job, "step": "align", "peer": peer} | changes)))

    def raw(self, identity: Identity, *messages: relay_pb2.Sealed, hold: float = 3.0) -> Raw:
        return Raw(self, identity, iter(messages), hold)


class Raw:
    """A caller of the relay that sends what it likes and reads only when asked to."""

    def __init__(self, world: Relayed, identity: Identity, messages: Iterator[relay_pb2.Sealed], hold: float) -> None:
        self._channel = tls.channel(
            f"127.0.0.1:{world.port}",
            server_name="coordinator",
            server_certificate_pem=world.own.tls_certificate_pem,
            key_pem=identity.tls_key_pem,
            certificate_pem=identity.tls_certificate_pem,
        )
        self.sent = 0
        over = threading.Event()

        def stream() -> Iterator[relay_pb2.Sealed]:
            for message in messages:
                yield message
                self.sent += 1
            over.wait(hold)

        self.call = relay_pb2_grpc.RelayStub(self._channel).Exchange(stream())
        self.call.add_callback(over.set)

    def ended(self) -> str:
        """The details with which the stream ended, or the status where it ended by force."""
        try:
            for _ in self.call:
                pass
        except grpc.RpcError:
            pass
        return self.call.details() or self.call.code().name

    def read(self, count: int) -> list[bytes]:
        return [next(self.call).record for _ in range(count)]

    def hang_up(self) -> None:
        self.call.cancel()
        self._channel.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Relayed]:
    made = Relayed(tmp_path)
    made.begin()
    yield made
    for one in made.nodes:
        one.hang_up()
    made.stop()


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(IsthmusError) as error:
        call()
    return error.value.code


# ---- two nodes


def test_two_nodes_meet_and_talk(world: Relayed) -> None:
    bank, shop = world.both()
    bank.send(PsiStart(elements=3))
    shop.send(PsiStart(elements=4))
    assert (shop.recv(PsiStart).elements, bank.recv(PsiStart).elements) == (3, 4)
    large = MaskedPoints(first=0, count=1, values=bytes(range(256)) * 4000)
    for _ in range(5):
        bank.send(large)
        assert shop.recv(MaskedPoints) == large
        shop.send(large)
        assert bank.recv(MaskedPoints) == large
    _close(bank, shop)
    assert not any("relay" in entry["kind"] for entry in world.log())


def _close(*channels: GrpcChannel) -> None:
    threads = [threading.Thread(target=channel.close) for channel in channels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)


def test_the_last_message_arrives_although_the_sender_closes_at_once(world: Relayed) -> None:
    bank, shop = world.both()
    for k in range(3):
        bank.send(PsiStart(elements=k))
    closing = threading.Thread(target=bank.close)
    closing.start()
    time.sleep(0.3)
    assert [shop.recv(PsiStart).elements for _ in range(3)] == [0, 1, 2]
    assert code_of(lambda: shop.recv(PsiStart)) == "transport.closed"
    shop.close()
    closing.join(WAIT)


def test_closing_takes_no_time(world: Relayed) -> None:
    """Both ends of the call come at once when both are done, not after the waiting time."""
    bank, shop = world.both()
    other = threading.Thread(target=shop.close)
    began = time.monotonic()
    other.start()
    bank.close()
    other.join(WAIT)
    assert time.monotonic() - began < 0.8 * QUICK.close


def test_an_abort_tells_the_peer_the_code_and_the_coordinator_nothing(world: Relayed) -> None:
    bank, shop = world.both()
    bank.abort("psi.too_few_shared")
    with pytest.raises(PeerAborted) as told:
        shop.recv(PsiStart)
    assert told.value.code == "psi.too_few_shared"
    shop.close()


def test_a_node_that_is_gone(world: Relayed) -> None:
    bank, shop = world.both()
    shop.session.stop(TransportError("transport.stopping", "a test"))  # its process ends, and does not come back
    assert code_of(lambda: bank.recv(PsiStart)) in ("relay.absent", "relay.left", "relay.truncated", "transport.closed")


def test_a_session_goes_on_after_its_room_was_cut(world: Relayed) -> None:
    """Each stream is sealed anew; nothing is lost, nothing comes twice."""
    bank, shop = world.both()
    assert world.server is not None
    rooms = world.server.relay.rooms
    got: list[int] = []

    def read() -> None:
        got.extend(shop.recv(MaskedPoints).first for _ in range(60))

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(60):
        bank.send(MaskedPoints(first=n, count=1, values=bytes(100_000)))
        if n in (10, 30, 31, 50):
            for room in list(rooms._rooms.values()):
                room.fail("relay.left")
            time.sleep(0.1)
    reader.join(WAIT)
    assert got == list(range(60))
    _close(bank, shop)


def test_a_peer_that_does_not_come(world: Relayed) -> None:
    began = time.monotonic()
    assert code_of(lambda: world.meet("bank")) == "relay.absent"
    assert time.monotonic() - began < WAIT


def test_whoever_has_another_log_key_than_the_pinned_one_is_refused(world: Relayed, tmp_path: Path) -> None:
    """The bank's partner file of the platform is another's: in the middle sits somebody with the platform's certificate."""
    forged = create_identity(tmp_path / "forged", name="platform", role="platform")
    codes: dict[str, str] = {}

    def try_it(name: str, **options: Any) -> None:
        codes[name] = code_of(lambda: world.meet(name, **options))

    threads = [
        threading.Thread(target=try_it, args=("bank",), kwargs={"peer": forged}),
        threading.Thread(target=try_it, args=("platform",)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * WAIT)
    assert codes["bank"] == "relay.wrong_identity"
    assert codes["platform"] in ("relay.wrong_identity", "relay.absent", "relay.left", "relay.truncated")


def test_a_reader_that_does_not_read_stops_the_writer(world: Relayed) -> None:
    bank, shop = world.both()
    sent: list[int] = []

    def write() -> None:
        try:
            for n in range(200):
                bank.send(MaskedPoints(first=n, count=1, values=bytes(1_000_000)))
                sent.append(n)
        except IsthmusError:
            pass

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    time.sleep(2.0)
    held = len(sent)
    time.sleep(0.5)
    assert len(sent) == held  # what waits at the reader, the relay and the writer, and no more
    assert held * 1_000_000 <= LIMITS.window_bytes
    assert shop.recv(MaskedPoints).first == 0
    shop.abort("internal.error")
    writer.join(WAIT)
    assert not writer.is_alive()


def test_when_the_coordinator_stops_both_are_told(world: Relayed) -> None:
    bank, shop = world.both()
    world.stop()
    ends = {code_of(lambda channel=channel: channel.recv(PsiStart)) for channel in (bank, shop)}
    assert ends <= {"relay.stopping", "transport.unreachable", "transport.closed", "transport.not_tls"}


# ---- callers that have no business there


@pytest.mark.parametrize(
    "changes",
    [
        {"job": "cd" * 32},
        {"job": "../../etc"},
        {"step": "prepare"},
        {"attempt": 1},
        {"round": 1},
        {"peer": "stranger"},
        {"peer": "bank"},
        {"peer": ""},
    ],
)
def test_a_room_of_nothing_that_runs_between_these_two(world: Relayed, changes: dict[str, Any]) -> None:
    found = world.raw(world.identities["bank"], world.room(**({"peer": "platform"} | changes)))
    assert found.ended() == "relay.not_running"


@pytest.mark.parametrize("peer", ["bank", "platform", "stranger"])
def test_a_third_partner_cannot_join_nor_learn_whether_a_job_runs(world: Relayed, peer: str) -> None:
    assert world.raw(world.stranger, world.room(peer)).ended() == "relay.not_running"
    assert world.raw(world.stranger, world.room(peer, job="cd" * 32)).ended() == "relay.not_running"
    _close(*world.both())  # and the two are not disturbed


def test_the_coordinators_own_certificate_opens_no_room(world: Relayed) -> None:
    assert world.raw(world.own, world.room("bank")).ended() == "transport.wrong_certificate"


def test_a_job_that_ended_has_no_rooms(world: Relayed) -> None:
    bank, shop = world.both()
    assert world.server is not None
    world.server.runner.cancel(world.job)
    assert world.raw(world.identities["bank"], world.room("platform")).ended() == "relay.not_running"
    ends = {code_of(lambda channel=channel: channel.recv(PsiStart)) for channel in (bank, shop)}
    assert ends <= {"relay.not_running", "relay.left", "relay.truncated"}  # the open room ends a little later


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (relay_pb2.Sealed(record=b"x"), "relay.no_room"),
        (relay_pb2.Sealed(), "relay.no_room"),
        (relay_pb2.Sealed(room=relay_pb2.Room(protocol=2)), "relay.protocol_version"),
    ],
)
def test_a_first_message_that_names_no_room(world: Relayed, first: relay_pb2.Sealed, code: str) -> None:
    assert world.raw(world.identities["bank"], first).ended() == code


def test_a_silent_stream_is_cut(world: Relayed) -> None:
    began = time.monotonic()
    assert world.raw(world.identities["bank"], hold=8.0).ended() in ("relay.no_room", "CANCELLED")
    assert time.monotonic() - began < 5.0


@pytest.mark.parametrize(
    ("second", "code"),
    [
        (relay_pb2.Sealed(record=bytes(256 * 2**10 + 17)), "relay.oversized"),
        (relay_pb2.Sealed(), "relay.malformed"),
        (relay_pb2.Sealed(room=relay_pb2.Room(protocol=1)), "relay.malformed"),
    ],
)
def test_a_message_that_is_no_record_ends_both_sides(world: Relayed, second: relay_pb2.Sealed, code: str) -> None:
    world.limit(join=30.0)
    other = world.raw(world.identities["platform"], world.room("bank"), hold=30.0)
    time.sleep(0.5)  # or the fault may end the room before the other has come in, on a busy machine
    bad = world.raw(world.identities["bank"], world.room("platform"), second)
    assert bad.ended() == code
    assert other.ended() == code


def test_a_message_beyond_what_grpc_takes(world: Relayed) -> None:
    bad = world.raw(world.identities["bank"], world.room("platform"), relay_pb2.Sealed(record=bytes(2**21)))
    assert "larger than max" in bad.ended() or bad.call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_partner_holds_few_streams_and_leaves_room_for_others(world: Relayed) -> None:
    world.limit(streams_of_one=3, open=5.0)
    silent = [world.raw(world.identities["bank"], hold=8.0) for _ in range(3)]
    time.sleep(0.5)
    assert world.raw(world.identities["bank"], world.room("platform")).ended() == "relay.busy"
    other = world.raw(world.identities["platform"], world.room("bank"), relay_pb2.Sealed(record=b"x"))
    for one in silent:
        one.hang_up()
    time.sleep(0.3)
    assert world.raw(world.identities["bank"], world.room("platform")).read(1) == [b"x"]
    other.hang_up()


def test_all_rooms_taken(world: Relayed) -> None:
    assert world.server is not None
    world.limit(rooms=0)
    assert world.raw(world.identities["bank"], world.room("platform")).ended() == "relay.busy"
    assert code_of(lambda: world.meet("bank")) == "relay.busy"


def test_a_caller_that_never_reads_is_cut_and_costs_bounded_memory(world: Relayed) -> None:
    world.limit(stall=1.0)
    records = (relay_pb2.Sealed(record=bytes(2**17)) for _ in range(400))
    idle = world.raw(world.identities["bank"], world.room("platform"), hold=20.0)
    writer = Raw(world, world.identities["platform"], (m for part in ([world.room("bank")], records) for m in part), 20.0)
    began = time.monotonic()
    assert writer.ended() == "relay.stalled"
    assert time.monotonic() - began < WAIT
    assert writer.sent * 2**17 < 16 * 2**20  # of 50 MiB: one buffer, and what HTTP/2 windows hold
    idle.call.add_callback(lambda: None)
    assert idle.ended() in ("relay.stalled", "CANCELLED")


def test_records_recorded_in_one_session_open_in_no_other(world: Relayed) -> None:
    """A coordinator that replays one side's old records to the other."""
    bank, shop = world.both()
    bank.send(PsiStart(elements=1))
    shop.recv(PsiStart)
    _close(bank, shop)
    recorded = _record_session(world)
    replayer = world.raw(world.identities["bank"], world.room("platform"), *(relay_pb2.Sealed(record=r) for r in recorded))
    with pytest.raises(VerificationError) as refused:
        world.meet("platform")
    assert refused.value.code == "relay.wrong_identity"  # the replayed proof is sealed with keys of the other session
    replayer.hang_up()


def _record_session(world: Relayed) -> list[bytes]:
    assert world.server is not None
    taken: list[bytes] = []
    rooms = type(world.server.relay.rooms)
    enter = rooms.enter

    def spying(self: Any, attempt: Any, party: str, parties: Any, cancel: Any) -> Any:
        room = enter(self, attempt, party, parties, cancel)
        put = room.put
        if not hasattr(room, "spied"):
            room.spied = True
            room.put = lambda who, record: (taken.append(record) if who == "bank" else None, put(who, record))[1]
        return room

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rooms, "enter", spying)
        bank, shop = world.both()
        bank.send(PsiStart(elements=2))
        shop.recv(PsiStart)
        _close(bank, shop)
    assert len(taken) >= 4
    return taken


def test_a_coordinator_whose_operators_switched_the_relay_off(tmp_path: Path) -> None:
    world = Relayed(tmp_path)
    path = world.home / "coordinator.toml"
    path.write_text(path.read_text() + "[relay]\nenabled = false\n")
    world.config = type(world.config).model_validate(world.config.model_dump() | {"relay": {"enabled": False}})
    world.config._path = path
    try:
        world.begin()
        assert code_of(lambda: world.meet("bank")) == "relay.disabled"
    finally:
        for one in world.nodes:
            one.hang_up()
        world.stop()
