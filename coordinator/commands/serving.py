"""Commands that run a coordinator and ask after it: ``serve``, ``health``."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from audit.certificates import EXPIRES_SOON, ends_on
from coordinator.commands import CoordinatorContext, json_option, pass_context
from coordinator.config import CoordinatorConfig
from operations.commands import report_health, serve_logged, serve_options
from operations.logs import Format, Line, Notices
from operations.stopping import Stop

if TYPE_CHECKING:
    from coordinator.leader import Leadership, Standing
    from coordinator.watching import Watch

BEAT_SECONDS = 0.25
_RENEW = (
    "this coordinator's certificate ends on {ends:%Y-%m-%d}: run `isthmus-coordinator keys renew-certificate`, have both nodes add "
    "the file it writes, then run `isthmus-coordinator keys activate`; nothing needs a restart"
)


@click.command()
@serve_options
@json_option
@pass_context
def serve(context: CoordinatorContext, log_format: Format | None, log_level: str, grace: int | None) -> int:
    """Serve nodes and operators until interrupted.  Open jobs go on where they were.

    On a PostgreSQL database that another coordinator serves, this one waits and takes over when the other is gone.  One that is
    overtaken ends with exit status 1 and the code coordinator.not_leader; start it again and it waits.

    Asked to stop, it directs no further step and waits `--grace` seconds (`stop_grace` in coordinator.toml) for the reports of
    those that run; asked twice, it stops at once.

    \b
    Example:
      isthmus-coordinator --config /etc/isthmus-coordinator/coordinator.toml serve
      isthmus-coordinator --config /etc/isthmus-coordinator/coordinator.toml serve --log-format json
    """
    chosen = log_format or ("json" if context.as_json else "text")
    return serve_logged(lambda stop: _lead(context.config(), stop, grace), component="coordinator", format=chosen, level=log_level)


def _lead(config: CoordinatorConfig, stop: Stop, grace: int | None) -> None:
    """Serve, as a standby once the other coordinator is gone."""
    # The other commands must not wait for the database library to load.
    from coordinator.leader import Leadership
    from coordinator.watching import Watch

    config.partners()  # what is wrong with the files is told now, and not when a standby takes over
    leading = Leadership.of(config, config.identity())
    with contextlib.ExitStack() as stack:
        watch = Watch(config, leading)
        if leading is not None:
            stack.enter_context(leading)
            watch.listen()  # a standby that waits is alive, and not ready
            stack.callback(watch.close)
            if not leading.wait(stop.asked, told=lambda standing: _waits(config, standing), beat=watch.beat):
                return
        _serve(config, stop, config.coordinator.stop_grace if grace is None else grace, leading, watch)


def _waits(config: CoordinatorConfig, standing: Standing) -> None:
    Notices("coordinator")(f"{config.name} waits as the standby: {standing.holder} leads (epoch {standing.epoch})")


def _serve(config: CoordinatorConfig, stop: Stop, grace: float, leading: Leadership | None, watch: Watch) -> None:
    from coordinator.leader import NotLeader
    from coordinator.server import Server

    notify, server = Notices("coordinator"), Server(config, leading=leading, watch=watch)
    try:
        server.start()
        nodes = ", ".join(sorted(server.runner.partners)) or "none yet: add them with `partner add`"
        notify(f"{config.name} serves at {server.address} (nodes known: {nodes})")
        if ends_on(server.identity.tls_certificate_pem) - datetime.now(UTC) < EXPIRES_SOON:
            notify(Line(_RENEW.format(ends=ends_on(server.identity.tls_certificate_pem)), code="transport.certificate_expires"))
        while not stop.asked.wait(BEAT_SECONDS):
            server.beat()
            if leading is not None and leading.lost:
                raise NotLeader(leading.lost)
        notify(f"{config.name} is stopping: no further step is directed; a second signal stops at once")
        if not server.drain(grace, stop.at_once):
            notify("steps that still run are begun again after the next start")
    finally:
        server.stop()


@click.command()
@click.option("--live", is_flag=True, help="Ask only whether the process is alive, not whether it could direct a step.")
@json_option
@pass_context
def health(context: CoordinatorContext, live: bool) -> int:
    """Ask the serving coordinator on this machine whether it is ready: log writable, disk not full.  Exit status 0 or 1.

    \b
    Example:
      isthmus-coordinator --config /etc/isthmus-coordinator/coordinator.toml health
    """
    return report_health(context.config().state_folder, live=live, as_json=context.as_json)


def register(group: click.Group) -> None:
    """Add the commands of this module to the group."""
    for command in (serve, health):
        group.add_command(command)
