"""Commands that set a coordinator up and run it: ``init``, ``partner export``, ``partner add``, ``serve``."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError
from rich.console import Console

from audit.console import emit
from audit.identity import create_identity
from audit.partner import PARTNER_SUFFIX, Partner, export_partner, partner_of, read_partner
from audit.record import write_atomic
from coordinator.commands import CoordinatorContext, json_option, pass_context
from coordinator.config import CoordinatorConfig, CoordinatorSection, first_error
from coordinator.errors import UsageError

_ENTRIES = ("keys", "partners", "state", "coordinator.toml")

_TOML = """\
# The coordinator: where it listens and where its state is.  It holds no data and no decryption key, and dials nobody.

[coordinator]
name = "{name}"
listen = "{listen}"
address = "{address}"          # how the nodes reach it
keys = "keys"                  # relative to this file
partners = "partners"
state = "state"                # SQLite database; the log in state/log

[jobs]
detach_grace = 30              # seconds a node may be away during a step before the job fails

# [store]
# url = "postgresql+psycopg://..."   # instead of SQLite in the state folder
"""


def register(group: click.Group) -> None:
    """Add the commands of this module to the group."""
    for command in (init, partner, serve):
        group.add_command(command)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", default="coordinator", show_default=True, help="Its name: lower case, digits, hyphens.")
@click.option("--listen", required=True, metavar="HOST:PORT", help="Where it listens for nodes and for its operators' commands.")
@click.option("--address", metavar="HOST:PORT", help="How the nodes reach it, when that differs from --listen.")
@json_option
@pass_context
def init(context: CoordinatorContext, folder: Path, name: str, listen: str, address: str | None) -> None:
    """Make a coordinator's FOLDER: keys and configuration.  Nothing that is there is overwritten.

    \b
    Example:
      isthmus-coordinator init coordinator --listen 0.0.0.0:7442 --address coordinator.example:7442
    """
    try:
        section = CoordinatorSection.model_validate({"name": name, "listen": listen, "address": address or listen})
    except ValidationError as error:
        raise first_error(error, CoordinatorSection, "The new coordinator") from None
    for entry in _ENTRIES:
        if (folder / entry).exists():
            raise UsageError(
                "init.exists",
                f"{folder / entry} is already there; nothing was changed.",
                remedy="Choose another folder, or move the old coordinator away if it is no longer needed.",
            )
    try:
        fingerprint = _make(folder, section)
    except OSError as error:
        raise _unwritable(folder, error) from None

    def human(console: Console) -> None:
        console.print(f"The coordinator {name} is ready in {folder}.")
        console.print(f"  fingerprint  {fingerprint}")
        console.print("Next:")
        console.print(
            f"  isthmus-coordinator --config {folder / 'coordinator.toml'} partner export --output {name}{PARTNER_SUFFIX}"
        )
        console.print("  add both nodes' files with `partner add`, then run `serve`")

    emit({"folder": str(folder.absolute()), "name": name, "fingerprint": fingerprint}, as_json=context.as_json, human=human)


def _make(folder: Path, section: CoordinatorSection) -> str:
    """Build the folder beside its place and move it there whole, so that a failure leaves nothing half made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        identity = create_identity(staging / "keys", name=section.name, role="coordinator")
        (staging / "partners").mkdir()
        (staging / "state").mkdir(mode=0o700)
        text = _TOML.format(name=section.name, listen=section.listen, address=section.address)
        write_atomic(staging / "coordinator.toml", text.encode())
        os.chmod(staging / "coordinator.toml", 0o600)  # [store] url may come to hold a password
        if folder.exists():
            for entry in _ENTRIES:  # coordinator.toml comes last: a folder that has it has all
                os.rename(staging / entry, folder / entry)
        else:
            os.rename(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return partner_of(identity, address="").fingerprint


@click.group(short_help="Exchange partner files.")
def partner() -> None:
    """Exchange partner files: certificate, log key and address, no secret."""


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
    identity = config.identity()
    address = config.coordinator.address or config.coordinator.listen
    data = export_partner(identity, address=address)
    fingerprint = partner_of(identity, address=address).fingerprint
    if output is None and not context.as_json:
        click.echo(data.decode())
        click.echo(f"fingerprint  {fingerprint}", err=True)
        return
    if output is not None:
        _write(output, data)

    def human(console: Console) -> None:
        console.print(f"Wrote {output}.  Tell the nodes' operators its fingerprint by another way, such as the telephone:")
        console.print(f"  fingerprint  {fingerprint}")

    result: dict[str, Any] = {"name": identity.name, "address": address, "fingerprint": fingerprint}
    result |= {"file": str(output)} if output is not None else {"partner": data.decode()}
    emit(result, as_json=context.as_json, human=human)


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
    found = read_partner(file)
    target = config.partners_folder / f"{found.name}{PARTNER_SUFFIX}"
    _check_new(config, found, target)
    if not yes:
        _ask(found)
    data = file.read_bytes()
    if read_partner(file) != found:
        raise UsageError("partner.changed", f"{file} changed while its fingerprint was compared.", remedy="Run the command again.")
    config.partners_folder.mkdir(parents=True, exist_ok=True)
    _write(target, data)

    def human(console: Console) -> None:
        console.print(f"Added the {found.role} {found.name}.")
        console.print(f"  fingerprint  {found.fingerprint}")

    result = {
        "name": found.name,
        "role": found.role,
        "address": found.address,
        "fingerprint": found.fingerprint,
        "file": str(target),
    }
    emit(result, as_json=context.as_json, human=human)


def _check_new(config: CoordinatorConfig, found: Partner, target: Path) -> None:
    if found.name == config.name or found.role == "coordinator":
        raise UsageError(
            "partner.role",
            f"{found.name!r} is a coordinator; jobs join a bank and a platform.",
            remedy="Ask the bank and the platform for the files that `isthmus-node partner export` writes.",
        )
    known = config.partners().get(found.name)
    if known is not None and known.fingerprint != found.fingerprint:
        raise UsageError(
            "partner.exists",
            f"{found.name!r} is already a partner, with another certificate or log key (fingerprint {known.fingerprint}).",
            remedy=f"If the partner really changed its keys, remove {target} first and compare the new fingerprint.",
        )


def _ask(found: Partner) -> None:
    click.echo(f"{found.role} {found.name}", err=True)
    click.echo(f"  address      {found.address or '(cannot be dialled)'}", err=True)
    click.echo(f"  fingerprint  {found.fingerprint}", err=True)
    try:
        same = click.confirm("Did the node's operator read out the same fingerprint to you?", default=False, err=True)
    except click.Abort:
        same = False
    if not same:
        raise UsageError(
            "partner.not_confirmed",
            f"The partner {found.name!r} was not added.",
            remedy="Compare the fingerprint with the partner, then confirm it or give --yes.",
        )


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomic(path, data)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        "config.unwritable",
        f"{path} cannot be written: {error.strerror}.",
        remedy="Give this user write access there, or choose another place.",
    )


@click.command()
@json_option
@pass_context
def serve(context: CoordinatorContext) -> None:
    """Serve nodes and operators until interrupted.  Open jobs go on where they were.

    \b
    Example:
      isthmus-coordinator --config /etc/isthmus-coordinator/coordinator.toml serve
    """
    # The other commands must not wait for the database library to load.
    from coordinator.server import Server

    config = context.config()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    server = Server(config)
    try:
        server.start()

        def human(console: Console) -> None:
            nodes = ", ".join(sorted(server.runner.partners)) or "none yet: add them with `partner add` and start again"
            console.print(f"{config.name} serves at {server.address} (nodes known: {nodes})")

        emit({"name": config.name, "listening": server.address}, as_json=context.as_json, human=human)
        sys.stdout.flush()
        over.wait()
    finally:
        server.stop()
