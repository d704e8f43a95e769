"""The demo as a user runs it: three processes, real keys, TLS and logs, one job to its end; and what happens when it is not so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from coordinator.cli import main
from coordinator.demo.columns import write_csv
from coordinator.demo.generator import generate
from coordinator.demo.processes import command_line

QUICK = ["--key-bits", "512", "--unsafe-small-keys", "--minimum", "300"]


@pytest.fixture(scope="module")
def own_files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A small bank and platform as a user's own CSV files; a category on one side; options that name them."""
    folder = tmp_path_factory.mktemp("files")
    persons = generate(bank_rows=900, platform_rows=1000, shared=700)
    bank = {
        "customer": persons.bank.identifiers,
        "region": [("north", "south", "west")[int(age) % 3] for age in persons.bank.columns["age"]],
        **{name: persons.bank.columns[name] for name in ("utilisation", "late_payments_12m", "income_monthly")},
        "late": persons.bank_label,
    }
    platform = {
        "user": persons.platform.identifiers,
        **{name: persons.platform.columns[name] for name in ("declined_payments_90d", "account_age_months", "spend_90d")},
    }
    write_csv(folder / "cards.csv", bank)
    write_csv(folder / "shoppers.csv", platform)
    bank_options = ["--bank", str(folder / "cards.csv"), "--bank-id", "customer", "--label", "late"]
    return [*bank_options, "--platform", str(folder / "shoppers.csv"), "--platform-id", "user"]


def demo(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = command_line("isthmus-coordinator", "demo", *arguments)
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def finished(own_files: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str]:
    """One whole run: its JSON, the folder it kept, what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    done = demo(*own_files, *QUICK, "--train-rows", "450", "--json", "result.json", "--keep", "kept", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "result.json").read_text()), folder / "kept", done.stdout


def test_the_result_has_every_key_and_the_model_is_right(finished: tuple[dict[str, Any], Path, str]) -> None:
    result, _, printed = finished
    assert result["intersection"] == 700
    assert result["rows_train"] == result["accuracy"]["rows"] == 450
    assert result["accuracy"]["rows_available"] + result["rows_holdout"] == 700
    assert result["accuracy"]["columns"] == sum(result["encoded_columns"].values())
    assert 0.005 < result["auc_standard_error"] < 0.08
    assert 90 < result["rows_holdout"] < 190
    assert result["key_bits"] == 512
    assert 1 <= result["rounds"] <= 8
    assert isinstance(result["converged"], bool)
    assert abs(result["log_loss_train_exact"] - result["log_loss_train_pooled"]) < 2e-4
    assert abs(result["auc_train_exact"] - result["auc_train_pooled"]) < 2e-3
    assert abs(result["auc"] - result["auc_exact"]) < 0.04, "bands, on some 140 rows"
    assert abs(result["auc_exact"] - result["auc_pooled"]) < 0.015
    assert 0 < result["ks"] < 1
    assert 0 < result["log_loss"] < 1
    assert 0.5 < result["auc_label_holder_alone"] < 1
    steps = {"align", "prepare", "round", "finish", "evaluate"}
    assert set(result["seconds"]) == set(result["bytes"]) == steps
    assert all(result["bytes"][step][way] > 0 for step in steps for way in ("bank_to_platform", "platform_to_bank"))
    assert set(result["peak_rss_bytes"]) == {"bank", "platform", "coordinator"}
    assert all(peak > 20 * 2**20 for peak in result["peak_rss_bytes"].values())
    assert sum(row["rows"] for row in result["gains"]) == result["rows_holdout"]
    assert result["audit"]["exit_status"] == 0
    assert "Trained on 450 of" in " ".join(printed.split())
    for words in ("shared customers", "AUC", "pooled", "whole and lawful", "disclosed"):
        assert words in printed
    assert "Traceback" not in printed


def test_what_was_disclosed_is_listed_with_its_clause(finished: tuple[dict[str, Any], Path, str]) -> None:
    result, _, _ = finished
    assert {item["by"] for item in result["disclosures"]} == {"bank", "platform"}
    assert {item["to"] for item in result["disclosures"]} == {"bank", "platform", "coordinator"}
    assert all(item["clause"] and item["count"] > 0 for item in result["disclosures"])


def test_three_processes_with_keys_and_logs_of_their_own(finished: tuple[dict[str, Any], Path, str]) -> None:
    _, kept, _ = finished
    for name in ("bank", "platform", "coordinator"):
        assert (kept / name / "keys" / "tls.key").stat().st_mode & 0o077 == 0
        assert (kept / name / "state" / "log" / "log.jsonl").stat().st_size > 0
    bank, platform = ((kept / name / "node.toml").read_text() for name in ("bank", "platform"))
    assert "listen" not in bank, "the bank dials only"
    assert "127.0.0.1" in platform
    first, second = (json.loads((kept / name / "model.json").read_text()) for name in ("bank", "platform"))
    assert first["intercept"] is not None
    assert second["intercept"] is None
    assert not {c["source"] for c in first["columns"]} & {c["source"] for c in second["columns"]}


def audit(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = command_line("isthmus-audit", *arguments)
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


PARTNERS = [word for name in ("bank", "platform", "coordinator") for word in ("--partner", f"{name}.partner.json")]


def test_the_report_of_its_logs_says_what_happened(finished: tuple[dict[str, Any], Path, str]) -> None:
    result, kept, _ = finished
    files = ["--output", "report.html", "--json", "report.json"]
    done = audit("report", "bank", "platform", "coordinator", *PARTNERS, *files, cwd=kept)
    assert done.returncode == 0, done.stdout + done.stderr
    page, text = json.loads((kept / "report.json").read_text()), (kept / "report.html").read_text()
    assert (page["confirmed"], page["keys"], page["failure"], page["missing"]) == ("all", "partner files", None, [])
    (job,) = page["jobs"]
    assert job["outcome"] == "finished"
    assert job["shared_customers"] == result["intersection"]
    assert job["given_up"].startswith("Trained on 450 of ")
    assert job["given_up"] in text
    assert any(meaning.startswith("at most 450 of the others") for _, meaning in job["terms"])
    assert job["rounds"] == result["rounds"]
    assert [(party["name"], party["part"]) for party in job["parties"][:2]] == [
        ("bank", "label holder"),
        ("platform", "feature holder"),
    ]
    assert {(approval["party"], approval["by"], approval["signature"]) for approval in job["approvals"]} == {
        ("bank", "the demo", "valid"),
        ("platform", "the demo", "valid"),
    }
    lines = [(line["by"], learner["name"], line["what"], line["count"]) for learner in job["learners"] for line in learner["lines"]]
    assert sorted(lines) == sorted((item["by"], item["to"], item["what"], item["count"]) for item in result["disclosures"])
    assert all(line["lawful"] for learner in job["learners"] for line in learner["lines"])
    assert not [line for learner in job["learners"] for line in learner["lines"] if "no description" in line["sentence"]]
    sent = {name: sum(dict(step["sent"])[name] for step in job["steps"]) for name in ("bank", "platform")}
    for name, way in (("bank", "bank_to_platform"), ("platform", "platform_to_bank")):
        assert sent[name] == sum(ways[way] for ways in result["bytes"].values())
    assert all(step["state"] == "done" for step in job["steps"])
    assert [log["signed"] for log in page["logs"]] == [log["entries"] for log in page["logs"]]
    for identifier in (kept / "bank" / "members.csv").read_text().split()[1:50]:
        assert identifier.split(",")[0] not in text


def test_single_entries_of_its_logs_can_be_proven(finished: tuple[dict[str, Any], Path, str]) -> None:
    _, kept, _ = finished
    for name in ("bank", "platform", "coordinator"):
        lines = (kept / name / "state" / "log" / "log.jsonl").read_text().splitlines()
        seq = next(seq for seq, line in enumerate(lines) if json.loads(line)["kind"] == "approval")
        assert audit("prove", name, str(seq), "--output", "entry.tlog-proof", cwd=kept).returncode == 0
        done = audit("check-proof", "entry.tlog-proof", "--partner", f"{name}.partner.json", "--json", cwd=kept)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["entry"] == json.loads(lines[seq])
        other = "bank" if name != "bank" else "platform"
        done = audit("check-proof", "entry.tlog-proof", "--partner", f"{other}.partner.json", cwd=kept)
        assert (done.returncode, "proof.log_unknown" in done.stderr) == (3, True)


def test_no_process_is_left(finished: tuple[dict[str, Any], Path, str]) -> None:
    _, kept, _ = finished
    assert processes_under(kept) == []


def processes_under(folder: Path) -> list[list[str]]:
    """Command lines of living processes that were pointed at the folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or []):
            found.append(process.info["cmdline"])
    return found


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        (["--label", "lat"], "demo.column_unknown", "'late'"),
        (["--bank-id", "custmer"], "demo.column_unknown", "'customer'"),
        (["--platform", "nowhere.csv"], "demo.file_missing", "nowhere.csv"),
        (["--label-holder", "platform"], "demo.label_other_side", "--label-holder bank"),
        (["--label", "region"], "demo.label_values", "3"),
        (["--dataset", "synthetic"], "demo.options_mixed", "--dataset"),
        (["--key-bits", "1024"], "demo.small_key", "--unsafe-small-keys"),
        (["--key-bits", "2049"], "demo.key_bits", "2049"),
        (["--holdout", "1"], "demo.holdout", "1"),
        (["--rounds", "0"], "usage.invalid", "--rounds"),
        (["--l2", "much"], "usage.invalid", "--l2"),
        (["--json", "no/such/folder/x.json"], "demo.json_unwritable", "x.json"),
        (["--keep", "."], "demo.keep_exists", "empty"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(
    own_files: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: list[str],
    code: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", None)  # nothing may be started
    (tmp_path / "something").touch()
    status = main(["demo", *own_files, *changes])
    told = capsys.readouterr().err
    assert status == (1 if code == "demo.label_values" else 2)
    assert f"code: {code}" in told
    assert said in told
    assert "Traceback" not in told
    assert os.listdir(tmp_path) == ["something"]


def test_what_a_node_refuses_is_passed_on(own_files: list[str], tmp_path: Path) -> None:
    """Too few shared customers is found by the nodes, in the middle of the job."""
    small = [*QUICK[:-1], "701"]
    done = demo(*own_files, *small, "--keep", "kept", cwd=tmp_path)
    assert done.returncode not in (0, 70)
    assert "code: psi.too_few_shared" in done.stderr
    assert "700" in done.stderr, "the node's own words are shown, not the code alone"
    assert "remedy:" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert processes_under(tmp_path / "kept") == []


def test_interrupted_it_stops_everything(own_files: list[str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        command_line("isthmus-coordinator", "demo", *own_files, *QUICK),
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("isthmus-demo-*/platform.txt")):  # its node has been started
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in said
    deadline = time.monotonic() + 10
    while processes_under(tmp_path) and time.monotonic() < deadline:  # who was killed may take a moment to go on a busy machine
        time.sleep(0.05)
    assert processes_under(tmp_path) == []
    assert os.listdir(tmp_path) == [], "the temporary folder is removed"
