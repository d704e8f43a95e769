"""Large, lawful logs made quickly: the messages that finished jobs would have left, counted by the protocol's own table.

Nothing is computed but digests, receipts and checkpoints: a message's SHA-256 is that of its name.  Checkpoints are signed at a
job's end only.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from audit.checkpoint import Checkpoint, origin_of, sign_checkpoint
from audit.cosignature import cosign
from audit.disclosure_rules import RULES
from audit.history import Directive
from audit.merkle import Frontier
from audit.plain import plain_message
from audit.protocol import Figures, Phase, Single, Turns, legal_messages
from audit.receipts import Transcript, approval_statement, receipt_statement
from audit.record import CHECKPOINT_FILE, CHECKPOINT_FOLDER, KEY_FILE, LOG_FILE
from audit.signing import SigningKey
from audit.spec import JobSpec
from audit.split import holdout_rows

BANK, PLATFORM, COORDINATOR = "bank", "platform", "coordinator"
NODES = (BANK, PLATFORM)
KEYS = {name: SigningKey(f"isthmus.log/{name}", hashlib.sha256(name.encode()).digest()) for name in (*NODES, COORDINATOR)}
SETS = {BANK: 60_000, PLATFORM: 80_000}
SHARED = 40_000
COLUMNS = {BANK: 13, PLATFORM: 12}
ROUNDS = 6
BATCHES = {"MaskedPoints": 1024, "DoublyMasked": 1024, "ColumnMasks": 64, "RowProducts": 64, "LookupTables": 256, "OtColumns": 256}
BATCH = 1024
_START = datetime(2025, 1, 1, tzinfo=UTC)


@dataclass
class FastLog:
    """One log, written without waiting for the disk."""

    folder: Path
    name: str
    frontier: Frontier = field(default_factory=Frontier)
    prev: str = ""

    def __post_init__(self) -> None:
        (self.folder / CHECKPOINT_FOLDER).mkdir(parents=True)
        (self.folder / KEY_FILE).write_text(f"{KEYS[self.name].verifier}\n")
        self.file: BinaryIO = (self.folder / LOG_FILE).open("wb")

    def append(self, kind: str, **fields: Any) -> None:
        """Write one entry; a second passes with every thousand."""
        size = self.frontier.size
        moment = (_START + timedelta(milliseconds=size)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        frame = {"v": 1, "log": self.name, "seq": size, "prev": self.prev, "time": moment, "kind": kind}
        entry = {"job": "", "step": "", "attempt": 0, "round": 0, **frame, **fields}
        data = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        self.file.write(data + b"\n")
        self.prev = self.frontier.append(data).hex()

    def checkpoint(self) -> None:
        """Sign the tree head, with the cosignatures of the two others."""
        self.file.flush()
        size = self.frontier.size
        checkpoint = Checkpoint(origin_of(self.name), size, self.frontier.root())
        note = sign_checkpoint(checkpoint, KEYS[self.name])
        for name, key in KEYS.items():
            if name != self.name:
                note += cosign(checkpoint.text(), key, time=1_735_689_600)
        (self.folder / CHECKPOINT_FOLDER / f"{size:012d}").write_text(note)
        (self.folder / CHECKPOINT_FILE).write_text(note)


class Job:
    """One finished job in three logs."""

    def __init__(self, logs: dict[str, FastLog], number: int) -> None:
        self.logs = logs
        self.spec = JobSpec.model_validate(
            {
                "nonce": f"{number:032x}",
                "coordinator": COORDINATOR,
                "label_holder": {"name": BANK, "role": "bank", "dataset": "cards", "features": ["a"]},
                "feature_holder": {"name": PLATFORM, "role": "platform", "dataset": "shop", "features": ["b"]},
                "label": {"column": "y"},
                "align": {"method": "curve"},
                "model": {"rounds": ROUNDS},
                "disclose": {"aggregates_to_feature_holder": False, "aggregates_to_coordinator": False},
            }
        )
        self.job = self.spec.identity()
        self.held = int(holdout_rows(self.job, SHARED, Decimal(self.spec.model.holdout)).sum())
        self.rows = SHARED - self.held
        self.told: dict[str, Counter[tuple[str, ...]]] = {name: Counter() for name in logs}

    def write(self) -> None:
        """The whole job, from the specification to the end."""
        for log in self.logs.values():
            log.append("spec", job=self.job, document=self.spec.canonical().decode())
        self.logs[COORDINATOR].append("job", job=self.job, state="submitted", code="")
        self._approve()
        for step, number in (
            ("align", 0),
            ("prepare", 0),
            *(("round", t) for t in range(1, ROUNDS + 1)),
            ("finish", 0),
            ("evaluate", 0),
        ):
            self._step(step, number)
        for name, log in self.logs.items():
            party = ("party",) if name == COORDINATOR else ()
            items = [
                dict(zip(("what", "to", "clause", *party), key, strict=True)) | {"count": count}
                for key, count in self.told[name].items()
            ]
            log.append("disclosures", job=self.job, items=items)
            log.append("job", job=self.job, state="finished", code="")
            log.checkpoint()

    def _approve(self) -> None:
        signed = {}
        for party, peer in (NODES, NODES[::-1]):
            text = approval_statement(
                job=self.job, party=party, peer=peer, decision="approve", by="bench", time="2025-01-01T00:00:00Z"
            )
            signed[party] = {"statement": text.decode(), "signature": KEYS[party].sign(text).hex()}
            self.logs[COORDINATOR].append("approval", job=self.job, **signed[party])
        for party, peer in (NODES, NODES[::-1]):
            self.logs[party].append("commitment", job=self.job, what="seed", sha256="22" * 32)
            for signer in (party, peer):
                self.logs[party].append("approval", job=self.job, **signed[signer])

    def _step(self, step: str, number: int) -> None:
        labels: dict[str, Any] = {"job": self.job, "step": step, "round": number, "attempt": 0}
        count = {"round": number - 1, "finish": ROUNDS, "evaluate": ROUNDS}.get(step, 0)
        numbers = Directive(("0.5",) * count, "8.0" if number or count else "0.0")
        fields = {"coefficients": list(numbers.coefficients), "lookup_range": numbers.lookup_range}
        self.logs[COORDINATOR].append("directive", **labels, **fields)
        for name in NODES:
            self.logs[name].append("step", **labels, **fields, state="start")
            self._commit(name, step, labels)
        digest, carried = self._messages(step, number, labels, numbers)
        statement = receipt_statement(**labels, digest=digest)
        for signer, reader in (NODES, NODES[::-1]):
            receipt = {**labels, "digest": digest.hex(), "signature": KEYS[signer].sign(statement).hex()}
            self.logs[signer].append("receipt", **receipt, direction="sent", peer=reader)
            self.logs[reader].append("receipt", **receipt, direction="received", peer=signer)
        for name in NODES:
            heard = self._disclose(name, step, labels, carried[name])
            self.logs[name].append("step", **labels, state="done", transcript_sha256=digest.hex())
            self.logs[COORDINATOR].append("report", **labels, party=name, transcript_sha256=digest.hex())
            for fields in heard:
                self.told[COORDINATOR][fields["what"], fields["to"], fields["clause"], name] += fields["count"]
                self.logs[COORDINATOR].append("disclosure", **labels, **fields, party=name)

    def _commit(self, name: str, step: str, labels: dict[str, Any]) -> None:
        sizes: dict[str, dict[str, dict[str, int]]] = {
            "align": {"dataset": {"rows": SETS[name]}},
            "prepare": {
                "encoded": {"rows": SHARED, "columns": COLUMNS[name] - (name == BANK)},
                "paillier key": {"bits": self.spec.model.key_bits},
            },
        }
        for what, counted in sizes.get(step, {}).items():
            self.logs[name].append("commitment", **labels, what=what, sha256="33" * 32, **counted)

    def _messages(
        self, step: str, number: int, labels: dict[str, Any], numbers: Directive
    ) -> tuple[bytes, dict[str, Counter[str]]]:
        transcript = Transcript(**labels, parties=NODES)
        said = {name: self._said(step, number, name, numbers) for name in NODES}
        carried: dict[str, Counter[str]] = {name: Counter() for name in NODES}
        for index, pair in enumerate(itertools.zip_longest(said[BANK], said[PLATFORM])):
            for message, (sender, reader) in zip(pair, (NODES, NODES[::-1]), strict=True):
                if message is None:
                    continue
                kind, items, length = message
                plain = plain_message(kind, self._figures(sender), numbers, step=step)
                digest = hashlib.sha256(f"{self.job} {step} {number} {index} {sender}".encode() if plain is None else plain)
                entry = {**labels, "type": kind, "number": index, "length": length, "sha256": digest.hexdigest(), "items": items}
                self.logs[sender].append("message", **entry, direction="sent", peer=reader)
                self.logs[reader].append("message", **entry, direction="received", peer=sender)
                transcript.add(sender, kind, digest.digest(), length)
                carried[sender][kind] += items
        return transcript.digest(), carried

    def _figures(self, sender: str) -> Figures:
        peer = PLATFORM if sender == BANK else BANK
        return Figures(
            holds_label=sender == BANK,
            key_bits=self.spec.model.key_bits,
            rounds=ROUNDS,
            entries=self.spec.model.lookup_entries_of(self.rows),
            own_set=SETS[sender],
            peer_set=SETS[peer],
            rows=self.rows,
            held_out=self.held,
            own_columns=COLUMNS[sender],
            peer_columns=COLUMNS[peer],
            base_rate="0.22",
        )

    def _said(self, step: str, number: int, sender: str, numbers: Directive) -> Iterator[tuple[str, int, int]]:
        for part in legal_messages(step, self._figures(sender), round=number, directive=numbers):
            if isinstance(part, Single):
                yield part.type, 1, part.shortest
            elif isinstance(part, Turns):
                for pair in itertools.zip_longest(_cut(part.first), _cut(part.second)):
                    yield from (message for message in pair if message is not None)
            else:
                yield from _cut(part)

    def _disclose(self, name: str, step: str, labels: dict[str, Any], carried: Counter[str]) -> list[dict[str, Any]]:
        """A node's disclosure entries of a step done; returns those the coordinator hears too."""
        number = labels["round"]
        values = {
            "set_size": (1, str(SETS[name])),
            "shared_customers": (SHARED, str(SHARED)),
            "rows": (3, json.dumps([SHARED, self.rows, self.held])),
            "columns": (1, str(COLUMNS[name])),
            "base_rate": (1, "0.22"),
            "inner_products": (number, json.dumps(["0.125"] * number)),
            "weights_of_the_receiver": (carried["WeightShares"], ""),
            "score_bands": (carried["BandTables"], ""),
        }
        heard = []
        for rule in RULES:
            applies = rule.step == step and carried[rule.carried] and rule.when != "failed" and rule.flag(self.spec)
            if not applies or (rule.label_holder_only and name != BANK):
                continue
            to = COORDINATOR if rule.to == "coordinator" else (PLATFORM if name == BANK else BANK)
            count, value = values[rule.what]
            fields = {"what": rule.what, "to": to, "count": count, "clause": rule.clause, "value": value}
            salt = hashlib.sha256(json.dumps([labels, name, fields]).encode()).hexdigest()[:32]
            self.logs[name].append("disclosure", **labels, **fields, salt=salt)
            self.told[name][rule.what, to, rule.clause] += count
            if to == COORDINATOR:
                heard.append(fields)
        return heard


def _cut(phase: Phase) -> Iterator[tuple[str, int, int]]:
    total, batch = phase.items or 0, BATCHES.get(phase.type, BATCH)
    for first in range(0, total, batch):
        count = min(batch, total - first)
        yield phase.type, count, phase.length(first, count)


def write_logs(folder: Path, entries: int) -> dict[str, FastLog]:
    """Three logs of finished jobs with at least ``entries`` entries together."""
    logs = {name: FastLog(folder / name, name) for name in (*NODES, COORDINATOR)}
    for name in NODES:
        bounds = {"minimum_intersection": 1000, "key_bits_min": 2048, "rounds_max": 16, "bands_max": 64, "small_keys": 0}
        logs[name].append("policy", sha256="11" * 32, **bounds)
    number = 0
    while sum(log.frontier.size for log in logs.values()) < entries:
        Job(logs, number).write()
        number += 1
    return logs
