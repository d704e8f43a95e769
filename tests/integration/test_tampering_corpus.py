"""Every kind of tampering with the logs of real jobs is refused at its step, and no good log is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from audit.ledger import LogRejected
from audit.verify import verify_logs
from tests.asks import CANCELLED, LONG, PLAIN, PLATFORM, QUIET, REJECTED, RESTARTED, RESTARTED_EARLY, TOO_FEW, Ask
from tests.joint import PARTIES, Joint, joint
from tests.tampering.corpus import policy_text, story_of, suited
from tests.tampering.kinds import KINDS, Kind
from tests.tampering.story import Story

ROOT = Path(__file__).resolve().parents[2]
JOBS = {"bank-holds-label": PLAIN, "platform-holds-label": PLATFORM}
EVERY_ASK = (PLAIN, PLATFORM, LONG, QUIET, REJECTED, CANCELLED, TOO_FEW, RESTARTED, RESTARTED_EARLY)


def story(made: Joint) -> Story:
    return story_of(made.folders.values(), made.keys)


def verdict(folders: dict[str, Path], kind: Kind, made: Joint) -> tuple[int, int | None, str]:
    """Exit status, the first step that is open or fails, and the code."""
    last = [made.folders["bank"] / "checkpoint"] if kind.last else []
    try:
        verified = verify_logs(list(folders.values()), partners=made.partners, last=last)
    except LogRejected as rejected:
        return rejected.exit_status, rejected.step, rejected.code
    return verified.exit_status, min((point.step for point in verified.open_points), default=None), ""


def test_there_are_enough_kinds_and_every_step_has_several() -> None:
    names = Counter(kind.name for kind in KINDS)
    assert not [name for name, count in names.items() if count > 1]
    assert len(KINDS) >= 55
    for page in ("CHANGELOG.md", "docs/auditor.md"):
        assert f"{len(KINDS)} kinds of bad logs" in " ".join((ROOT / page).read_text().split()), page
    by_step = Counter(kind.fails_at for kind in KINDS)
    assert set(by_step) == set(range(10))
    assert min(by_step[step] for step in range(1, 10)) >= 5
    assert {kind.cheat for kind in KINDS} >= {"thief", "bank", "platform", "coordinator", "bank+platform", "all"}


def test_stories_are_written_as_they_were_read(tmp_path: Path) -> None:
    """What fails is what a kind changed, and not what this library does to good logs: it gives them back byte for byte."""
    for number, made in enumerate(joint(ask) for ask in EVERY_ASK):
        for by, colluders in (("everyone", None), ("bank", ("bank",)), ("all", PARTIES)):
            folders = story(made).copy().write(tmp_path / str(number) / by, colluders=colluders)
            for name, folder in folders.items():
                assert _files(folder) == _files(made.folders[name])


def _files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("job", JOBS)
def test_each_kind_fails_at_its_step(job: str, kind: Kind, tmp_path: Path) -> None:
    made = joint(JOBS[job])
    told = story(made)
    if not kind.suits(told):
        assert job == "platform-holds-label"  # the other job has room for every kind
        return
    assert verdict(kind.make(told, tmp_path), kind, made) == (kind.status, kind.fails_at, kind.code)


@pytest.mark.parametrize("ask", EVERY_ASK, ids=str)
@pytest.mark.parametrize("trust", ["partners", "policy", "both and the last checkpoints", "the logs' own word"])
def test_no_good_log_is_refused(ask: Ask, trust: str, tmp_path: Path) -> None:
    made = joint(ask)
    policy = tmp_path / "policy.toml"
    policy.write_text(policy_text(story(made)))
    verified = verify_logs(
        list(made.folders.values()),
        partners=made.partners if trust.startswith(("partners", "both")) else (),
        policy=policy if trust.startswith(("policy", "both")) else None,
        last=[made.folders[name] / "checkpoint" for name in PARTIES] if trust.startswith("both") else (),
    )
    assert verified.exit_status == 0, verified.open_points


@pytest.mark.parametrize("ask", EVERY_ASK, ids=str)
def test_logs_as_they_were_at_any_checkpoint_are_at_most_incomplete(ask: Ask, tmp_path: Path) -> None:
    """Copies taken while the job ran, of one log or of all: nothing that had not happened yet may be called a contradiction."""
    made = joint(ask)
    told = story(made)
    for name in PARTIES:
        for number, mark in enumerate(told[name].marks()):
            older = told.copy()
            older[name].items = older[name].items[: told[name].where(mark) + 1]
            folders = older.write(tmp_path / f"{name}-{number}", colluders=(name,))
            assert verify_logs(list(folders.values()), partners=made.partners).exit_status in (0, 2)


def test_the_command_writes_a_corpus_that_its_manifest_describes(tmp_path: Path) -> None:
    made = joint(PLAIN)
    homes = [made.folders[name].parents[1] for name in PARTIES]
    logs, keys = [str(path) for path in made.folders.values()], [str(home / "keys") for home in homes]
    command = [sys.executable, "-m", "tests.tampering", *logs, "--keys", *keys, "--output", str(tmp_path / "corpus")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    corpus = tmp_path / "corpus"
    manifest = json.loads((corpus / "manifest.json").read_text())
    assert f"{len(manifest['kinds'])} kinds" in done.stdout
    assert {entry["name"] for entry in manifest["kinds"]} == {kind.name for kind in suited(story(made))}
    assert verify_logs([corpus / "good" / name for name in PARTIES], policy=corpus / "policy.toml").exit_status == 0
    for entry in manifest["kinds"][::20]:
        logs_of = [corpus / entry["name"] / name for name in PARTIES]
        last = [corpus / entry["last"]] if entry["last"] else []
        try:
            status, step, code = verify_logs(logs_of, policy=corpus / "policy.toml", last=last).exit_status, None, ""
        except LogRejected as rejected:
            status, step, code = rejected.exit_status, rejected.step, rejected.code
        assert (status, code) == (entry["exit_status"], entry["code"]), entry["name"]
        assert step in (None, entry["fails_at"])
