"""A real PostgreSQL server for tests: Debian's programs, a data folder of its own, started once in a test session.

``server()`` skips the test where the programs are missing.  Each test that writes asks for a database of its own
(``new_database``).
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

PASSWORD = "hunter2"
_numbers = itertools.count()


@dataclass(frozen=True)
class Server:
    """A running server.  Its only user is ``reader``, a superuser, who needs the password."""

    programs: Path
    folder: Path
    port: int

    def uri(self, database: str = "postgres") -> str:
        """As libpq takes it."""
        return f"postgresql://reader:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URI of a new, empty database."""
        name = f"test_{next(_numbers)}"
        import psycopg

        with psycopg.connect(self.uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.uri(name)


def server() -> Server:
    """The session's server; skips where there is none to start."""
    found = _start()
    if isinstance(found, str):
        pytest.skip(found)
    return found


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def _as_server_user() -> list[str]:
    """PostgreSQL refuses to run as root: then its own user runs it."""
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []


@functools.cache
def _start() -> Server | str:
    programs = _programs()
    if programs is None:
        return "no PostgreSQL server programs on this machine"
    owner = None
    if os.geteuid() == 0:
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            return "this is root and there is no user postgres to run the server"
        if shutil.which("setpriv") is None:
            return "this is root and there is no setpriv to become another user"
    folder = Path(tempfile.mkdtemp(prefix="isthmus-pg-"))
    if owner is not None:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    secret = folder / "password"
    secret.write_text(f"{PASSWORD}\n")
    secret.chmod(0o644)

    def run(*command: str) -> None:
        subprocess.run([*_as_server_user(), *command], check=True, cwd=folder, capture_output=True, timeout=60)

    run(
        str(programs / "initdb"), "-D", str(folder / "data"), "-U", "reader", "--pwfile", str(secret), "-A", "scram-sha-256",
        "--no-sync", "-E", "UTF8", "--locale=C",
    )  # fmt: skip
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off"
    control = str(programs / "pg_ctl")

    def stop() -> None:
        run(control, "-D", str(folder / "data"), "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)

    run(control, "-D", str(folder / "data"), "-o", options, "-l", str(folder / "log"), "-w", "start")
    atexit.register(stop)
    return Server(programs, folder, port)
