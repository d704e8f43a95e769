"""The coordinator's commands: what they make, what they print, and how they fail."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from audit import console
from audit.identity import create_identity
from audit.partner import export_partner, parse_partner
from coordinator.cli import main_group
from coordinator.config import load_config
from coordinator.errors import UsageError
from coordinator.submit import build_spec, merge_options, read_document
from coordinator.watch import Rates, follow, outcome, page, step_line

ROOT = Path(__file__).resolve().parents[2]

JOB_TOML = """\
title = "first try"
[label_holder]
name = "bank"
dataset = "cards"
features = ["limit", "age"]
[feature_holder]
name = "platform"
dataset = "shoppers"
features = ["spend"]
[label]
column = "default"
[model]
l2 = 0.00010
holdout = "0.2"
tolerance = 2e-6
"""


class Run:
    """One command's outcome."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("ISTHMUS_DEBUG", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))

    def call(*argv: str) -> Run:
        status = console.run(main_group, list(argv))
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Run(status, captured.out, captured.err)

    return call


@pytest.fixture
def home(tmp_path: Path, run: Any) -> Path:
    """A coordinator that knows a bank and a platform; nothing runs."""
    folder = tmp_path / "coordinator"
    assert run("init", str(folder), "--listen", f"127.0.0.1:{_free_port()}", "--address", "c.example:7442").status == 0
    for name in ("bank", "platform"):
        identity = create_identity(tmp_path / name, name=name, role=name)
        (tmp_path / f"{name}.partner.json").write_bytes(export_partner(identity, address=""))
        assert (
            run(
                "--config", str(folder / "coordinator.toml"), "partner", "add", str(tmp_path / f"{name}.partner.json"), "--yes"
            ).status
            == 0
        )
    return folder


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def refused(outcome: Run, code: str) -> None:
    assert outcome.status != 0
    assert f"code: {code}" in outcome.err
    assert "remedy: " in outcome.err


def test_init_makes_a_folder_that_loads_and_never_overwrites(home: Path, run: Any) -> None:
    config = load_config(home / "coordinator.toml")
    assert config.name == "coordinator"
    assert config.identity().role == "coordinator"
    assert (home / "keys" / "tls.key").stat().st_mode & 0o077 == 0
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    refused(run("init", str(home), "--listen", "127.0.0.1:1"), "init.exists")
    assert before == {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert [p.name for p in home.parent.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    "options", [("--listen", "nowhere"), ("--listen", "h:1", "--address", "x y:z"), ("--listen", "h:1", "--name", "Co")]
)
def test_init_with_bad_options_leaves_nothing(tmp_path: Path, run: Any, options: tuple[str, ...]) -> None:
    refused(run("init", str(tmp_path / "c"), *options), "config.invalid")
    assert list(tmp_path.iterdir()) == []


def test_partner_export_and_add(home: Path, tmp_path: Path, run: Any) -> None:
    config = str(home / "coordinator.toml")
    exported = run("--config", config, "partner", "export", "--json").data
    partner = parse_partner(exported["partner"].encode())
    assert (partner.name, partner.role, partner.address, partner.fingerprint) == (
        "coordinator",
        "coordinator",
        "c.example:7442",
        exported["fingerprint"],
    )
    assert run("--config", config, "partner", "export", "--output", str(tmp_path / "own.json")).status == 0
    refused(run("--config", config, "partner", "add", str(tmp_path / "own.json"), "--yes"), "partner.own_name")
    second = create_identity(tmp_path / "second", name="second", role="coordinator")
    (tmp_path / "second.json").write_bytes(export_partner(second, address=""))
    refused(run("--config", config, "partner", "add", str(tmp_path / "second.json"), "--yes"), "partner.role")
    other = create_identity(tmp_path / "other", name="bank", role="bank")
    (tmp_path / "other.json").write_bytes(export_partner(other, address=""))
    refused(run("--config", config, "partner", "add", str(tmp_path / "other.json"), "--yes"), "partner.exists")
    (tmp_path / "third.json").write_bytes(export_partner(create_identity(tmp_path / "3", name="third", role="bank"), address=""))
    refused(run("--config", config, "partner", "add", str(tmp_path / "third.json")), "partner.not_confirmed")
    assert set(load_config(home / "coordinator.toml").partners()) == {"bank", "platform"}
    (tmp_path / "broken.json").write_text("{")
    refused(run("--config", config, "partner", "add", str(tmp_path / "broken.json"), "--yes"), "partner.invalid")


@pytest.mark.parametrize(
    ("text", "code", "word"),
    [
        ("[coordinator\n", "config.not_toml", "line 1"),
        ('[coordinator]\nname = "c"\nlisten = "h:1"\nlsiten = "h:1"\n', "config.unknown_key", "Did you mean 'listen'"),
        ('[coordinator]\nname = "c"\nlisten = "h:1"\n[jbos]\n', "config.unknown_key", "Did you mean 'jobs'"),
        ('[coordinator]\nname = "c"\n', "config.missing_key", "coordinator.listen"),
        ('[coordinator]\nname = "c"\nlisten = 7442\n', "config.invalid", "coordinator.listen"),
        ('[coordinator]\nname = "c"\nlisten = "h:99999"\n', "config.invalid", "HOST:PORT"),
    ],
)
def test_a_bad_configuration_names_the_key(tmp_path: Path, run: Any, text: str, code: str, word: str) -> None:
    (tmp_path / "coordinator.toml").write_text(text)
    found = run("--config", str(tmp_path / "coordinator.toml"), "jobs")
    refused(found, code)
    assert word in found.err


def test_no_configuration_and_no_server(home: Path, tmp_path: Path, run: Any) -> None:
    refused(run("--config", str(tmp_path / "none.toml"), "jobs"), "config.missing_file")
    found = run("--config", str(home / "coordinator.toml"), "jobs", "--json")
    refused(found, "transport.unreachable")
    assert found.data["error"]["code"] == "transport.unreachable"
    assert "isthmus-coordinator serve" in found.data["error"]["remedy"]


# --- the specification ------------------------------------------------------------------------------------------------------------


def spec_of(home: Path, document: dict[str, Any], **options: Any) -> Any:
    merged = merge_options(document, options)
    return build_spec(
        merged, coordinator="coordinator", partners=load_config(home / "coordinator.toml").partners(), nonce=lambda: "0" * 32
    )


def test_a_file_becomes_the_canonical_specification(home: Path, tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(JOB_TOML)
    spec = spec_of(home, read_document(tmp_path / "job.toml"))
    assert (spec.coordinator, spec.nonce) == ("coordinator", "0" * 32)
    assert (spec.label_holder.role, spec.feature_holder.role) == ("bank", "platform")
    assert spec.model.l2 == "0.0001", "a number has one plain form"
    assert spec.model.tolerance == "0.000002"
    again = spec_of(home, read_document(tmp_path / "job.toml"), **{"model.rounds": 3, "title": None})
    assert (again.model.rounds, again.title) == (3, "first try")
    assert again.identity() != spec.identity()


def test_options_alone_make_a_specification(home: Path) -> None:
    spec = spec_of(
        home,
        {},
        **{
            "label_holder.name": "platform",
            "label_holder.dataset": "shop",
            "label_holder.features": ["spend"],
            "label.column": "returns",
            "feature_holder.name": "bank",
            "feature_holder.dataset": "cards",
            "feature_holder.features": ["limit"],
            "disclose.aggregates_to_coordinator": False,
        },
    )
    assert (spec.label_holder.role, spec.disclose.aggregates_to_coordinator) == ("platform", False)


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        ({"model.l3": "1"}, "config.unknown_key", "model.l3"),
        ({"modle.l2": "1"}, "config.unknown_key", "modle"),
        ({"model.l2": "much"}, "config.invalid", "model.l2"),
        ({"model.rounds": 0}, "config.invalid", "model.rounds"),
        ({"model.key_bits": 3000}, "config.invalid", "multiple of 256"),
        ({"label_holder.name": "nobody"}, "config.missing_key", "label_holder.role"),
        ({"label_holder.role": "platform"}, "config.invalid", "one party must be the bank"),
        ({"label.column": "age"}, "config.invalid", "must not be among"),
        ({"feature_holder.name": "shop", "feature_holder.role": "platform"}, "coordinator.unknown_party", "shop"),
        (
            {"label_holder.role": "platform", "feature_holder.role": "bank"},
            "coordinator.wrong_role",
            "bank",
        ),
    ],
)
def test_a_bad_specification_names_the_key(home: Path, tmp_path: Path, change: dict[str, Any], code: str, word: str) -> None:
    (tmp_path / "job.toml").write_text(JOB_TOML)
    with pytest.raises(UsageError) as caught:
        spec_of(home, read_document(tmp_path / "job.toml"), **change)
    assert caught.value.code == code
    assert word in str(caught.value)


def test_submit_without_anything(home: Path, run: Any) -> None:
    refused(run("--config", str(home / "coordinator.toml"), "submit"), "spec.empty")


def test_every_command_has_help_with_an_example(run: Any) -> None:
    names = ["init", "serve", "health", "submit", "jobs", "show", "watch", "cancel", "demo"]
    assert set(main_group.commands) == {*names, "partner", "database", "keys"}  # type: ignore[attr-defined]
    for name in [*names[:-1], "partner export", "partner add", "database status", "database upgrade", "database import"]:
        found = run(*name.split(), "--help")
        assert found.status == 0
        assert "Example" in found.out, name
        assert "--json" in found.out, name
    assert "Example" in run("partner", "--help").out
    assert run("--help").status == 0


# --- the running server, as a process --------------------------------------------------------------------------------------


def command(home: Path, *argv: str) -> list[str]:
    return [sys.executable, "-m", "coordinator.cli", "--config", str(home / "coordinator.toml"), *argv]


def test_serve_submit_cancel_and_a_taken_port(home: Path, tmp_path: Path, run: Any) -> None:
    (tmp_path / "job.toml").write_text(JOB_TOML)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command(home, "serve"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stderr is not None
        line = server.stderr.readline()
        assert load_config(home / "coordinator.toml").coordinator.listen in line
        second = subprocess.run(command(home, "serve", "--json"), capture_output=True, text=True, timeout=60, env=environment)
        assert second.returncode != 0
        (told,) = [json.loads(line) for line in second.stderr.splitlines()]
        assert (told["level"], told["code"]) == ("error", "transport.port_in_use")
        _talk(home, tmp_path, run)
    finally:
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=30)
    assert server.returncode == 0
    assert "Traceback" not in errors


def _talk(home: Path, tmp_path: Path, run: Any) -> None:
    config = ("--config", str(home / "coordinator.toml"))
    job = run(*config, "submit", str(tmp_path / "job.toml"), "--rounds", "3", "--json").data["job"]
    assert len(job) == 64
    listed = run(*config, "jobs", "--json").data["jobs"]
    assert [view["job"] for view in listed] == [job]
    shown = run(*config, "show", job[:8], "--json").data
    assert (shown["state"], shown["rounds_max"], shown["title"], shown["steps"]) == ("submitted", 3, "first try", [])
    assert "waiting for bank, platform" in run(*config, "jobs").out
    refused(run(*config, "show", "ffff" if not job.startswith("ffff") else "0000"), "coordinator.unknown_job")
    assert run(*config, "show", job[:1].upper(), "--json").data["job"] == job, "any beginning that only one job has is enough"
    refused(run(*config, "show", ""), "coordinator.unknown_job")
    assert "cancelled" in run(*config, "cancel", job[:8]).out
    again = run(*config, "cancel", job)
    refused(again, "coordinator.illegal_transition")
    assert job[:12] in again.err
    watched = run(*config, "watch", job, "--json")
    assert watched.status == 1
    assert json.loads(watched.out.splitlines()[-1])["state"] == "cancelled"
    parties = ("--label-holder", "bank", "--label-dataset", "cards", "--feature-holder", "platform", "--feature-dataset", "shop")
    question = ("submit", "--kind", "count", *parties, "--keys", "phone=phone-e164:DE", "--minimum", "2000", "--no-tell-partner")
    spec = run(*config, *question, "--json").data["spec"]
    assert spec["count"] == {"learner": "label_holder", "step": 100, "tell_partner": False, "tell_coordinator": True}
    assert spec["align"] == {"method": "auto", "minimum": 2000, "keys": [{"name": "phone", "normalise": "phone-e164:DE"}]}
    assert not {"label", "model", "disclose"} & set(spec)
    refused(run(*config, *question, "--label", "late"), "config.invalid")
    refused(run(*config, *question, "--step", "300"), "config.invalid")


# --- what is shown ----------------------------------------------------------------------------------------------------------------


def a_view(**changes: Any) -> dict[str, Any]:
    step = {
        "step": "round", "round": 2, "attempt": 0, "state": "done", "seconds": 2.0, "decrement": 0.00042, "reports": [],
        "bytes_relayed": 0,
    }  # fmt: skip
    party = {"party": "bank", "attached": True, "decision": "approved", "phase": "lookup", "done": 500, "total": 1000}
    view = {
        "job": "ab" * 32, "title": "t", "state": "round", "code": "", "step": "round", "round": 3, "attempt": 1, "rounds": 2,
        "kind": "train", "counted": None,
        "rounds_max": 8, "converged": False, "rows_train": 1600, "parties": [party], "steps": [step], "metrics": None,
    }  # fmt: skip
    return view | changes


def test_words_for_every_state() -> None:
    assert outcome(a_view()) == "round 3 of at most 8, attempt 1"
    assert outcome(a_view(state="finished", converged=True)) == "finished, 2 rounds, converged"
    told = {"told": 1200, "step": 100, "minimum": 1000}
    ended = a_view(state="finished", kind="count", counted=told)
    assert outcome(ended) == "finished, 1,200 shared customers (rounded down to a multiple of 100)"
    assert outcome(ended | {"counted": told | {"step": 1}}) == "finished, 1,200 shared customers"
    assert outcome(ended | {"counted": told | {"told": None}}) == "finished, below 1,000 shared customers"
    assert outcome(ended | {"counted": None}) == "finished, the number stays with the two parties"
    assert outcome(a_view(state="failed", code="psi.too_few_shared")) == "failed [psi.too_few_shared]"
    away = {**a_view()["parties"][0], "attached": False}
    assert outcome(a_view(state="approved", parties=[away])) == "approved, waiting for bank to attach"
    step = a_view()["steps"][0]
    assert step_line(step, 1600) == "✓ round 2        2.0 s   decrement 4.2e-04   800 rows/s"
    assert step_line(step | {"bytes_relayed": 3 * 2**20}, 1600).endswith("800 rows/s   3.0 MiB relayed")


def test_the_page_shows_steps_decrement_phases_and_rates() -> None:
    times = iter([0.0, 2.0])
    rates = Rates(clock=lambda: next(times))
    view = a_view()
    assert rates.of(a_view(parties=[]) | {"parties": []}, {**view["parties"][0], "done": 100}) is None
    screen = Console(width=120, file=open(os.devnull, "w"), record=True)  # noqa: SIM115
    screen.print(page(view, rates))
    text = screen.export_text()
    for word in ("round 2", "4.2e-04", "lookup", "200 rows/s", "round 3 of at most 8"):
        assert word in text


def test_followed_without_a_terminal_each_step_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"auc": 0.75, "ks": 0.4, "log_loss": 0.5, "base_rate": 0.21, "rows": 400, "gains": []}
    views = [
        a_view(),
        a_view(),
        a_view(state="finished", converged=True, metrics=metrics),
        a_view(state="finished", converged=True, metrics=metrics),
    ]
    last = follow(views, console.console(), as_json=False)
    assert last is not None
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["✓", "round", "finished,", "held"]
