"""The folder of a node or a coordinator as its ``init`` makes it: keys, configuration, room for partners and state."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from audit.errors import UsageError
from audit.identity import Role, create_identity
from audit.partner import partner_of
from audit.record import write_atomic
from audit.sealed import Secret
from audit.unlocking import DEFAULT_KEY_FILE, new_key_file


def make_home(folder: Path, *, name: str, role: Role, files: Mapping[str, bytes], secret: Secret | None = None) -> str:
    """Make ``folder``, or fill the one that is there; nothing in it is overwritten.

    It is built beside its place and moved there whole, so that a failure leaves nothing half made.

    Args:
        folder: where it shall be.
        name: the participant's name.
        role: its role.
        files: contents by file name.  The first is the configuration: for its owner's eyes alone, as it may come to hold a
            database password, and the last to be moved, so that a folder that has it has all.
        secret: what the private keys are sealed with; without it a new key file beside the folder of keys.

    Returns:
        The fingerprint of the new keys.

    Raises:
        UsageError: ``init.exists``, ``config.unwritable``; those of :func:`audit.identity.create_identity`.
    """
    entries = (*files, *([DEFAULT_KEY_FILE] if secret is None else []), "keys", "partners", "state")
    for entry in entries:
        if (folder / entry).exists():
            raise UsageError(
                "init.exists",
                f"{folder / entry} is already there; nothing was changed.",
                remedy=f"Choose another folder, or move the old {'coordinator' if role == 'coordinator' else 'node'} away if it is "
                "no longer needed.",
            )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            secret = secret or new_key_file(staging / DEFAULT_KEY_FILE)
            identity = create_identity(staging / "keys", name=name, role=role, secret=secret)
            (staging / "partners").mkdir(mode=0o755)
            (staging / "partners").chmod(0o755)  # whatever the umask: who can write here names partners
            (staging / "state").mkdir(mode=0o700)
            for file, data in files.items():
                write_atomic(staging / file, data)
            os.chmod(staging / entries[0], 0o600)
            if folder.exists():
                for entry in reversed(entries):
                    os.rename(staging / entry, folder / entry)
            else:
                os.rename(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise unwritable(folder, error) from None
    return partner_of(identity, address="").fingerprint


def unwritable(path: Path, error: OSError) -> UsageError:
    """``config.unwritable``: ``path`` could not be written because of ``error``."""
    return UsageError(
        "config.unwritable",
        f"{path} cannot be written: {error.strerror}.",
        remedy="Give this user write access there, or choose another place.",
    )
