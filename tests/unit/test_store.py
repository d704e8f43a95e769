"""The coordinator's database: what is loaded is what was saved."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from coordinator.errors import DataError, UsageError
from coordinator.jobs import Decision, Job, Step
from coordinator.reports import Gain, Metrics, StepReport
from coordinator.store import Store, engine
from coordinator.store.engine import _protected, describe, make_engine, parse_url
from coordinator.store.jobs import sqlite_url
from tests import postgres
from tests.unit.test_jobs import a_spec, finished_job


@pytest.fixture(params=["sqlite", "postgresql"])
def url(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    return sqlite_url(tmp_path) if request.param == "sqlite" else postgres.server().new_database()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store.open(url)
    yield store
    store.close()


def test_a_whole_job_comes_back_equal(store: Store, url: str) -> None:
    job = replace(finished_job(), submitted="2030-01-01T00:00:00Z", updated="2030-01-01T00:00:01Z")
    assert any(step.reports and next(iter(step.reports.values())).inner_products for step in job.steps)
    assert job.metrics is not None
    store.save(job)
    assert store.load(job.identity) == job
    store.close()
    again = Store.open(url)
    loaded = again.load(job.identity)
    assert loaded == job
    assert loaded is not None
    assert [list(step.reports) for step in loaded.steps] == [list(step.reports) for step in job.steps]
    again.close()


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


def test_settings_of_the_file(tmp_path: Path) -> None:
    store, spec = Store.in_folder(tmp_path), a_spec()
    store.save(Job(spec.identity(), spec))
    with sqlite3.connect(tmp_path / "coordinator.db") as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    assert (tmp_path / "coordinator.db").stat().st_mode & 0o077 == 0


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "coordinator.db").write_bytes(b"this is not a database, only text that is long enough to be one" * 20)
    with pytest.raises(DataError) as broken:
        Store.in_folder(tmp_path)
    assert broken.value.code == "store.unusable"


# --- URLs and what an error may say -----------------------------------------------------------------------------------------------

SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    ["nonsense", f"nosuchdialect://x:{SECRET}@y", f"mysql://x:{SECRET}@y/z", f"postgresql+psycopg2://x:{SECRET}@y/z",
     f"postgresql://x:{SECRET}@h:port/z"],
)  # fmt: skip
def test_bad_urls(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Store.open(url)
    assert caught.value.code == "store.bad_url"
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("hunter2", "hunter2-wrong"), "the server refused the user or the password"),
        (("reader:hunter2@", "reader@"), "none is configured"),
        (("/postgres", "/absent"), "there is no such database"),
        (("reader:", "nobody:"), "the server refused the user or the password"),
        (("@127.0.0.1:", "@127.0.0.1:1/x?application_name="), "nobody listens"),
        (("@127.0.0.1:", "@/x?host=/nowhere&application_name="), "no server at its socket"),
        (("", "?sslmode=require"), "does not offer TLS"),
        (("", "?service=nowhere"), "in no service file"),
        (("", "?colour=red"), "does not know"),
    ],
)
def test_why_a_server_cannot_be_used(change: tuple[str, str], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGPASSWORD", "PGPASSFILE", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    url = postgres.server().uri()
    url = url.replace(*change) if change[0] else url + change[1]
    with pytest.raises(DataError, match=reason) as caught:
        Store.open(url)
    assert caught.value.code == "store.unusable"
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_password_is_shown_nowhere() -> None:
    uri = postgres.server().new_database()
    for url in (uri, uri.replace(f":{SECRET}@", "@") + f"?password={SECRET}&sslpassword={SECRET}2"):
        store = Store.open(url)
        assert store.open_jobs() == []
        shown = [
            repr(store),
            repr(store._engine),
            str(store._engine.url),
            repr(store._engine.url.query),
            describe(store._engine.url),
        ]
        store._engine.dispose()
        with store._engine.connect() as connection, pytest.raises(DatabaseError) as caught:
            connection.execute(text("SELECT :value FROM absent"), {"value": SECRET})
        shown += [str(caught.value), repr(caught.value)]
        assert [words for words in shown if SECRET in words] == []
        store.close()


def test_a_link_to_another_machine_is_verified_unless_it_is_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGSSLMODE", "PGSERVICE", "PGHOST", "PGHOSTADDR"):
        monkeypatch.delenv(name, raising=False)

    def mode(url: str) -> object:
        _, arguments = make_engine(url).dialect.create_connect_args(make_engine(url).url)
        asked = _protected(parse_url(url))[1]
        return asked.get("sslmode", arguments.get("sslmode"))

    assert mode("postgresql://u@db.example/x") == "verify-full"
    assert mode("postgresql://u@/x?host=/run/postgresql,db.example") == "verify-full"
    assert mode("postgresql://u@db.example/x?sslmode=require") == "require"
    for local in (
        "postgresql://u@localhost/x",
        "postgresql://u@[::1]:5433/x",
        "postgresql:///x",
        "postgresql:///x?host=/run/postgresql",
    ):
        assert mode(local) is None
    assert mode("postgresql:///?service=isthmus") is None, "the service file says it"
    monkeypatch.setenv("PGHOST", "db.example")
    assert mode("postgresql:///x") == "verify-full"
    monkeypatch.setenv("PGSSLMODE", "require")
    assert mode("postgresql:///x") is None


def test_without_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        Store.open("postgresql://u@localhost/x")
    assert caught.value.code == "store.no_driver"
    assert "pip install 'isthmus[postgresql]'" in caught.value.remedy


def test_a_database_that_goes_away(caplog: pytest.LogCaptureFixture) -> None:
    server, spec = postgres.server(), a_spec()
    url = server.new_database()
    store = Store.open(url)
    with psycopg.connect(server.uri(), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")
    with pytest.raises(DataError) as unwritten:
        store.save(Job(spec.identity(), spec))
    with pytest.raises(DataError) as unread:
        store.open_jobs()
    assert (unwritten.value.code, unread.value.code) == ("store.write_failed", "store.read_failed")
