"""What a node kept for a replay: changed, missing, or not to be kept at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.cli import cli
from audit.console import run
from node.runtime.files import JobFiles
from node.runtime.kept import FOLDER, read_inbound, read_table, write_table
from node.runtime.seeds import SEED_FILE, draw_seed
from tests.rechain import rechain
from tests.replay_world import PARTIES, World, copy_of, differing, kept, make_world, replay


@pytest.fixture(scope="module", params=PARTIES)
def finished(request: pytest.FixtureRequest, finished_of: Callable[[str], World]) -> World:
    return finished_of(request.param)


@pytest.fixture
def copied(finished: World, tmp_path: Path) -> Path:
    return copy_of(finished, tmp_path)


# ---- what was kept is not what it was


def test_an_altered_data_set_is_not_the_one_committed_to(copied: Path) -> None:
    files = JobFiles(kept(copied / "bank"))
    table, declared = read_table(files, 0, ("a", "b", "g"), "casefold")
    table.columns["a"][7] = np.nextafter(table.columns["a"][7], 99)
    (files.folder / "table-0.npz").unlink()
    write_table(files, 0, table, ("a", "b", "g"), declared)
    found = replay(copied / "bank")
    (result,) = differing(found)
    assert (found.exit_status, result.name.step, result.type) == (1, "align", "dataset")
    assert found.reproduced == 0


def test_another_declaration_is_not_the_one_committed_to(copied: Path) -> None:
    files = JobFiles(kept(copied / "platform"))
    table, declared = read_table(files, 0, ("c", "d", "h"), "casefold")
    (files.folder / "table-0.npz").unlink()
    write_table(files, 0, table, ("c", "d", "h"), declared | {"c": declared["c"].model_copy(update={"missing": "mean"})})
    found = replay(copied / "platform")
    assert (found.exit_status, differing(found)[0].type) == (1, "dataset")


def test_a_source_that_changed_or_went_does_not_matter(copied: Path) -> None:
    (copied / "bank" / "cards.csv").write_text("id,a\n1,2\n")
    (copied / "platform" / "shop.csv").unlink()
    for name in PARTIES:
        assert replay(copied / name).exit_status == 0


def test_another_seed_is_not_the_one_committed_to(copied: Path, finished: World) -> None:
    files = JobFiles(kept(copied / "bank").parent)
    (files.folder / SEED_FILE).unlink()
    draw_seed(files, job=files.folder.name, identity=finished.known["bank"])
    found = replay(copied / "bank")
    (result,) = differing(found)
    assert (found.exit_status, result.type, found.reproduced) == (1, "seed", 0)


def test_a_wrong_kept_message_is_named(copied: Path) -> None:
    path = kept(copied / "bank") / "prepare-0-0.inbound"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    found = replay(copied / "bank")
    (result,) = differing(found)
    assert (found.exit_status, result.name.step, result.code) == (1, "prepare", "replay.kept_differs")
    assert result.type in {"BaseOtReplies", "BaseOtChoices"}


@pytest.mark.parametrize(
    "kind", ["no message of an attempt", "the last message", "the data set", "the seed", "a damaged data set", "a damaged seed"]
)
def test_missing_material_is_said_to_be_missing(copied: Path, kind: str) -> None:
    folder = kept(copied / "bank")
    sealed = folder.parent / SEED_FILE
    rounds = folder / "round-2-0.inbound"
    if kind == "no message of an attempt":
        rounds.unlink()
    elif kind == "the last message":
        rounds.write_bytes(rounds.read_bytes()[:-3])
    elif kind == "the data set":
        (folder / "table-0.npz").unlink()
    elif kind == "the seed":
        sealed.unlink()
    elif kind == "a damaged data set":
        (folder / "table-0.npz").write_bytes((folder / "table-0.npz").read_bytes()[:-40])
    else:
        sealed.write_bytes(sealed.read_bytes()[:-1] + b"\x00")
    found = replay(copied / "bank")
    missing = [result for job in found.jobs for result in job.results if result.verdict == "missing"]
    assert found.exit_status == 2
    assert not differing(found)
    assert found.sent > 0
    assert found.reproduced < found.sent
    assert missing[0].detail
    if kind.endswith("message") or kind.startswith("no message"):
        assert (missing[0].name.step, missing[0].name.round) == ("round", 2)
        assert [result.name.step for result in missing[1:]] == ["finish", "evaluate"]
        assert found.reproduced > 20
    else:
        assert found.reproduced == 0


def test_a_log_that_was_altered_is_no_input(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied / "bank" / "state" / "log" / "log.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"type":"PsiStart"', b'"type":"PsiStars"', 1))
    assert run(cli, ["replay", str(copied / "bank")], usage_status=3) == 3
    assert "replay.log_unusable" in capsys.readouterr().err


def test_a_log_whose_own_word_is_another_is_caught(copied: Path) -> None:
    """A disclosure of another value than computed, in a log that is chained anew."""

    def change(entry: dict[str, Any]) -> dict[str, Any]:
        if entry["kind"] == "disclosure" and entry["step"] == "prepare" and entry["what"] == "columns":
            return entry | {"value": str(int(entry["value"]) + 1)}
        return entry

    rechain(copied / "bank" / "state" / "log" / "log.jsonl", change)
    found = replay(copied / "bank")
    (result,) = differing(found)
    assert (result.name.step, result.type) == ("prepare", "disclosure")


# ---- the policy


def test_under_none_nothing_is_kept_and_the_secrets_go_at_the_end(tmp_path: Path) -> None:
    world = make_world(tmp_path, retention="")
    names: dict[str, set[str]] = {}

    def before(start: dict[str, Any]) -> int:
        for name in PARTIES:
            (folder,) = (world.home(name) / "state" / "jobs").iterdir()
            names.setdefault(name, set()).update(path.name for path in folder.rglob("*"))
        return 0

    with world.nodes():
        world.run_job(world.spec(), before=before)
    for name in PARTIES:
        assert {"prepared.npz", "seed.sealed"} <= names[name], "they were there while the job ran"
        assert not any(part.endswith(".inbound") or part.startswith(("table-", FOLDER)) for part in names[name])
        (folder,) = (world.home(name) / "state" / "jobs").iterdir()
        assert {path.name for path in folder.iterdir()} <= {"align.npz", "model.json", "metrics.json", "disclosures.json"}
        found = world.replay(name)
        assert (found.exit_status, found.reproduced) == (2, 0)
        assert "seed was not kept" in found.jobs[0].results[0].detail


def test_what_is_kept_is_no_larger_than_it_must_be(finished: World) -> None:
    for name in PARTIES:
        folder = kept(finished.home(name))
        assert folder.stat().st_mode & 0o077 == 0
        log = [json.loads(line) for line in (finished.home(name) / "state" / "log" / "log.jsonl").read_bytes().splitlines()]
        received = [entry for entry in log if entry["kind"] == "message" and entry["direction"] == "received"]
        files = sorted(folder.glob("*.inbound"))
        assert sum(path.stat().st_size for path in files) == sum(e["length"] + 4 for e in received) + 8 * len(files)
        assert sum(len(list(read_inbound(path))) for path in files) == len(received)
        assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())
        assert {path.name for path in folder.parent.iterdir()} == {
            "seed.sealed",
            FOLDER,
            "align.npz",
            "model.json",
            "metrics.json",
            "disclosures.json",
        }
