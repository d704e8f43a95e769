"""The coordinator's log in the database: a new leader's folder becomes the old one's log, or is refused and left alone.

On SQLite, since nothing here depends on who leads; ``test_leader.py`` has the fence on PostgreSQL.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from audit.checkpoint import parse_note, verify_checkpoint
from audit.cosignature import cosign, verify_cosignature
from audit.errors import DataError, IsthmusError, VerificationError
from audit.record import LogWriter
from audit.signing import SigningKey
from audit.witness import Refused, Witness
from coordinator.store import schema
from coordinator.store.engine import make_engine
from coordinator.store.jobs import sqlite_url
from coordinator.store.log import LogMirror

KEY, BANK = SigningKey.generate("coordinator"), SigningKey.generate("bank")
_times = itertools.count()


def clock() -> datetime:
    return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=next(_times))


class Sides:
    """One database, and folders of coordinators that lead in turn."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine: Engine = make_engine(sqlite_url(folder / "database"))
        schema.upgrade(self.engine)
        self.failures: list[str] = []

    def mirror(self, **options: Any) -> LogMirror:
        settings = {"fence": lambda connection: None, "failed": self.failures.append} | options
        return LogMirror(self.engine, key=KEY.verifier, **settings)

    def open(self, name: str, **options: Any) -> LogWriter:
        return LogWriter.open(self.folder / name, key=KEY, clock=clock, mirror=self.mirror(**options))

    def log(self, name: str) -> bytes:
        return (self.folder / name / "log.jsonl").read_bytes()

    def run(self, name: str, entries: int) -> None:
        writer = self.open(name)
        for n in range(entries):
            writer.append("job", number_of_run=n)
            if n % 3 == 2:
                writer.checkpoint()
        writer.close()

    def sql(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql(statement)


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[Sides]:
    made = Sides(tmp_path)
    yield made
    made.engine.dispose()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_leaders_in_turn_write_one_log(sides: Sides) -> None:
    for name, entries in (("a", 7), ("b", 5), ("a", 3), ("c", 1), ("b", 4)):
        before = {name: sides.log(name) for name in "abc" if (sides.folder / name).exists()}
        sides.run(name, entries)
        assert all(sides.log(name).startswith(old) for old in before.values())
    assert sides.log("b").count(b"\n") == 20
    sides.open("a").close()
    assert files(sides.folder / "a") == files(sides.folder / "b")
    assert sides.failures == []


def test_cosignatures_and_what_was_cosigned_go_along(sides: Sides) -> None:
    first = sides.open("a")
    first.append("software", version="1")
    note = first.checkpoint()
    line = cosign(parse_note(note.encode()).text, BANK, time=5)
    first.add_cosignature(1, line, BANK.verifier)
    bank = LogWriter.open(sides.folder / "bank", key=BANK, clock=clock)
    shown = [(bank.append("software", version=str(n)), bank.checkpoint())[1] for n in range(3)]
    witness = Witness(sides.folder / "a", key=KEY, clock=clock, mirror=sides.mirror())
    witness.cosign(shown[1].encode(), key=BANK.verifier, old_size=0, proof=[])
    sides.open("b").close()
    verify_cosignature(parse_note((sides.folder / "b" / "checkpoints" / f"{1:012d}").read_bytes()), BANK.verifier)
    taken = Witness(sides.folder / "b", key=KEY, clock=clock, mirror=sides.mirror())
    with pytest.raises(Refused) as caught:
        taken.cosign(shown[0].encode(), key=BANK.verifier, old_size=0, proof=[])
    assert caught.value.code == "witness.rolled_back"
    taken.cosign(shown[2].encode(), key=BANK.verifier, old_size=2, proof=bank.consistency(2, 3))
    sides.open("c").close()
    kept = Witness(sides.folder / "c", key=KEY, clock=clock).kept(BANK.verifier)
    assert kept is not None
    assert kept.size == 3
    bank.close()
    first.close()


# --- crashes ----------------------------------------------------------------------------------------------------------------------


def test_an_entry_that_only_the_database_has_stands(sides: Sides) -> None:
    """The crash after the database and before the folder."""
    sides.run("a", 3)
    shutil.copytree(sides.folder / "a", sides.folder / "crashed")
    sides.run("a", 1)
    sides.open("crashed").close()
    assert sides.log("crashed") == sides.log("a")


@pytest.mark.parametrize("cut", [1, 40])
def test_a_torn_line_comes_whole_from_the_database(sides: Sides, cut: int) -> None:
    sides.run("a", 4)
    whole = sides.log("a")
    (sides.folder / "a" / "log.jsonl").write_bytes(whole[:-cut])
    sides.open("a").close()
    assert sides.log("a") == whole
    assert b'"recovery"' not in whole


def test_a_refused_or_failed_write_leaves_the_folder_and_ends_the_writer(sides: Sides) -> None:
    refuse = False

    def fence(_connection: Connection) -> None:
        if refuse:
            raise DataError("coordinator.not_leader", "Another leads.")

    writer = sides.open("a", fence=fence)
    writer.append("software", version="1")
    before = files(sides.folder / "a")
    refuse = True
    for attempt, code in ((lambda: writer.append("job"), "coordinator.not_leader"), (writer.checkpoint, "log.closed")):
        with pytest.raises(IsthmusError) as caught:
            attempt()
        assert caught.value.code == code
    writer.close()
    assert files(sides.folder / "a") == before
    assert sides.failures == []


def test_a_database_that_fails_is_told(sides: Sides) -> None:
    writer = sides.open("a")
    writer.append("software", version="1")
    sides.sql("DROP TABLE log_entries")
    with pytest.raises(DataError) as caught:
        writer.append("job")
    assert caught.value.code == "store.write_failed"
    assert len(sides.failures) == 1
    assert sides.log("a").count(b"\n") == 1
    writer.close()


# --- a folder that is ahead -------------------------------------------------------------------------------------------------------


def test_a_log_that_was_kept_without_a_database_is_brought_there(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.store.log.BATCH", 10)
    writer = LogWriter.open(sides.folder / "a", key=KEY, clock=clock)
    for n in range(35):
        writer.append("job", number_of_run=n)
    note = writer.checkpoint()
    writer.add_cosignature(35, cosign(parse_note(note.encode()).text, BANK, time=5), BANK.verifier)
    writer.close()
    old = sides.log("a")
    sides.run("a", 2)
    sides.run("b", 2)
    assert sides.log("b").startswith(sides.log("a"))
    assert sides.log("a").startswith(old)
    verify_cosignature(parse_note((sides.folder / "b" / "checkpoints" / f"{35:012d}").read_bytes()), BANK.verifier)


def test_a_database_that_lost_its_last_transactions_gets_them_back(sides: Sides, caplog: pytest.LogCaptureFixture) -> None:
    sides.run("a", 9)
    sides.sql("DELETE FROM log_entries WHERE seq >= 4")
    sides.sql("DELETE FROM log_checkpoints WHERE size > 4")
    sides.run("a", 1)
    assert "lacks 5 entries" in caplog.text
    sides.run("b", 1)
    assert sides.log("b").startswith(sides.log("a"))


def test_two_logs_under_one_name_are_refused_and_both_are_left(sides: Sides) -> None:
    sides.run("a", 4)
    other = LogWriter.open(sides.folder / "b", key=KEY, clock=clock)
    for n in range(6):
        other.append("job", number_of_run=n)
    other.close()
    before = files(sides.folder / "b")
    with pytest.raises(VerificationError) as caught:
        sides.open("b")
    assert caught.value.code == "log.forked"
    assert files(sides.folder / "b") == before
    sides.run("a", 1)


# --- a database that somebody changed ---------------------------------------------------------------------------------------------

REPLACED = "UPDATE log_entries SET line = CAST(replace(CAST(line AS TEXT), '{}', '{}') AS BLOB) WHERE seq = {}"


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("DELETE FROM log_entries WHERE seq = 5", "log.broken"),
        ("DELETE FROM log_entries WHERE seq >= 5", "log.shortened"),
        ("UPDATE log_entries SET line = CAST('no entry' AS BLOB) WHERE seq = 5", "log.broken"),
        ("UPDATE log_entries SET line = (SELECT line FROM log_entries WHERE seq = 4) WHERE seq = 5", "log.broken"),
        (REPLACED.format(":5,", ":55,", 5), "log.broken"),
        (REPLACED.format(':"job"', ':"jab"', 6), "log.altered"),
        ("UPDATE log_checkpoints SET note = CAST('no note' AS BLOB) WHERE size = 7", "audit.bad_note"),
    ],
)
def test_an_altered_database_is_noticed_and_the_folder_left_alone(sides: Sides, statement: str, code: str) -> None:
    sides.run("a", 7)
    for name in ("empty", "behind"):
        if name == "behind":
            shutil.copytree(sides.folder / "a", sides.folder / name)
            lines = sides.log("a").splitlines(keepends=True)
            (sides.folder / name / "log.jsonl").write_bytes(b"".join(lines[:3]))
            shutil.rmtree(sides.folder / name / "checkpoints")
            (sides.folder / name / "checkpoint").unlink()
        else:
            sides.sql(statement)
        with pytest.raises(VerificationError) as caught:
            sides.open(name)
        assert caught.value.code == code
        kept = sides.log(name)
        assert kept == (b"" if name == "empty" else b"".join(lines[:3]))


def test_the_newest_tree_head_is_the_folders(sides: Sides) -> None:
    sides.run("a", 8)
    sides.open("b").close()
    head = verify_checkpoint((sides.folder / "b" / "checkpoint").read_bytes(), KEY.verifier)
    assert head.size == 8
