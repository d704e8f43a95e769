"""A small world for the tests of the verification: two nodes and a coordinator, one job told as events that a test may change.

Its messages are counted by the verification's own table of the protocol: that honest nodes do speak so is shown by real jobs
(``tests/joint.py``), and what is tested here is what happens when a log says something else.

``events()`` tells an honest job; ``write`` signs whatever it is told with everyone's real keys, so that what a test changes in
the list is what a dishonest party would do, and what it changes in the written files is what a thief of the files could.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from audit.aligning import chosen_method, reason
from audit.checkpoint import parse_note
from audit.cosignature import cosign
from audit.disclosure_rules import RULES
from audit.history import Directive
from audit.ledger import LogRejected
from audit.plain import plain_message
from audit.protocol import Figures, Phase, Single, Turns, legal_messages
from audit.receipts import Transcript, approval_statement, receipt_statement
from audit.record import LogWriter
from audit.signing import SigningKey
from audit.spec import JobSpec
from audit.verify import verify_logs

BANK, PLATFORM, COORDINATOR = "bank", "platform", "coordinator"
KEYS = {name: SigningKey(f"isthmus.log/{name}", hashlib.sha256(name.encode()).digest()) for name in (BANK, PLATFORM, COORDINATOR)}
SPEC = JobSpec.model_validate(
    {
        "nonce": "0" * 32,
        "coordinator": COORDINATOR,
        "label_holder": {"name": BANK, "role": "bank", "dataset": "cards", "features": ["a", "b"]},
        "feature_holder": {"name": PLATFORM, "role": "platform", "dataset": "shop", "features": ["c", "d"]},
        "label": {"column": "y"},
        "align": {"minimum": 5},
        "model": {"rounds": 1, "holdout": "0"},
    }
)
JOB = SPEC.identity()
STEPS = (("align", 0), ("prepare", 0), ("round", 1), ("finish", 0))
SETS = {BANK: 6, PLATFORM: 6}
SHARED = 5
COLUMNS = {BANK: 3, PLATFORM: 2}
RATE = "0.22"
NUMBERS: dict[str, Directive] = {
    "align": Directive((), "0.0"),
    "prepare": Directive((), "0.0"),
    "round": Directive((), "2.0"),
    "finish": Directive(("1.0",), "8.0"),
}
POLICY = {"minimum_intersection": 5, "key_bits_min": 2048, "rounds_max": 16, "bands_max": 64, "small_keys": 0}


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
    """Both nodes' approvals in all three logs, a node's own first; ``signers`` names whose key signs instead of a party's own."""
    told, others = [], []
    for party, peer in ((BANK, bank_names), (PLATFORM, BANK)):
        statement = approval_statement(
            job=job, party=party, peer=peer, decision=decision, by="someone", time="2025-01-01T00:00:00Z"
        )
        signature = KEYS[(signers or {}).get(party, party)].sign(statement).hex()
        for log in KEYS:
            event = Event(log, "approval", {"job": JOB, "statement": statement.decode(), "signature": signature})
            (told if log in (party, COORDINATOR) else others).append(event)
    return told + (others if decision == "approve" else [])


def figures(sender: str, sets: dict[str, int]) -> Figures:
    """The job's public figures from one party's side."""
    peer = PLATFORM if sender == BANK else BANK
    return Figures(
        holds_label=sender == BANK,
        key_bits=SPEC.model.key_bits,
        rounds=SPEC.model.rounds,
        entries=SPEC.model.lookup_entries_of(SHARED),
        own_set=sets[sender],
        peer_set=sets[peer],
        method=chosen_method("auto", sets[BANK], sets[PLATFORM]),
        rows=SHARED,
        held_out=0,
        own_columns=COLUMNS[sender],
        peer_columns=COLUMNS[peer],
        base_rate=RATE,
    )


def messages_of(step: str, number: int, sender: str, *, sets: dict[str, int], batch: int) -> list[tuple[str, int, int]]:
    """Type, items and length of what one party says in a step, cut into messages of ``batch`` items."""
    told: list[tuple[str, int, int]] = []
    for part in legal_messages(step, figures(sender, sets), round=number, directive=NUMBERS[step]):
        if isinstance(part, Single):
            told.append((part.type, 1, part.shortest))
        elif isinstance(part, Turns):
            pairs = itertools.zip_longest(_cut(part.first, batch), _cut(part.second, batch))
            told += [message for pair in pairs for message in pair if message]
        else:
            told += _cut(part, batch)
    return told


def _cut(phase: Phase, batch: int) -> Iterator[tuple[str, int, int]]:
    total = phase.items or 0
    for first in range(0, total, batch):
        count = min(batch, total - first)
        yield phase.type, count, phase.length(first, count)


def attempt(
    step: str,
    number: int = 0,
    again: int = 0,
    outcome: str = "done",
    *,
    sets: dict[str, int] | None = None,
    batch: int = 3,
    job: str = JOB,
) -> list[Event]:
    """One attempt: directive, start, messages in both directions, receipts, disclosures, done, reports; an ``outcome`` of failed or
    crashed ends it after the messages.
    """
    labels = {"job": job, "step": step, "round": number, "attempt": again}
    transcript = Transcript(**labels, parties=(BANK, PLATFORM))  # type: ignore[arg-type]
    numbers = {"coefficients": list(NUMBERS[step].coefficients), "lookup_range": NUMBERS[step].lookup_range}
    told = [Event(COORDINATOR, "directive", {**labels, **numbers})]
    told += [Event(log, "step", {**labels, **numbers, "state": "start"}) for log in (BANK, PLATFORM)]
    if step == "finish":
        batch = 1
    sizes = sets or SETS
    told += [Event(log, "commitment", {**labels, **made}) for log in (BANK, PLATFORM) for made in commitments(step, log, sizes)]
    said = {sender: messages_of(step, number, sender, sets=sizes, batch=batch) for sender in (BANK, PLATFORM)}
    for index, pair in enumerate(itertools.zip_longest(said[BANK], said[PLATFORM])):
        if step == "align" and index == 1:
            told += [Event(log, "choice", {**labels, **choice(sizes)}) for log in (BANK, PLATFORM)]
        for message, (sender, receiver) in zip(pair, ((BANK, PLATFORM), (PLATFORM, BANK)), strict=True):
            if message is None:
                continue
            kind, items, length = message
            plain = plain_message(kind, figures(sender, sizes), NUMBERS[step], step=step)
            digest = hashlib.sha256(f"{step} {number} {again} {index} {sender}".encode() if plain is None else plain)
            entry = {**labels, "type": kind, "seq": index, "length": length, "sha256": digest.hexdigest(), "items": items}
            told.append(Event(sender, "message", {**entry, "direction": "sent", "peer": receiver}))
            told.append(Event(receiver, "message", {**entry, "direction": "received", "peer": sender}))
            transcript.add(sender, kind, digest.digest(), length)
    if outcome != "done":
        told += [e for log in (BANK, PLATFORM) for e in disclosures(labels, log, said[log], done=False, sets=sizes)]
        ends = [Event(log, "step", {**labels, "state": "failed", "code": "transport.closed"}) for log in (BANK, PLATFORM)]
        return told + (ends if outcome == "failed" else [])
    told += receipts(labels, transcript.digest())
    done = {
        **labels,
        "state": "done",
        "transcript_sha256": transcript.digest().hex(),
        "seconds": "0.1",
    }
    for log in (BANK, PLATFORM):
        told += disclosures(labels, log, said[log], done=True, sets=sizes)
        peer = PLATFORM if log == BANK else BANK
        sizes_of = {who: sum(length for _, _, length in said[who]) for who in (log, peer)}
        told.append(Event(log, "step", {**done, "bytes_sent": sizes_of[log], "bytes_received": sizes_of[peer]}))
    report = {**labels, "transcript_sha256": transcript.digest().hex()}
    for party in (BANK, PLATFORM):
        told.append(Event(COORDINATOR, "report", {**report, "party": party}))
        heard = [
            event for event in disclosures(labels, party, said[party], done=True, sets=sizes) if event.fields["to"] == COORDINATOR
        ]
        for event in heard:
            fields = {name: value for name, value in event.fields.items() if name != "salt"}
            told.append(Event(COORDINATOR, "disclosure", {**fields, "party": party}))
    return told + [Event(log, "") for log in KEYS]


def choice(sets: dict[str, int]) -> dict[str, Any]:
    """What a node says of how it matches customers, once both sizes are known."""
    sizes = sets[BANK], sets[PLATFORM]
    how = {"method": chosen_method("auto", *sizes), "reason": reason("auto", *sizes)}
    return {"what": "alignment", **how, "label_holder": sizes[0], "feature_holder": sizes[1]}


def commitments(step: str, log: str, sets: dict[str, int]) -> list[dict[str, Any]]:
    """What a node commits to before a step's first message."""
    digest = {"sha256": hashlib.sha256(f"{step} {log}".encode()).hexdigest()}
    made: dict[str, list[dict[str, Any]]] = {
        "align": [{"what": "dataset", "rows": sets[log]}],
        "prepare": [
            {"what": "encoded", "rows": SHARED, "columns": COLUMNS[log] - (log == BANK)},
            {"what": "paillier key", "bits": SPEC.model.key_bits},
        ],
    }
    return [made_of | digest for made_of in made.get(step, [])]


def disclosures(
    labels: dict[str, Any], log: str, said: list[tuple[str, int, int]], *, done: bool, sets: dict[str, int]
) -> list[Event]:
    """A node's disclosure entries of one attempt."""
    items = Counter[str]()
    for kind, count, _ in said:
        items[kind] += count
    values = {
        "set_size": (1, str(sets[log])),
        "shared_customers": (SHARED, str(SHARED)),
        "shared_customers_at_most": (items["DoublyMasked"], ""),
        "rows": (3, json.dumps([SHARED, SHARED, 0])),
        "columns": (1, str(COLUMNS[log])),
        "base_rate": (1, RATE),
        "inner_products": (1, json.dumps(["0.125"])),
        "weights_of_the_receiver": (items["WeightShares"], ""),
    }
    told = []
    for rule in RULES:
        if rule.step != labels["step"] or not items[rule.carried] or rule.when == ("failed" if done else "done"):
            continue
        if (rule.label_holder_only and log != BANK) or not rule.flag(SPEC):
            continue
        count, value = values[rule.what]
        to = COORDINATOR if rule.to == "coordinator" else (PLATFORM if log == BANK else BANK)
        fields = {"what": rule.what, "to": to, "count": count, "clause": rule.clause, "value": value if done else ""}
        salt = hashlib.sha256(json.dumps([labels, log, fields]).encode()).hexdigest()[:32]
        told.append(Event(log, "disclosure", {**labels, **fields, "salt": salt}))
    return told


def receipts(labels: dict[str, Any], digest: bytes, signers: dict[str, str] | None = None) -> list[Event]:
    """Both receipts in both nodes' logs."""
    told = []
    statement = receipt_statement(**labels, digest=digest)
    for signer, reader in ((BANK, PLATFORM), (PLATFORM, BANK)):
        said = {**labels, "digest": digest.hex(), "signature": KEYS[(signers or {}).get(signer, signer)].sign(statement).hex()}
        told.append(Event(signer, "receipt", {**said, "direction": "sent", "peer": reader}))
        told.append(Event(reader, "receipt", {**said, "direction": "received", "peer": signer}))
    return told


def opening() -> list[Event]:
    """What comes before the first step: software, policies, the specification, seeds, approvals."""
    told = [Event(log, "software", {"version": "0.1.0", "python": "3.11.7", "lock_sha256": "00" * 32}) for log in KEYS]
    told += [Event(log, "policy", {"sha256": "11" * 32, **POLICY}) for log in (BANK, PLATFORM)]
    told += [Event(log, "spec", {"job": JOB, "document": SPEC.canonical().decode()}) for log in KEYS]
    told += [Event(COORDINATOR, "job", {"job": JOB, "state": "submitted", "code": ""})]
    return told + [Event(log, "commitment", {"job": JOB, "what": "seed", "sha256": "22" * 32}) for log in (BANK, PLATFORM)]


def ending(told: list[Event], state: str = "finished") -> list[Event]:
    """Each log's disclosure receipt over what it was told, and the job's end."""
    last = []
    for log in KEYS:
        totals: dict[tuple[str, ...], int] = {}
        for event in told:
            if event.log == log and event.kind == "disclosure":
                who = (event.fields["party"],) if log == COORDINATOR else ()
                key = (event.fields["what"], event.fields["to"], event.fields["clause"], *who)
                totals[key] = totals.get(key, 0) + event.fields["count"]
        items = [
            {"what": key[0], "to": key[1], "clause": key[2], "count": count} | ({"party": key[3]} if key[3:] else {})
            for key, count in totals.items()
        ]
        if items or log == COORDINATOR:
            last.append(Event(log, "disclosures", {"job": JOB, "items": items}))
        last.append(Event(log, "job", {"job": JOB, "state": state, "code": "" if state == "finished" else "job.failed"}))
    return last + [Event(log, "") for log in KEYS]


def events(*, before_finish: list[Event] | None = None, ended: bool = True) -> list[Event]:
    """An honest job from the first entry to the last; ``before_finish`` is an earlier attempt of the last step."""
    told = [*opening(), *approvals()]
    for step, number in STEPS:
        if step == "finish":
            told += before_finish or []
        told += attempt(step, number, again=1 if step == "finish" and before_finish else 0)
    return told + (ending(told) if ended else [Event(log, "") for log in KEYS])


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


def of(told: list[Event], log: str, kind: str, **fields: object) -> Event:
    """The first entry of a log that says this."""
    return next(e for e in told if e.log == log and e.kind == kind and all(e.fields.get(k) == v for k, v in fields.items()))


def index(told: list[Event], log: str, kind: str, **fields: object) -> int:
    """Where in what is told it stands."""
    return told.index(of(told, log, kind, **fields))


def refused(folder: Path, told: list[Event], **arguments: object) -> LogRejected:
    """What the verification of all that is told ends with."""
    with pytest.raises(LogRejected) as caught:
        verify_logs(list(write(folder, told).values()), policy=policy(folder), **arguments)  # type: ignore[arg-type]
    assert caught.value.exit_status == 1
    assert caught.value.remedy
    return caught.value
