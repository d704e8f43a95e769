"""The database's schema: old databases are adopted, upgrades race for nothing, newer ones are refused."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from coordinator.errors import DataError, UsageError
from coordinator.store import Store, schema
from coordinator.store.engine import make_engine
from coordinator.store.jobs import sqlite_url
from coordinator.store.tables import Base
from tests import postgres

OLD = Path(__file__).resolve().parents[1] / "vectors" / "store" / "schema_1.sql"
"""What version 0.1.0's own code made: one finished job and one that nobody decided on."""


def new_url(kind: str, folder: Path) -> str:
    return sqlite_url(folder) if kind == "sqlite" else postgres.server().new_database()


def old_database(folder: Path) -> str:
    url = sqlite_url(folder)
    with sqlite3.connect(folder / "coordinator.db") as raw:
        raw.executescript(OLD.read_text())
    return url


def test_the_revisions_are_those_of_the_folder() -> None:
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    found = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(found)) == schema.REVISIONS


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_migrations_make_the_tables_that_the_code_uses(kind: str, tmp_path: Path) -> None:
    engine = make_engine(new_url(kind, tmp_path))
    assert schema.revision(engine) == ""
    assert schema.upgrade(engine) == schema.Upgrade("", schema.HEAD)
    assert schema.revision(engine) == schema.HEAD
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    assert schema.upgrade(engine) == schema.Upgrade(schema.HEAD, schema.HEAD)
    engine.dispose()


def test_a_database_of_version_0_1_0_is_adopted_without_loss(tmp_path: Path) -> None:
    url = old_database(tmp_path)
    with sqlite3.connect(tmp_path / "coordinator.db") as raw:
        names = [row[0] for row in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        before = {name: sorted(raw.execute(f"SELECT * FROM {name}").fetchall()) for name in names}
    store = Store.open(url)
    finished, waiting = store.recent(10)[1], store.recent(10)[0]
    assert (finished.state, waiting.state) == ("finished", "submitted")
    assert finished.metrics is not None
    assert len(finished.decisions) == 2
    assert [job.identity for job in store.open_jobs()] == [waiting.identity]
    store.close()
    with sqlite3.connect(tmp_path / "coordinator.db") as raw:
        assert raw.execute("SELECT version FROM schema").fetchall() == [(2,)], "0.1.0 refuses every number but 1"
        for name in names:
            if name != "schema":
                assert sorted(raw.execute(f"SELECT * FROM {name}").fetchall()) == before[name], name
    copy = tmp_path / f"coordinator.db.before-{schema.HEAD}"
    assert copy.stat().st_mode & 0o077 == 0
    with sqlite3.connect(copy) as raw:
        assert {name: sorted(raw.execute(f"SELECT * FROM {name}").fetchall()) for name in names} == before


def test_a_database_of_version_0_1_0_on_postgresql_is_adopted() -> None:
    engine = make_engine(postgres.server().new_database())
    with engine.begin() as connection:
        schema._migrate(connection, "")
        for name in ("leader", "log_entries", "log_checkpoints", "witness_notes", "alembic_version"):
            connection.execute(text(f"DROP TABLE {name}"))
        connection.execute(text("UPDATE schema SET version = 1"))
    assert schema.upgrade(engine) == schema.Upgrade("0001", schema.HEAD)
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("newer", ["UPDATE alembic_version SET version_num = '0099'", "schema"])
def test_a_newer_schema_is_refused(kind: str, newer: str, tmp_path: Path) -> None:
    url = new_url(kind, tmp_path)
    Store.open(url).close()
    engine = make_engine(url)
    with engine.begin() as connection:
        if newer == "schema":
            connection.execute(text("DROP TABLE alembic_version"))
            connection.execute(text("UPDATE schema SET version = 99"))
        else:
            connection.execute(text(newer))
    with pytest.raises(UsageError, match="99") as caught:
        Store.open(url)
    assert caught.value.code == "store.newer_schema"
    assert "version" in caught.value.remedy
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_several_that_start_at_once_do_not_race(kind: str, tmp_path: Path) -> None:
    url = old_database(tmp_path) if kind == "sqlite" else postgres.server().new_database()
    barrier, done = threading.Barrier(4), []

    def start() -> None:
        engine = make_engine(url)
        barrier.wait()
        done.append(schema.upgrade(engine))
        engine.dispose()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    before = "0001" if kind == "sqlite" else ""
    assert sorted(each.before for each in done) == [before, *[schema.HEAD] * 3]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_upgrade_waits_for_the_one_that_runs(kind: str, tmp_path: Path) -> None:
    url = new_url(kind, tmp_path)
    engine = make_engine(url)
    done = threading.Event()

    def other() -> None:
        Store.open(url).close()
        done.set()

    thread = threading.Thread(target=other, daemon=True)
    with schema._locked(engine) as connection:
        thread.start()
        assert not done.wait(0.3)
        schema._migrate(connection, "")
    assert done.wait(20)
    thread.join()
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_upgrade_that_fails_leaves_the_database_as_it_was(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(new_url(kind, tmp_path))
    real = schema._migrate

    def breaks(connection: object, before: str) -> None:
        real(connection, before)  # type: ignore[arg-type]
        connection.execute(text("SELECT * FROM absent"))  # type: ignore[attr-defined]

    monkeypatch.setattr(schema, "_migrate", breaks)
    with pytest.raises(DataError) as caught:
        schema.upgrade(engine)
    assert caught.value.code == "store.unusable"
    monkeypatch.undo()
    assert schema.revision(engine) == ""
    assert schema.upgrade(engine).after == schema.HEAD
    engine.dispose()


def test_without_room_for_a_copy_nothing_is_upgraded(tmp_path: Path) -> None:
    url = old_database(tmp_path)
    (tmp_path / f"coordinator.db.before-{schema.HEAD}").mkdir()
    with pytest.raises(DataError) as caught:
        Store.open(url)
    assert caught.value.code == "store.backup_failed"
    engine = make_engine(url)
    assert schema.revision(engine) == "0001"
    engine.dispose()
