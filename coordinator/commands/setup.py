"""Commands that set a coordinator up: ``init``, ``partner``, ``keys``."""

from __future__ import annotations

import json
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
from audit.strict_toml import first_error
from coordinator.commands import CoordinatorContext, json_option, pass_context
from coordinator.config import CoordinatorConfig, CoordinatorSection
from coordinator.errors import UsageError

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


def _own(context: CoordinatorContext) -> Own:
    config = context.config()
    keys = Keys(config.keys_folder, config.key_file, config._path.name)
    return Own(keys, config.coordinator.address or config.coordinator.listen, config.identity)


partner = partner_group(
    "isthmus-coordinator",
    own=_own,
    folder=lambda context: context.config().partners_folder,
    check=lambda context, found: _check_partner(context.config(), found),
    readers=("the nodes' operators", "the node's operator"),
    as_json=lambda context: context.as_json,
    pass_context=pass_context,
    json_option=json_option,
)
keys = keys_group(
    "isthmus-coordinator",
    own=_own,
    as_json=lambda context: context.as_json,
    pass_context=pass_context,
    json_option=json_option,
)


def register(group: click.Group) -> None:
    """Add the commands of this module to the group."""
    for command in (init, partner, keys):
        group.add_command(command)
