"""The commands about jobs: what they print, and how they fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit.identity import Identity
from audit.partner import export_partner
from node.cli import main
from node.config import NodeConfig
from node.runtime.store import Store
from tests.nodes import CARDS, identities, spec_of, write_node

NOW = "2026-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    return identities(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def config(tmp_path: Path, known: dict[str, Identity]) -> NodeConfig:
    config = write_node(tmp_path, "bank", CARDS)
    config.partners_folder.mkdir()
    for name in ("platform", "coordinator"):
        (config.partners_folder / f"{name}.partner.json").write_bytes(export_partner(known[name], address="h:1"))
    return config


@pytest.fixture
def job(config: NodeConfig) -> str:
    spec, store = spec_of(title="Cards and shoppers"), Store(config.state_folder)
    store.add_job(spec.identity(), spec.canonical().decode(), state="waiting", code="", now=NOW)
    store.close()
    return spec.identity()


def call(config: NodeConfig, *arguments: str) -> int:
    return main(["--config", str(config.path), *arguments])


def test_jobs_lists_what_waits(config: NodeConfig, job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(config, "jobs") == 0
    shown = capsys.readouterr().out
    assert job[:12] in shown
    assert "waiting" in shown
    assert call(config, "jobs", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["jobs"]
    assert (row["role"], row["partner"], row["dataset"], row["state"]) == ("label_holder", "platform", "cards", "waiting")


def test_show_says_in_words_who_what_and_to_whom(config: NodeConfig, job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(config, "show", job[:10]) == 0
    shown = capsys.readouterr().out
    for words in (
        "Cards and shoppers",
        "platform",
        "label 'y'",
        "a, b",
        "base rate",
        "AUC",
        "protects nothing",
        "approve " + job[:12],
    ):
        assert words in shown, words
    assert call(config, "show", job[:10], "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["spec"]["label"]["column"] == "y"
    assert data["policy"]["allowed"] is True
    assert data["disclosures"] == []


def test_approve_is_noted_once(config: NodeConfig, job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(config, "approve", job[:8], "--by", "Ana Ruiz") == 0
    store = Store(config.state_folder)
    assert [(r.decision, r.by) for r in store.requests()] == [("approve", "Ana Ruiz")]
    store.close()
    capsys.readouterr()
    assert call(config, "reject", job[:8], "--by", "Bo") != 0
    assert "job.not_waiting" in capsys.readouterr().err


def test_a_job_that_the_policy_does_not_allow_cannot_be_approved(
    config: NodeConfig, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config.policy_path.write_text("")
    assert call(config, "approve", job[:8], "--by", "Ana") == 1
    assert "policy.partner_not_allowed" in capsys.readouterr().err
    assert call(config, "show", job[:8]) == 0
    assert "does not allow it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("show", "ffff"), "job.unknown"),
        (("approve", "ffff"), "job.unknown"),
        (("reject", "%"), "job.unknown"),
        (("model", "JOB"), "job.no_model"),
    ],
)
def test_errors_name_the_thing_and_the_remedy(
    config: NodeConfig, job: str, arguments: tuple[str, ...], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = tuple(job[:8] if a == "JOB" else a for a in arguments)
    assert call(config, *arguments, "--json") == 2
    told = capsys.readouterr()
    assert json.loads(told.out)["error"]["code"] == code
    assert json.loads(told.out)["error"]["remedy"]
    assert "Traceback" not in told.err


@pytest.mark.parametrize("command", ["serve", "jobs", "show", "approve", "reject", "model"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"isthmus-node{' --config bank/node.toml' if command == 'serve' else ''} {command}" in capsys.readouterr().out
