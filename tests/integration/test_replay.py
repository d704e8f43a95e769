"""Replays of real jobs: both parties, both roles, restarts and failures; on other workers and processors; and what is caught."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy._core._multiarray_umath import __cpu_dispatch__ as DISPATCHED

from audit.cli import cli
from audit.console import run
from node.engine import PoolEngine
from node.errors import DataError, UsageError
from node.runtime.files import JobFiles
from node.runtime.journal import JournalChannel
from node.runtime.kept import FOLDER, read_inbound, read_table, write_table
from node.runtime.seeds import SEED_FILE, draw_seed
from protos.peer_pb2 import PaillierKey
from tests.rechain import rechain
from tests.replay_world import PARTIES, SHARED, World, differing, make_world, replay

BY_OT = {"minimum": 50, "method": "ot"}


@pytest.fixture(scope="module", params=PARTIES)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """One finished job; each party holds the label once, with a weight-of-evidence column, each way of matching once."""
    world = make_world(tmp_path_factory.mktemp("finished"), label_holder=request.param)
    with world.nodes():
        world.run_job(world.spec(**({"align": BY_OT} if request.param == "platform" else {})))
    return world


@pytest.fixture
def copied(finished: World, tmp_path: Path) -> Path:
    """A copy of both nodes' folders, to be spoilt."""
    for name in PARTIES:
        shutil.copytree(finished.home(name), tmp_path / name)
    return tmp_path


def kept(folder: Path) -> Path:
    return next((folder / "state" / "jobs").iterdir()) / FOLDER


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


# ---- a node that deviates by one bit


def flipped(message: Any) -> Any:
    """The message with one bit turned round, still of its type and in canonical form."""
    changed = type(message)()
    changed.CopyFrom(message)
    name = message.DESCRIPTOR.name
    field = {"PsiStart": "elements", "PaillierKey": "modulus", "JobFigures": "columns", "Aggregates": "auc"}.get(name, "values")
    if name == "DirectiveEcho":
        field = "lookup_range" if message.lookup_range else "coefficients"
    value = getattr(message, field)
    if field == "coefficients":
        bits = np.array(list(value)).view(np.uint64)
        bits[0] ^= np.uint64(1)
        changed.ClearField(field)
        changed.coefficients.extend(bits.view(np.float64).tolist())
    elif isinstance(value, float):
        setattr(changed, field, float((np.array([value]).view(np.uint64) ^ np.uint64(1)).view(np.float64)[0]))
    elif isinstance(value, int):
        setattr(changed, field, value ^ 1)
    elif isinstance(value, str):
        setattr(changed, field, value[:-1] + chr(ord(value[-1]) ^ 1))
    else:
        place = len(value) - 1 if name == "PaillierKey" else 0  # of the modulus the lowest bit, of a batch its first byte's
        setattr(changed, field, value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :])
    return changed


BOTH = ("label_holder", "feature_holder")


def by_ot(receiver: int) -> dict[str, tuple[str, ...]]:
    """The alignment's messages by oblivious transfer; ``receiver`` is whose set is the smaller."""
    said = dict.fromkeys(("BasePoint", "TreeSums", "StoreColumns", "SharedMarks"), (BOTH[receiver],))
    return {"PsiStart": BOTH, **said, **dict.fromkeys(("BaseChoices", "ItemTags"), (BOTH[1 - receiver],))}


SENDERS: dict[str, dict[str, tuple[str, ...]]] = {
    "align": dict.fromkeys(("PsiStart", "MaskedPoints", "DoublyMasked"), BOTH),
    "prepare": {
        **dict.fromkeys(("PaillierKey", "JobFigures", "ColumnMasks", "ColumnProducts", "RowMasks", "RowProducts"), BOTH),
        **dict.fromkeys(("PreconditionerMasks", "PreconditionerProducts"), BOTH),
        "BaseOtChoices": BOTH[:1],
        "BaseOtReplies": BOTH[1:],
    },
    "round": {
        **dict.fromkeys(
            ("DirectiveEcho", "MaskedWeights", "MaskedGradients", "DotOperands", "DotResults", "InnerProductParts"), BOTH
        ),
        "FirstResiduals": BOTH[:1],
        "MaskedResiduals": BOTH[1:],
        "OtColumns": BOTH[1:],
        "LookupTables": BOTH[:1],
    },
    "finish": dict.fromkeys(("DirectiveEcho", "WeightShares"), BOTH),
    "evaluate": {
        "DirectiveEcho": BOTH,
        "BaseOtChoices": BOTH[1:],
        "BaseOtReplies": BOTH[:1],
        "OtColumns": BOTH[:1],
        "BandTables": BOTH[1:],
        "Aggregates": BOTH[:1],
    },
}
"""Every message that crosses, by step and by the role of its sender."""


@pytest.fixture(scope="module")
def deviants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], World]]:
    """Two running nodes for each step: one log for all deviations would grow long."""
    found: dict[str, World] = {}
    with ExitStack() as stack:

        def world_of(step: str) -> World:
            if step not in found:
                found[step] = stack.enter_context(make_world(tmp_path_factory.mktemp("deviants"), shared=100).nodes())
            return found[step]

        yield world_of


def test_the_table_names_every_message_that_crosses(finished: World) -> None:
    roles = {finished.label_holder: "label_holder"}
    seen: dict[str, dict[str, set[str]]] = {}
    for name in PARTIES:
        for line in (finished.home(name) / "state" / "log" / "log.jsonl").read_bytes().splitlines():
            entry = json.loads(line)
            if entry["kind"] == "message" and entry["direction"] == "sent":
                role = roles.get(name, "feature_holder")
                seen.setdefault(entry["step"], {}).setdefault(entry["type"], set()).add(role)
    senders = SENDERS | ({"align": by_ot(1)} if finished.label_holder == "platform" else {})
    assert seen == {step: {kind: set(roles) for kind, roles in kinds.items()} for step, kinds in senders.items()}


@pytest.mark.parametrize(
    ("step", "kind", "role"),
    [
        *((step, kind, role) for step, kinds in SENDERS.items() for kind, senders in kinds.items() for role in senders),
        *(("align", kind, role) for kind, (role, *rest) in by_ot(0).items() if not rest),
    ],
)
def test_one_bit_in_one_message_is_caught(
    deviants: Callable[[str], World], monkeypatch: pytest.MonkeyPatch, step: str, kind: str, role: str
) -> None:
    """The node sends and logs another bit than it computed; whether the peer refuses it or not, the replay names that message."""
    name = "bank" if role == "label_holder" else "platform"
    original, done = JournalChannel.send, []

    def deviating(self: JournalChannel, message: Any) -> None:
        if not done and (self._me, self._labels.step, message.DESCRIPTOR.name) == (name, step, kind):
            done.append(len(message.SerializeToString()))
            message = flipped(message)
        original(self, message)

    monkeypatch.setattr(JournalChannel, "send", deviating)
    world = deviants(step)
    changes = {"align": BY_OT} if kind in by_ot(0) and kind != "PsiStart" else {}
    job = world.run_job(world.spec(title=f"{step} {kind} {role}", **changes), may_fail=True)
    assert done, "the message crossed"
    found = world.replay(name, job=job)
    (result, *_) = differing(found)
    assert found.exit_status == 1
    assert (result.name.step, result.type, result.code) == (step, kind, "replay.differs"), result
    log = (world.home(name) / "state" / "log" / "log.jsonl").read_bytes().splitlines()
    entry = json.loads(log[result.seq])
    sent = [json.loads(line) for line in log if job.encode() in line]
    sent = [e for e in sent if e["kind"] == "message" and e["direction"] == "sent" and (e["step"], e["type"]) == (step, kind)]
    assert entry == sent[0], "the very message, and the first of its kind"
    assert found.reproduced < found.sent
    assert kind in result.detail
    assert f"entry {result.seq}" in result.detail
    assert result.explanation
    peer = world.replay("platform" if name == "bank" else "bank", job=job)
    assert (peer.exit_status, peer.reproduced) == (0, peer.sent), "the other node said what it computed from what it received"


def test_the_first_difference_and_what_the_step_does_are_printed(
    deviants: Callable[[str], World], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    world, original = deviants("round"), JournalChannel.send

    def deviating(self: JournalChannel, message: Any) -> None:
        mine = (self._me, message.DESCRIPTOR.name) == ("bank", "FirstResiduals")
        original(self, flipped(message) if mine else message)

    monkeypatch.setattr(JournalChannel, "send", deviating)
    job = world.run_job(world.spec(title="printed"))  # so small a change spoils nothing
    out = tmp_path / "replay.json"
    arguments = ["replay", str(world.home("bank")), "--job", job[:10], "--json", str(out)]
    assert run(cli, arguments, usage_status=3) == 1
    text = capsys.readouterr().out
    document = json.loads(out.read_text())
    assert f"{document['reproduced']} of {document['sent']} messages reproduced" in text
    first = document["first_difference"]
    assert (first["step"], first["round"], first["type"]) == ("round", 1, "FirstResiduals")
    assert f"the first that differs: bank entry {first['seq']}, round 1" in text
    assert "the residuals at the start" in text
    assert "something differs" in text
    left_out = [attempt for attempt in document["jobs"][0]["attempts"] if attempt["code"] == "replay.builds_on_lost"]
    assert {attempt["step"] for attempt in left_out} == {"round", "finish", "evaluate"}


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
