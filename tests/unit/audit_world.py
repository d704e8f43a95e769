"""A small world for the tests of the verification: two nodes and a coordinator, one job told as events that a test may change.

``events()`` tells an honest job; ``write`` signs whatever it is told with everyone's real keys, so that what a test changes in
the list is what a dishonest party would do, and what it changes in the written files is what a thief of the files could.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from audit.checkpoint import parse_note
from audit.cosignature import cosign
from audit.receipts import Transcript, approval_statement, receipt_statement
from audit.record import LogWriter
from audit.signing import SigningKey

BANK, PLATFORM, COORDINATOR = "bank", "platform", "coordinator"
KEYS = {name: SigningKey(f"isthmus.log/{name}", hashlib.sha256(name.encode()).digest()) for name in (BANK, PLATFORM, COORDINATOR)}
JOB = hashlib.sha256(b"a job").hexdigest()
STEPS = (("align", 0), ("round", 1), ("finish", 0))


@dataclass
class Event:
    """One entry of one log, or a checkpoint (``kind`` empty)."""

    log: str
    kind: str
    fields: dict[str, Any] = field(default_factory=dict)

    def is_message(self, step: str, direction: str, number: int = 0) -> bool:
        wanted = {"step": step, "direction": direction, "seq": number}
        return self.kind == "message" and all(self.fields[name] == value for name, value in wanted.items())


def approvals(
    job: str = JOB, signers: dict[str, str] | None = None, decision: str = "approve", bank_names: str = PLATFORM
) -> list[Event]:
    """Both nodes' approvals in all three logs; ``signers`` names whose key signs instead of a party's own."""
    told = []
    for party, peer in ((BANK, bank_names), (PLATFORM, BANK)):
        statement = approval_statement(
            job=job, party=party, peer=peer, decision=decision, by="someone", time="2025-01-01T00:00:00Z"
        )
        signature = KEYS[(signers or {}).get(party, party)].sign(statement).hex()
        told += [Event(log, "approval", {"job": JOB, "statement": statement.decode(), "signature": signature}) for log in KEYS]
    return told


def attempt(step: str, number: int = 0, again: int = 0, messages: int = 3, outcome: str = "done", job: str = JOB) -> list[Event]:
    """One attempt: messages in both directions, receipts, done; an ``outcome`` of failed or crashed ends it after the messages."""
    labels = {"job": job, "step": step, "round": number, "attempt": again}
    transcript = Transcript(**labels, parties=(BANK, PLATFORM))  # type: ignore[arg-type]
    told = [Event(log, "step", {**labels, "state": "start"}) for log in (BANK, PLATFORM)]
    for index in range(messages):
        for sender, receiver in ((BANK, PLATFORM), (PLATFORM, BANK)):
            digest = hashlib.sha256(f"{step} {number} {again} {index} {sender}".encode())
            said = {**labels, "type": "MaskedPoints", "seq": index, "length": 100 + index, "sha256": digest.hexdigest(), "items": 3}
            told.append(Event(sender, "message", {**said, "direction": "sent", "peer": receiver}))
            told.append(Event(receiver, "message", {**said, "direction": "received", "peer": sender}))
            transcript.add(sender, "MaskedPoints", digest.digest(), 100 + index)
    if outcome != "done":
        ends = [Event(log, "step", {**labels, "state": "failed", "code": "transport.closed"}) for log in (BANK, PLATFORM)]
        return told + (ends if outcome == "failed" else [])
    told += receipts(labels, transcript.digest())
    done = {
        **labels,
        "state": "done",
        "transcript_sha256": transcript.digest().hex(),
        "seconds": "0.1",
        "bytes_sent": 1,
        "bytes_received": 1,
    }
    told += [Event(log, "step", dict(done)) for log in (BANK, PLATFORM)]
    report = {**labels, "transcript_sha256": transcript.digest().hex()}
    told += [Event(COORDINATOR, "report", {**report, "party": party}) for party in (BANK, PLATFORM)]
    return told + [Event(log, "") for log in KEYS]


def receipts(labels: dict[str, Any], digest: bytes, signers: dict[str, str] | None = None) -> list[Event]:
    """Both receipts in both nodes' logs."""
    told = []
    statement = receipt_statement(**labels, digest=digest)
    for signer, reader in ((BANK, PLATFORM), (PLATFORM, BANK)):
        said = {**labels, "digest": digest.hex(), "signature": KEYS[(signers or {}).get(signer, signer)].sign(statement).hex()}
        told.append(Event(signer, "receipt", {**said, "direction": "sent", "peer": reader}))
        told.append(Event(reader, "receipt", {**said, "direction": "received", "peer": signer}))
    return told


def events(*, before_finish: list[Event] | None = None, ended: bool = True) -> list[Event]:
    """An honest job from the first entry to the last; ``before_finish`` is an earlier attempt of the last step."""
    told = [Event(log, "software", {"version": "0.1.0", "python": "3.11.7", "lock_sha256": "00" * 32}) for log in KEYS]
    told += [Event(COORDINATOR, "job", {"job": JOB, "state": "submitted"}), *approvals()]
    for step, number in STEPS:
        told.append(
            Event(
                COORDINATOR, "directive", {"job": JOB, "step": step, "round": number, "coefficients": ["0.5"], "lookup_range": "8"}
            )
        )
        if step == "finish":
            told += before_finish or []
        told += attempt(step, number, again=1 if step == "finish" and before_finish else 0)
    if ended:
        told += [Event(log, "disclosures", {"job": JOB, "items": []}) for log in (BANK, PLATFORM)]
        told.append(Event(COORDINATOR, "job", {"job": JOB, "state": "finished"}))
    return told + [Event(log, "") for log in KEYS]


def clock() -> Callable[[], datetime]:
    """A clock that goes a second further at every look."""
    moments = iter(range(10**9))
    return lambda: datetime(2025, 1, 1, tzinfo=UTC) + timedelta(seconds=next(moments))


def write(folder: Path, told: list[Event]) -> dict[str, Path]:
    """Write and sign the events; returns the three log folders.  Nothing is signed beyond the last checkpoint told."""
    folders = {name: folder / name for name in KEYS}
    time = clock()
    # What is tested here is what was written, not that it would survive a power cut: waiting for the disk is left out.
    with mock.patch("audit.record.os.fsync"):
        logs = {name: LogWriter.open(path, key=KEYS[name], clock=time) for name, path in folders.items()}
        for event in told:
            if event.kind:
                logs[event.log].append(event.kind, **event.fields)
            else:
                _sign(logs[event.log])
    for log in logs.values():
        # As a process that was killed leaves it: close() would sign the rest.
        log._file.close()
    return folders


def _sign(log: LogWriter) -> None:
    """A checkpoint with the cosignatures of the two others."""
    text = parse_note(log.checkpoint().encode()).text
    for name, key in KEYS.items():
        if name != log.name:
            log.add_cosignature(log.size, cosign(text, key, time=1_735_689_600 + log.size), key.verifier)


def policy(folder: Path, names: tuple[str, ...] = (BANK, PLATFORM, COORDINATOR)) -> Path:
    """A policy file that names the world's keys."""
    path = folder / "policy.toml"
    roles = {BANK: "bank", PLATFORM: "platform", COORDINATOR: "coordinator"}
    path.write_text("".join(f'[[log]]\nname = "{name}"\nrole = "{roles[name]}"\nkey = "{KEYS[name].verifier}"\n' for name in names))
    return path
