"""Commands that set a node up: ``init``, ``partner``, ``keys``, ``datasets``, ``doctor``."""

from __future__ import annotations

from pathlib import Path

import click
from pydantic import ValidationError
from rich.console import Console

from audit.console import emit
from audit.home import make_home
from audit.key_commands import Own, keys_group
from audit.partner import PARTNER_SUFFIX, Partner
from audit.partner_commands import partner_group
from audit.secret_commands import Keys, chosen_at_init, secret_options
from audit.spec import explain
from node.commands import NodeContext, json_option, pass_node
from node.commands.samples import POLICY_TOML, node_toml
from node.config import NodeConfig, NodeSection
from node.data.report import DatasetReport, examine
from node.doctor import diagnose
from node.errors import UsageError
from node.identity import own_identity
from node.runtime.spill import scratch_of_command

_WILDCARDS = ("0.0.0.0:", "[::]:")


# --- init -------------------------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", required=True, help="The node's name, known to its partners: lower case, digits, hyphens.")
@click.option("--role", required=True, type=click.Choice(["bank", "platform"]), help="Which of the two parties it is.")
@click.option("--listen", metavar="HOST:PORT", help="Where it listens for its partner.  Without it the node dials out only.")
@click.option("--address", metavar="HOST:PORT", help="How its partner reaches it; as --listen unless that is a wildcard.")
@secret_options
@json_option
@pass_node
def init(
    node: NodeContext,
    folder: Path,
    name: str,
    role: str,
    listen: str | None,
    address: str | None,
    key_file: Path | None,
    passphrase: bool,
) -> None:
    """Make a node's FOLDER: keys, configuration, policy.

    Nothing that is there is overwritten.  The private keys are encrypted: with `secret.key`, made in FOLDER beside the folder of
    keys, unless --key-file names another place or --passphrase is given.

    \b
    Example:
      isthmus-node init bank --name bank --role bank
      isthmus-node init shop --name shop --role platform --listen 0.0.0.0:7443 --address node.shop.example:7443
      isthmus-node init bank --name bank --role bank --key-file /mnt/keys/bank.key
    """
    if address is None and listen is not None and not listen.startswith(_WILDCARDS):
        address = listen
    try:
        section = NodeSection.model_validate({"name": name, "role": role, "listen": listen, "address": address})
    except ValidationError as error:
        raise UsageError(
            "init.invalid",
            f"A node cannot be made so: {explain(error)}.",
            remedy="Correct the option; see `isthmus-node init --help`.",
        ) from None
    secret = chosen_at_init(key_file, passphrase)
    configuration = node_toml(name=name, role=role, listen=listen, address=address, key_file=key_file)
    files = {"node.toml": configuration.encode(), "policy.toml": POLICY_TOML.encode()}
    fingerprint = make_home(folder, name=name, role=section.role, files=files, secret=secret)

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


# --- partners ---------------------------------------------------------------------------------------------------------------------


def _check_partner(config: NodeConfig, found: Partner) -> None:
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


def _own(node: NodeContext) -> Own:
    config = node.config()
    keys = Keys(config.keys_folder, config.key_file, config.path.name)
    return Own(keys, config.node.address or "", lambda: own_identity(config))


partner = partner_group(
    "isthmus-node",
    own=_own,
    folder=lambda node: node.config().partners_folder,
    check=lambda node, found: _check_partner(node.config(), found),
    readers=("the partner", "the partner"),
    as_json=lambda node: node.as_json,
    pass_context=pass_node,
    json_option=json_option,
)
keys = keys_group("isthmus-node", own=_own, as_json=lambda node: node.as_json, pass_context=pass_node, json_option=json_option)


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
    reports = []
    for dataset in node.config().dataset:
        with scratch_of_command(node.config().scratch_folder) as scratch:
            reports.append(examine(dataset, scratch))

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
    for name, key in report.keys.items():
        found = "unusable" if key.customers is None else f"{key.customers:,} customers can be found by it"
        console.print(f"  key          {name}: {key.column} ({key.normalise}), {found}")
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


def register(group: click.Group) -> None:
    """Add the commands of this module to the group."""
    for command in (init, partner, keys, datasets, doctor):
        group.add_command(command)
