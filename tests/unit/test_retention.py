"""What is kept of a job, how long, and what it costs: files of messages, kept data sets, ends of jobs, the daily sweep."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from audit.errors import UsageError
from node.config import ColumnConfig
from node.data.load import Table
from node.doctor import size_text
from node.errors import DataError
from node.policy import Policy, RetentionSection, load_policy
from node.runtime.files import JobFiles
from node.runtime.kept import InboundWriter, kept_files, read_inbound, read_table, table_name, write_table
from node.runtime.retention import Sweeper, cost, on_job_end, sweep
from node.runtime.spill import SpillingScratch
from node.runtime.store import Store
from node.scratch import CHUNK_ROWS

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
ALWAYS, NONE, WEEK = RetentionSection(keep="always"), RetentionSection(), RetentionSection(days=7)
JOB = "ab" * 32
SECRETS = ("prepared.npz", "encoded.npz", "round-1.npz", "weights.npz", "columns.json", "directive-round-1.json")
DECLARED = {"x": ColumnConfig(kind="number"), "g": ColumnConfig(kind="category"), "y": ColumnConfig(kind="label")}


def table(**changes: object) -> Table:
    fields: dict[str, object] = {
        "identifiers": ["ann", "bo"],
        "raw_identifiers": [" Ann", "BO"],
        "columns": {"x": np.array([0.1, np.nan]), "g": np.array([0, 1], dtype=np.int32)},
        "levels": {"g": ["naïve", ""]},
        "label": np.array([0, 1], dtype=np.int8),
        "duplicates": 3,
        "rows_read": 5,
    }
    return Table(**(fields | changes))  # type: ignore[arg-type]


# ---- the policy


def test_the_policy_says_how_long() -> None:
    assert [section.text for section in (NONE, RetentionSection(keep="none"), ALWAYS, WEEK)] == ["none", "none", "always", "7"]
    assert [section.keeps for section in (NONE, RetentionSection(keep="none"), ALWAYS, WEEK)] == [False, False, True, True]
    assert Policy().retention.text == "none", "what is left out has its strictest value"


@pytest.mark.parametrize(
    "fields", [{"keep": "always", "days": 3}, {"keep": "forever"}, {"days": 0}, {"days": "90"}, {"kept": "none"}]
)
def test_a_policy_that_says_it_wrongly_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RetentionSection.model_validate(fields)


def test_both_at_once_in_a_file_names_the_section(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text('[retention]\nkeep = "always"\ndays = 3\n')
    with pytest.raises(UsageError, match=r"retention.*not both"):
        load_policy(tmp_path / "policy.toml")


# ---- messages


def test_messages_come_back_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "kept" / "align-0-0.inbound"
    writer = InboundWriter(path)
    messages = [b"first", b"", bytes(100_000)]
    for message in messages:
        writer.add(message)
        assert list(read_inbound(path))[-1] == message, "nothing waits in memory"
    writer.close()
    assert list(read_inbound(path)) == messages
    assert path.stat().st_size == 8 + sum(4 + len(message) for message in messages)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_nothing_received_makes_no_file(tmp_path: Path) -> None:
    InboundWriter(tmp_path / "kept" / "x.inbound").close()
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("cut", [1, 5, 6, 8])
def test_a_file_that_was_cut_off_ends_early(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.inbound"
    writer = InboundWriter(path)
    writer.add(b"whole")
    writer.add(b"torn")
    writer.close()
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(read_inbound(path)) == [b"whole"]


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"PK\x03\x04 something else")
    (tmp_path / "b").write_bytes(b"isthin1\n" + b"\xff\xff\xff\xff" + b"x")
    for name in ("a", "b", "not there"):
        with pytest.raises(DataError) as refused:
            list(read_inbound(tmp_path / name))
        assert refused.value.code == "kept.unreadable"


def test_a_full_disk_is_an_error_that_names_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = InboundWriter(tmp_path / "a.inbound")
    writer.add(b"x")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DataError, match="No space left") as refused:
        writer.add(b"y")
    assert "retention" in refused.value.remedy
    monkeypatch.undo()
    writer.close()


# ---- data sets


def test_a_data_set_comes_back_as_it_was_loaded(tmp_path: Path) -> None:
    files, kept = JobFiles(tmp_path), table()
    write_table(files, 4, kept, ("x", "g"), DECLARED)
    found, declared = read_table(files, 4, ("x", "g"), "casefold")
    assert declared == DECLARED
    assert (found.raw_identifiers, found.identifiers) == (kept.raw_identifiers, ["ann", "bo"])
    assert found.columns["x"].tobytes() == kept.columns["x"].tobytes()
    assert found.columns["g"].tolist() == [0, 1]
    assert (found.levels, found.label.tolist()) == (kept.levels, [0, 1])
    assert (found.duplicates, found.rows_read) == (3, 5)
    write_table(files, 5, table(label=None), ("x", "g"), DECLARED)
    assert read_table(files, 5, ("x", "g"), "casefold")[0].label is None


def test_the_same_data_are_kept_once(tmp_path: Path) -> None:
    files = JobFiles(tmp_path / "jobs" / JOB / "kept")
    for attempt, rows in ((0, 5), (2, 5), (3, 6)):
        write_table(files, attempt, table(rows_read=rows), ("x", "g"), DECLARED)
    assert (files.folder / table_name(0)).samefile(files.folder / table_name(2))
    sizes = [(files.folder / table_name(attempt)).stat().st_size for attempt in (0, 3)]
    assert cost(tmp_path).tables == sum(sizes), "a file with two names counts once"


def test_a_file_system_without_links_keeps_them_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refused)
    files = JobFiles(tmp_path)
    for attempt in (0, 1):
        write_table(files, attempt, table(), ("x", "g"), DECLARED)
    assert sorted(path.name for path in tmp_path.iterdir()) == [table_name(0), table_name(1)]
    assert read_table(files, 1, ("x", "g"), "casefold")[0].raw_identifiers == [" Ann", "BO"]


def test_files_that_cannot_be_compared_are_both_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = JobFiles(tmp_path)
    write_table(files, 0, table(), ("x", "g"), DECLARED)

    def unreadable(*_: object, **__: object) -> bool:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("filecmp.cmp", unreadable)
    write_table(files, 1, table(), ("x", "g"), DECLARED)
    assert sorted(path.name for path in tmp_path.iterdir()) == [table_name(0), table_name(1)]


def test_half_a_data_set_does_not_stay(tmp_path: Path) -> None:
    """Rows come from the scratch while they are written: its failure is another error than the file's."""

    class Lost(dict):  # type: ignore[type-arg]
        def __getitem__(self, name: str) -> object:
            raise DataError("state.scratch", "The scratch file of a step cannot be read.")

    with pytest.raises(DataError) as caught:
        write_table(JobFiles(tmp_path), 0, table(columns=Lost()), ("x", "g"), DECLARED)
    assert caught.value.code == "state.scratch"
    assert list(tmp_path.iterdir()) == []


def test_a_full_scratch_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = CHUNK_ROWS + 1
    names = [f"id{number}" for number in range(rows)]
    large = table(
        identifiers=names, raw_identifiers=names, columns={"x": np.zeros(rows)}, levels={}, label=None, rows_read=rows, duplicates=0
    )
    write_table(JobFiles(tmp_path), 0, large, ("x",), {"x": DECLARED["x"]})

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("node.runtime.spill.os.pwrite", full)
    with SpillingScratch(tmp_path, memory_bytes=0) as scratch, pytest.raises(DataError) as caught:
        read_table(JobFiles(tmp_path), 0, ("x",), "casefold", (), scratch)
    assert caught.value.code == "state.scratch"


@pytest.mark.parametrize("kind", ["cut", "another column", "a shorter column", "an unknown declaration"])
def test_a_damaged_data_set_is_refused(tmp_path: Path, kind: str) -> None:
    files = JobFiles(tmp_path)
    write_table(files, 0, table(), ("x", "g"), DECLARED)
    features = ("x", "g")
    if kind == "cut":
        path = tmp_path / table_name(0)
        path.write_bytes(path.read_bytes()[:-30])
    elif kind == "another column":
        features = ("x", "g", "z")  # type: ignore[assignment]
    else:
        arrays = files.read_arrays(table_name(0))
        if kind == "a shorter column":
            arrays["column_0"] = arrays["column_0"][:1]
        else:
            arrays["head"] = np.frombuffer(arrays["head"].tobytes().replace(b'"number"', b'"secret"'), dtype=np.uint8)
        files.write_arrays(table_name(0), arrays)
    with pytest.raises(DataError) as refused:
        read_table(files, 0, features, "casefold")
    assert refused.value.code == "kept.unreadable"


# ---- the end of a job


def job_folder(files: JobFiles, *, model: bool = True) -> JobFiles:
    """A job's folder as the steps leave it."""
    for name in (*SECRETS, "align.npz", "seed.sealed", "disclosures.json", *(["model.json", "metrics.json"] if model else [])):
        files.write(name, b"x" * 10)
    writer = InboundWriter(kept_files(files).folder / "align-0-0.inbound")
    writer.add(bytes(100))
    writer.close()
    write_table(kept_files(files), 0, table(), ("x", "g"), DECLARED)
    return files


def names(files: JobFiles) -> set[str]:
    return {path.name for path in files.folder.iterdir()}


def test_what_an_ended_job_leaves(tmp_path: Path) -> None:
    shown = {"model.json", "metrics.json", "disclosures.json", "align.npz"}
    for name, policy, extra in (("a", NONE, set()), ("b", ALWAYS, {"seed.sealed", "kept"}), ("c", WEEK, {"seed.sealed", "kept"})):
        files = job_folder(JobFiles(tmp_path / name))
        on_job_end(files, policy)
        assert names(files) == shown | extra, "masks, shares and keys of the steps go in any case"
    failed = job_folder(JobFiles(tmp_path / "failed"), model=False)
    on_job_end(failed, NONE)
    assert names(failed) == {"disclosures.json"}, "without a model nobody asks who was shared"
    on_job_end(JobFiles(tmp_path / "never begun"), NONE)
    assert not (tmp_path / "never begun").exists()


def add(store: Store, job: str, *states: str, at: datetime) -> JobFiles:
    moment = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    store.add_job(job, "{}", state="waiting", code="", now=moment)
    for state in states:
        store.move(job, state, now=moment)
    return job_folder(store.files(job))


def test_the_sweep_removes_what_is_over_age_and_nothing_of_running_jobs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old, young = NOW - timedelta(days=7), NOW - timedelta(days=6, hours=23)
    ended = ("approved", "running", "finished")
    finished, recent = add(store, "1" * 64, *ended, at=old), add(store, "2" * 64, *ended, at=young)
    cancelled, running = add(store, "3" * 64, "cancelled", at=old), add(store, "4" * 64, "approved", "running", at=old)
    before = names(running)
    assert sweep(store, WEEK, NOW) == 3
    assert names(finished) == {"model.json", "metrics.json", "disclosures.json", "align.npz"}
    assert names(cancelled) == names(finished)
    assert names(recent) == names(finished) | {"seed.sealed", "kept"}
    assert names(running) == before
    assert sweep(store, WEEK, NOW) == 0
    assert sweep(store, ALWAYS, NOW + timedelta(days=9999)) == 0
    assert sweep(store, NONE, NOW) == 1, "a policy made stricter takes effect"
    assert names(recent) == names(finished)
    assert names(running) == before
    store.close()


def test_the_sweep_comes_at_once_and_then_daily(tmp_path: Path) -> None:
    store, moment = Store(tmp_path), [NOW]
    first = add(store, "1" * 64, "cancelled", at=NOW)
    sweeper = Sweeper(store, NONE, lambda: moment[0])
    sweeper.poll()
    assert not (first.folder / "seed.sealed").exists()
    second = add(store, "2" * 64, "cancelled", at=NOW)
    for hours, left in ((0, True), (23, True), (1, False)):
        moment[0] += timedelta(hours=hours)
        sweeper.poll()
        assert (second.folder / "seed.sealed").exists() is left
    store.close()


def test_what_cannot_be_removed_is_said_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = job_folder(JobFiles(tmp_path))
    unlink = Path.unlink

    def stubborn(self: Path, **options: bool) -> None:
        if self.name == "prepared.npz":
            raise PermissionError(1, "Operation not permitted")
        unlink(self, **options)

    monkeypatch.setattr(Path, "unlink", stubborn)
    on_job_end(files, NONE)
    assert "prepared.npz cannot be removed: Operation not permitted" in caplog.text
    assert names(files) == {"model.json", "metrics.json", "disclosures.json", "align.npz", "prepared.npz"}


# ---- what it costs


def test_the_cost_is_what_lies_on_the_disk(tmp_path: Path) -> None:
    assert cost(tmp_path / "not there").total == 0
    files = job_folder(JobFiles(tmp_path / "jobs" / JOB))
    job_folder(JobFiles(tmp_path / "jobs" / ("cd" * 32)))
    found = cost(tmp_path)
    assert (found.jobs, found.messages, found.seeds) == (2, 2 * (8 + 4 + 100), 20)
    assert found.tables == 2 * (files.folder / "kept" / "table-0.npz").stat().st_size
    assert found.total == found.messages + found.seeds + found.tables


def test_bytes_for_people() -> None:
    assert [size_text(n) for n in (0, 1023, 1024, 1536, 5 * 2**30)] == ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 GiB"]
