"""The journal: written before sent and before acted on, one receipt for both sides, and a step that fails when they differ."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from audit.receipts import receipt_statement
from audit.signing import SigningKey
from node.errors import IsthmusError, PeerError, VerificationError
from node.runtime.journal import JournalChannel, StepLabels
from protos.peer_pb2 import DoublyMasked, MaskedPoints, PsiStart, StepReceipt
from tests.pair import MemoryChannel, run_pair

LABELS = StepLabels(job="b" * 64, step="align", round=0, attempt=2)
PARTIES = ("bank", "platform")
KEYS = {name: SigningKey.generate(f"isthmus.log/{name}") for name in PARTIES}


class MemoryWire:
    """The fake link seen as serialised messages; ``events`` is shared with the log."""

    def __init__(self, channel: MemoryChannel, events: list[tuple[str, Any]]) -> None:
        self.channel, self.events = channel, events

    def send_payload(self, kind: str, payload: bytes) -> None:
        self.events.append(("wire", kind))
        self.channel.out.put(kind, payload)

    def recv_payload(self, kind: str) -> bytes:
        frame = self.channel.into.frames.get(timeout=self.channel.timeout)
        if frame is None:
            raise PeerError("transport.closed", "The peer hung up.")
        if frame[0] != kind:
            raise PeerError("protocol.unexpected_message", f"Expected {kind}, received {frame[0]}.")
        return frame[1]


class MemoryLog:
    def __init__(self, events: list[tuple[str, Any]]) -> None:
        self.events = events
        self.entries: list[dict[str, Any]] = []
        self.full = threading.Event()

    def append(self, kind: str, **fields: Any) -> int:
        if self.full.is_set():
            raise IsthmusError("log.write_failed", "The disk is full.")
        self.events.append(("log", fields.get("type", kind)))
        self.entries.append({"kind": kind, **fields})
        return len(self.entries) - 1

    def checkpoint(self) -> str:
        return ""


class Side:
    def __init__(self, name: str) -> None:
        self.name, self.peer = name, PARTIES[1 - PARTIES.index(name)]
        self.events: list[tuple[str, Any]] = []
        self.log = MemoryLog(self.events)
        self.journal: JournalChannel | None = None

    def run(self, half: Callable[[JournalChannel], Any]) -> Callable[[MemoryChannel], Any]:
        def body(channel: MemoryChannel) -> Any:
            wire = MemoryWire(channel, self.events)
            self.journal = JournalChannel(wire, log=self.log, labels=LABELS, me=self.name, peer=self.peer, parties=PARTIES)
            half(self.journal)
            return self.journal.exchange_receipts(key=KEYS[self.name], peer_key=KEYS[self.peer].verifier)

        return body


def bank_half(ch: JournalChannel) -> None:
    ch.send(PsiStart(elements=5))
    assert ch.recv(PsiStart).elements == 9
    ch.send(MaskedPoints(first=0, count=5, values=bytes(160)))
    ch.recv(DoublyMasked)


def platform_half(ch: JournalChannel) -> None:
    ch.send(PsiStart(elements=9))
    ch.recv(PsiStart)
    ch.recv(MaskedPoints)
    ch.send(DoublyMasked(first=0, count=5, values=bytes(80)))


def test_both_sides_sign_the_same_digest_over_what_was_said() -> None:
    bank, platform = Side("bank"), Side("platform")
    outcome = run_pair(bank.run(bank_half), platform.run(platform_half))
    left, right = outcome.results()
    assert left == right
    assert len(left) == 32
    for side in (bank, platform):
        receipts = [e for e in side.log.entries if e["kind"] == "receipt"]
        assert [r["direction"] for r in receipts] == ["sent", "received"]
        assert {r["digest"] for r in receipts} == {left.hex()}
        statement = receipt_statement(job=LABELS.job, step="align", round=0, attempt=2, digest=left)
        KEYS[side.name].verifier.verify(statement, bytes.fromhex(receipts[0]["signature"]))
        KEYS[side.peer].verifier.verify(statement, bytes.fromhex(receipts[1]["signature"]))


def test_entries_describe_each_message_and_hold_none_of_it() -> None:
    bank, platform = Side("bank"), Side("platform")
    run_pair(bank.run(bank_half), platform.run(platform_half)).results()
    sent = [e for e in bank.log.entries if e["kind"] == "message" and e["direction"] == "sent"]
    assert [(e["type"], e["seq"], e["items"]) for e in sent] == [("PsiStart", 0, 1), ("MaskedPoints", 1, 5)]
    payload = MaskedPoints(first=0, count=5, values=bytes(160)).SerializeToString(deterministic=True)
    assert sent[1]["length"] == len(payload)
    assert sent[1]["sha256"] == hashlib.sha256(payload).hexdigest()
    received = [e for e in platform.log.entries if e["kind"] == "message" and e["direction"] == "received"]
    keys = ("type", "seq", "items", "length", "sha256")
    assert [[e[k] for k in keys] for e in received] == [[e[k] for k in keys] for e in sent]
    assert all({"job": LABELS.job, "step": "align", "round": 0, "attempt": 2}.items() <= e.items() for e in sent)
    assert bank.journal is not None
    assert bank.journal.bytes_sent == sum(e["length"] for e in sent)
    assert bank.journal.items_sent == {"PsiStart": 1, "MaskedPoints": 5}
    assert all(not isinstance(value, bytes) for e in bank.log.entries for value in e.values())


def test_written_before_sent() -> None:
    bank, platform = Side("bank"), Side("platform")
    run_pair(bank.run(bank_half), platform.run(platform_half)).results()
    for side in (bank, platform):
        for position, (where, what) in enumerate(side.events):
            if where == "wire":
                wanted = "receipt" if what == "StepReceipt" else what
                assert side.events[position - 1] == ("log", wanted)


def test_nothing_leaves_and_nothing_is_acted_on_when_the_log_cannot_be_written() -> None:
    bank, platform = Side("bank"), Side("platform")
    seen: list[int] = []

    def greedy(ch: JournalChannel) -> None:
        bank.log.full.set()
        seen.append(ch.recv(PsiStart).elements)

    outcome = run_pair(bank.run(greedy), platform.run(platform_half), timeout=2.0)
    assert isinstance(outcome.left_error, IsthmusError)
    assert outcome.left_error.code == "log.write_failed"
    assert seen == []

    def silent(ch: JournalChannel) -> None:
        ch.send(PsiStart(elements=5))

    outcome = run_pair(bank.run(silent), platform.run(platform_half), timeout=2.0)
    assert outcome.left_sent == []


@pytest.mark.parametrize("at", [0, 1])
def test_a_message_altered_on_the_way_makes_the_receipts_differ(at: int) -> None:
    def tamper(index: int, kind: str, payload: bytes) -> list[tuple[str, bytes]]:
        if index != at:
            return [(kind, payload)]
        other = PsiStart(elements=6) if kind == "PsiStart" else MaskedPoints(first=0, count=5, values=b"\x01" + bytes(159))
        return [(kind, other.SerializeToString(deterministic=True))]

    bank, platform = Side("bank"), Side("platform")
    outcome = run_pair(bank.run(bank_half), platform.run(platform_half), tamper_left=tamper)
    for error in (outcome.left_error, outcome.right_error):
        assert isinstance(error, VerificationError)
        assert error.code == "journal.receipts_differ"


def test_a_receipt_by_another_key_is_refused() -> None:
    def forge(index: int, kind: str, payload: bytes) -> list[tuple[str, bytes]]:
        if kind != "StepReceipt":
            return [(kind, payload)]
        receipt = StepReceipt.FromString(payload)
        receipt.signature = bytes(64)
        return [(kind, receipt.SerializeToString())]

    bank, platform = Side("bank"), Side("platform")
    outcome = run_pair(bank.run(bank_half), platform.run(platform_half), tamper_left=forge)
    assert isinstance(outcome.right_error, VerificationError)
    assert outcome.right_error.code == "audit.bad_signature"


def test_an_unknown_field_is_refused_because_no_entry_would_describe_it() -> None:
    def smuggle(index: int, kind: str, payload: bytes) -> list[tuple[str, bytes]]:
        return [(kind, payload + (b"\x7a\x06secret" if index == 0 else b""))]

    bank, platform = Side("bank"), Side("platform")
    outcome = run_pair(bank.run(bank_half), platform.run(platform_half), tamper_left=smuggle)
    assert isinstance(outcome.right_error, PeerError)
    assert outcome.right_error.code == "protocol.malformed_message"
