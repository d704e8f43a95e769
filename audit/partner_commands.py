"""What ``partner export`` and ``partner add`` do, for a node and for a coordinator alike."""

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

    Raises:
        UsageError: ``partner.exists``, ``partner.not_confirmed``, ``partner.changed``, ``config.unwritable``; those of ``check``,
            :func:`audit.partner.read_partner` and :func:`audit.partner.load_partners`.
    """
    found = read_partner(file)
    target = folder / f"{found.name}{PARTNER_SUFFIX}"
    check(found)
    known = load_partners(folder).get(found.name)
    if known is not None and known.fingerprint != found.fingerprint:
        raise UsageError(
            "partner.exists",
            f"{found.name!r} is already a partner, with another certificate or log key (fingerprint {known.fingerprint}).",
            remedy=f"If the partner really changed its keys, remove {target} first and compare the new fingerprint.",
        )
    if not yes:
        _ask(found, reader)
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

    emit(
        {"name": found.name, "role": found.role, "address": found.address, "fingerprint": found.fingerprint, "file": str(target)},
        as_json=as_json,
        human=human,
    )


def _ask(found: Partner, reader: str) -> None:
    click.echo(f"{found.name} ({found.role})", err=True)
    click.echo(f"  address      {found.address or '(cannot be dialled)'}", err=True)
    click.echo(f"  fingerprint  {found.fingerprint}", err=True)
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
