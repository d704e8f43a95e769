"""Two ends of a peer stream over real gRPC and TLS: what a well-behaved pair does, and what each kind of bad peer gets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from audit.identity import Identity, create_identity
from audit.partner import Partner, partner_of
from node.errors import IsthmusError, PeerAborted, PeerError, PolicyError, TransportError
from node.limits import Limits
from node.transport.channel import PROTOCOL_VERSION, GrpcChannel
from node.transport.client import dial
from node.transport.options import Timeouts, server_options
from node.transport.servicer import PeerServicer, accept
from node.transport.switchboard import Switchboard
from protos import peer_pb2, peer_pb2_grpc, tls
from protos.peer_pb2 import DoublyMasked, Frame, MaskedPoints, PsiStart

pytestmark = pytest.mark.timed

JOB = "a" * 64
LIMITS = Limits(message_bytes=64 * 2**10)
QUICK = Timeouts(patience=1.5, peer=5.0, open=1.0, close=1.0, backoff=0.05, backoff_max=0.2)


def opening(name: str, **changes: Any) -> peer_pb2.Open:
    return peer_pb2.Open(
        **({"protocol": PROTOCOL_VERSION, "party": name, "job": JOB, "step": "align", "attempt": 0, "round": 0} | changes)
    )


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: create_identity(folder / name, name=name, role="bank") for name in ("bank", "platform", "stranger")}


class Acceptor:
    """The bank: listens, and answers each claimed stream with a function over its channel."""

    def __init__(self, known: dict[str, Identity], permit: Callable[[str, str], None] = lambda peer, job: None) -> None:
        self.board = Switchboard()
        pinned = {"platform": known["platform"].tls_certificate_pem}
        self.server = grpc.server(futures.ThreadPoolExecutor(8), options=server_options(LIMITS))
        servicer = PeerServicer(pinned=pinned, permit=permit, board=self.board, limits=LIMITS, timeouts=QUICK)
        peer_pb2_grpc.add_PeerServicer_to_server(servicer, self.server)
        # The stranger's certificate is a root as well: the handshake passes and the comparison of certificates must refuse it.
        roots = [*pinned.values(), known["stranger"].tls_certificate_pem]
        bank = known["bank"]
        port = tls.bind(self.server, "127.0.0.1:0", tls.server_credentials(bank.tls_key_pem, bank.tls_certificate_pem, roots))
        self.server.start()
        self.partner = partner_of(bank, address=f"127.0.0.1:{port}")
        self.error: IsthmusError | None = None
        self.result: Any = None

    def answer(self, half: Callable[[GrpcChannel], Any], **changes: Any) -> threading.Thread:
        def run() -> None:
            try:
                channel = accept(
                    self.board, "platform", opening("bank", **changes), limits=LIMITS, timeouts=QUICK, stop=threading.Event()
                )
            except IsthmusError as error:
                self.error = error
                return
            try:
                self.result = half(channel)
            except IsthmusError as error:
                self.error = error
                channel.abort(error.code)
            else:
                channel.close()

        thread = threading.Thread(target=run)
        thread.start()
        return thread


@pytest.fixture
def bank(known: dict[str, Identity]) -> Iterator[Acceptor]:
    acceptor = Acceptor(known)
    yield acceptor
    acceptor.server.stop(None).wait()


def connect(acceptor: Acceptor, identity: Identity, **changes: Any) -> GrpcChannel:
    return dial(acceptor.partner, identity, opening(identity.name, **changes), limits=LIMITS, timeouts=QUICK)


class Raw:
    """A peer that sends whatever frames it likes: the first at once, the others when its ``Open`` was answered."""

    def __init__(self, acceptor: Acceptor, identity: Identity, frames: list[Frame]) -> None:
        self.channel = tls.channel(
            acceptor.partner.address,
            server_name="bank",
            server_certificate_pem=acceptor.partner.certificate_pem,
            key_pem=identity.tls_key_pem,
            certificate_pem=identity.tls_certificate_pem,
        )
        self._frames, self._hold, self._answered = frames, threading.Event(), threading.Event()
        self.answers: list[Frame] = []
        self.ended: grpc.RpcError | None = None
        self.call = peer_pb2_grpc.PeerStub(self.channel).Exchange(self._stream())
        self.call.add_callback(self._hold.set)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _stream(self) -> Iterator[Frame]:
        yield self._frames[0]
        self._answered.wait(3.0)
        yield from self._frames[1:]
        self._hold.wait(3.0)

    def _read(self) -> None:
        try:
            for frame in self.call:
                self.answers.append(frame)
                if frame.HasField("open"):
                    self._answered.set()
        except grpc.RpcError as error:
            self.ended = error

    def wait(self) -> list[Frame]:
        """All the other side sent, heartbeats aside, once it has ended the stream."""
        self._reader.join(10)
        assert not self._reader.is_alive()
        return [frame for frame in self.answers if not frame.HasField("ack")]


def raw(acceptor: Acceptor, identity: Identity, frames: list[Frame]) -> Raw:
    return Raw(acceptor, identity, frames)


TOKEN = b"\x07" * 16


def test_a_straight_line_protocol_both_ways(bank: Acceptor, known: dict[str, Identity]) -> None:
    def label_side(ch: GrpcChannel) -> int:
        ch.send(PsiStart(elements=3))
        size = ch.recv(PsiStart).elements
        for k in range(20):
            ch.send(MaskedPoints(first=k, count=1, values=bytes([k]) * 32))
            assert ch.recv(DoublyMasked).values == bytes([k]) * 16
        return size

    thread = bank.answer(label_side)
    channel = connect(bank, known["platform"])
    assert channel.recv(PsiStart).elements == 3
    channel.send(PsiStart(elements=7))
    for k in range(20):
        points = channel.recv(MaskedPoints)
        channel.send(DoublyMasked(first=k, count=1, values=points.values[:16]))
    channel.close()
    thread.join(5)
    assert (bank.result, bank.error) == (7, None)


def test_the_last_message_arrives_although_the_sender_closes_at_once(bank: Acceptor, known: dict[str, Identity]) -> None:
    def slow_reader(ch: GrpcChannel) -> list[int]:
        time.sleep(0.3)
        return [ch.recv(PsiStart).elements for _ in range(3)]

    thread = bank.answer(slow_reader)
    channel = connect(bank, known["platform"])
    for k in range(3):
        channel.send(PsiStart(elements=k))
    channel.close()
    thread.join(5)
    assert (bank.result, bank.error) == ([0, 1, 2], None)


def test_a_writer_waits_for_a_slow_reader(bank: Acceptor, known: dict[str, Identity]) -> None:
    """Both buffers are bounded: a sender that is far ahead blocks, and gives up when the reader takes nothing."""
    release = threading.Event()
    thread = bank.answer(lambda ch: release.wait(10))
    quick = Timeouts(patience=1.0, peer=0.5, open=1.0, close=0.5)
    channel = dial(bank.partner, known["platform"], opening("platform"), limits=LIMITS, timeouts=quick)
    payload = MaskedPoints(values=bytes(60 * 2**10))

    def send_far_ahead() -> None:
        for _ in range(3 * LIMITS.window_bytes // len(payload.values)):
            channel.send(payload)

    with pytest.raises(TransportError) as stuck:
        send_far_ahead()
    assert stuck.value.code == "transport.timeout"
    release.set()
    channel.abort("transport.timeout")
    thread.join(5)


def test_an_abort_carries_the_code_and_nothing_else(bank: Acceptor, known: dict[str, Identity]) -> None:
    def refuse(ch: GrpcChannel) -> None:
        ch.recv(PsiStart)
        raise PolicyError("psi.too_few_shared", "Only 17 customers of ACME are shared.", remedy="secret remedy")

    thread = bank.answer(refuse)
    channel = connect(bank, known["platform"])
    channel.send(PsiStart(elements=1))
    with pytest.raises(PeerAborted) as told:
        channel.recv(PsiStart)
    assert told.value.code == "psi.too_few_shared"
    assert "17" not in str(told.value)
    assert "ACME" not in str(told.value)
    with pytest.raises(PeerAborted):
        channel.send(PsiStart(elements=2))
    channel.close()
    thread.join(5)


def test_what_a_peer_calls_a_code_is_not_believed(bank: Acceptor, known: dict[str, Identity]) -> None:
    thread = bank.answer(lambda ch: ch.recv(PsiStart))
    frames = [Frame(open=opening("platform", session=TOKEN)), Frame(abort=peer_pb2.Abort(code="Robert'); DROP TABLE"))]
    peer = raw(bank, known["platform"], frames)
    thread.join(5)
    peer.wait()
    assert bank.error is not None
    assert bank.error.code == "peer.unknown_code"
    assert "Robert" not in str(bank.error)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([("PsiStart", 1, PsiStart(elements=1).SerializeToString())], "transport.out_of_order"),
        ([("PsiStart", 0, b"\x08\x01"), ("PsiStart", 2, b"\x08\x01")], "transport.out_of_order"),
        ([("PsiStart", 0, bytes(65 * 2**10))], "transport.oversized"),
        ([("PsiStart", 0, b"\xff\xff\xff")], "protocol.malformed_message"),
        ([("PsiStart", 0, b"\x08\x01\x7a\x05extra")], "protocol.malformed_message"),  # field 15, which PsiStart has not
        ([("PsiStart", 0, b"\x08\x01\x08\x02")], "protocol.malformed_message"),  # the field twice
        ([("Nonsense", 0, b"")], "protocol.unexpected_message"),
        ([("Frame", 0, b"")], "protocol.unexpected_message"),
        ([("MaskedPoints", 0, b"")], "protocol.unexpected_message"),
    ],
)
def test_a_bad_peer_is_refused(bank: Acceptor, known: dict[str, Identity], frames: list[tuple[str, int, bytes]], code: str) -> None:
    def twice(ch: GrpcChannel) -> None:
        ch.recv(PsiStart)
        ch.recv(PsiStart)

    thread = bank.answer(twice)
    data = [Frame(data=peer_pb2.Data(type=kind, seq=seq, payload=payload)) for kind, seq, payload in frames]
    peer = raw(bank, known["platform"], [Frame(open=opening("platform", session=TOKEN)), *data])
    answers = peer.wait()
    thread.join(5)
    assert isinstance(bank.error, PeerError)
    assert bank.error.code == code
    assert answers[-1] == Frame(abort=peer_pb2.Abort(code=code))


def test_a_message_far_too_large_is_refused_before_it_is_held(bank: Acceptor, known: dict[str, Identity]) -> None:
    thread = bank.answer(lambda ch: ch.recv(PsiStart))
    big = Frame(data=peer_pb2.Data(type="PsiStart", payload=bytes(2**20)))
    peer = raw(bank, known["platform"], [Frame(open=opening("platform", session=TOKEN)), big])
    peer.wait()
    assert peer.ended is not None
    assert peer.ended.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    thread.join(5)
    assert bank.error is not None
    assert bank.error.code.startswith("transport.")


def test_an_own_message_too_large_does_not_leave(bank: Acceptor, known: dict[str, Identity]) -> None:
    thread = bank.answer(lambda ch: ch.recv(PsiStart))
    channel = connect(bank, known["platform"])
    with pytest.raises(IsthmusError) as refused:
        channel.send(MaskedPoints(values=bytes(65 * 2**10)))
    assert refused.value.code == "transport.oversized"
    channel.abort(refused.value.code)
    thread.join(5)
    assert bank.error is not None
    assert bank.error.code == "transport.oversized"


def test_another_protocol_version_is_refused_by_either_side(bank: Acceptor, known: dict[str, Identity]) -> None:
    with pytest.raises(PeerAborted) as told:
        connect(bank, known["platform"], protocol=1)
    assert told.value.code == "transport.protocol_version"
    thread = bank.answer(lambda ch: ch.recv(PsiStart), protocol=3)
    with pytest.raises(PeerError) as refused:
        connect(bank, known["platform"])
    assert refused.value.code == "transport.protocol_version"
    assert "3" in refused.value.message
    thread.join(5)


def test_a_name_that_is_not_the_certificates_is_refused(bank: Acceptor, known: dict[str, Identity]) -> None:
    with pytest.raises(PeerAborted) as told:
        connect(bank, known["platform"], party="stranger")
    assert told.value.code == "transport.party_mismatch"


def test_a_node_that_stops_lets_a_parked_stream_go_at_once(bank: Acceptor, known: dict[str, Identity]) -> None:
    """Held, it would keep the process from ending."""
    threading.Timer(0.5, bank.board.close).start()
    with pytest.raises(PeerAborted) as told:
        connect(bank, known["platform"])
    assert told.value.code == "transport.stopping"


def test_another_step_or_attempt_does_not_meet(bank: Acceptor, known: dict[str, Identity]) -> None:
    thread = bank.answer(lambda ch: ch.recv(PsiStart), attempt=1)
    with pytest.raises(TransportError) as told:
        connect(bank, known["platform"], attempt=0)
    assert told.value.code == "transport.not_started"
    thread.join(5)
    assert bank.error is not None
    assert bank.error.code == "transport.no_stream"


def test_a_stranger_is_refused_although_the_handshake_passes(bank: Acceptor, known: dict[str, Identity]) -> None:
    with pytest.raises(PeerAborted) as told:
        connect(bank, known["stranger"])
    assert told.value.code == "transport.wrong_certificate"


def test_a_server_that_is_not_the_pinned_one_is_named_as_such_at_once(bank: Acceptor, known: dict[str, Identity]) -> None:
    stranger = partner_of(known["stranger"], address=bank.partner.address)
    wrong = Partner("bank", "bank", stranger.address, stranger.certificate_pem, stranger.log_key)
    started = time.monotonic()
    with pytest.raises(TransportError) as refused:
        dial(wrong, known["platform"], opening("platform"), limits=LIMITS, timeouts=QUICK)
    assert refused.value.code == "transport.wrong_certificate"
    assert "bank" in refused.value.message
    assert time.monotonic() - started < 1.4


def test_nobody_there_is_said_after_trying_again(known: dict[str, Identity]) -> None:
    nobody = partner_of(known["bank"], address="127.0.0.1:9")
    with pytest.raises(TransportError) as refused:
        dial(nobody, known["platform"], opening("platform"), limits=LIMITS, timeouts=QUICK)
    assert refused.value.code == "transport.unreachable"
    assert "127.0.0.1:9" in refused.value.message
    unlisted = partner_of(known["bank"], address="")
    with pytest.raises(TransportError) as refused:
        dial(unlisted, known["platform"], opening("platform"), limits=LIMITS, timeouts=QUICK)
    assert refused.value.code == "transport.no_route"


def test_a_job_that_is_not_approved_here_is_refused_before_anything_is_said(known: dict[str, Identity]) -> None:
    def permit(peer: str, job: str) -> None:
        raise PolicyError("job.not_approved", f"{peer} opened a stream for a job that is not approved here.")

    acceptor = Acceptor(known, permit)
    try:
        with pytest.raises(PeerAborted) as told:
            connect(acceptor, known["platform"])
        assert told.value.code == "job.not_approved"
    finally:
        acceptor.server.stop(None).wait()


def test_a_cancelled_attempt_ends_on_both_sides(bank: Acceptor, known: dict[str, Identity]) -> None:
    thread = bank.answer(lambda ch: ch.recv(PsiStart))
    channel = connect(bank, known["platform"])
    threading.Timer(0.2, channel.cancel, [TransportError("job.ended", "The coordinator ended the job.")]).start()
    with pytest.raises(TransportError) as here:
        channel.recv(PsiStart)
    channel.close()
    thread.join(5)
    assert here.value.code == "job.ended"
    assert bank.error is not None
    assert bank.error.code == "job.ended"


def test_a_cut_link_is_said_plainly(bank: Acceptor, known: dict[str, Identity]) -> None:
    thread = bank.answer(lambda ch: ch.recv(PsiStart))
    channel = connect(bank, known["platform"])
    bank.server.stop(None).wait()
    with pytest.raises(TransportError) as here:
        channel.recv(PsiStart)
    assert here.value.code in ("transport.closed", "transport.unreachable")
    channel.close()
    thread.join(5)


def test_a_taken_port_is_named(bank: Acceptor, known: dict[str, Identity], tmp_path: Path) -> None:
    from node.runtime.listener import peer_server
    from tests.nodes import write_node

    port = int(bank.partner.address.rpartition(":")[2])
    config = write_node(tmp_path, "bank", "", port=port)
    pinned = {"platform": known["platform"].tls_certificate_pem}
    with pytest.raises(TransportError) as refused:
        peer_server(config, lambda: known["bank"], pinned, permit=lambda *_: None, board=Switchboard())
    assert refused.value.code == "transport.port_in_use"
    assert str(port) in refused.value.message
    assert refused.value.remedy
