"""The verification of honest logs: whole ones, incomplete ones, failed and repeated attempts, and the unusable."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.cli import cli
from audit.console import run
from audit.errors import UsageError
from audit.ledger import LogRejected
from audit.policy import load_policy, load_trust
from audit.verify import StepResult, verify_logs
from tests.unit.audit_world import (
    BANK,
    COORDINATOR,
    JOB,
    PLATFORM,
    SHARED,
    Event,
    approvals,
    attempt,
    ending,
    events,
    opening,
    policy,
    write,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write(tmp_path_factory.mktemp("world"), events())


def every(folders: dict[str, Path]) -> list[Path]:
    return [folders[name] for name in (BANK, PLATFORM, COORDINATOR)]


def test_whole_logs_pass_every_step(world: dict[str, Path], tmp_path: Path) -> None:
    told: list[StepResult] = []
    verified = verify_logs(every(world), policy=policy(tmp_path), on_step=told.append)
    assert tuple(told) == verified.steps
    states = {step.number: step.state for step in verified.steps}
    assert states == {number: "unchecked" if number == 2 else "passed" for number in range(10)}
    assert verified.whole
    assert verified.exit_status == 0
    messages = {ledger.name: ledger.jobs[JOB].messages for ledger in verified.ledgers}
    assert messages[BANK] == messages[PLATFORM] > messages[COORDINATOR] == 0
    assert [len(source.checkpoints) for source in verified.sources] == [5, 5, 5]


def test_order_and_form_of_the_arguments_do_not_matter(world: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(world[BANK], tmp_path / "node" / "state" / "log")
    given = [world[COORDINATOR] / "log.jsonl", tmp_path / "node", world[PLATFORM]]
    assert verify_logs(given, policy=policy(tmp_path)).whole
    given[1] = tmp_path / "node" / "state"
    assert verify_logs(given, policy=policy(tmp_path)).whole


def test_without_keys_of_its_own_it_says_so(world: dict[str, Path]) -> None:
    verified = verify_logs(every(world))
    assert verified.steps[0].state == "warning"
    assert "own word" in verified.steps[0].detail
    assert verified.trust.source == "self-asserted"
    assert verified.whole


def test_two_nodes_without_the_coordinator(world: dict[str, Path], tmp_path: Path) -> None:
    assert verify_logs(every(world)[:2], policy=policy(tmp_path)).whole


def incomplete(logs: list[Path], tmp_path: Path, step: int, text: str) -> None:
    verified = verify_logs(logs, policy=policy(tmp_path))
    assert verified.exit_status == 2
    assert step in {point.step for point in verified.open_points}
    assert any(text in point.text for point in verified.open_points), verified.open_points
    assert verified.steps[step].state == "open"


def test_one_node_alone_is_incomplete(world: dict[str, Path], tmp_path: Path) -> None:
    incomplete([world[BANK]], tmp_path, 5, "log of platform was not given")


def test_without_a_key_of_the_other(world: dict[str, Path], tmp_path: Path) -> None:
    verified = verify_logs([world[BANK]], policy=policy(tmp_path, (BANK,)))
    assert {point.step for point in verified.open_points} == {4, 5, 6}


def test_a_running_job_is_incomplete(tmp_path: Path) -> None:
    incomplete(
        every(write(tmp_path, events(ended=False))), tmp_path, 7, "has not ended in the log of bank (last: finish, attempt 0, done)"
    )


def test_unsigned_entries_are_incomplete(tmp_path: Path) -> None:
    folders = write(tmp_path, [*events(), Event(BANK, "software", {"version": "0.1.0"})])
    incomplete(every(folders), tmp_path, 3, "1 entries of bank after its last checkpoint")


def test_a_log_without_checkpoints_is_incomplete(tmp_path: Path) -> None:
    folders = write(tmp_path, events())
    shutil.rmtree(folders[BANK] / "checkpoints")
    (folders[BANK] / "checkpoint").unlink()
    incomplete(every(folders), tmp_path, 1, "bank has no checkpoint")


def test_an_older_copy_of_one_log_is_incomplete(tmp_path: Path) -> None:
    """The log of the platform as it was after the first step: nothing contradicts, but much is missing."""
    folders = write(tmp_path, events())
    kept = sorted((folders[PLATFORM] / "checkpoints").iterdir())
    for late in kept[1:]:
        late.unlink()
    shutil.copy(kept[0], folders[PLATFORM] / "checkpoint")
    lines = (folders[PLATFORM] / "log.jsonl").read_bytes().splitlines(keepends=True)
    (folders[PLATFORM] / "log.jsonl").write_bytes(b"".join(lines[: int(kept[0].name)]))
    incomplete(every(folders), tmp_path, 5, "the log of platform ends before round 1, attempt 0")


@pytest.mark.parametrize("outcome", ["failed", "crashed"])
def test_a_failed_attempt_may_have_lost_messages(tmp_path: Path, outcome: str) -> None:
    lost = attempt("finish", again=0, outcome=outcome)
    late = [
        event for event in lost if event.kind == "message" and event.fields["seq"] > 0 and event.fields["direction"] == "received"
    ]
    lost = [event for event in lost if event not in late]
    if outcome == "crashed":
        # What a node writes when it starts again; a crash leaves no disclosure entry.
        lost = [event for event in lost if event.kind != "disclosure"]
        labels = {"job": JOB, "step": "finish", "round": 0, "attempt": 0}
        lost += [Event(log, "step", {**labels, "state": "failed", "code": "job.interrupted"}) for log in (BANK, PLATFORM)]
    folders = write(tmp_path, events(before_finish=lost))
    assert verify_logs(every(folders), policy=policy(tmp_path)).whole


def test_a_step_done_at_one_side_only_is_repeated(tmp_path: Path) -> None:
    """The platform signs, then crashes before it records the step as done: both logs stay lawful."""
    told = [e for e in events() if not (e.log == PLATFORM and e.fields.get("step") == "round" and e.fields.get("state") == "done")]
    told = [e for e in told if not (e.kind == "report" and e.fields["step"] == "round" and e.fields["party"] == PLATFORM)]
    told = [e for e in told if not (e.kind == "disclosure" and e.fields["step"] == "round" and e.fields.get("party") == PLATFORM)]
    at = next(i for i, e in enumerate(told) if e.kind == "directive" and e.fields["step"] == "finish")
    labels = {"job": JOB, "step": "round", "round": 1, "attempt": 0}
    again = [Event(PLATFORM, "step", {**labels, "state": "failed", "code": "job.interrupted"}), *attempt("round", 1, again=1)]
    told = told[:at] + again + attempt("finish", again=1)
    folders = write(tmp_path, told + ending(told))
    assert verify_logs(every(folders), policy=policy(tmp_path)).whole


def test_a_rejected_or_failed_job_has_ended(tmp_path: Path) -> None:
    told = [*opening(), *approvals(decision="reject")]
    assert verify_logs(every(write(tmp_path / "a", told + ending(told, "rejected"))), policy=policy(tmp_path)).whole
    told = [*opening(), *approvals(), *attempt("align", outcome="failed")]
    assert verify_logs(every(write(tmp_path / "b", told + ending(told, "failed"))), policy=policy(tmp_path)).whole


def test_last_checkpoint_is_continued(world: dict[str, Path], tmp_path: Path) -> None:
    kept = [sorted((world[name] / "checkpoints").iterdir())[0] for name in (BANK, COORDINATOR)]
    verified = verify_logs(every(world), policy=policy(tmp_path), last=kept)
    assert verified.steps[2].state == "passed"
    assert verified.whole


def peak_memory(logs: list[Path]) -> int:
    tracemalloc.start()
    try:
        assert verify_logs(logs).whole
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_messages(tmp_path: Path) -> None:
    peaks = []
    for customers in (20, 400):
        sets = {BANK: customers, PLATFORM: customers}
        # The last received messages of a failed attempt are lost, so that the stretch is read again as well.
        long = attempt("align", outcome="failed", sets=sets, batch=1)
        lost = [e for e in long if not (e.is_message("align", "received", 2 * customers))]
        told = [*opening(), *approvals(), *lost]
        peaks.append(peak_memory(every(write(tmp_path / str(customers), told + ending(told, "failed")))))
    assert peaks[1] < peaks[0] * 1.3 + 100_000, peaks


# ---- unusable input -------------------------------------------------------------------------------------------------------------


def unusable(code: str, logs: list[Path], **arguments: object) -> LogRejected:
    with pytest.raises(LogRejected) as caught:
        verify_logs(logs, **arguments)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert caught.value.exit_status == 3
    assert caught.value.remedy
    return caught.value


def test_unusable_input(world: dict[str, Path], tmp_path: Path) -> None:
    unusable("audit.no_log", [tmp_path])
    unusable("audit.no_log", [tmp_path / "absent"])
    unusable("audit.log_twice", [world[BANK], world[BANK] / "log.jsonl"])
    unusable("audit.no_logs", [])
    (tmp_path / "empty").write_bytes(b"")
    unusable("audit.empty", [tmp_path / "empty"])
    (tmp_path / "garbage").write_bytes(bytes(range(256)) * 9)
    assert unusable("log.entry_malformed", [tmp_path / "garbage"]).offset == 0
    unusable("audit.log_unknown", every(world), policy=policy(tmp_path, (BANK, PLATFORM)))
    unusable("audit.policy_unreadable", every(world), policy=tmp_path / "absent.toml")
    unusable("partner.unreadable", every(world), partners=[tmp_path / "absent.json"])
    unusable("audit.bad_note", every(world), policy=policy(tmp_path), last=[tmp_path / "garbage"])
    unusable("audit.other_checkpoint", [world[BANK]], policy=policy(tmp_path), last=[world[PLATFORM] / "checkpoint"])


def test_garbage_after_the_signed_part_names_its_byte(tmp_path: Path) -> None:
    folders = write(tmp_path, events())
    size = (folders[BANK] / "log.jsonl").stat().st_size
    with (folders[BANK] / "log.jsonl").open("ab") as file:
        file.write(b"this is no entry\n")
    assert unusable("audit.entry_malformed", every(folders), policy=policy(tmp_path)).offset == size


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path) -> None:
    folders = write(tmp_path, events())
    size = (folders[BANK] / "log.jsonl").stat().st_size
    with (folders[BANK] / "log.jsonl").open("ab") as file:
        file.write(b"x" * (3 * 2**20))
    assert unusable("log.line_too_long", every(folders), policy=policy(tmp_path)).offset == size


def test_a_line_of_a_gigabyte_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    folders = write(tmp_path, events())
    path = folders[BANK] / "log.jsonl"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size + 2**30)  # sparse: a line of zeros that takes no room on the disk
    tracemalloc.start()
    try:
        assert unusable("log.line_too_long", every(folders), policy=policy(tmp_path)).offset == size
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda data: data[:-1], "audit.cut_line"),
        (lambda data: data[:-300], "audit.cut_line"),
        (lambda data: data + b'{"attempt":0,"jo', "audit.cut_line"),
        (lambda data: data + b"\n", "audit.entry_malformed"),
        (lambda data: data.replace(b'"v":1}', b'"v":2}', 1), "audit.entry_malformed"),
        (lambda data: data.replace(b'"seq":5,', b'"seq":5.0,', 1), "audit.entry_malformed"),
        (lambda data: data.replace(b'"seq":5,', b'"seq":05,', 1), "audit.entry_malformed"),
        (lambda data: data.replace(b',"seq":5', b', "seq":5', 1), "audit.entry_malformed"),
        (lambda data: data.replace(b"bank", b"b\xffnk", 1), "audit.entry_malformed"),
    ],
)
def test_what_is_no_log_names_its_byte(tmp_path: Path, damage: Callable[[bytes], bytes], code: str) -> None:
    """Always exit status 3, also where the line was signed, where the chain was broken before it, and with --last."""
    folders = write(tmp_path, events())
    path = folders[BANK] / "log.jsonl"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    kept = tmp_path / "kept"
    shutil.copy(folders[BANK] / "checkpoint", kept)
    found = unusable(code, every(folders), policy=policy(tmp_path))
    damaged = path.read_bytes()
    assert found.offset is not None
    assert found.offset == 0 or damaged[found.offset - 1 : found.offset] == b"\n"
    assert whole[: found.offset] == damaged[: found.offset]
    assert unusable(code, every(folders), policy=policy(tmp_path), last=[kept]).step == found.step == 3
    path.write_bytes(damaged.replace(b'"round":0', b'"round":1', 1))
    assert unusable(code, every(folders), policy=policy(tmp_path)).offset == found.offset


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("quorum = 9", "audit.policy_invalid"),
        ("quorum = -1", "audit.policy_invalid"),
        ("unknown = 1", "audit.policy_invalid"),
        ("[[log]", "audit.policy_invalid"),
        ('[[cosigner]]\nname = "w"\nkey = "no key"', "audit.policy_invalid"),
    ],
)
def test_bad_policies(tmp_path: Path, change: str, code: str) -> None:
    path = policy(tmp_path)
    path.write_text(change + "\n" + path.read_text())
    with pytest.raises(UsageError) as caught:
        load_policy(path)
    assert caught.value.code == code


def test_policy_and_partner_must_not_disagree(tmp_path: Path) -> None:
    from audit.identity import create_identity
    from audit.partner import export_partner

    partner = tmp_path / "bank.partner.json"
    partner.write_bytes(export_partner(create_identity(tmp_path / "keys", name="bank", role="bank"), address=""))
    assert load_trust(policy(tmp_path, (PLATFORM,)), [partner]).source == "policy and partner files"
    with pytest.raises(UsageError, match=r"audit\.policy_conflict"):
        load_trust(policy(tmp_path), [partner])


# ---- the command ----------------------------------------------------------------------------------------------------------------


def test_command(world: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = [str(path) for path in every(world)]
    arguments = ["verify", *logs, "--policy", str(policy(tmp_path)), "--json", str(tmp_path / "out.json")]
    assert run(cli, arguments, usage_status=3) == 0
    out = capsys.readouterr().out
    assert [f"({number})" in out for number in range(10)] == [True] * 10
    assert out.count("✓") == 9
    assert "whole and lawful" in out
    assert "\x1b" not in out
    result = json.loads((tmp_path / "out.json").read_text())
    assert (result["exit_status"], result["keys"], len(result["logs"])) == (0, "policy", 3)
    [job] = result["jobs"]
    assert (job["job"], job["outcome"], job["label_holder"], job["intersection"]) == (JOB, "finished", BANK, SHARED)
    assert job["spec"]["coordinator"] == COORDINATOR
    assert run(cli, ["verify", logs[0]], usage_status=3) == 2
    assert "keys that the logs themselves name" in capsys.readouterr().out


def test_command_on_tampered_and_unusable_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = write(tmp_path, events())
    path = folders[BANK] / "log.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"items":3', b'"items":4', 1))
    assert run(cli, ["verify", *map(str, every(folders)), "--json", str(tmp_path / "out.json")], usage_status=3) == 1
    captured = capsys.readouterr()
    assert "✗" in captured.out
    assert "Traceback" not in captured.out + captured.err
    error = json.loads((tmp_path / "out.json").read_text())["error"]
    assert (error["step"], error["log"], error["code"]) == (3, BANK, "audit.chain")
    assert run(cli, ["verify", str(tmp_path / "absent")], usage_status=3) == 3
    assert run(cli, ["verify"], usage_status=3) == 3
    assert run(cli, ["verify", "--help"], usage_status=3) == 0
    assert "Example" in capsys.readouterr().out


def test_entries_that_a_witness_did_not_cosign_are_missing_it(tmp_path: Path) -> None:
    """A cosignature taken off a checkpoint cannot be told from one that never came: the logs are incomplete, not contradictory."""
    folders = write(tmp_path, events())
    for file in [folders[BANK] / "checkpoint", *(folders[BANK] / "checkpoints").iterdir()]:
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(line for line in lines if not line.startswith(f"\u2014 isthmus.log/{PLATFORM} ")))
    verified = verify_logs(list(folders.values()), policy=policy(tmp_path))
    assert verified.exit_status == 2
    assert [(point.step, point.text) for point in verified.open_points] == [
        (3, f"bank's entries of job {JOB[:12]} are not all cosigned by platform")
    ]
    quorum = tmp_path / "quorum.toml"
    text = policy(tmp_path).read_text()
    for wanted, status in ((1, 0), (2, 2)):
        quorum.write_text(f"quorum = {wanted}\n{text}")
        assert verify_logs(list(folders.values()), policy=quorum).exit_status == status


def test_the_auditors_own_limits_are_checked(tmp_path: Path) -> None:
    folders = write(tmp_path, events())
    strict = tmp_path / "strict.toml"
    text = policy(tmp_path).read_text()
    for key, code in (("key_bits_min = 8192", "audit.key_bits"), ("minimum_intersection = 100000", "audit.intersection")):
        strict.write_text(f"{text}\n[limits]\n{key}\n")
        with pytest.raises(LogRejected) as caught:
            verify_logs(list(folders.values()), policy=strict)
        assert (caught.value.step, caught.value.code) == (8, code)
    strict.write_text(f"{text}\n[limits]\nkey_bits_min = 2048\nminimum_intersection = 5\nrounds_max = 64\n")
    assert verify_logs(list(folders.values()), policy=strict).exit_status == 0
