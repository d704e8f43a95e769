"""The auditor's half of a replay on scripted records: the wire's comparisons one by one, and logs that are no input."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from audit import replay as replay_module
from audit.cli import cli
from audit.console import run
from audit.errors import IsthmusError, UsageError
from audit.opening import software_fields
from audit.record import LogWriter
from audit.replay import open_premises
from audit.replay_record import AttemptName, RecordedAttempt, read_record
from audit.replay_results import MESSAGES, STEPS
from audit.replay_wire import EndOfRecord, ReplayDiffers, ReplayMissing, ReplayWire
from audit.signing import SigningKey
from node.runtime.steps import ORDERS
from node.transport.channel import MESSAGE_TYPES
from tests.rechain import rechain

JOB = "ab" * 32
NAME = AttemptName("align", 0, 2)
SENT, GOT = b"what was sent", b"what was received"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def message(seq: int, direction: str, kind: str, payload: bytes, number: int = 0, **changes: Any) -> dict[str, Any]:
    said = {"kind": "message", "seq": seq, "direction": direction, "type": kind, "number": number, "length": len(payload)}
    return said | {"sha256": digest(payload), "items": 3} | changes


COMMITMENT = {"kind": "commitment", "seq": 6, "what": "dataset", "sha256": "0" * 64, "rows": 5}
RECORD = [COMMITMENT, message(7, "sent", "PsiStart", SENT), message(8, "received", "PsiStart", GOT)]


def wire(entries: list[dict[str, Any]] = RECORD, *, state: str = "done", kept: tuple[bytes, ...] = (GOT,)) -> ReplayWire:
    attempt = RecordedAttempt(NAME, 0, 0, {}, state=state)
    return ReplayWire("bank", attempt, iter(entries), iter(kept))


def say(one: ReplayWire) -> None:
    """The honest conversation."""
    one.commit("dataset", "0" * 64, rows=5)
    one.send_payload("PsiStart", SENT, items=3)
    assert one.recv_payload("PsiStart") == GOT
    one.finish()


def test_the_same_conversation_passes() -> None:
    one = wire()
    say(one)
    assert (one.reproduced, one.items_sent) == (1, {"PsiStart": 3})


OTHERWISE: dict[str, tuple[int, dict[str, Any]]] = {
    "the length": (1, {"length": 4}),
    "the digest": (1, {"sha256": digest(b"x")}),
    "the type": (1, {"type": "MaskedPoints"}),
    "the items": (1, {"items": 4}),
    "the direction": (1, {"direction": "received"}),
    "a commitment's digest": (0, {"sha256": "1" * 64}),
    "a commitment's rows": (0, {"rows": 6}),
    "what is committed to": (0, {"what": "encoded"}),
    "the type received": (2, {"type": "MaskedPoints"}),
}


@pytest.mark.parametrize("kind", OTHERWISE)
def test_whatever_else_the_log_says_is_named_by_its_entry(kind: str) -> None:
    place, change = OTHERWISE[kind]
    entries = [dict(entry) for entry in RECORD]
    entries[place] |= change
    with pytest.raises(ReplayDiffers) as raised:
        say(wire(entries))
    assert raised.value.seq == 6 + place
    assert f"bank entry {6 + place}, align, attempt 2" in raised.value.message


def test_a_commitment_after_the_first_message_is_no_commitment() -> None:
    with pytest.raises(ReplayDiffers) as raised:
        say(wire([RECORD[1], RECORD[0], RECORD[2]]))
    assert raised.value.seq == 7


def test_kept_bytes_that_are_not_those_received() -> None:
    with pytest.raises(ReplayDiffers) as raised:
        say(wire(kept=(b"what was receiveD",)))
    assert (raised.value.code, raised.value.seq) == ("replay.kept_differs", 8)


def test_kept_bytes_that_are_missing() -> None:
    with pytest.raises(ReplayMissing, match="entry 8"):
        say(wire(kept=()))


def test_a_done_attempt_whose_record_is_shorter_or_longer_differs() -> None:
    with pytest.raises(ReplayDiffers, match="record has ended"):
        say(wire(RECORD[:2]))
    with pytest.raises(ReplayDiffers) as raised:
        say(wire([*RECORD, message(9, "sent", "MaskedPoints", b"more")]))
    assert (raised.value.seq, raised.value.type) == (9, "MaskedPoints")


def test_a_failed_attempt_is_followed_as_far_as_its_record_goes() -> None:
    for end in range(len(RECORD)):
        with pytest.raises(EndOfRecord):
            say(wire(RECORD[:end], state="failed"))


def test_every_step_and_message_is_explained() -> None:
    assert set(STEPS) == {step for steps in ORDERS.values() for step in steps}
    assert set(MESSAGES) == set(MESSAGE_TYPES) - {"StepReceipt"}


# ---- what the node wing may do wrong


class Scripted:
    """A node wing that runs whatever the test gives it."""

    def __init__(self, step: Callable[[ReplayWire], Any], *, seed: str = "5" * 64) -> None:
        self.step, self.seed = step, seed
        self.kept = 0

    def seed_commitment(self) -> str:
        return self.seed

    def inbound(self, name: AttemptName) -> Iterator[bytes]:
        return iter((GOT,))

    def run(self, attempt: RecordedAttempt, one: ReplayWire) -> Scripted:
        self.step(one)
        return self

    def disclosures(self) -> list[dict[str, Any]]:
        return [{"what": "set_size", "value": "5", "salt": "00"}]

    def keep(self) -> None:
        self.kept += 1


class Node:
    def __init__(self, path: Path, job: Scripted, *, served: bool = False) -> None:
        self.name, self.log_path, self.served, self._job = "bank", path, served, job

    def job(self, record: Any) -> Any:
        return contextlib.nullcontext(self._job)

    def close(self) -> None:
        return


def write_log(folder: Path, *, state: str = "done", value: str = "5", software: Mapping[str, Any] | None = None) -> Path:
    log = LogWriter.open(folder, key=SigningKey.generate("isthmus.log/bank"), clock=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    if software is not None:
        log.append("software", **software)
    log.append("policy", sha256="0" * 64, minimum_intersection=7)
    log.append("spec", job=JOB, document="{}")
    log.append("commitment", job=JOB, what="seed", sha256="5" * 64)
    labels = {"job": JOB, "step": "align", "round": 0, "attempt": 2}
    log.append("step", **labels, state="start", coefficients=["0.1"], lookup_range="8.0")
    for entry in RECORD:
        own = {name: value for name, value in entry.items() if name not in ("kind", "seq", "number")}
        log.append(str(entry["kind"]), **labels, **own, **({"seq": 0} if entry["kind"] == "message" else {}))
    if state == "done":
        log.append("disclosure", **labels, what="set_size", value=value, salt="00")
    log.append("step", **labels, state=state, **({"code": "transport.closed"} if state == "failed" else {}))
    log.append("job", job=JOB, state="failed", code="")
    log.close()
    return folder / "log.jsonl"


def replayed(path: Path, job: Scripted) -> Any:
    return replay_module.replay_node(Node(path, job), prefix=None, on_result=lambda *_: None)


def test_a_log_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = read_record(write_log(tmp_path), name="bank")
    (job,) = record.chosen("ABAB")
    attempt = job.attempts[NAME]
    assert (job.seed_commitment, job.state, job.document, job.sent) == ("5" * 64, "failed", "{}", 1)
    assert (attempt.coefficients, attempt.lookup_range, attempt.state) == ((0.1,), 8.0, "done")
    assert (attempt.sent, attempt.received, attempt.committed, len(attempt.disclosures)) == (1, 1, 1, 1)
    assert attempt.policy["minimum_intersection"] == 7
    assert [entry["kind"] for entry in record.entries(JOB, attempt)] == ["commitment", "message", "message"]
    assert str(AttemptName("round", 2, 1)) == "round 2, attempt 1"


def test_all_reproduced(tmp_path: Path) -> None:
    job = Scripted(say)
    found = replayed(write_log(tmp_path), job)
    assert (found.exit_status, found.reproduced, found.sent, job.kept) == (0, 1, 1, 1)


def refuse(_: ReplayWire) -> None:
    raise UsageError("psi.too_few_shared", "Too few.")


def send_and_refuse(one: ReplayWire) -> None:
    one.commit("dataset", "0" * 64, rows=5)
    one.send_payload("PsiStart", SENT, items=3)
    one.recv_payload("PsiStart")
    refuse(one)


def test_a_step_that_fails_only_in_the_replay_differs(tmp_path: Path) -> None:
    job = Scripted(send_and_refuse)
    found = replayed(write_log(tmp_path), job)
    assert (found.exit_status, job.kept) == (1, 0)
    assert "psi.too_few_shared" in found.first("differs").detail


def test_a_step_that_failed_there_and_fails_here_is_reproduced(tmp_path: Path) -> None:
    job = Scripted(send_and_refuse)
    found = replayed(write_log(tmp_path, state="failed"), job)
    assert (found.exit_status, found.reproduced, job.kept) == (0, 1, 0)


def test_a_step_that_fails_earlier_here_than_there_differs(tmp_path: Path) -> None:
    found = replayed(write_log(tmp_path, state="failed"), Scripted(refuse))
    assert (found.exit_status, found.first("differs").seq) == (1, 4)


@pytest.mark.parametrize("field", ["version", "python", "lock_sha256", ""])
def test_other_software_is_said(tmp_path: Path, field: str) -> None:
    fields = software_fields() | ({field: "0.0.1"} if field else {})
    found = replayed(write_log(tmp_path, software=fields), Scripted(say))
    assert found.exit_status == 0
    assert ("0.0.1" in found.other_software) is bool(field)


def test_another_disclosure_or_seed_differs(tmp_path: Path) -> None:
    found = replayed(write_log(tmp_path / "a", value="6"), Scripted(say))
    assert (found.exit_status, found.first("differs").type, found.first("differs").seq) == (1, "disclosure", 7)
    found = replayed(write_log(tmp_path / "b"), Scripted(say, seed="6" * 64))
    assert (found.exit_status, found.first("differs").type, found.reproduced) == (1, "seed", 0)


def test_what_runs_now_is_left_out_and_what_ran_when_the_node_died_is_followed(tmp_path: Path) -> None:
    path = write_log(tmp_path, state="start")
    running = replay_module.replay_node(Node(path, Scripted(say), served=True), prefix=None, on_result=lambda *_: None)
    assert (running.exit_status, running.first("missing").code) == (2, "replay.running")
    stopped = replayed(path, Scripted(say))
    assert (stopped.exit_status, stopped.reproduced) == (0, 1)


def test_a_fault_of_the_software_is_not_taken_for_a_verdict(tmp_path: Path) -> None:
    def broken(_: ReplayWire) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        replayed(write_log(tmp_path), Scripted(broken))


# ---- input that cannot be used


@pytest.mark.parametrize("kind", ["altered", "cut out", "another owner", "no log", "missing", "no number"])
def test_a_log_that_cannot_be_replayed_is_refused_with_its_place(tmp_path: Path, kind: str) -> None:
    path = write_log(tmp_path)
    lines, name = path.read_bytes().splitlines(keepends=True), "bank"
    if kind == "altered":
        path.write_bytes(b"".join(lines).replace(b'"rows":5', b'"rows":6'))
    elif kind == "cut out":
        path.write_bytes(b"".join(lines[:2] + lines[3:]))
    elif kind == "another owner":
        name = "platform"
    elif kind == "no number":
        rechain(path, lambda entry: entry | ({"lookup_range": "wide"} if entry.get("state") == "start" else {}))
    elif kind == "no log":
        path.write_bytes(b"hello\n")
    else:
        path.unlink()
    with pytest.raises(UsageError) as refused:
        read_record(path, name=name)
    assert refused.value.code == "replay.log_unusable"
    assert refused.value.remedy
    if kind == "altered":
        assert "entry 5" in refused.value.message


def test_a_last_line_without_its_end_is_left_out(tmp_path: Path) -> None:
    path = write_log(tmp_path)
    whole = read_record(path, name="bank")
    with path.open("ab") as file:
        file.write(b'{"half')
    assert (read_record(path, name="bank").size, read_record(path, name="bank").root) == (whole.size, whole.root)


def test_a_job_is_named_by_its_hash(tmp_path: Path) -> None:
    record = read_record(write_log(tmp_path), name="bank")
    for prefix in ("", "cd"):
        with pytest.raises(UsageError) as refused:
            record.chosen(prefix)
        assert refused.value.code == "replay.job_unknown"


def test_the_command_without_a_node_or_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, ["replay", str(tmp_path)], usage_status=3) == 3
    assert "replay.no_folder" in capsys.readouterr().err
    assert run(cli, ["replay", str(tmp_path / "not there")], usage_status=3) == 3
    monkeypatch.setattr(metadata, "entry_points", lambda group: [])
    with pytest.raises(IsthmusError) as refused:
        open_premises(tmp_path, workers=None)
    assert refused.value.code == "replay.no_node"
