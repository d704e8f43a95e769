"""Commands about the database: ``database status``, ``upgrade`` and ``import``; no server needs to run for them."""

from __future__ import annotations

import contextlib
import fcntl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from audit.console import emit
from audit.record import LOG_FILE
from coordinator.commands import CoordinatorContext, json_option, pass_context
from coordinator.config import CoordinatorConfig
from coordinator.errors import DataError, UsageError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from coordinator.leader import Standing


def register(group: click.Group) -> None:
    """Add the commands of this module to the group."""
    group.add_command(database)


@click.group(short_help="Look at the database, upgrade its schema.")
def database() -> None:
    """Look at the coordinator's database, upgrade its schema, or move jobs from SQLite.  `serve` upgrades by itself.

    \b
    Example:
      isthmus-coordinator database status
      isthmus-coordinator database upgrade
    """


@database.command("status")
@json_option
@pass_context
def status(context: CoordinatorContext) -> None:
    """Show where the database is, its schema's revision, and who leads on it.  Nothing is changed.

    \b
    Example:
      isthmus-coordinator database status --json
    """
    from coordinator.store.engine import describe
    from coordinator.store.schema import HEAD, LEADER_SINCE, revision

    with _engine(context.config()) as engine:
        found = revision(engine)
        leads = _leads(engine) if found >= LEADER_SINCE else None
        data: dict[str, Any] = {
            "database": describe(engine.url),
            "backend": engine.dialect.name,
            "revision": found,
            "newest": HEAD,
            "upgrade_needed": found != HEAD,
        }
        if engine.dialect.name == "postgresql":
            data["leader"] = _leader(leads)

    def human(console: Console) -> None:
        console.print(f"database  {data['database']} ({data['backend']})")
        console.print(f"revision  {found or 'none: nothing was ever stored'}; newest known {HEAD}")
        if leads is not None:
            console.print(f"leader    {leads.holder}, epoch {leads.epoch}, its lease runs {leads.remaining:.0f} s more")
        elif "leader" in data:
            console.print("leader    none")

    emit(data, as_json=context.as_json, human=human)


@database.command("upgrade")
@json_option
@pass_context
def upgrade(context: CoordinatorContext) -> None:
    """Bring the schema to the newest revision; a SQLite file is copied beside itself first.  No coordinator may be running on it.

    \b
    Example:
      isthmus-coordinator database upgrade
    """
    from coordinator.store import schema
    from coordinator.store.engine import describe

    config = context.config()
    with _not_serving(config), _engine(config) as engine:
        if schema.revision(engine) >= schema.LEADER_SINCE and (leads := _leads(engine)) is not None:
            raise UsageError(
                "store.in_use",
                f"{leads.holder} leads on this database; only the leader may change its schema.",
                remedy="Stop it first, or start the new version with `serve`: it upgrades when it takes the lead.",
            )
        done = schema.upgrade(engine)
        where = describe(engine.url)

    def human(console: Console) -> None:
        if done.before == done.after:
            console.print(f"{where} is at the newest revision, {done.after}.")
        else:
            console.print(f"{where} was brought from revision {done.before or 'none'} to {done.after}.")
        if done.backup:
            console.print(f"  as it was before: {done.backup}")

    emit(
        {"database": where, "before": done.before, "after": done.after, "backup": done.backup}, as_json=context.as_json, human=human
    )


@database.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
@pass_context
def import_jobs(context: CoordinatorContext, file: Path) -> None:
    """Copy the jobs of a SQLite FILE into the PostgreSQL database that is configured now.  No coordinator may be running on either.

    Jobs that are there already stay as they are. The log needs no copying: `serve` brings it from the state folder by itself.

    \b
    Example:
      isthmus-coordinator database import /var/lib/isthmus-coordinator/coordinator.db
    """
    from coordinator.leader import Leadership
    from coordinator.store import Store
    from coordinator.store.engine import describe

    config = context.config()
    if not file.is_file():
        raise DataError("store.no_database", f"There is no file {file}.", remedy="Name the coordinator.db of the state folder.")
    leading = Leadership.of(config, config.identity())
    if leading is None:
        raise UsageError(
            "store.bad_url", "The configuration names no PostgreSQL database.", remedy="Set `url` under [store] first."
        )
    with _not_serving(config), leading:
        if not leading.wait(threading.Event(), told=_refuse_led):
            return
        target, source = Store(leading.engine, fence=leading.check), Store.open(f"sqlite:///{file}")
        try:
            jobs = source.recent(None)
            new = [job for job in reversed(jobs) if target.load(job.identity) is None]
            for job in new:
                target.save(job)
        finally:
            source.close()
        where = describe(leading.engine.url)
    emit(
        {"database": where, "copied": len(new), "already_there": len(jobs) - len(new)},
        as_json=context.as_json,
        human=lambda console: console.print(
            f"{len(new)} of {len(jobs)} jobs were copied to {where}; the others were there already."
        ),
    )


def _refuse_led(found: Standing) -> None:
    raise UsageError("store.in_use", f"{found.holder} leads on this database.", remedy="Stop it first.")


def _leads(engine: Engine) -> Standing | None:
    """Who leads a PostgreSQL database; None where nobody does."""
    from coordinator.leader import standing

    if engine.dialect.name != "postgresql":
        return None
    found = standing(engine)
    return found if found.alive and found.remaining > 0 else None


def _leader(found: Standing | None) -> dict[str, Any] | None:
    return {"holder": found.holder, "epoch": found.epoch, "lease_seconds": round(found.remaining, 1)} if found else None


@contextlib.contextmanager
def _engine(config: CoordinatorConfig) -> Iterator[Engine]:
    from coordinator.store.engine import make_engine

    url = config.store_url()
    if url is None:
        path = config.state_folder / "coordinator.db"
        if not path.exists():
            raise DataError(
                "store.no_database",
                f"There is no database {path} yet.",
                remedy="`isthmus-coordinator serve` makes it; or correct `state` or `url` in the configuration.",
            )
        url = f"sqlite:///{path}"
    engine = make_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


@contextlib.contextmanager
def _not_serving(config: CoordinatorConfig) -> Iterator[None]:
    """A server of any version holds its log locked."""
    path = config.state_folder / "log" / LOG_FILE
    if not path.exists():
        yield
        return
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                "store.in_use", "A coordinator runs in this state folder.", remedy="Stop it first; `serve` upgrades at its start."
            ) from None
        yield
