"""The report is written whatever the verdict, and says what of it is confirmed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit.checkpoint import parse_note, sign_note
from audit.cli import cli
from audit.console import run
from audit.cosignature import cosign
from audit.errors import DataError
from audit.reading import read_log
from audit.record import CHECKPOINT_FILE, LOG_FILE
from audit.report_html import render
from tests.unit import audit_world
from tests.unit.audit_world import BANK, COORDINATOR, KEYS, PLATFORM, Event, policy, write
from tests.unit.report_world import JOB, Parsed, every, page_of, story


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write(tmp_path_factory.mktemp("world"), story())


def lawful(folders: dict[str, Path]) -> list[Path]:
    return every(write(folders[BANK].parent / "lawful", audit_world.events()))


def incomplete(folders: dict[str, Path]) -> list[Path]:
    return lawful(folders)[:1]


def unlawful(folders: dict[str, Path]) -> list[Path]:
    return every(folders)


def altered(folders: dict[str, Path]) -> list[Path]:
    log = folders[BANK] / LOG_FILE
    log.write_bytes(log.read_bytes().replace(b"MaskedPoints", b"OtherPointss", 1))
    return every(folders)


def badly_signed(folders: dict[str, Path]) -> list[Path]:
    path = folders[PLATFORM] / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes().replace(b"\n\n", b"\nmore\n\n", 1))
    return every(folders)


def cut(folders: dict[str, Path]) -> list[Path]:
    for name in folders:
        shutil.rmtree(folders[name] / "checkpoints")
        (folders[name] / CHECKPOINT_FILE).unlink()
    log = folders[BANK] / LOG_FILE
    log.write_bytes(log.read_bytes()[:3000] + b"\n{]\n")
    return every(folders)


def forged(folders: dict[str, Path]) -> list[Path]:
    told = audit_world.events()
    for event in told:
        if event.kind == "approval":
            event.fields["signature"] = "00" * 64
    return every(write(folders[BANK].parent / "forged", told))


def nothing(folders: dict[str, Path]) -> list[Path]:
    return [folders[BANK].parent]


VERDICTS: dict[str, tuple[Callable[[dict[str, Path]], list[Path]], int]] = {
    "lawful": (lawful, 0),
    "incomplete": (incomplete, 2),
    "unlawful": (unlawful, 1),
    "altered": (altered, 1),
    "badly signed": (badly_signed, 1),
    "forged": (forged, 1),
    "cut": (cut, 3),
    "nothing": (nothing, 3),
}


@pytest.mark.parametrize("verdict", VERDICTS)
def test_the_exit_code_is_that_of_verify_and_there_is_always_a_page(verdict: str, tmp_path: Path) -> None:
    make, status = VERDICTS[verdict]
    given = make(write(tmp_path / "world", story()))
    rules = ["--policy", str(policy(tmp_path))]
    logs = [str(path) for path in given]
    expected = run(cli, ["verify", *logs, *rules, "--json", str(tmp_path / "verdict.json")], usage_status=3)
    assert expected == status
    output, facts = tmp_path / "report.html", tmp_path / "report.json"
    assert run(cli, ["report", *logs, *rules, "--output", str(output), "--json", str(facts)], usage_status=3) == expected
    page, told = Parsed(output.read_text()), json.loads(facts.read_text())
    verified = json.loads((tmp_path / "verdict.json").read_text())
    assert told["exit_status"] == verified["exit_status"] == expected
    assert len(told["checks"]) == 10
    if "error" in verified:
        fault = verified["error"]
        assert {name: told["failure"][name] for name in fault} == fault
        assert page.text.index(" ".join(fault["message"].split())) < page.text.index("The same checks")
        assert " ".join(fault["remedy"].split()) in page.text
        assert told["checks"][fault["step"]]["word"] == "failed"
        assert "not reached" in {check["word"] for check in told["checks"]}
        sure = "The logs are what their owners signed" if fault["step"] > 3 else "Nothing below is confirmed"
        assert sure in page.text
        tag = "see the fault above" if fault["step"] > 3 else "not confirmed"
        assert page.text.count(tag) >= len(told["jobs"]) + len(told["logs"])
    else:
        assert told["failure"] is None
        assert [point["text"] for point in verified["open"]] == told["missing"]
        assert all(text in page.text for text in told["missing"])


def test_an_altered_log_is_named_and_nothing_is_confirmed(tmp_path: Path) -> None:
    page = page_of(altered(write(tmp_path / "world", story())), policy=policy(tmp_path))
    assert page.exit_status == 1
    assert page.confirmed == "nothing"
    assert page.failure is not None
    assert (page.failure.step, page.failure.log) == (3, BANK)
    assert {approval.signature for approval in page.jobs[0].approvals} == {"not confirmed"}
    assert all(log.signed == 0 for log in page.logs)


def test_no_log_at_all(tmp_path: Path) -> None:
    page = page_of([tmp_path])
    text = Parsed(render(page)).text
    assert (page.exit_status, page.jobs, page.logs) == (3, [], [])
    assert "No job could be read" in text
    assert "Unusable input" in text


def test_a_log_read_in_part_says_where(tmp_path: Path) -> None:
    page = page_of(cut(write(tmp_path / "world", story())), policy=policy(tmp_path))
    bank = next(log for log in page.logs if log.name == BANK)
    assert bank.stopped.startswith(f"entry {bank.entries} cannot be read")
    assert bank.stopped in Parsed(render(page)).text


def test_keys_that_the_logs_brought_themselves(world: dict[str, Path]) -> None:
    page = page_of(every(world))
    assert page.keys in ("self-asserted", "")
    if not page.failure:
        assert "The keys are the logs’ own word" in Parsed(render(page)).text


def test_a_log_that_is_written_to_meanwhile(world: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_later(path: Path, *, name: str, entries: int | None = None) -> Any:
        return read_log(path, name=name, entries=(entries or 1) - 1)

    monkeypatch.setattr("audit.report.read_log", read_later)
    honest = write(tmp_path / "world", audit_world.events())
    with pytest.raises(DataError, match=r"report\.log_changed"):
        page_of(every(honest), policy=policy(tmp_path))


def test_who_cosigned(tmp_path: Path) -> None:
    folders = write(tmp_path / "world", audit_world.events())
    path = folders[BANK] / CHECKPOINT_FILE
    text = parse_note(path.read_bytes()).text
    path.write_text(
        sign_note(text, KEYS[BANK]) + "".join(cosign(text, KEYS[n], time=1_700_000_000) for n in (PLATFORM, COORDINATOR))
    )
    page = page_of(every(folders), policy=policy(tmp_path))
    bank = next(log for log in page.logs if log.name == BANK)
    assert bank.witnesses == ["coordinator, 2023-11-14T22:13:20Z", "platform, 2023-11-14T22:13:20Z"]


def test_one_of_many_jobs(world: dict[str, Path], tmp_path: Path) -> None:
    for prefix, count in ((JOB[:12], 1), ("f" * 12, 0)):
        page = page_of(every(world), policy=policy(tmp_path), job=prefix)
        assert len(page.jobs) == count


def test_the_files_must_be_writable(world: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = [str(path) for path in every(world)]
    assert run(cli, ["report", *logs, "--output", str(tmp_path / "no" / "where.html")], usage_status=3) == 3
    assert "code: report.unwritable" in capsys.readouterr().err


def test_a_hostile_log_cannot_make_the_page_endless(tmp_path: Path) -> None:
    told = [Event(BANK, "job", {"job": f"{number:064x}", "state": "submitted", "code": "x" * 10_000}) for number in range(300)]
    job = {"job": "f" * 64, "step": "align"}
    told += [Event(BANK, "disclosure", {**job, "what": f"{n} {'y' * 9_000}", "to": PLATFORM, "count": 1}) for n in range(1_100)]
    told += [Event(BANK, "step", {**job, "attempt": n, "state": "start"}) for n in range(2_100)]
    told += [Event(BANK, "job", {"job": "no hash", "state": "finished", "code": ""}), Event(BANK, "")]
    folder = write(tmp_path / "world", told)[BANK]
    page = page_of([folder], policy=policy(tmp_path))
    assert len(page.jobs) + page.jobs_left_out == 301
    assert (len(page.jobs), page.jobs[-1].job) == (200, "f" * 64)
    assert (page.jobs[-1].kinds, page.jobs[-1].left_out, len(page.jobs[-1].steps)) == (1_000, 100, 2_000)
    assert len(render(page)) < 3 * 2**20
