"""Commands that set a coordinator up and run it: ``init``, ``partner export``, ``partner add``, ``keys``, ``serve``, ``health``."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import ValidationError
from rich.console import Console

from audit import partner_commands
from audit.console import emit
from audit.home import make_home
from audit.partner import PARTNER_SUFFIX, Partner
from audit.secret_commands import Keys, chosen_at_init, secret_options
from audit.strict_toml import first_error
from coordinator.commands import CoordinatorContext, json_option, pass_context
from coordinator.config import CoordinatorConfig, CoordinatorSection
from coordinator.errors import UsageError
from operations.commands import report_health, serve_logged, serve_options
from operations.logs import Format, Notices
from operations.stopping import Stop

if TYPE_CHECKING:
    from coordinator.leader import Leadership, Standing
    from coordinator.watching import Watch

BEAT_SECONDS = 0.25

_TOML = """\
# The coordinator: where it listens and where its state is.  It holds no data and no decryption key, and dials nobody.

[coordinator]
name = "{name}"
listen = "{listen}"
address = "{address}"          # how the nodes reach it
keys = "keys"                  # private keys, encrypted; relative to this file
{key_file}
partners = "partners"
state = "state"                # SQLite database; the log in state/log

[jobs]
detach_grace = 30              # seconds a node may be away during a step before the job fails
open = 256                     # jobs that may be open at once

# [store]                      # PostgreSQL instead of SQLite in the state folder; needs isthmus[postgresql]
# url = "postgresql+psycopg://isthmus@db.example/isthmus?passfile=/etc/isthmus-coordinator/pgpass"
# lease = 10                   # seconds without a sign of life after which a standby takes over

# [metrics]                    # figures and health over plain HTTP, for monitoring on this machine; absent: no such port
# listen = "127.0.0.1:9465"
"""


_KEY_FILE = '# key_file = "secret.key"      # what opens the keys, unless a passphrase does; absent: secret.key beside keys'


def register(group: click.Group) -> None:
    """Add the commands of this module to the group."""
    for command in (init, partner, keys, serve, health):
        group.add_command(command)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", default="coordinator", show_default=True, help="Its name: lower case, digits, hyphens.")
@click.option("--listen", required=True, metavar="HOST:PORT", help="Where it listens for nodes and for its operators' commands.")
@click.option("--address", metavar="HOST:PORT", help="How the nodes reach it, when that differs from --listen.")
@secret_options
@json_option
@pass_context
def init(
    context: CoordinatorContext,
    folder: Path,
    name: str,
    listen: str,
    address: str | None,
    key_file: Path | None,
    passphrase: bool,
) -> None:
    """Make a coordinator's FOLDER: keys and configuration.  Nothing that is there is overwritten.

    The private keys are encrypted: with `secret.key`, made in FOLDER beside the folder of keys, unless --key-file names another
    place or --passphrase is given.

    \b
    Example:
      isthmus-coordinator init coordinator --listen 0.0.0.0:7442 --address coordinator.example:7442
    """
    try:
        section = CoordinatorSection.model_validate({"name": name, "listen": listen, "address": address or listen})
    except ValidationError as error:
        raise first_error(error, CoordinatorSection, "The new coordinator") from None
    secret = chosen_at_init(key_file, passphrase)
    opens = _KEY_FILE if key_file is None else f"key_file = {json.dumps(str(key_file.absolute()))}"
    text = _TOML.format(name=section.name, listen=section.listen, address=section.address, key_file=opens)
    files = {"coordinator.toml": text.encode()}
    fingerprint = make_home(folder, name=section.name, role="coordinator", files=files, secret=secret)

    def human(console: Console) -> None:
        console.print(f"The coordinator {name} is ready in {folder}.")
        console.print(f"  fingerprint  {fingerprint}")
        console.print("Next:")
        console.print(
            f"  isthmus-coordinator --config {folder / 'coordinator.toml'} partner export --output {name}{PARTNER_SUFFIX}"
        )
        console.print("  add both nodes' files with `partner add`, then run `serve`")

    emit({"folder": str(folder.absolute()), "name": name, "fingerprint": fingerprint}, as_json=context.as_json, human=human)


@click.group(short_help="Exchange partner files.")
def partner() -> None:
    """Exchange partner files: certificate, log key and address, no secret.

    \b
    Example:
      isthmus-coordinator partner export --output coordinator.partner.json
      isthmus-coordinator partner add bank.partner.json
    """


@partner.command("export")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file instead of standard output.")
@json_option
@pass_context
def partner_export(context: CoordinatorContext, output: Path | None) -> None:
    """Write the coordinator's own partner file, to be sent to both nodes.

    \b
    Example:
      isthmus-coordinator partner export --output coordinator.partner.json
    """
    config = context.config()
    address = config.coordinator.address or config.coordinator.listen
    partner_commands.export(
        config.identity(), address=address, output=output, reader="the nodes' operators", as_json=context.as_json
    )


@partner.command("add")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--yes", is_flag=True, help="Do not ask: the fingerprint was compared by other means.")
@json_option
@pass_context
def partner_add(context: CoordinatorContext, file: Path, yes: bool) -> None:
    """Add a node from its FILE, after its fingerprint was compared.  A running server takes it up at its next start.

    \b
    Example:
      isthmus-coordinator partner add bank.partner.json
    """
    config = context.config()
    partner_commands.add(
        file,
        config.partners_folder,
        check=lambda found: _check_partner(config, found),
        reader="the node's operator",
        yes=yes,
        as_json=context.as_json,
    )


def _check_partner(config: CoordinatorConfig, found: Partner) -> None:
    if found.name == config.name:
        raise UsageError(
            "partner.own_name",
            f"The partner file names {found.name!r}, which is this coordinator itself.",
            remedy="Add the nodes' files; this one is for them.",
        )
    if found.role == "coordinator":
        raise UsageError(
            "partner.role",
            f"{found.name!r} is a coordinator; jobs join a bank and a platform.",
            remedy="Ask the bank and the platform for the files that `isthmus-node partner export` writes.",
        )


@click.group(short_help="Encrypt the private keys, or change what opens them.")
def keys() -> None:
    """Encrypt the private keys, or change what opens them.  The keys stay the same, and so does the fingerprint.

    \b
    Example:
      isthmus-coordinator keys encrypt
      isthmus-coordinator keys rewrap --key-file /mnt/keys/coordinator.key
    """


@keys.command("encrypt")
@secret_options
@json_option
@pass_context
def keys_encrypt(context: CoordinatorContext, key_file: Path | None, passphrase: bool) -> None:
    """Encrypt private keys that an older version left in clear: with the configured key file unless told otherwise.

    \b
    Example:
      isthmus-coordinator keys encrypt
    """
    _keys(context.config()).encrypt(key_file=key_file, passphrase=passphrase, as_json=context.as_json)


@keys.command("rewrap")
@secret_options
@json_option
@pass_context
def keys_rewrap(context: CoordinatorContext, key_file: Path | None, passphrase: bool) -> None:
    """Put the private keys under another passphrase or key file.  A serving coordinator may stay up.

    \b
    Example:
      isthmus-coordinator keys rewrap --passphrase
    """
    _keys(context.config()).rewrap(key_file=key_file, passphrase=passphrase, as_json=context.as_json)


def _keys(config: CoordinatorConfig) -> Keys:
    return Keys(config.keys_folder, config.key_file, config._path.name)


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
        nodes = ", ".join(sorted(server.runner.partners)) or "none yet: add them with `partner add` and start again"
        notify(f"{config.name} serves at {server.address} (nodes known: {nodes})")
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
