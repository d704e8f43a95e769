"""The carrier of frames below the link: two of them joined by a relay that is a pair of queues, honest or not."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import grpc
import pytest

from audit.partner import Partner
from audit.signing import SigningKey
from node.errors import IsthmusError
from node.transport.relay import Carrier, ended_by
from node.transport.sealing import Handshake, Kind, Meeting, Side
from protos.peer_pb2 import Abort, Data, Frame

KEYS = {name: SigningKey(f"isthmus.log/{name}", bytes([n]) * 32) for n, name in enumerate(("bank", "shop", "thief"), 1)}
MEETING = Meeting("ab" * 32, "align", 0, 0, *(Side(name, KEYS[name].verifier) for name in ("bank", "shop")))
WAIT = 5.0
Middle = Callable[[str, int, bytes], list[bytes | None]]


def frames(count: int, size: int = 10) -> list[Frame]:
    return [Frame(data=Data(type="MaskedPoints", seq=n, payload=bytes([n % 256]) * size)) for n in range(count)]


@dataclass
class End:
    """One node: what it is to send, what it got, and why it stopped."""

    name: str
    outgoing: list[Frame]
    key: SigningKey
    got: list[Frame] = field(default_factory=list)
    code: str = ""
    sent: int = 0


def honest(sender: str, number: int, record: bytes) -> list[bytes | None]:
    return [record]


def converse(bank: End, shop: End, middle: Middle = honest) -> None:
    """Run both until each has stopped; ``middle`` says for every record what comes out instead (None: the stream's end)."""
    pipes: dict[str, queue.SimpleQueue[bytes | None]] = {end.name: queue.SimpleQueue() for end in (bank, shop)}
    threads: list[threading.Thread] = []

    def start(end: End, other: End) -> None:
        handshake = Handshake(MEETING, me=end.name, key=end.key, frame_bytes=2**20)
        carrier = Carrier(handshake, end.outgoing, peer=other.name)

        def send() -> None:
            for number, record in enumerate(carrier.records()):
                end.sent += 1
                for passed in middle(end.name, number, record):
                    pipes[other.name].put(passed)
            pipes[other.name].put(None)

        def read() -> None:
            try:
                end.got.extend(carrier.frames(iter(pipes[end.name].get, None)))
            except IsthmusError as error:
                end.code = error.code
                pipes[other.name].put(None)  # a node that gives up hangs up

        threads.extend(threading.Thread(target=body, daemon=True) for body in (send, read))

    start(bank, shop)
    start(shop, bank)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive()


def pair(count: int = 3, **keys: SigningKey) -> tuple[End, End]:
    bank, shop = (End(name, frames(count + n), keys.get(name, KEYS[name])) for n, name in enumerate(("bank", "shop")))
    return bank, shop


def test_frames_cross_both_ways_large_ones_too() -> None:
    bank, shop = pair(40)
    bank.outgoing += frames(2, 700_000)
    converse(bank, shop)
    assert (bank.code, shop.code) == ("", "")
    assert shop.got == bank.outgoing
    assert bank.got == shop.outgoing


def test_an_abort_crosses_sealed() -> None:
    bank, shop = pair()
    bank.outgoing = [Frame(abort=Abort(code="psi.too_few_shared"))]
    seen: list[bytes] = []

    def noting(sender: str, number: int, record: bytes) -> list[bytes | None]:
        seen.append(record)
        return [record]

    converse(bank, shop, noting)
    assert shop.got == bank.outgoing
    assert b"psi" not in b"".join(seen)
    assert {len(record) for record in seen} == {32, 256 + 16}


def test_nothing_but_key_and_proof_leaves_before_the_peer_has_proven_itself() -> None:
    bank, shop = pair(bank=KEYS["thief"])
    converse(bank, shop)
    assert shop.code == "relay.wrong_identity"
    assert shop.sent == 2
    assert shop.got == []


def test_substituted_keys_end_both_sides() -> None:
    bank, shop = pair()
    other = Handshake(MEETING, me="bank", key=KEYS["thief"], frame_bytes=2**20)
    converse(bank, shop, lambda sender, number, record: [other.ephemeral if number == 0 else record])
    # Who notices first hangs up, which the other may notice first.
    assert "relay.wrong_identity" in (bank.code, shop.code)
    assert {bank.code, shop.code} <= {"relay.wrong_identity", "relay.truncated"}
    assert (bank.sent, shop.sent) == (2, 2)


def test_a_relay_that_answers_with_a_nodes_own_records() -> None:
    bank, shop = pair()
    carrier = Carrier(Handshake(MEETING, me="bank", key=KEYS["bank"], frame_bytes=2**20), bank.outgoing, peer="shop")
    with pytest.raises(IsthmusError) as error:
        next(carrier.frames(carrier.records()))
    assert error.value.code == "relay.bad_key"
    assert shop.got == []


@pytest.mark.parametrize(
    ("number", "instead", "code"),
    [
        (3, lambda record: [record, record], "relay.bad_seal"),
        (3, lambda record: [], "relay.bad_seal"),
        (3, lambda record: [None], "relay.truncated"),
        (3, lambda record: [record[:-1]], "relay.bad_seal"),
        (3, lambda record: [b""], "relay.bad_seal"),
        (1, lambda record: [], "relay.wrong_identity"),
        (1, lambda record: [None], "relay.truncated"),
        (0, lambda record: [None], "relay.truncated"),
        (0, lambda record: [bytes(32)], "relay.bad_key"),
        (5, lambda record: [None], "relay.truncated"),
        (5, lambda record: [], "relay.truncated"),
    ],
)
def test_records_lost_repeated_cut_off(number: int, instead: Callable[[bytes], list[bytes | None]], code: str) -> None:
    """Record 0 is the key, 1 the proof, 2 to 4 the bank's three frames, 5 its end."""
    bank, shop = pair(3)
    converse(bank, shop, lambda sender, n, record: instead(record) if (sender, n) == ("bank", number) else [record])
    assert shop.code == code
    assert shop.got == bank.outgoing[: len(shop.got)]
    assert len(shop.got) == max(0, min(number - 2, 3)) + (instead(b"x") == [b"x", b"x"])


def test_two_records_in_the_other_order() -> None:
    bank, shop = pair(4)
    held: list[bytes] = []

    def swap(sender: str, number: int, record: bytes) -> list[bytes | None]:
        if sender == "bank" and number == 3:
            held.append(record)
            return []
        return [record, *held] if sender == "bank" and number == 4 else [record]

    converse(bank, shop, swap)
    assert shop.code == "relay.bad_seal"
    assert shop.got == bank.outgoing[:1]


def test_a_sealed_record_that_is_no_frame() -> None:
    handshakes = {name: Handshake(MEETING, me=name, key=KEYS[name], frame_bytes=2**20) for name in ("bank", "shop")}
    sealer, _ = handshakes["shop"].meet(handshakes["bank"].ephemeral)
    carrier = Carrier(handshakes["bank"], [], peer="shop")

    def records() -> Iterator[bytes]:
        yield handshakes["shop"].ephemeral
        yield sealer.seal(Kind.PROOF, handshakes["shop"].proof())
        yield sealer.seal(Kind.FRAME, b"\xff\xff\xff")

    with pytest.raises(IsthmusError) as error:
        list(carrier.frames(records()))
    assert error.value.code == "relay.malformed"


class Ended(grpc.RpcError, grpc.Call):  # type: ignore[misc]
    """A call that ended with a status."""

    def __init__(self, status: grpc.StatusCode, details: str) -> None:
        self._status, self._details = status, details

    def code(self) -> grpc.StatusCode:
        return self._status

    def details(self) -> str:
        return self._details

    initial_metadata = trailing_metadata = is_active = time_remaining = cancel = add_callback = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("status", "details", "code"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, "relay.left", "relay.left"),
        (grpc.StatusCode.FAILED_PRECONDITION, "relay.absent", "relay.absent"),
        (grpc.StatusCode.UNIMPLEMENTED, "", "relay.protocol_version"),
        (grpc.StatusCode.UNAVAILABLE, "", "transport.unreachable"),
        (grpc.StatusCode.CANCELLED, "", "transport.closed"),
        # What only a peer could say is not believed from a coordinator.
        (grpc.StatusCode.FAILED_PRECONDITION, "psi.too_few_shared", "transport.closed"),
        (grpc.StatusCode.FAILED_PRECONDITION, "relay.wrong_identity", "transport.closed"),
        (grpc.StatusCode.FAILED_PRECONDITION, "relay.left; rm -rf", "transport.closed"),
    ],
)
def test_of_the_coordinators_codes_only_the_relays_own_are_taken(status: grpc.StatusCode, details: str, code: str) -> None:
    coordinator = Partner("coordinator", "coordinator", "h:1", b"", KEYS["bank"].verifier)
    error = ended_by(Ended(status, details), coordinator=coordinator, peer="shop")
    assert error.code == code
    assert details not in error.message or not details
