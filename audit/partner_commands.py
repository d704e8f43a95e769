"""The group ``partner``, for a node and for a coordinator alike: ``partner export`` and ``partner add``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from audit.console import emit
from audit.errors import UsageError
from audit.home import unwritable
from audit.identity import Identity
from audit.key_commands import Own
from audit.partner import PARTNER_SUFFIX, Partner, export_partner, load_partners, parse_partner, partner_of, read_partner
from audit.record import write_atomic


def export(identity: Identity, *, address: str, output: Path | None, reader: str, as_json: bool) -> None:
    """Write the participant's own partner file to ``output``, or to standard output when it is ``None``.

    Args:
        identity: its keys.
        address: how others dial it; empty when nobody can.
        output: the file.
        reader: who must hear the fingerprint, for example ``"the partner"``.
        as_json: print the result as JSON.

    Raises:
        UsageError: ``config.unwritable``, ``partner.invalid``.
    """
    data = export_partner(identity, address=address)
    fingerprint = partner_of(identity, address=address).fingerprint
    if output is None and not as_json:
        click.echo(data.decode())
        click.echo(f"fingerprint  {fingerprint}", err=True)
        return
    if output is not None:
        try:
            write_atomic(output, data)
        except OSError as error:
            raise unwritable(output, error) from None

    def human(console: Console) -> None:
        console.print(f"Wrote {output}.  Tell {reader} its fingerprint by another way, such as the telephone:")
        console.print(f"  fingerprint  {fingerprint}")

    result: dict[str, Any] = {"name": identity.name, "address": address, "fingerprint": fingerprint}
    result |= {"file": str(output)} if output is not None else {"partner": data.decode()}
    emit(result, as_json=as_json, human=human)


def add(file: Path, folder: Path, *, check: Callable[[Partner], None], reader: str, yes: bool, as_json: bool) -> None:
    """Add the partner in ``file`` to the partners in ``folder``, after a person compared its fingerprint.

    Args:
        file: the partner file.
        folder: the folder of partner files.
        check: raises when such a partner makes no sense here.
        reader: who reads out the fingerprint, for example ``"the partner"``.
        yes: the fingerprint was compared already; do not ask.
        as_json: print the result as JSON.

    A partner that is known may come with other certificates, as long as its log key and role are the same; its fingerprint is
    compared anew unless the file only drops the former of two certificates.

    Raises:
        UsageError: ``partner.exists``, ``partner.not_confirmed``, ``partner.changed``, ``config.unwritable``; those of ``check``,
            :func:`audit.partner.read_partner` and :func:`audit.partner.load_partners`.
    """
    found = read_partner(file)
    target = folder / f"{found.name}{PARTNER_SUFFIX}"
    check(found)
    known = load_partners(folder).get(found.name)
    if known is not None and (known.log_key, known.role) != (found.log_key, found.role):
        raise UsageError(
            "partner.exists",
            f"{found.name!r} is already a partner, with another log key or role (fingerprint {known.fingerprint}).",
            remedy=f"If the partner really changed its keys, remove {target} first and compare the new fingerprint.",
        )
    change = change_of(known, found)
    if not yes and change != RETIRED:
        _ask(found, reader, change)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(target, _same_bytes(file, found))
    except OSError as error:
        raise unwritable(target, error) from None

    def human(console: Console) -> None:
        console.print(
            f"Added {found.name} ({found.role})" + (f", at {found.address}." if found.address else "; it cannot be dialled.")
        )
        console.print(f"  fingerprint  {found.fingerprint}")
        if change:
            console.print(f"  {change}; a process that serves takes that up by itself.")

    emit(
        {"name": found.name, "role": found.role, "address": found.address, "fingerprint": found.fingerprint, "file": str(target)},
        as_json=as_json,
        human=human,
    )


RENEWING = "its next certificate is accepted as well from now on"
RETIRED = "its former certificate is not accepted any more; the other was compared when it was announced"
REPLACED = "its certificate is another one, which was not announced before"


def change_of(known: Partner | None, found: Partner) -> str:
    """What a partner file changes in whom is trusted, in words; empty for a new partner and for the same certificates.

    ``RETIRED`` alone trusts nobody anew: the certificate that stays is the one that was announced as the next, so that nobody who
    has the former key can have that one kept in its place.
    """
    if known is None or known.fingerprint == found.fingerprint:
        return ""
    if found.next_certificate_pem is None:
        return RETIRED if found.certificate_pem == known.next_certificate_pem else REPLACED
    return RENEWING if found.certificate_pem in (known.certificate_pem, known.next_certificate_pem) else REPLACED


def _ask(found: Partner, reader: str, change: str) -> None:
    click.echo(f"{found.name} ({found.role})", err=True)
    click.echo(f"  address      {found.address or '(cannot be dialled)'}", err=True)
    click.echo(f"  fingerprint  {found.fingerprint}", err=True)
    if change:
        click.echo(f"  {change}.", err=True)
    try:
        same = click.confirm(f"Did {reader} read out the same fingerprint to you?", default=False, err=True)
    except click.Abort:
        same = False
    if not same:
        raise UsageError(
            "partner.not_confirmed",
            f"The partner {found.name!r} was not added.",
            remedy="Compare the fingerprint with the partner, then confirm it or give --yes.",
        )


def _same_bytes(file: Path, expected: Partner) -> bytes:
    """The file's bytes, which must still be the partner that was shown."""
    data = file.read_bytes()
    if parse_partner(data) != expected:
        raise UsageError("partner.changed", f"{file} changed while its fingerprint was compared.", remedy="Run the command again.")
    return data


def partner_group(
    program: str,
    *,
    own: Callable[[Any], Own],
    folder: Callable[[Any], Path],
    check: Callable[[Any, Partner], None],
    readers: tuple[str, str],
    as_json: Callable[[Any], bool],
    pass_context: Any,
    json_option: Any,
) -> click.Group:
    """The group.

    Args:
        program: ``isthmus-node`` or ``isthmus-coordinator``.
        own: the participant that the program's context describes.
        folder: where its partner files are.
        check: raises when such a partner makes no sense there.
        readers: who must hear the own fingerprint, and who reads out the other one, for example ``"the partner"``.
        as_json: whether the context asks for JSON.
        pass_context, json_option: the program's decorators.
    """
    mine, theirs = ("bank", "platform") if program == "isthmus-node" else ("coordinator", "bank")
    exporting = f"  {program} partner export --output {mine}{PARTNER_SUFFIX}"
    adding = f"  {program} partner add {theirs}{PARTNER_SUFFIX}"
    example = "\n\n\b\nExample:\n"
    group = click.Group(
        "partner",
        short_help="Exchange partner files.",
        help=f"Exchange partner files: certificate, log key and address, no secret.{example}{exporting}\n{adding}",
    )

    @group.command("export", help=f"Write the own partner file, to be sent to {readers[0]}.{example}{exporting}")
    @click.option(
        "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file instead of standard output."
    )
    @json_option
    @pass_context
    def partner_export(context: Any, output: Path | None) -> None:
        found = own(context)
        export(found.check(), address=found.address, output=output, reader=readers[0], as_json=as_json(context))

    @group.command(
        "add",
        help="Add a partner from its FILE, after its fingerprint was compared; or take up what it changed in its file.  A process "
        f"that serves takes it up by itself.{example}{adding}",
    )
    @click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
    @click.option("--yes", is_flag=True, help="Do not ask: the fingerprint was compared by other means.")
    @json_option
    @pass_context
    def partner_add(context: Any, file: Path, yes: bool) -> None:
        partners, asked = folder(context), as_json(context)
        add(file, partners, check=lambda found: check(context, found), reader=readers[1], yes=yes, as_json=asked)

    return group
