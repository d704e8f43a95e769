"""``isthmus-coordinator database``, and where the database's URL comes from."""

from __future__ import annotations

import io
import json
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from audit import console
from audit.identity import create_identity
from coordinator.cli import main_group
from coordinator.config import load_config
from coordinator.errors import UsageError
from coordinator.leader import Leadership
from coordinator.server import Server
from coordinator.store import Store, schema
from tests import postgres
from tests.nodes import free_port
from tests.unit.test_store_schema import OLD

BASE = '[coordinator]\nname = "coordinator"\nlisten = "127.0.0.1:1"\n'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    create_identity(tmp_path / "keys", name="coordinator", role="coordinator")
    (tmp_path / "partners").mkdir()
    (tmp_path / "coordinator.toml").write_text(BASE)
    return tmp_path


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))

    def call(*argv: str) -> tuple[int, str, str]:
        status = console.run(main_group, ["--config", str(home / "coordinator.toml"), *argv])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert postgres.PASSWORD not in captured.out + captured.err
        return status, captured.out, captured.err

    return call


def put_old(home: Path) -> None:
    (home / "state").mkdir()
    with sqlite3.connect(home / "state" / "coordinator.db") as raw:
        raw.executescript(OLD.read_text())


def test_sqlite_status_and_upgrade(home: Path, run: Any) -> None:
    status, _, err = run("database", "status")
    assert (status, "code: store.no_database" in err) == (1, True)
    put_old(home)
    found = json.loads(run("database", "status", "--json")[1])
    assert (found["backend"], found["revision"], found["upgrade_needed"]) == ("sqlite", "0001", True)
    assert "leader" not in found
    assert "revision  0001; newest known 0002" in run("database", "status")[1]
    done = json.loads(run("database", "upgrade", "--json")[1])
    assert (done["before"], done["after"]) == ("0001", schema.HEAD)
    assert Path(done["backup"]).exists()
    assert "is at the newest revision, 0002" in run("database", "upgrade")[1]
    with sqlite3.connect(home / "state" / "coordinator.db") as raw:
        raw.execute("UPDATE alembic_version SET version_num = '0099'")
    for command in ("status", "upgrade"):
        status, _, err = run("database", command)
        assert (status, "code: store.newer_schema" in err) == (2, True)


def test_a_running_coordinators_database_is_not_upgraded(home: Path, run: Any) -> None:
    (home / "coordinator.toml").write_text(BASE.replace(':1"', f':{free_port()}"'))
    server = Server(load_config(home / "coordinator.toml"))
    try:
        status, _, err = run("database", "upgrade")
        assert (status, "code: store.in_use" in err) == (2, True)
        assert run("database", "status")[0] == 0
    finally:
        server.stop()
    assert run("database", "upgrade")[0] == 0


def test_postgresql_status_and_upgrade(home: Path, run: Any) -> None:
    uri = postgres.server().new_database()
    (home / "url").write_text(uri + "\n")
    (home / "url").chmod(0o640)
    (home / "coordinator.toml").write_text(f'{BASE}[store]\nurl_file = "url"\n')
    found = json.loads(run("database", "status", "--json")[1])
    assert found == {
        "backend": "postgresql",
        "database": "postgresql://" + uri.partition("@")[2],
        "leader": None,
        "newest": schema.HEAD,
        "revision": "",
        "upgrade_needed": True,
    }
    assert json.loads(run("database", "upgrade", "--json")[1])["after"] == schema.HEAD
    config = load_config(home / "coordinator.toml")
    leading = Leadership.of(config, config.identity())
    assert leading is not None
    with leading:
        assert leading.wait(threading.Event())
        leader = json.loads(run("database", "status", "--json")[1])["leader"]
        assert (leader["epoch"], leader["holder"].endswith("(127.0.0.1:1)")) == (1, True)
        assert 0 < leader["lease_seconds"] <= 10
        assert "epoch 1, its lease runs" in run("database", "status")[1]
        status, _, err = run("database", "upgrade")
        assert (status, "code: store.in_use" in err) == (2, True)
    assert "leader    none" in run("database", "status")[1]


def test_jobs_of_a_sqlite_file_are_imported(home: Path, run: Any) -> None:
    file = home / "state" / "coordinator.db"
    status, _, err = run("database", "import", str(file))
    assert (status, "code: store.no_database" in err) == (1, True)
    put_old(home)
    status, _, err = run("database", "import", str(file))
    assert (status, "code: store.bad_url" in err) == (2, True)
    uri = postgres.server().new_database()
    (home / "coordinator.toml").write_text(f'{BASE}[store]\nurl = "{uri}"\n')
    assert "2 of 2 jobs were copied" in run("database", "import", str(file))[1]
    again = json.loads(run("database", "import", str(file), "--json")[1])
    assert (again["copied"], again["already_there"]) == (0, 2)
    source, target = Store.open(f"sqlite:///{file}"), Store.open(uri)
    assert target.recent(None) == source.recent(None)
    assert [job.state for job in target.recent(None)] == ["submitted", "finished"]
    source.close()
    target.close()
    config = load_config(home / "coordinator.toml")
    leading = Leadership.of(config, config.identity())
    assert leading is not None
    with leading:
        assert leading.wait(threading.Event())
        status, _, err = run("database", "import", str(file))
        assert (status, "code: coordinator.folder_in_use" in err) == (2, True)
        (home / "coordinator.toml").write_text(f'{BASE}state = "other"\n[store]\nurl = "{uri}"\n')
        status, _, err = run("database", "import", str(file))
        assert (status, "code: store.in_use" in err) == (2, True)


def test_a_server_that_does_not_lead_is_refused(home: Path) -> None:
    text = BASE.replace(':1"', f':{free_port()}"')
    (home / "coordinator.toml").write_text(f'{text}[store]\nurl = "{postgres.server().new_database()}"\n')
    with pytest.raises(Exception, match="nobody asked for the lead") as caught:
        Server(load_config(home / "coordinator.toml"))
    assert caught.value.code == "coordinator.not_leader"  # type: ignore[attr-defined]


def test_the_url_is_no_secret_that_a_configuration_shows(home: Path) -> None:
    url = f"postgresql://u:{postgres.PASSWORD}@h/x"
    (home / "coordinator.toml").write_text(f'{BASE}[store]\nurl = "{url}"\n')
    config = load_config(home / "coordinator.toml")
    assert config.store_url() == url
    assert postgres.PASSWORD not in f"{config!r} {config} {config.store} {config.model_dump()} {config.model_dump_json()}"


@pytest.mark.parametrize(
    ("mode", "text", "code"),
    [
        (0o644, "postgresql://u@h/x", "config.readable_by_others"),
        (0o600, "", "config.unreadable"),
        (0o600, "postgresql://u@h/x\npostgresql://u@h/y", "config.unreadable"),
        (0o600, "x" * 5000, "config.unreadable"),
        (None, "", "config.unreadable"),
    ],
)
def test_a_bad_url_file(home: Path, mode: int | None, text: str, code: str) -> None:
    if mode is not None:
        (home / "url").write_text(text)
        (home / "url").chmod(mode)
    (home / "coordinator.toml").write_text(f'{BASE}[store]\nurl_file = "url"\n')
    with pytest.raises(UsageError) as caught:
        load_config(home / "coordinator.toml").store_url()
    assert caught.value.code == code
    assert str(home / "url") in str(caught.value)


@pytest.mark.parametrize(
    ("section", "word"),
    [
        ('url = "postgresql://u:hunter2@h/x"\nurl_file = "url"', "keep one"),
        ('url = ""', "store.url"),
        ("lease = 1", "store.lease"),
        ('ulr = "postgresql://u:hunter2@h/x"', "Did you mean 'url'"),
        ("url = 5", "store.url"),
    ],
)
def test_a_bad_section_names_the_key_and_not_the_value(home: Path, section: str, word: str) -> None:
    (home / "coordinator.toml").write_text(f"{BASE}[store]\n{section}\n")
    with pytest.raises(UsageError) as caught:
        load_config(home / "coordinator.toml")
    assert word in str(caught.value)
    assert "hunter2" not in str(caught.value)
