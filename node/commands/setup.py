"""Commands that set a node up: ``init``, ``partner export``, ``partner add``, ``datasets``, ``doctor``."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError
from rich.console import Console

from audit.console import emit
from audit.identity import create_identity
from audit.partner import PARTNER_SUFFIX, Partner, export_partner, parse_partner, partner_of, read_partner
from audit.spec import explain
from node.commands import NodeContext, json_option, pass_node
from node.commands.samples import POLICY_TOML, node_toml
from node.config import NodeConfig, NodeSection
from node.data.report import DatasetReport, examine
from node.doctor import diagnose
from node.errors import UsageError
from node.identity import known_partners, own_identity

_WILDCARDS = ("0.0.0.0:", "[::]:")
_OWN_ENTRIES = ("node.toml", "policy.toml", "keys", "partners", "state")


def register(group: click.Group) -> None:
    """Add the commands of this module to the group."""
    for command in (init, partner, datasets, doctor):
        group.add_command(command)


# --- init -------------------------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", required=True, help="The node's name, known to its partners: lower case, digits, hyphens.")
@click.option("--role", required=True, type=click.Choice(["bank", "platform"]), help="Which of the two parties it is.")
@click.option("--listen", metavar="HOST:PORT", help="Where it listens for its partner.  Without it the node dials out only.")
@click.option("--address", metavar="HOST:PORT", help="How its partner reaches it; as --listen unless that is a wildcard.")
@json_option
@pass_node
def init(node: NodeContext, folder: Path, name: str, role: str, listen: str | None, address: str | None) -> None:
    """Make a node's FOLDER: keys, configuration, policy.

    Nothing that is there is overwritten.

    \b
    Example:
      isthmus-node init bank --name bank --role bank
      isthmus-node init shop --name shop --role platform --listen 0.0.0.0:7443 --address node.shop.example:7443
    """
    if address is None and listen is not None and not listen.startswith(_WILDCARDS):
        address = listen
    try:
        NodeSection.model_validate({"name": name, "role": role, "listen": listen, "address": address})
    except ValidationError as error:
        raise UsageError(
            "init.invalid",
            f"A node cannot be made so: {explain(error)}.",
            remedy="Correct the option; see `isthmus-node init --help`.",
        ) from None
    for entry in _OWN_ENTRIES:
        if (folder / entry).exists():
            raise UsageError(
                "init.exists",
                f"{folder / entry} is already there; nothing was changed.",
                remedy="Choose another folder, or move the old node away if it is no longer needed.",
            )
    fingerprint = _make_node(folder, name=name, role=role, listen=listen, address=address)

    def human(console: Console) -> None:
        console.print(f"The {role} node {name} is ready in {folder}.")
        console.print(f"  fingerprint  {fingerprint}")
        console.print("Next:")
        console.print(f"  isthmus-node --config {folder / 'node.toml'} partner export --output {name}{PARTNER_SUFFIX}")
        console.print(
            "  add the coordinator's and the partner's files with `partner add`, offer a data set in node.toml, run `doctor`"
        )

    emit(
        {"folder": str(folder.absolute()), "name": name, "role": role, "fingerprint": fingerprint},
        as_json=node.as_json,
        human=human,
    )


def _make_node(folder: Path, *, name: str, role: str, listen: str | None, address: str | None) -> str:
    """Build the node beside its place and move it there whole, so that a failure leaves nothing half made.  Returns
    the fingerprint."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            identity = create_identity(staging / "keys", name=name, role=role)
            (staging / "partners").mkdir()
            (staging / "state").mkdir(mode=0o700)
            # The configuration may come to hold a database password.
            _write(staging / "node.toml", node_toml(name=name, role=role, listen=listen, address=address).encode(), mode=0o600)
            _write(staging / "policy.toml", POLICY_TOML.encode())
            if folder.exists():
                # node.toml comes last: a folder that has it has all.
                for entry in reversed(_OWN_ENTRIES):
                    os.rename(staging / entry, folder / entry)
            else:
                os.rename(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise _unwritable(folder, error) from None
    return partner_of(identity, address="").fingerprint


def _write(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        "config.unwritable",
        f"{path} cannot be written: {error.strerror}.",
        remedy="Give this user write access there, or choose another place.",
    )


# --- partners ---------------------------------------------------------------------------------------------------------------------


@click.group(short_help="Exchange partner files.")
def partner() -> None:
    """Exchange partner files: certificate, log key and address, no secret."""


@partner.command("export")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file instead of standard output.")
@json_option
@pass_node
def partner_export(node: NodeContext, output: Path | None) -> None:
    """Write this node's own partner file, to be sent to its partners.

    \b
    Example:
      isthmus-node partner export --output bank.partner.json
    """
    config = node.config()
    identity = own_identity(config)
    address = config.node.address or ""
    data = export_partner(identity, address=address)
    fingerprint = partner_of(identity, address=address).fingerprint
    if output is None and not node.as_json:
        click.echo(data.decode())
        click.echo(f"fingerprint  {fingerprint}", err=True)
        return
    if output is not None:
        try:
            _write(output, data)
        except OSError as error:
            raise _unwritable(output, error) from None

    def human(console: Console) -> None:
        console.print(f"Wrote {output}.  Tell the partner its fingerprint by another way, such as the telephone:")
        console.print(f"  fingerprint  {fingerprint}")

    result: dict[str, Any] = {"name": identity.name, "address": address, "fingerprint": fingerprint}
    result |= {"file": str(output)} if output is not None else {"partner": data.decode()}
    emit(result, as_json=node.as_json, human=human)


@partner.command("add")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--yes", is_flag=True, help="Do not ask: the fingerprint was compared by other means.")
@json_option
@pass_node
def partner_add(node: NodeContext, file: Path, yes: bool) -> None:
    """Add a partner from its FILE, after its fingerprint was compared.

    \b
    Example:
      isthmus-node partner add platform.partner.json
    """
    config = node.config()
    found = read_partner(file)
    target = config.partners_folder / f"{found.name}{PARTNER_SUFFIX}"
    _check_new_partner(config, found, target)
    if not yes:
        _ask(found)
    try:
        config.partners_folder.mkdir(parents=True, exist_ok=True)
        _write(target, _same_bytes(file, found))
    except OSError as error:
        raise _unwritable(target, error) from None

    def human(console: Console) -> None:
        console.print(
            f"Added the {found.role} {found.name}" + (f" at {found.address}." if found.address else "; it cannot be dialled.")
        )
        console.print(f"  fingerprint  {found.fingerprint}")

    emit(
        {"name": found.name, "role": found.role, "address": found.address, "fingerprint": found.fingerprint, "file": str(target)},
        as_json=node.as_json,
        human=human,
    )


def _same_bytes(file: Path, expected: Partner) -> bytes:
    """The file's bytes, which must still be the partner that was shown."""
    data = file.read_bytes()
    if parse_partner(data) != expected:
        raise UsageError(
            "partner.changed",
            f"{file} changed while its fingerprint was compared.",
            remedy="Run the command again.",
        )
    return data


def _check_new_partner(config: NodeConfig, found: Partner, target: Path) -> None:
    if found.name == config.name:
        raise UsageError(
            "partner.own_name",
            f"The partner file names {found.name!r}, which is this node itself.",
            remedy="Add the other party's file.",
        )
    if found.role == config.role:
        raise UsageError(
            "partner.role",
            f"{found.name!r} is a {found.role} and so is this node: a job joins a bank and a platform.",
            remedy="Ask for the file of the other kind of party, or of the coordinator.",
        )
    known = known_partners(config).get(found.name)
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
        same = click.confirm("Did the partner read out the same fingerprint to you?", default=False, err=True)
    except click.Abort:
        same = False
    if not same:
        raise UsageError(
            "partner.not_confirmed",
            f"The partner {found.name!r} was not added.",
            remedy="Compare the fingerprint with the partner, then confirm it or give --yes.",
        )


# --- data sets and health ---------------------------------------------------------------------------------------------------------


@click.command(short_help="List the data sets and what is wrong with them.")
@json_option
@pass_node
def datasets(node: NodeContext) -> int:
    """List the data sets: rows, columns offered, repeated identifiers, problems.  Exit status 1 when one cannot be used.

    \b
    Example:
      isthmus-node datasets --json
    """
    reports = [examine(dataset) for dataset in node.config().dataset]

    def human(console: Console) -> None:
        if not reports:
            console.print("No data set is configured.  Add a [[dataset]] to node.toml; the comments there show one.")
        for report in reports:
            _print_dataset(console, report)

    emit({"datasets": [report.document() for report in reports]}, as_json=node.as_json, human=human)
    return 1 if any(problem.grave for report in reports for problem in report.problems) else 0


def _print_dataset(console: Console, report: DatasetReport) -> None:
    console.print(f"{report.name}  ({report.source})")
    if report.readable:
        console.print(
            f"  rows         {report.rows:,} read, {report.customers:,} customers, {report.duplicates:,} duplicates left out"
        )
    console.print(f"  identifier   {report.identifier} ({report.normalise})")
    for kind in ("number", "category", "label"):
        names = [name for name, declared in report.columns.items() if declared == kind]
        if names:
            console.print(f"  {kind:<12} {', '.join(names)}")
    for problem in report.problems:
        console.print(f"  {'problem' if problem.grave else 'note':<12} {problem.message} [{problem.code}]")
        if problem.remedy:
            console.print(f"  {'':<12} {problem.remedy}")


@click.command(short_help="Check everything a job will need.")
@json_option
@pass_node
def doctor(node: NodeContext) -> int:
    """Check everything a job will need; each line says ok, warn or fail and what to do.  Exit status 1 when one fails.

    \b
    Example:
      isthmus-node --config bank/node.toml doctor
    """
    checks = diagnose(node.config_path)

    def human(console: Console) -> None:
        width = max(len(check.name) for check in checks)
        for check in checks:
            code = f" [{check.code}]" if check.code else ""
            console.print(f"{check.state:<5} {check.name:<{width}}  {check.detail}{code}")
            if check.remedy:
                console.print(f"{'':<5} {'':<{width}}  {check.remedy}")

    emit({"checks": [check.document() for check in checks]}, as_json=node.as_json, human=human)
    return 1 if any(check.state == "fail" for check in checks) else 0
