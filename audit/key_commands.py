"""The group ``keys``, for a node and for a coordinator alike: what seals the private keys, and the renewal of the certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from audit import renewal
from audit.certificates import ends_on
from audit.console import emit
from audit.home import unwritable
from audit.identity import Identity
from audit.partner import PARTNER_SUFFIX, export_partner, partner_of
from audit.record import write_atomic
from audit.secret_commands import Keys, secret_options


@dataclass(frozen=True)
class Own:
    """What the commands need of the participant that a configuration describes.

    Args:
        keys: where its keys are.
        address: how others dial it; empty when nobody can.
        check: reads its identity, which must be the configured one.
    """

    keys: Keys
    address: str
    check: Callable[[], Identity]


def _example(program: str, *commands: str) -> str:
    return "\n".join(["\b", "Example:", *(f"  {program} {command}" for command in commands)])


def keys_group(
    program: str, *, own: Callable[[Any], Own], as_json: Callable[[Any], bool], pass_context: Any, json_option: Any
) -> click.Group:
    """The group.

    Args:
        program: ``isthmus-node`` or ``isthmus-coordinator``.
        own: gives what the commands need, from the program's context.
        as_json: whether the context asks for JSON.
        pass_context, json_option: the program's decorators.
    """
    what = program.removeprefix("isthmus-")
    examples = _example(
        program, "keys encrypt", f"keys rewrap --key-file /mnt/keys/{what}.key", "keys renew-certificate", "keys activate"
    )
    group = click.Group(
        "keys",
        short_help="Encrypt the private keys; renew the certificate.",
        help=f"Encrypt the private keys, change what opens them, or renew the certificate.\n\n{examples}",
    )

    def command(name: str, text: str, *commands: str) -> Callable[[Callable[..., None]], click.Command]:
        help_text = f"{text}\n\n{_example(program, *commands)}"
        return lambda body: group.command(name, help=help_text)(json_option(pass_context(body)))

    @command(
        "encrypt",
        "Encrypt private keys that an older version left in clear: with the configured key file unless told otherwise.",
        "keys encrypt",
        "keys encrypt --passphrase",
    )
    @secret_options
    def encrypt(context: Any, key_file: Path | None, passphrase: bool) -> None:
        own(context).keys.encrypt(key_file=key_file, passphrase=passphrase, as_json=as_json(context))

    @command(
        "rewrap",
        f"Put the private keys under another passphrase or key file.  A serving {what} may stay up.",
        "keys rewrap --passphrase",
    )
    @secret_options
    def rewrap(context: Any, key_file: Path | None, passphrase: bool) -> None:
        own(context).keys.rewrap(key_file=key_file, passphrase=passphrase, as_json=as_json(context))

    @command(
        "renew-certificate",
        "Make the next TLS key and certificate, and write the partner file that names both certificates.\n\n"
        "Nothing changes on any link yet: partners add the file, compare its fingerprint, and accept both certificates from then "
        "on; after that `keys activate` uses the new one.  The log key stays.",
        "keys renew-certificate",
        f"keys renew-certificate --output {what}{PARTNER_SUFFIX}",
    )
    @click.option(
        "--output", type=click.Path(path_type=Path, dir_okay=False), help="The partner file; as the own name when absent."
    )
    @click.option("--again", is_flag=True, help="Make another one in the place of a next certificate that was not activated.")
    def renew(context: Any, output: Path | None, again: bool) -> None:
        _renew(own(context), output, again, program, as_json(context))

    @command(
        "activate",
        f"Use the next certificate from now on.  A serving {what} takes it up by itself within a second; running jobs go on.\n\n"
        "Every partner must have added the partner file that `keys renew-certificate` wrote, or it refuses this "
        f"{what} until it has.  The former private key is deleted.",
        "keys activate",
    )
    def activate(context: Any) -> None:
        _activate(own(context), program, as_json(context))

    return group


def _renew(own: Own, output: Path | None, again: bool, program: str, as_json: bool) -> None:
    name = own.check().name
    path = output or Path(f"{name}{PARTNER_SUFFIX}")
    identity = renewal.prepare(own.keys.folder, key_file=own.keys.key_file, again=again)
    try:
        write_atomic(path, export_partner(identity, address=own.address))
    except OSError as error:
        raise unwritable(path, error) from None
    fingerprint, until = _described(identity, own.address)

    def human(console: Console) -> None:
        console.print(f"The next certificate is made, valid until {until}; nothing uses it yet.")
        console.print(f"Wrote {path}, which names both certificates.  Send it to every partner, and tell each the fingerprint by")
        console.print("another way, such as the telephone:")
        console.print(f"  fingerprint  {fingerprint}")
        console.print("Next:")
        console.print(f"  every partner runs `partner add {path.name}`, while it serves or not")
        console.print(f"  {program} keys activate")

    emit({"name": name, "file": str(path), "fingerprint": fingerprint, "valid_until": until}, as_json=as_json, human=human)


def _activate(own: Own, program: str, as_json: bool) -> None:
    own.check()
    identity = renewal.activate(own.keys.folder, key_file=own.keys.key_file)
    fingerprint, until = _described(identity, own.address)

    def human(console: Console) -> None:
        console.print(f"The new certificate is used from now on, valid until {until}; a serving process takes it up by itself.")
        console.print("The former key is deleted here; copies made before still hold it.")
        console.print("Next, so that partners accept the new certificate alone:")
        console.print(f"  {program} partner export --output {identity.name}{PARTNER_SUFFIX}")
        console.print(f"  every partner runs `partner add {identity.name}{PARTNER_SUFFIX}`")
        console.print(f"  fingerprint  {fingerprint}")

    emit({"name": identity.name, "fingerprint": fingerprint, "valid_until": until}, as_json=as_json, human=human)


def _described(identity: Identity, address: str) -> tuple[str, str]:
    newest = identity.next_certificate_pem or identity.tls_certificate_pem
    return partner_of(identity, address=address).fingerprint, f"{ends_on(newest):%Y-%m-%d}"
