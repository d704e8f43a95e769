"""Replays of real jobs: both parties, both roles, restarts and failures; on other workers and processors."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from numpy._core._multiarray_umath import __cpu_dispatch__ as DISPATCHED

from audit.cli import cli
from audit.console import run
from node.engine import PoolEngine
from node.errors import DataError, UsageError
from node.runtime.journal import JournalChannel
from node.runtime.kept import FOLDER, read_inbound
from protos.peer_pb2 import PaillierKey
from tests.replay_world import BY_OT, PARTIES, SHARED, World, copy_of, kept, make_world, replay


@pytest.fixture(scope="module", params=PARTIES)
def finished(request: pytest.FixtureRequest, finished_of: Callable[[str], World]) -> World:
    return finished_of(request.param)


@pytest.fixture
def copied(finished: World, tmp_path: Path) -> Path:
    return copy_of(finished, tmp_path)


# ---- everything comes out again


@pytest.mark.parametrize("name", PARTIES)
def test_every_message_of_a_job_comes_out_again(finished: World, name: str) -> None:
    found = replay(finished.home(name))
    logged = [json.loads(line) for line in (finished.home(name) / "state" / "log" / "log.jsonl").read_bytes().splitlines()]
    sent = sum(entry["kind"] == "message" and entry["direction"] == "sent" for entry in logged)
    assert (found.exit_status, found.reproduced, found.sent) == (0, sent, sent)
    assert sent > 30
    steps = [(result.name.step, result.name.round) for job in found.jobs for result in job.results if result.name]
    assert steps == [("align", 0), ("prepare", 0), ("round", 1), ("round", 2), ("finish", 0), ("evaluate", 0)]
    assert found.size == len(logged)


def test_the_command_says_so(finished: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["replay", str(finished.home("bank"))], usage_status=3) == 0
    lines = capsys.readouterr().out.splitlines()
    sent = replay(finished.home("bank")).sent
    assert f"{sent} of {sent} messages reproduced" in lines
    assert lines[-1] == "result: all reproduced"
    assert lines[0].endswith("(finished)")
    assert [line.split(":")[0] for line in lines[1:7]] == [f"✓  {step}" for step in STEPS]


STEPS = ("align", "prepare", "round 1", "round 2", "finish", "evaluate")


def test_nothing_in_the_folder_is_changed(finished: World) -> None:
    def state() -> dict[str, tuple[int, bytes]]:
        files = [path for path in finished.home("bank").rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = state()
    replay(finished.home("bank"))
    assert state() == before


def test_what_the_columns_were_is_tested(finished: World) -> None:
    """The jobs above have numbers, one-hot and weight-of-evidence columns."""
    kinds = set()
    for name in PARTIES:
        folder = kept(finished.home(name)).parent
        kinds |= {column["kind"] for column in json.loads((folder / "model.json").read_bytes())["columns"]}
    assert kinds == {"number", "one-hot", "woe"}


def _subprocess(folder: Path, *arguments: str, **environment: str) -> dict[str, Any]:
    out = folder / "replay.json"
    command = [sys.executable, "-c", "from audit.cli import main; import sys; sys.exit(main())", "replay", str(folder), *arguments]
    done = subprocess.run(
        [*command, "--json", str(out)], env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(out.read_text()))


OTHER_MACHINES = {
    "two workers": (("--workers", "2"), {}),
    "no vector instructions": ((), {"NPY_DISABLE_CPU_FEATURES": " ".join(DISPATCHED), "OPENBLAS_CORETYPE": "Prescott"}),
    "another BLAS kernel and thread count": (
        (),
        {"OPENBLAS_CORETYPE": "Haswell", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    ),
    "another locale, hash seed and number of threads": (
        (),
        {"LC_ALL": "C", "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4"},
    ),
}


@pytest.mark.parametrize("kind", OTHER_MACHINES)
def test_on_another_machine(copied: Path, kind: str) -> None:
    arguments, environment = OTHER_MACHINES[kind]
    for name in PARTIES:
        found = _subprocess(copied / name, *arguments, **environment)
        assert found["reproduced"] == found["sent"] > 30


def _is_missing(copied: Path, words: str) -> None:
    found = replay(copied / PARTIES[0])
    first = found.first("missing")
    assert found.exit_status == 2
    assert first is not None
    assert words in first.detail


@pytest.mark.parametrize("code", ["engine.worker_died", "state.scratch"])
def test_an_engine_or_a_disk_that_fails_here_is_no_difference(copied: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    def died(*arguments: object) -> None:
        raise UsageError(code, "A worker process was ended.", remedy="Run it again.")

    monkeypatch.setattr("node.runtime.steps.run_step", died)
    _is_missing(copied, "A worker process was ended.")


def test_a_full_disk_that_ends_what_a_step_leaves_is_no_difference(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise DataError("state.write_failed", "The file cannot be written: No space left on device.")

    monkeypatch.setattr("node.runtime.steps.store_result", full)
    _is_missing(copied, "No space left on device")


def test_the_disabled_instructions_are_those_that_numpy_would_use() -> None:
    assert DISPATCHED, "this numpy chooses nothing at run time: the test above would say nothing"
    code = "from numpy._core._multiarray_umath import __cpu_features__ as f, __cpu_dispatch__ as d; print(any(f[x] for x in d))"
    env = os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(DISPATCHED)}
    assert subprocess.check_output([sys.executable, "-c", code], env=env, text=True, stderr=subprocess.DEVNULL).strip() == "False"


def test_a_job_of_two_workers_replayed_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pools = [PoolEngine(2), PoolEngine(2)]
    monkeypatch.setattr("tests.nodes.InlineEngine", lambda: pools.pop())
    held = list(pools)
    try:
        world = make_world(tmp_path)
        with world.nodes():
            world.run_job(world.spec())
        assert pools == []
    finally:
        for pool in held:
            pool.close()
    for name in PARTIES:
        found = world.replay(name, workers=1)
        assert (found.exit_status, found.reproduced) == (0, found.sent)


# ---- commitments


def entries(folder: Path, *kinds: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "state" / "log" / "log.jsonl").read_bytes().splitlines()]
    return [entry for entry in found if entry["kind"] in kinds]


@pytest.mark.parametrize("name", PARTIES)
def test_commitments_come_before_the_first_message(finished: World, name: str) -> None:
    found = entries(finished.home(name), "commitment", "message")
    said = {step: [e for e in found if e["step"] == step] for step in ("", "align", "prepare", "round", "finish", "evaluate")}
    assert [e["what"] for e in said[""]] == ["seed"]
    (dataset,), (encoded, key) = ([e for e in said[step] if e["kind"] == "commitment"] for step in ("align", "prepare"))
    assert said["align"][0] == dataset
    assert said["prepare"][:2] == [encoded, key]
    assert not any(e["kind"] == "commitment" for step in ("round", "finish", "evaluate") for e in said[step])
    rows = len((finished.home(name) / ("cards.csv" if name == "bank" else "shop.csv")).read_text().splitlines()) - 1
    assert (dataset["what"], dataset["rows"]) == ("dataset", rows)
    columns = json.loads((kept(finished.home(name)).parent / "model.json").read_bytes())["columns"]
    assert (encoded["what"], encoded["rows"], encoded["columns"]) == ("encoded", SHARED, len(columns))
    assert (key["what"], key["bits"]) == ("paillier key", 512)


@pytest.mark.parametrize("name", PARTIES)
def test_the_key_committed_to_is_the_one_that_the_other_side_received(finished: World, name: str) -> None:
    (key,) = [e for e in entries(finished.home(name), "commitment") if e["what"] == "paillier key"]
    received = next(read_inbound(kept(finished.home("platform" if name == "bank" else "bank")) / "prepare-0-0.inbound"))
    message = PaillierKey.FromString(received)
    assert hashlib.sha256(message.modulus + message.h_s).hexdigest() == key["sha256"]


def test_disclosures_are_salted(finished: World) -> None:
    salts = [e["salt"] for name in PARTIES for e in entries(finished.home(name), "disclosure")]
    assert len(salts) > 15
    assert len(set(salts)) == len(salts)
    assert all(re.fullmatch("[0-9a-f]{32}", salt) for salt in salts)


def test_a_value_that_changes_after_the_alignment_is_refused(tmp_path: Path) -> None:
    world = make_world(tmp_path, retention="", shared=100)
    with world.nodes():
        job = world.approve(world.spec())
        world.done(job=job, step="align")
        path = world.home("platform") / "shop.csv"
        lines = path.read_text().splitlines()
        cells = lines[-1].split(",")
        path.write_text("\n".join([*lines[:-1], ",".join([cells[0], f"{float(cells[1]) + 0.0001:.4f}", *cells[2:]])]))
        reports = world.step(job=job, step="prepare")
        assert {report.code for report in reports} == {"data.changed"}


# ---- restarts and failures


def test_restarted_steps_and_a_failed_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts that failed midway are replayed as far as they went, those after them in full; so is a job that failed."""
    world = make_world(tmp_path)
    broken: list[str] = []
    original = JournalChannel.send

    def breaking(self: JournalChannel, message: Any) -> None:
        if broken and message.DESCRIPTOR.name == broken[0]:
            broken.clear()
            raise ConnectionError("the cable was pulled")
        original(self, message)

    monkeypatch.setattr(JournalChannel, "send", breaking)
    breaks = {("align", 0): "ItemTags", ("prepare", 0): "PreconditionerProducts", ("round", 2): "DotResults"}
    attempts = {("align", 0): 1, ("prepare", 0): 2, ("round", 2): 3}

    def before(start: dict[str, Any]) -> int:
        place = (start["step"], start.get("round", 0))
        if place not in breaks:
            return 0
        broken.append(breaks[place])
        reports = world.step(**start, attempt=attempts[place] - 1)
        assert {type(report).__name__ for report in reports} == {"StepFailed"}
        return attempts[place]

    with world.nodes():
        # On samples of either group, so that these are replayed too.
        model = {"key_bits": 512, "rounds": 3, "holdout": "0.3", "l2": "0.001", "train_rows": 150, "evaluate_rows": 60}
        whole = world.run_job(world.spec(model=model, align=BY_OT), before=before)

        def last(start: dict[str, Any]) -> int:
            if start["step"] == "finish":
                broken.append("WeightShares")
            return 0

        failed = world.run_job(world.spec(title="another"), may_fail=True, before=last)
        assert world.running["bank"].store.job(failed).state == "failed"
    for name in PARTIES:
        found = world.replay(name, job=whole)
        assert (found.exit_status, found.reproduced) == (0, found.sent), found.jobs
        states = [str(result.state).split(" ")[0] for result in found.jobs[0].results]
        assert states == ["failed", "done", "failed", "done", "done", "failed", "done", "done", "done"]
        assert all(result.reproduced > 0 for result in found.jobs[0].results)
        other = world.replay(name, job=failed)
        assert (other.exit_status, other.reproduced) == (0, other.sent)
        assert other.jobs[0].results[-1].state.startswith("failed")
        assert world.replay(name).sent == found.sent + other.sent
        # What a crash cut off is missed alone: the attempts that came after do not need it.
        (world.home(name) / "state" / "jobs" / whole / FOLDER / "prepare-0-1.inbound").write_bytes(b"isthin1\n")
        found = world.replay(name, job=whole)
        verdicts = [result.verdict for result in found.jobs[0].results]
        assert (found.exit_status, verdicts.count("missing"), verdicts.count("reproduced")) == (2, 1, 8)


def test_a_changed_source_between_two_attempts(tmp_path: Path) -> None:
    """Each attempt of the alignment is replayed from the data it loaded; the same data are kept once."""
    world = make_world(tmp_path)
    with world.nodes():
        job = world.approve(world.spec())
        for attempt in (0, 1):
            world.done(job=job, step="align", attempt=attempt)
        path = world.home("platform") / "shop.csv"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], *reversed(lines[1:])]))
        world.done(job=job, step="align", attempt=2)
        world.done(job=job, step="prepare", attempt=2)
    path.unlink()
    tables = sorted(kept(world.home("platform")).glob("table-*.npz"))
    assert [table.name for table in tables] == ["table-0.npz", "table-1.npz", "table-2.npz"]
    assert tables[0].samefile(tables[1])
    assert not tables[0].samefile(tables[2])
    found = world.replay("platform")
    assert (found.exit_status, found.reproduced) == (0, found.sent)
