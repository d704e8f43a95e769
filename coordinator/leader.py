"""Two coordinators on one PostgreSQL database: one leads, the other waits and takes over.

::

    leader                           row `leader`                     standby
      every lease/3: renew  ------>  epoch, expires        <------    every second: is the holder's session gone,
      every write: still my epoch?                                    or the lease over?  then epoch + 1: it leads

- The leader of epoch e holds PostgreSQL's advisory lock (e) in a session of its own.  When its process dies, the server ends the
  session and the lock is free at once.
- When its machine or the network dies, the session may stand for long: then the lease runs out, by the database's clock.
- A leader that was paused past its lease and goes on does not know yet that it was overtaken.  So every transaction that writes
  first takes the row for share and compares its epoch (:meth:`Leadership.check`): after the takeover it is refused, before it the
  takeover waits until it is committed.  A transaction that a paused leader left open is ended by the server after the lease
  (``idle_in_transaction_session_timeout``), so it holds no takeover up.

Whoever loses the lead stops serving; its process ends and its service manager starts it again, as a standby with nothing in memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from audit.identity import Identity
from coordinator.config import CoordinatorConfig
from coordinator.errors import DataError, UsageError
from coordinator.store.engine import is_postgresql, make_engine, unusable
from coordinator.store.schema import LEADER_SINCE, revision, upgrade

_log = logging.getLogger("isthmus.coordinator")

LOCK_CLASS = 0x69737468  # "isth"
LOCK_FILE = "coordinator.lock"
_ROW = (
    "SELECT epoch, name, log_key, holder, greatest(0, extract(epoch FROM expires - clock_timestamp())) AS remaining"
    " FROM leader WHERE id = 1"
)
_RENEWED = "expires = clock_timestamp() + make_interval(secs => :lease)"
_LOCK_NOT_AVAILABLE = "55P03"


class NotLeader(DataError):
    """This coordinator does not lead (any more): it writes nothing."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            "coordinator.not_leader",
            f"This coordinator does not lead: {reason}.",
            remedy="Nothing is lost: start it again, as a service manager does, and it waits as the standby.",
        )


@dataclass(frozen=True)
class Standing:
    """Who leads: ``remaining`` seconds of its lease are left; a ``holder`` that is empty means that nobody ever led."""

    epoch: int
    holder: str
    remaining: float
    alive: bool
    """Whether its session holds its lock."""


class Leadership:
    """One coordinator's part in who leads.  Use it as a context; leaving it gives the lead up.

    Args:
        engine: the database; disposed of at the end.
        name, log_key: whose log it is: both coordinators have the same identity.
        holder: how people are told which of the two it is.
        lease: seconds.
    """

    def __init__(self, engine: Engine, *, name: str, log_key: str, holder: str, lease: float) -> None:
        self.engine = engine
        self._name, self._log_key, self._holder, self._lease = name, log_key, holder, lease
        self._session: Connection | None = None
        self._epoch = 0
        self._until = 0.0
        self._over = threading.Event()
        self._reason = ""
        self._thread: threading.Thread | None = None
        self._folder_lock: IO[bytes] | None = None

    @classmethod
    def of(cls, config: CoordinatorConfig, identity: Identity) -> Leadership | None:
        """The part that this configuration gives; None where the state is SQLite and nobody else could lead.

        Raises:
            UsageError: ``store.bad_url``, ``store.no_driver``; ``coordinator.folder_in_use``.
        """
        url = config.store_url()
        if url is None or not is_postgresql(url):
            return None
        lease = float(config.store.lease)
        engine = make_engine(url, idle_seconds=lease)
        holder = f"{socket.gethostname()} ({config.coordinator.listen})"
        leading = cls(engine, name=identity.name, log_key=str(identity.log_key.verifier), holder=holder, lease=lease)
        leading._folder_lock = _lock(config.state_folder)
        return leading

    def __enter__(self) -> Leadership:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.release()

    @property
    def epoch(self) -> int:
        """The number of this lead; 0 before it has begun."""
        return self._epoch

    @property
    def lost(self) -> str:
        """Why it leads no more; empty while it leads.  By its own clock the lease may be over before the database says so."""
        if not self._reason and self._epoch and time.monotonic() > self._until:
            self.lose("its lease ran out, because the database did not answer")
        return self._reason

    # -- waiting and taking the lead

    def wait(
        self, over: threading.Event, told: Callable[[Standing], None] = lambda _: None, beat: Callable[[], None] = lambda: None
    ) -> bool:
        """Wait until this coordinator leads a database at its newest schema; False when ``over`` was set before.

        Args:
            told: called when somebody else leads, once for each of them.
            beat: called at every look.

        Raises:
            UsageError: ``store.newer_schema``; ``store.other_owner``: the database is another coordinator's.
            DataError: ``store.unusable``, at the first look; later ones are repeated.
        """
        self._prepare()
        last, first, pause = "", True, min(1.0, self._lease / 5)
        while not over.is_set():
            beat()
            try:
                standing = self._try()
                if standing is None:
                    self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
                    self._thread.start()
                    upgrade(self.engine)  # now that nobody else writes
                    return True
                if standing.holder != last:
                    told(standing)
                first, last = False, standing.holder
            except DBAPIError as error:
                self._drop_session()
                if first:
                    raise unusable(self.engine.url, error) from None
                if last:
                    _log.warning("the database does not answer; this standby goes on asking")
                last = ""
            over.wait(pause)
        return False

    def _prepare(self) -> None:
        """A database that cannot say who leads has no leader: it is upgraded at once."""
        found = revision(self.engine)
        if found < LEADER_SINCE:
            upgrade(self.engine)

    def _try(self) -> Standing | None:
        """Take the lead if it is free; else who has it."""
        session = self._session = self._session or self.engine.connect()
        # The look takes no lock on the row: a standby that is paused in the middle of it must not hold the leader's writes up.
        row, standing = self._look(session)
        session.commit()
        self._check_owner(str(row.name), str(row.log_key))
        if standing.alive and standing.remaining > 0:
            return standing
        try:
            return self._take(session)
        except OperationalError as error:
            session.rollback()
            if getattr(error.orig, "sqlstate", "") == _LOCK_NOT_AVAILABLE:  # a write of the leader is under way, or hangs
                return standing
            raise

    @staticmethod
    def _look(session: Connection, lock: str = "") -> tuple[Row[Any], Standing]:
        row = session.execute(text(_ROW + lock)).one()
        key = {"c": LOCK_CLASS, "e": row.epoch}
        # Where the lock is free, the session that held it is gone; it is not kept.
        free = bool(session.scalar(text("SELECT pg_try_advisory_lock(:c, :e)"), key))
        if free:
            session.execute(text("SELECT pg_advisory_unlock(:c, :e)"), key)
        return row, Standing(int(row.epoch), str(row.holder), float(row.remaining), not free)

    def _take(self, session: Connection) -> Standing | None:
        asked = time.monotonic()
        session.execute(text("SET LOCAL lock_timeout = '2s'"))
        _, standing = self._look(session, " FOR UPDATE")
        if standing.alive and standing.remaining > 0:  # another standby was quicker
            session.rollback()
            return standing
        epoch = standing.epoch + 1
        session.execute(
            text(f"UPDATE leader SET epoch = :epoch, name = :name, log_key = :key, holder = :holder, {_RENEWED} WHERE id = 1"),
            {"epoch": epoch, "name": self._name, "key": self._log_key, "holder": self._holder, "lease": self._lease},
        )
        session.execute(text("SELECT pg_advisory_lock(:c, :e)"), {"c": LOCK_CLASS, "e": epoch})
        session.commit()
        self._epoch, self._until = epoch, asked + self._lease
        _log.info("this coordinator leads (epoch %d)", epoch)
        return None

    def _check_owner(self, name: str, log_key: str) -> None:
        if name and (name, log_key) != (self._name, self._log_key):
            raise UsageError(
                "store.other_owner",
                f"The database is that of the coordinator {name!r} with another log key than this one's.",
                remedy="Give both coordinators the same keys folder (copy it from the first), or this one a database of its own.",
            )

    # -- leading

    def check(self, connection: Connection) -> None:
        """The fence: called first in every transaction that writes.

        Raises:
            NotLeader: ``coordinator.not_leader``.
        """
        epoch = connection.scalar(text("SELECT epoch FROM leader WHERE id = 1 FOR SHARE"))
        if epoch != self._epoch or not self._epoch:
            self.lose("another took the lead" if self._epoch else "it has not taken the lead")
        if self._reason:
            raise NotLeader(self._reason)

    def lose(self, reason: str) -> None:
        """Lead no more; the first reason is kept."""
        if not self._reason:
            self._reason = reason
            _log.error("this coordinator leads no more: %s", reason)
        self._over.set()

    def _renew(self) -> None:
        while not self._over.wait(self._lease / 3):
            asked = time.monotonic()
            try:
                session = self._session
                if session is None:
                    return
                found = session.execute(
                    text(f"UPDATE leader SET {_RENEWED} WHERE id = 1 AND epoch = :epoch RETURNING epoch"),
                    {"lease": self._lease, "epoch": self._epoch},
                ).first()
                session.commit()
            except SQLAlchemyError:
                # With the session goes its lock, so that another may lead already.
                self.lose("its session with the database was cut")
                return
            if found is None:
                self.lose("another took the lead")
                return
            self._until = asked + self._lease

    def release(self) -> None:
        """Give the lead up: the standby, if there is one, has it at its next look."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(5.0)
        self._drop_session()
        self.engine.dispose()
        if self._folder_lock is not None:
            self._folder_lock.close()

    def _drop_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            # Closed for good and not given back to the pool: its advisory lock ends with it.
            with contextlib.suppress(DBAPIError):
                session.invalidate()
            with contextlib.suppress(DBAPIError):
                session.close()


def standing(engine: Engine) -> Standing:
    """Who leads on a database that has the table.

    Raises:
        DataError: ``store.unusable``.
    """
    try:
        with engine.connect() as connection:
            row = connection.execute(text(_ROW)).one()
            held = connection.scalar(
                text(
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = :c AND objid = :e AND granted"
                    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                ),
                {"c": LOCK_CLASS, "e": row.epoch},
            )
    except DBAPIError as error:
        raise unusable(engine.url, error) from None
    return Standing(int(row.epoch), str(row.holder), float(row.remaining), bool(held))


def _lock(folder: Path) -> IO[bytes]:
    """Two coordinators may share a database, but not a state folder: the log is in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (folder / LOCK_FILE).open("ab")
    except OSError as error:
        raise UsageError(
            "store.unusable",
            f"The state folder {folder} cannot be used: {error.strerror}.",
            remedy="Give this user write access to it, or name another under `state`.",
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise UsageError(
            "coordinator.folder_in_use",
            f"The state folder {folder} is in use by another coordinator.",
            remedy="Stop it first; two coordinators share a database, but each has a folder of its own.",
        ) from None
    return file
