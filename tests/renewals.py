"""Keys in a folder, and the partner files of a renewal, for tests of certificates."""

from __future__ import annotations

import os
from pathlib import Path

from audit import renewal
from audit.identity import Identity, create_identity
from audit.partner import export_partner
from audit.sealed import Secret

SECRET = Secret("key-file", bytes(range(32)))


def keys(folder: Path, *, name: str = "bank", role: str = "bank", sealed: bool = False) -> tuple[Path, Identity]:
    """An identity in ``folder/keys``; sealed ones open with ``folder/secret.key``."""
    folder.mkdir(exist_ok=True)
    if sealed:
        handle = os.open(folder / "secret.key", os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(handle, SECRET.value)
        os.close(handle)
    return folder / "keys", create_identity(folder / "keys", name=name, role=role, secret=SECRET if sealed else None)


def renewed_files(home: Path) -> dict[str, bytes]:
    """The bank's partner file before, during and after a renewal of its certificate."""
    folder, old = keys(home)
    found = {"before": export_partner(old, address="bank.example:1")}
    found["during"] = export_partner(renewal.prepare(folder), address="bank.example:1")
    found["after"] = export_partner(renewal.activate(folder), address="bank.example:1")
    return found
