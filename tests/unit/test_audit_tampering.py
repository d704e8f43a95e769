"""Every kind of tampering, and the step at which it must fail.

Two kinds of hand: one changes files and has no key; one writes and signs with its own log's key, but tells another story.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import rfc8785

from audit.checkpoint import Checkpoint, origin_of, sign_checkpoint
from audit.ledger import LogRejected
from audit.merkle import Frontier, leaf_hash
from audit.receipts import Transcript
from audit.signing import SigningKey
from audit.verify import StepResult, verify_logs
from tests.unit.audit_world import (
    BANK,
    COORDINATOR,
    JOB,
    KEYS,
    PLATFORM,
    Event,
    approvals,
    attempt,
    events,
    policy,
    receipts,
    write,
)

Folders = dict[str, Path]


def rejected(folders: Folders, tmp_path: Path, **arguments: object) -> tuple[LogRejected, list[StepResult]]:
    told: list[StepResult] = []
    with pytest.raises(LogRejected) as caught:
        verify_logs(list(folders.values()), policy=policy(tmp_path), on_step=told.append, **arguments)  # type: ignore[arg-type]
    assert caught.value.remedy
    return caught.value, told


def lines(folders: Folders, log: str = BANK) -> list[bytes]:
    return (folders[log] / "log.jsonl").read_bytes().splitlines(keepends=True)


def put(folders: Folders, changed: list[bytes], log: str = BANK) -> None:
    (folders[log] / "log.jsonl").write_bytes(b"".join(changed))


# ---- hands without a key: files are changed after they were signed ---------------------------------------------------------------


def flip_text(folders: Folders) -> None:
    changed = lines(folders)
    changed[5] = changed[5].replace(b'"round":0', b'"round":9')
    put(folders, changed)


def flip_the_last_entry(folders: Folders) -> None:
    changed = lines(folders)
    changed[-1] = changed[-1].replace(b'"finished"', b'"failed"')
    put(folders, changed)


def remove_an_entry(folders: Folders) -> None:
    put(folders, lines(folders)[:7] + lines(folders)[8:])


def repeat_an_entry(folders: Folders) -> None:
    put(folders, lines(folders)[:8] + lines(folders)[7:])


def swap_entries(folders: Folders) -> None:
    changed = lines(folders)
    changed[6], changed[7] = changed[7], changed[6]
    put(folders, changed)


def cut_the_end(folders: Folders) -> None:
    put(folders, lines(folders)[:-2])


def cut_into_the_last_line(folders: Folders) -> None:
    put(folders, [*lines(folders)[:-1], lines(folders)[-1][:-5]])


def break_the_json(folders: Folders) -> None:
    changed = lines(folders)
    changed[4] = changed[4].replace(b'{"', b'{ "', 1)
    put(folders, changed)


def rewrite_the_whole_chain(folders: Folders) -> None:
    """An entry is changed and every ``prev`` after it made good: only the signed root still knows."""
    prev, changed = "", []
    for line in lines(folders):
        entry = json.loads(line) | {"prev": prev}
        if entry["kind"] == "message":
            entry["items"] = 9
        data = rfc8785.dumps(entry)
        prev = leaf_hash(data).hex()
        changed.append(data + b"\n")
    put(folders, changed)


def log_of_another(folders: Folders) -> None:
    shutil.copy(folders[PLATFORM] / "log.jsonl", folders[BANK] / "log.jsonl")


def forge_a_checkpoint(folders: Folders) -> None:
    frontier = Frontier(leaf_hash(line[:-1]) for line in lines(folders))
    key = SigningKey(KEYS[BANK].name, bytes(32))
    (folders[BANK] / "checkpoint").write_text(sign_checkpoint(Checkpoint(origin_of(BANK), frontier.size, frontier.root()), key))


def change_a_checkpoint(folders: Folders) -> None:
    path = folders[BANK] / "checkpoint"
    text = path.read_text()
    size = text.split("\n")[1]
    path.write_text(text.replace(f"\n{size}\n", f"\n{int(size) - 1}\n"))


def change_an_old_checkpoint(folders: Folders) -> None:
    path = sorted((folders[BANK] / "checkpoints").iterdir())[0]
    path.write_text(path.read_text().replace("\n\n\u2014", "\nextension\n\n\u2014"))


def checkpoint_of_another(folders: Folders) -> None:
    shutil.copy(folders[PLATFORM] / "checkpoint", folders[BANK] / "checkpoints" / "000000000001")


def garble_a_checkpoint(folders: Folders) -> None:
    (folders[BANK] / "checkpoint").write_bytes(b"\x00garbage")


@pytest.mark.parametrize(
    ("change", "step", "code", "seq"),
    [
        (flip_text, 3, "audit.chain", 5),
        (flip_the_last_entry, 3, "audit.root", None),
        (remove_an_entry, 3, "audit.sequence", 7),
        (repeat_an_entry, 3, "audit.sequence", 8),
        (swap_entries, 3, "audit.sequence", 6),
        (cut_the_end, 3, "audit.log_shortened", None),
        (rewrite_the_whole_chain, 3, "audit.root", 0),
        (log_of_another, 3, "audit.other_log", 0),
        (forge_a_checkpoint, 1, "audit.not_signed", None),
        (change_a_checkpoint, 1, "audit.bad_signature", None),
        (change_an_old_checkpoint, 1, "audit.bad_signature", None),
        (checkpoint_of_another, 1, "audit.not_signed", None),
        (garble_a_checkpoint, 1, "audit.bad_note", None),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_changed_files(tmp_path: Path, change: Callable[[Folders], None], step: int, code: str, seq: int | None) -> None:
    folders = write(tmp_path, events())
    change(folders)
    error, told = rejected(folders, tmp_path)
    assert (error.step, error.code, error.log, error.exit_status) == (step, code, BANK, 1)
    assert seq is None or error.seq == seq
    assert [(result.number, result.state) for result in told][-1] == (step, "failed")
    assert all(result.state != "failed" for result in told[:-1])


@pytest.mark.parametrize(
    ("change", "code", "seq"), [(cut_into_the_last_line, "audit.cut_line", -1), (break_the_json, "audit.entry_malformed", 4)]
)
def test_changed_files_that_are_no_logs_any_more(tmp_path: Path, change: Callable[[Folders], None], code: str, seq: int) -> None:
    """Unusable rather than tampered with, though the lines were signed; the byte where it begins is named."""
    folders = write(tmp_path, events())
    whole = lines(folders)
    change(folders)
    error, _ = rejected(folders, tmp_path)
    at = range(len(whole))[seq]
    assert (error.step, error.code, error.log, error.exit_status) == (3, code, BANK, 3)
    assert (error.seq, error.offset) == (at, sum(map(len, whole[:at])))


def test_every_single_byte_of_a_log_counts(tmp_path: Path) -> None:
    """Whichever byte is changed, no log passes (a sample of positions): it is wrong, or no log at all any more."""
    folders = write(tmp_path, events())
    data = (folders[BANK] / "log.jsonl").read_bytes()
    for position in range(3, len(data), max(1, len(data) // 60)):
        changed = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        (folders[BANK] / "log.jsonl").write_bytes(changed)
        error, _ = rejected(folders, tmp_path)
        assert error.step == 3, position
        assert error.exit_status == (3 if error.code == "audit.entry_malformed" else 1), position


# ---- the auditor's own earlier checkpoint ----------------------------------------------------------------------------------------


def test_a_rewritten_history_with_the_right_key(tmp_path: Path) -> None:
    """The log's owner tells another story from the start and signs it all: only the checkpoint the auditor kept knows."""
    first = write(tmp_path / "first", events())
    kept = first[BANK] / "checkpoint"
    assert verify_logs(list(first.values()), policy=policy(tmp_path), last=[kept]).whole
    other = events()
    other[0].fields["version"] = "0.2.0"
    second = write(tmp_path / "second", other)
    assert verify_logs(list(second.values()), policy=policy(tmp_path)).whole
    error, _ = rejected(second, tmp_path, last=[kept])
    assert (error.step, error.code, error.log) == (2, "audit.rewritten", BANK)


def test_a_rolled_back_log(tmp_path: Path) -> None:
    folders = write(tmp_path / "a", events())
    kept = tmp_path / "kept"
    shutil.copy(folders[BANK] / "checkpoint", kept)
    at = next(i for i, event in enumerate(events()) if event.kind == "directive" and event.fields["step"] == "finish")
    error, _ = rejected(write(tmp_path / "b", events()[:at]), tmp_path, last=[kept])
    assert (error.step, error.code, error.log) == (2, "audit.rolled_back", BANK)


def test_two_histories_under_one_key(tmp_path: Path) -> None:
    folders = write(tmp_path / "a", events())
    other = events()
    other[0].fields["version"] = "0.2.0"
    shutil.copy(write(tmp_path / "b", other)[BANK] / "checkpoint", folders[BANK] / "checkpoint")
    error, _ = rejected(folders, tmp_path)
    assert (error.step, error.code) == (1, "audit.two_histories")


# ---- hands with a key: a log that is well-formed and signed, and tells something else ----------------------------------------


def only(told: list[Event], log: str, step: str, direction: str, number: int) -> Event:
    return next(event for event in told if event.log == log and event.is_message(step, direction, number))


def sent_differs(told: list[Event]) -> None:
    only(told, BANK, "round", "sent", 1).fields["sha256"] = "ab" * 32


def length_differs(told: list[Event]) -> None:
    only(told, PLATFORM, "round", "received", 1).fields["length"] = 1


def items_differ(told: list[Event]) -> None:
    only(told, PLATFORM, "align", "received", 0).fields["items"] = 4


def type_differs(told: list[Event]) -> None:
    only(told, BANK, "align", "received", 0).fields["type"] = "WeightShares"


def received_is_hidden(told: list[Event]) -> None:
    told.remove(only(told, PLATFORM, "finish", "received", 2))


def sent_is_hidden(told: list[Event]) -> None:
    told.remove(only(told, BANK, "finish", "sent", 2))


def message_in_the_middle_is_hidden(told: list[Event]) -> None:
    told.remove(only(told, BANK, "finish", "sent", 1))


def message_is_told_twice(told: list[Event]) -> None:
    told.insert(told.index(only(told, BANK, "finish", "sent", 1)), replace(only(told, BANK, "finish", "sent", 1)))


def whole_step_is_hidden(told: list[Event]) -> None:
    told[:] = [event for event in told if event.log != PLATFORM or event.fields.get("step") != "align" or not event.kind]


def peer_is_a_stranger(told: list[Event]) -> None:
    for event in told:
        if event.log == BANK and event.kind in ("message", "receipt"):
            event.fields["peer"] = "somebody"


def message_is_malformed(told: list[Event]) -> None:
    only(told, BANK, "align", "sent", 0).fields["sha256"] = "not a digest"


def put_failed(told: list[Event], failed: list[Event]) -> None:
    """A failed attempt of the last step, before the one that the job is told with."""
    at = next(i for i, event in enumerate(told) if event.kind == "directive" and event.fields["step"] == "finish")
    for event in told[at:]:
        if event.fields.get("step") == "finish":
            event.fields["attempt"] = 1
    told[at:at] = failed


def received_without_sent_in_a_failed_attempt(told: list[Event]) -> None:
    failed = attempt("finish", outcome="failed")
    failed.remove(only(failed, BANK, "finish", "sent", 2))
    put_failed(told, failed)


def differs_in_a_failed_attempt(told: list[Event]) -> None:
    failed = attempt("finish", outcome="failed")
    only(failed, BANK, "finish", "sent", 0).fields["sha256"] = "ab" * 32
    put_failed(told, failed)


def no_approval_of_the_other(told: list[Event]) -> None:
    told[:] = [e for e in told if e.kind != "approval" or e.log != BANK or f'"party":"{BANK}"' in e.fields["statement"]]


def approvals_come_late(told: list[Event]) -> None:
    given = [event for event in told if event.kind == "approval"]
    told[:] = [event for event in told if event.kind != "approval"]
    told[-6:-6] = given


def swap_approvals(told: list[Event], other: list[Event]) -> None:
    at = next(i for i, event in enumerate(told) if event.kind == "approval")
    told[:] = [event for event in told if event.kind != "approval"]
    told[at:at] = other


def approval_of_another_job(told: list[Event]) -> None:
    swap_approvals(told, approvals(job="00" * 32))


def approval_signed_by_another(told: list[Event]) -> None:
    swap_approvals(told, approvals(signers={PLATFORM: BANK}))


def approval_names_another_peer(told: list[Event]) -> None:
    swap_approvals(told, approvals(bank_names="somebody"))


def job_was_rejected(told: list[Event]) -> None:
    swap_approvals(told, approvals(decision="reject"))


def approval_is_malformed(told: list[Event]) -> None:
    next(event for event in told if event.kind == "approval").fields["statement"] = "{}"


def of(told: list[Event], log: str, kind: str, **fields: object) -> Event:
    return next(e for e in told if e.log == log and e.kind == kind and all(e.fields.get(k) == v for k, v in fields.items()))


def receipt_is_missing(told: list[Event]) -> None:
    told.remove(of(told, BANK, "receipt", step="align", direction="received"))


def receipt_over_something_else(told: list[Event]) -> None:
    labels = {"job": JOB, "step": "align", "round": 0, "attempt": 0}
    other = receipts(labels, bytes(32))
    mine = of(told, BANK, "receipt", step="align", direction="received")
    mine.fields.update(of(other, BANK, "receipt", direction="received").fields)


def receipt_signed_by_the_wrong_one(told: list[Event]) -> None:
    mine, theirs = (of(told, BANK, "receipt", step="align", direction=way) for way in ("sent", "received"))
    theirs.fields["signature"] = mine.fields["signature"]


def receipt_of_another_attempt(told: list[Event]) -> None:
    done = of(told, BANK, "receipt", step="align", direction="received")
    statement_of = {"job": JOB, "step": "align", "round": 0, "attempt": 5}
    other = of(receipts(statement_of, bytes.fromhex(done.fields["digest"])), BANK, "receipt", direction="received")
    done.fields["signature"] = other.fields["signature"]


def both_hide_a_message(told: list[Event]) -> None:
    """Both parties leave one and the same message out of their logs: the digest they signed still has it."""
    told.remove(only(told, BANK, "finish", "sent", 2))
    told.remove(only(told, PLATFORM, "finish", "received", 2))


def parties_change_roles(told: list[Event]) -> None:
    """In one step the receipts are over the transcript in which the platform is the label holder."""
    labels = {"job": JOB, "step": "finish", "round": 0, "attempt": 0}
    transcript = Transcript(**labels, parties=(PLATFORM, BANK))  # type: ignore[arg-type]
    for event in told:
        if event.kind == "message" and event.fields["step"] == "finish" and event.fields["direction"] == "sent":
            transcript.add(event.log, event.fields["type"], bytes.fromhex(event.fields["sha256"]), event.fields["length"])
    at = next(i for i, event in enumerate(told) if event.kind == "receipt" and event.fields["step"] == "finish")
    told[at : at + 4] = receipts(labels, transcript.digest())
    for event in told[at + 4 :]:
        if "transcript_sha256" in event.fields:
            event.fields["transcript_sha256"] = transcript.digest().hex()


def done_with_another_transcript(told: list[Event]) -> None:
    of(told, BANK, "step", step="align", state="done").fields["transcript_sha256"] = "00" * 32


def another_transcript_was_reported(told: list[Event]) -> None:
    of(told, COORDINATOR, "report", step="align", party=BANK).fields["transcript_sha256"] = "00" * 32


def done_was_reported_and_is_hidden(told: list[Event]) -> None:
    told.remove(of(told, BANK, "step", step="align", state="done"))


@pytest.mark.parametrize(
    ("change", "step", "code"),
    [
        (no_approval_of_the_other, 4, "audit.not_approved"),
        (approvals_come_late, 4, "audit.not_approved"),
        (approval_of_another_job, 4, "approval.other_job"),
        (approval_signed_by_another, 4, "audit.bad_signature"),
        (approval_names_another_peer, 4, "audit.not_approved"),
        (job_was_rejected, 4, "audit.not_approved"),
        (approval_is_malformed, 4, "approval.malformed"),
        (peer_is_a_stranger, 4, "audit.stranger"),
        (sent_differs, 5, "audit.message_differs"),
        (length_differs, 5, "audit.message_differs"),
        (items_differ, 5, "audit.message_differs"),
        (type_differs, 5, "audit.message_differs"),
        (received_is_hidden, 5, "audit.never_received"),
        (sent_is_hidden, 5, "audit.never_sent"),
        (message_in_the_middle_is_hidden, 5, "audit.message_number"),
        (message_is_told_twice, 5, "audit.message_number"),
        (whole_step_is_hidden, 5, "audit.never_received"),
        (message_is_malformed, 5, "audit.field"),
        (received_without_sent_in_a_failed_attempt, 5, "audit.never_sent"),
        (differs_in_a_failed_attempt, 5, "audit.message_differs"),
        (receipt_is_missing, 6, "audit.receipt_missing"),
        (receipt_over_something_else, 6, "audit.receipt_digest"),
        (receipt_signed_by_the_wrong_one, 6, "audit.bad_signature"),
        (receipt_of_another_attempt, 6, "audit.bad_signature"),
        (both_hide_a_message, 6, "audit.receipt_digest"),
        (parties_change_roles, 6, "audit.receipt_digest"),
        (done_with_another_transcript, 6, "audit.receipt_digest"),
        (another_transcript_was_reported, 6, "audit.report_differs"),
        (done_was_reported_and_is_hidden, 6, "audit.report_differs"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_another_story_well_signed(tmp_path: Path, change: Callable[[list[Event]], None], step: int, code: str) -> None:
    told = events()
    change(told)
    error, results = rejected(write(tmp_path, told), tmp_path)
    assert (error.step, error.code, error.exit_status) == (step, code, 1)
    assert error.log in KEYS
    assert error.seq is not None
    assert [result.state for result in results if result.number < step].count("failed") == 0


@pytest.mark.parametrize("time", ["2024-12-31T23:59:59.000000Z", "2025-01-01T00:01:00Z", "yesterday"])
def test_a_clock_that_goes_back_though_all_is_signed(tmp_path: Path, time: str) -> None:
    folders = write(tmp_path, events())
    frontier, prev, changed = Frontier(), "", []
    for seq, line in enumerate(lines(folders)):
        data = rfc8785.dumps(json.loads(line) | {"prev": prev} | ({"time": time} if seq == 5 else {}))
        prev = frontier.append(data).hex()
        changed.append(data + b"\n")
    put(folders, changed)
    shutil.rmtree(folders[BANK] / "checkpoints")
    note = sign_checkpoint(Checkpoint(origin_of(BANK), frontier.size, frontier.root()), KEYS[BANK])
    (folders[BANK] / "checkpoint").write_text(note)
    error, _ = rejected(folders, tmp_path)
    assert (error.step, error.code, error.log, error.seq) == (3, "audit.clock", BANK, 5)


def test_the_first_entry_at_fault_is_named(tmp_path: Path) -> None:
    told = events()
    sent_differs(told)
    folders = write(tmp_path, told)
    error, _ = rejected(folders, tmp_path)
    assert error.seq is not None
    entry = json.loads(lines(folders, error.log)[error.seq])
    assert (entry["step"], entry["direction"], entry["number"]) == ("round", "received", 1)
    assert "(sha256)" in error.message
