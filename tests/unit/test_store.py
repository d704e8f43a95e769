"""The coordinator's database: what is loaded is what was saved."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.errors import DataError, UsageError
from coordinator.jobs import Decision, Gain, Job, Metrics, Step, StepReport
from coordinator.store import Store
from tests.unit.test_jobs import a_spec, finished_job


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.in_folder(tmp_path)


def test_a_whole_job_comes_back_equal(store: Store, tmp_path: Path) -> None:
    job = replace(finished_job(), submitted="2030-01-01T00:00:00Z", updated="2030-01-01T00:00:01Z")
    assert any(step.reports and next(iter(step.reports.values())).inner_products for step in job.steps)
    assert job.metrics is not None
    store.save(job)
    assert store.load(job.identity) == job
    store.close()
    again = Store.in_folder(tmp_path)
    loaded = again.load(job.identity)
    assert loaded == job
    assert loaded is not None
    assert [list(step.reports) for step in loaded.steps] == [list(step.reports) for step in job.steps]


def test_saving_again_replaces(store: Store) -> None:
    spec = a_spec()
    job = Job(spec.identity(), spec)
    for attempt in range(3):
        report = StepReport("round", attempt, 1, "0" * 64, inner_products=(0.1 + attempt,))
        step = Step("round", 1, attempt, reports={"bank": report}, coefficients=(1 / 3, -0.0), lookup_range=16.0)
        job = replace(
            job, state="round", attempt=attempt, steps=(*job.steps, step), decisions={"bank": Decision("approve", "{}", "00")}
        )
        store.save(job)
        assert store.load(job.identity) == job
    shorter = replace(job, steps=job.steps[:1], decisions={})
    store.save(shorter)
    assert store.load(job.identity) == shorter


def test_doubles_survive_to_the_last_bit(store: Store) -> None:
    spec = a_spec()
    values = (0.1, 1e-300, 5e-324, -1 / 3, 1.7976931348623157e308, 2**-1074)
    metrics = Metrics(0.1 + 0.2, 1 / 3, 2 / 3, 0.22, 2**40, (Gain(1, 2**40, 3),))
    report = StepReport("evaluate", 0, 0, "ab" * 32, seconds=1 / 7, bytes_sent=2**47, inner_products=values, metrics=metrics)
    job = Job(spec.identity(), spec, state="evaluate", steps=(Step("evaluate", 0, 0, reports={"bank": report}),))
    store.save(job)
    assert store.load(job.identity) == job


def test_open_recent_and_found_by_prefix(store: Store) -> None:
    jobs = [
        Job(s.identity(), s, submitted=f"2030-01-0{n}")
        for n, s in enumerate((a_spec("1" * 32), a_spec("2" * 32), a_spec("3" * 32)), 1)
    ]
    ended = replace(jobs[1], state="failed", code="psi.too_few_shared")
    for job in (jobs[0], ended, jobs[2]):
        store.save(job)
    assert store.open_jobs() == [jobs[0], jobs[2]]
    assert store.recent(2) == [jobs[2], ended]
    assert store.find(jobs[0].identity[:12]) == [jobs[0].identity]
    assert len(store.find("")) == 3
    assert store.find("%") == []
    assert store.load("0" * 64) is None


def test_settings_of_the_file(store: Store, tmp_path: Path) -> None:
    spec = a_spec()
    store.save(Job(spec.identity(), spec))
    with sqlite3.connect(tmp_path / "coordinator.db") as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_bad_urls_files_and_schemas(tmp_path: Path) -> None:
    for url in ("nonsense", "nosuchdialect://x/y"):
        with pytest.raises(UsageError) as caught:
            Store.open(url)
        assert caught.value.code == "store.bad_url"
    (tmp_path / "coordinator.db").write_bytes(b"this is not a database, only text that is long enough to be one" * 20)
    with pytest.raises(DataError) as broken:
        Store.in_folder(tmp_path)
    assert broken.value.code == "store.unusable"
    newer = tmp_path / "newer"
    Store.in_folder(newer).close()
    with sqlite3.connect(newer / "coordinator.db") as raw:
        raw.execute("UPDATE schema SET version = 99")
    with pytest.raises(UsageError) as caught:
        Store.in_folder(newer)
    assert caught.value.code == "store.newer_schema"
