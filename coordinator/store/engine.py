"""How the database is reached: SQLite in a file, or PostgreSQL by a URL whose secrets are never shown.

A URL of PostgreSQL is libpq's in SQLAlchemy's form, and whatever libpq finds by itself serves too: a ``passfile`` or ``service``
in the URL's query, ``PGPASSFILE``, ``PGSERVICE``, ``PGSSLROOTCERT`` and the like in the environment.  Where the server is another
machine and nothing says how the link is protected, ``sslmode=verify-full`` is set: libpq's own default would fall back to plain
text in silence.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from coordinator.errors import DataError, UsageError

DRIVER = "postgresql+psycopg"
CONNECT_SECONDS = 10
STATEMENT_SECONDS = 60
_LOCAL = ("", "localhost", "127.0.0.1", "::1")
_SQLSTATES = {
    "25006": "it is read-only: a replica, not the primary",
    "28000": "the server refused this user",
    "28P01": "the server refused the user or the password",
    "3D000": "there is no such database",
    "3F000": "there is no such schema",
    "42501": "this user lacks a right in it",
    "53100": "its disk is full",
    "53300": "the server has too many connections",
    "57P03": "the server is starting or stopping",
}
_WORDS = {
    "password authentication failed": "the server refused the user or the password",
    "no password supplied": "the server asks for a password, and none is configured",
    "no pg_hba.conf entry": "the server's pg_hba.conf lets nobody in from here in this way",
    "definition of service": "the service it names is in no service file",
    "root certificate": "`sslmode` asks for a root certificate (`sslrootcert`) and there is none",
    "certificate verify failed": "the server's certificate is signed by no authority in `sslrootcert`",
    "does not match host name": "the server's certificate is of another host name",
    "does not support ssl": "the server does not offer TLS, which `sslmode` demands",
    "could not translate host name": "its host name is unknown",
    "failed to resolve host": "its host name is unknown",
    "name or service not known": "its host name is unknown",
    "invalid connection option": "the URL's query has an option that libpq does not know",
    "connection refused": "nobody listens at its address",
    "timeout": "the server did not answer in time",
    "no route to host": "there is no way to its address",
    "network is unreachable": "there is no way to its address",
    "no such file or directory": "there is no server at its socket",
    'database "': "there is no such database",
    'role "': "the server does not know this user",
    "is starting up": "the server is starting",
    "is shutting down": "the server is stopping",
    "server closed the connection": "the server cut the link",
    "terminating connection": "the server ended the session",
    "file is not a database": "it is no SQLite database",
    "unable to open database file": "the file cannot be opened",
    "readonly database": "the file may not be written",
    "database is locked": "another program holds it locked",
    "disk is full": "the disk is full",
    "malformed": "it is damaged",
}


def make_engine(url: str, *, idle_seconds: float = STATEMENT_SECONDS) -> Engine:
    """An engine for the URL; nothing is dialled yet.

    Args:
        url: ``sqlite:///path``, ``postgresql://...`` or ``postgresql+psycopg://...``.
        idle_seconds: how long the server lets a transaction stand idle before it ends the session; with it go the session's locks.

    Raises:
        UsageError: ``store.bad_url``, ``store.no_driver``.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(parsed, hide_parameters=True)
        event.listen(engine, "connect", _sqlite_settings)
        return engine
    if find_spec("psycopg") is None:
        raise UsageError(
            "store.no_driver",
            "The database is PostgreSQL, and its driver psycopg is not installed.",
            remedy="Install it with `pip install 'isthmus[postgresql]'`.",
        )
    parsed, arguments = _protected(parsed)
    try:
        engine = create_engine(parsed, hide_parameters=True, pool_pre_ping=True, connect_args=arguments)
    except ImportError:
        raise UsageError(
            "store.no_driver",
            "The PostgreSQL driver psycopg is installed, but does not load: it finds no libpq.",
            remedy="Install it with `pip install 'isthmus[postgresql]'`.",
        ) from None
    except ArgumentError:
        raise _bad_url() from None
    milliseconds = int(1000 * idle_seconds)

    def settings(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET idle_in_transaction_session_timeout = {milliseconds}")
            cursor.execute(f"SET statement_timeout = {1000 * STATEMENT_SECONDS}")
        connection.commit()

    event.listen(engine, "connect", settings)
    return engine


def parse_url(url: str) -> URL:
    """The URL, with the one driver that is used here, and a password in its query moved to its place, where it is never shown.

    Raises:
        UsageError: ``store.bad_url``.
    """
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername=DRIVER)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError):
        parsed = None
    if parsed is None or (parsed.drivername != DRIVER and parsed.get_backend_name() != "sqlite"):
        raise _bad_url()
    password = parsed.query.get("password")
    if password is not None:
        parsed = parsed.set(password=_one(password)).difference_update_query(["password"])
    return parsed


def _bad_url() -> UsageError:
    # Not even the scheme is repeated: of a URL that does not parse nobody knows which part is the password.
    return UsageError(
        "store.bad_url",
        "The database URL is not one that can be used here.",
        remedy=f"Write {DRIVER}://USER@HOST/DATABASE, or leave `url` out for SQLite in the state folder.",
    )


def is_postgresql(url: str) -> bool:
    """Whether this is a database that several coordinators may share; raises ``store.bad_url``."""
    return parse_url(url).drivername == DRIVER


def _protected(url: URL) -> tuple[URL, dict[str, Any]]:
    """The URL with TLS where it leaves this machine, and the arguments of a connection that stand in no URL."""
    arguments: dict[str, Any] = {"application_name": "isthmus-coordinator"}
    defaults = {
        "connect_timeout": CONNECT_SECONDS,
        # A server that vanished is noticed within a lease or two, also by a session that only waits.
        "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000,
    }  # fmt: skip
    arguments |= {name: value for name, value in defaults.items() if name not in url.query}
    if "sslpassword" in url.query:
        arguments["sslpassword"] = _one(url.query["sslpassword"])
        url = url.difference_update_query(["sslpassword"])
    named = {"service", "sslmode"} & url.query.keys() or {"PGSERVICE", "PGSSLMODE"} & os.environ.keys()
    if not named and not all(host in _LOCAL or host.startswith("/") for host in _hosts(url)):
        arguments["sslmode"] = "verify-full"
    return url, arguments


def _hosts(url: URL) -> Iterable[str]:
    hosts = [url.query[name] for name in ("host", "hostaddr") if name in url.query]
    texts = [text for each in hosts for text in ([each] if isinstance(each, str) else each)]
    if url.host or not texts:
        texts.append(url.host or os.environ.get("PGHOSTADDR") or os.environ.get("PGHOST", ""))
    for text in texts:
        for host in text.split(","):
            yield host if host.startswith("/") or host.count(":") > 1 else host.partition(":")[0]


def _one(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else value[-1]


def describe(url: URL) -> str:
    """The database as errors name it: kind, host and name, nothing that could be a secret."""
    if url.get_backend_name() == "sqlite":
        return url.database or "(in memory)"
    if "service" in url.query:
        return f"postgresql (service {_one(url.query['service'])})"
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{','.join(_hosts(url)) or 'localhost'}{port}/{url.database or ''}"


def unusable(url: URL, error: DBAPIError, *, code: str = "store.unusable", what: str = "cannot be opened") -> DataError:
    """The error to raise when the database fails; of the driver's own text only known words are taken, never a value."""
    state = getattr(error.orig, "sqlstate", None) or ""
    text = str(error.orig).lower()
    reason = _SQLSTATES.get(state) or next((meaning for words, meaning in _WORDS.items() if words in text), "")
    if not reason:
        reason = f"SQLSTATE {state}" if state else type(error.orig).__name__
    remedy = "Check the path, its permissions and the free space, or restore it from a backup."
    if url.get_backend_name() != "sqlite":
        remedy = "Check [store] in coordinator.toml, and try the same with psql from this machine as this user."
    return DataError(code, f"The coordinator's database {describe(url)} {what}: {reason}.", remedy=remedy)


def write_failed(url: URL, error: DBAPIError) -> DataError:
    """``store.write_failed``: nothing of it was written, or nobody knows whether it was."""
    return unusable(url, error, code="store.write_failed", what="cannot be written")


def read_failed(url: URL, error: DBAPIError) -> DataError:
    """``store.read_failed``."""
    return unusable(url, error, code="store.read_failed", what="cannot be read")


def _sqlite_settings(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 5000")
    cursor.execute("PRAGMA foreign_keys = ON")
    deadline = time.monotonic() + 5
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:
            # A file that is made now: while another process does the same, SQLite refuses this at once instead of waiting.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()
