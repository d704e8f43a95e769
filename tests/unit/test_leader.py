"""Who leads on a PostgreSQL database: one at a time, whatever dies or is paused, and nobody else writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from audit.record import LogWriter
from audit.signing import SigningKey
from coordinator.errors import DataError, UsageError
from coordinator.jobs import Job
from coordinator.leader import Leadership, NotLeader, Standing, standing
from coordinator.store import Store
from coordinator.store.engine import make_engine
from coordinator.store.log import LogMirror
from tests import postgres
from tests.unit.test_jobs import a_spec

pytestmark = pytest.mark.timed

KEY = SigningKey.generate("coordinator")
LEASE = 2.0


class Pair:
    """Coordinators on one database, made as a test asks for them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.made: list[Leadership] = []
        self.over = threading.Event()
        self.threads: list[threading.Thread] = []

    def one(self, holder: str, *, key: SigningKey = KEY, lease: float = LEASE) -> Leadership:
        engine = make_engine(self.url, idle_seconds=lease)
        made = Leadership(engine, name="coordinator", log_key=str(key.verifier), holder=holder, lease=lease)
        self.made.append(made)
        return made

    def leader(self, holder: str, **options: float) -> Leadership:
        made = self.one(holder, **options)  # type: ignore[arg-type]
        assert made.wait(threading.Event())
        return made

    def waiting(self, leadership: Leadership) -> tuple[threading.Thread, list[Standing]]:
        told: list[Standing] = []
        thread = threading.Thread(target=leadership.wait, args=(self.over, told.append), daemon=True)
        self.threads.append(thread)
        thread.start()
        return thread, told


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair(postgres.server().new_database())
    yield made
    made.over.set()
    for thread in made.threads:
        thread.join(20)
    for each in made.made:
        each.release()


def pause(leadership: Leadership) -> None:
    """As SIGSTOP does: it renews nothing, and does not know."""
    leadership._over.set()
    assert leadership._thread is not None
    leadership._thread.join()


def writer(folder: Path, leadership: Leadership) -> LogWriter:
    mirror = LogMirror(leadership.engine, key=KEY.verifier, fence=leadership.check, failed=leadership.lose)
    return LogWriter.open(folder, key=KEY, clock=lambda: datetime.now(UTC), mirror=mirror)


def test_one_leads_and_the_other_waits_until_it_is_gone(pair: Pair) -> None:
    first = pair.leader("first")
    assert (first.epoch, first.lost) == (1, "")
    thread, told = pair.waiting(pair.one("second"))
    time.sleep(1.5 * LEASE)
    assert thread.is_alive(), "the lease was renewed"
    assert [(each.holder, each.epoch, each.alive) for each in told] == [("first", 1, True)]
    first.release()
    thread.join(10)
    assert not thread.is_alive()
    assert pair.made[1].epoch == 2
    found = standing(pair.made[1].engine)
    assert (found.holder, found.alive) == ("second", True)
    assert 0 < found.remaining <= LEASE


def test_a_leader_whose_session_ends_is_followed_at_once_and_notices(pair: Pair) -> None:
    """As when its process is killed, or the server is restarted; the lease has long to run."""
    first = pair.leader("first", lease=60)
    thread, _ = pair.waiting(pair.one("second", lease=5))
    time.sleep(0.3)
    began = time.monotonic()
    with psycopg.connect(pair.url, autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - began < 5
    with pytest.raises(NotLeader), first.engine.begin() as connection:
        first.check(connection)


def test_a_paused_leader_that_goes_on_writes_nothing(pair: Pair, tmp_path: Path) -> None:
    first = pair.leader("first")
    store, log = Store(first.engine, fence=first.check), writer(tmp_path / "first", first)
    job = Job(a_spec().identity(), a_spec())
    store.save(job)
    log.append("software", version="1")
    pause(first)
    second = pair.leader("second")
    taken = writer(tmp_path / "second", second)
    taken.append("software", version="2")
    before = (tmp_path / "first" / "log.jsonl").read_bytes()
    other = a_spec("9" * 32)
    with pytest.raises(NotLeader) as caught:
        store.save(Job(other.identity(), other))
    assert caught.value.code == "coordinator.not_leader"
    with pytest.raises(NotLeader):
        log.append("job", job=job.identity)
    with pytest.raises(UsageError, match="closed"):
        log.append("job", job=job.identity)
    assert first.lost == "another took the lead"
    assert (tmp_path / "first" / "log.jsonl").read_bytes() == before
    with second.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM jobs")) == 1
        assert connection.scalar(text("SELECT count(*) FROM log_entries")) == 2
    log.close()
    taken.close()


def test_a_paused_leader_does_not_sign_or_cosign(pair: Pair, tmp_path: Path) -> None:
    first = pair.leader("first")
    log = writer(tmp_path / "first", first)
    log.append("software", version="1")
    pause(first)
    pair.leader("second")
    with pytest.raises(NotLeader):
        log.checkpoint()
    assert not (tmp_path / "first" / "checkpoint").exists()
    mirror = LogMirror(first.engine, key=KEY.verifier, fence=first.check, failed=first.lose)
    with pytest.raises(NotLeader):
        mirror.witnessed("bank", 1, b"a note")
    log.close()


def test_a_write_under_way_is_finished_before_the_takeover(pair: Pair) -> None:
    first = pair.leader("first")
    pause(first)
    thread, _ = pair.waiting(pair.one("second"))
    with first.engine.begin() as connection:
        first.check(connection)
        deadline = time.monotonic() + LEASE + 0.6
        while time.monotonic() < deadline:
            connection.execute(text("SELECT 1"))  # not idle
            time.sleep(0.1)
        assert pair.made[1].epoch == 0, "the lease is over, but a write of the old epoch is not"
        connection.execute(text("UPDATE schema SET version = version"))
    thread.join(10)
    assert pair.made[1].epoch == 2


def test_a_transaction_left_open_by_a_paused_leader_holds_nobody_up(pair: Pair) -> None:
    first = pair.leader("first")
    pause(first)
    connection = first.engine.connect()
    first.check(connection)
    began = time.monotonic()
    second = pair.leader("second")
    assert time.monotonic() - began < 6 * LEASE
    assert second.epoch == 2
    with pytest.raises(Exception, match="idle-in-transaction"):
        connection.execute(text("UPDATE schema SET version = 7"))
    connection.invalidate()
    connection.close()


def test_a_leader_that_hears_nothing_of_its_database_gives_up_by_its_own_clock(pair: Pair) -> None:
    first = pair.leader("first")
    pause(first)
    assert first.lost == ""
    time.sleep(LEASE + 0.1)
    assert "lease ran out" in first.lost


def test_of_several_standbys_one_takes_over(pair: Pair) -> None:
    first = pair.leader("first", lease=30)
    others = [pair.one(f"standby {n}", lease=30) for n in range(3)]
    threads = [pair.waiting(each)[0] for each in others]
    time.sleep(0.3)
    first.release()
    deadline = time.monotonic() + 10
    while sum(not thread.is_alive() for thread in threads) < 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    assert sorted(each.epoch for each in others) == [0, 0, 2]


def test_another_coordinators_database_is_refused(pair: Pair) -> None:
    pair.leader("first")
    stranger = pair.one("second", key=SigningKey.generate("coordinator"))
    with pytest.raises(UsageError) as caught:
        stranger.wait(threading.Event())
    assert caught.value.code == "store.other_owner"
    assert "keys" in caught.value.remedy


def test_the_schema_is_upgraded_by_the_leader_alone(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pair.leader("first", lease=30)
    upgraded: list[str] = []
    monkeypatch.setattr("coordinator.leader.upgrade", lambda engine: upgraded.append("now"))
    thread, _ = pair.waiting(pair.one("second"))
    time.sleep(0.5)
    assert upgraded == []
    first.release()
    thread.join(5)
    assert upgraded == ["now"]


def test_a_newer_schema_is_refused_by_a_standby(pair: Pair) -> None:
    first = pair.leader("first")
    with first.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0099'"))
    with pytest.raises(UsageError) as caught:
        pair.one("second").wait(threading.Event())
    assert caught.value.code == "store.newer_schema"


def test_a_database_that_is_not_there_is_told_at_the_start() -> None:
    engine = make_engine(f"postgresql://reader:{postgres.PASSWORD}@127.0.0.1:1/x")
    with Leadership(engine, name="c", log_key="k", holder="h", lease=2) as leading, pytest.raises(DataError) as caught:
        leading.wait(threading.Event())
    assert caught.value.code == "store.unusable"


def test_a_standby_outlives_a_restart_of_the_database(pair: Pair) -> None:
    first = pair.leader("first", lease=60)
    thread, _ = pair.waiting(pair.one("second"))
    time.sleep(0.5)
    with psycopg.connect(postgres.server().uri(), autocommit=True) as admin:
        name = pair.url.rpartition("/")[2]
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        time.sleep(0.6)
        assert thread.is_alive()
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    thread.join(10)
    assert pair.made[1].epoch == first.epoch + 1
