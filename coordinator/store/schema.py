"""The database's schema: which revision it has, and bringing it to the newest one under a lock.

Revisions are Alembic's (``coordinator/migrations``), numbered and in a line.  A database that version 0.1.0 made has no mark of
Alembic but a table ``schema`` with the number 1: it is taken for revision 0001, which makes those very tables.  Revision 0002
writes 2 there, so that 0.1.0 refuses the database.

Two coordinators that start at once do not race: PostgreSQL's advisory lock, or SQLite's write lock, is taken before the revision is
read, and all of an upgrade is one transaction.  A SQLite file is copied beside itself first; of a PostgreSQL database its operators
keep backups.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, select, text
from sqlalchemy.exc import DBAPIError

from coordinator.errors import DataError, UsageError
from coordinator.store.engine import describe, unusable
from coordinator.store.tables import SchemaRow

_log = logging.getLogger("isthmus.coordinator")

REVISIONS = ("0001", "0002")
HEAD = REVISIONS[-1]
LEADER_SINCE = "0002"
"""From this revision on, the database says who leads: an upgrade is then the leader's alone."""
MIGRATIONS = Path(__file__).resolve().parents[1] / "migrations"
MIGRATION_LOCK = 0x6973_7468_6D75_73  # "isthmus"
LOCK_SECONDS = 60
_MARK = "alembic_version"


@dataclass(frozen=True)
class Upgrade:
    """What an upgrade did; ``before`` is empty for a new database, ``backup`` where no copy was made."""

    before: str
    after: str
    backup: str = ""


def revision(engine: Engine) -> str:
    """The database's revision; empty where it has no table of the coordinator.

    Raises:
        UsageError: ``store.newer_schema``.
        DataError: ``store.unusable``.
    """
    try:
        with engine.connect() as connection:
            return _checked(_found(connection))
    except DBAPIError as error:
        raise unusable(engine.url, error) from None


def upgrade(engine: Engine) -> Upgrade:
    """Bring the database to the newest revision; it is wholly there, or as it was.

    Raises:
        UsageError: ``store.newer_schema``.
        DataError: ``store.unusable``; ``store.backup_failed``.
    """
    if (found := revision(engine)) == HEAD:
        return Upgrade(found, found)
    try:
        with _locked(engine) as connection:
            before = _checked(_found(connection))
            if before == HEAD:
                return Upgrade(before, before)
            sqlite = engine.dialect.name == "sqlite"
            backup = _copy(engine.url.database or "") if sqlite and before else ""
            _migrate(connection, before)
    except DBAPIError as error:
        raise unusable(engine.url, error) from None
    if before:
        _log.info("the database %s was brought from revision %s to %s", describe(engine.url), before, HEAD)
    return Upgrade(before, HEAD, backup)


def _found(connection: Connection) -> str:
    tables = inspect(connection).get_table_names()
    if _MARK in tables:
        return str(connection.scalar(text(f"SELECT version_num FROM {_MARK}")))
    if SchemaRow.__tablename__ not in tables:
        return ""
    number = connection.scalar(select(SchemaRow.version))
    # 0.1.0 made its tables and wrote the number in two transactions: a crash between them leaves the table empty.
    return REVISIONS[0] if number in (None, 1) else f"{number:04d}"


def _checked(found: str) -> str:
    if found and found not in REVISIONS:
        raise UsageError(
            "store.newer_schema",
            f"The coordinator's database has the schema {found}; this version knows those up to {HEAD}.",
            remedy="Run the version of isthmus that made it, or a newer one; a schema is never taken back.",
        )
    return found


@contextlib.contextmanager
def _locked(engine: Engine) -> Iterator[Connection]:
    """A transaction of which there is one at a time on this database, in all processes."""
    with engine.connect() as connection:
        if engine.dialect.name != "sqlite":
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
            connection.execute(text(f"SET LOCAL statement_timeout = '{10 * LOCK_SECONDS}s'"))
            connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
            yield connection
            connection.commit()
            return
        # Python's own handling of SQLite's transactions would begin none before a table is made.
        raw = connection.connection.driver_connection
        _sqlite(raw).isolation_level = None
        try:
            # A table that is made anew loses its old rows' references for a moment.
            connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {1000 * LOCK_SECONDS}")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                raise DataError(
                    "store.unusable",
                    "After the upgrade a row of the database would refer to one that is not there; nothing was changed.",
                    remedy="Restore it from a backup.",
                )
            connection.commit()
        finally:
            connection.invalidate()  # the next one begins with the usual settings


def _sqlite(raw: object) -> sqlite3.Connection:
    """The driver's own connection."""
    if not isinstance(raw, sqlite3.Connection):
        raise UsageError("store.bad_url", "SQLite is used with Python's own driver alone.", remedy="Write sqlite:///path.")
    return raw


def _copy(path: str) -> str:
    """Copy a SQLite database as it was before the upgrade; a reader sees it while the upgrade's transaction is open."""
    target = Path(f"{path}.before-{HEAD}")
    partial = target.with_name(target.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(partial)) as copy:
            source.backup(copy)
        partial.replace(target)
    except (OSError, sqlite3.Error) as error:
        raise DataError(
            "store.backup_failed",
            f"The database {path} was not upgraded, since no copy of it could be made: {type(error).__name__}.",
            remedy="Make room on the disk; the copy is kept beside the database.",
        ) from None
    return str(target)


def _migrate(connection: Connection, before: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    if before and not inspect(connection).has_table(_MARK):
        command.stamp(config, before)
    command.upgrade(config, HEAD)
