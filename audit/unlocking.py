"""Where the secret that opens the keys comes from: a key file, or a passphrase from a file, a descriptor or the terminal.

Never from an argument of the command, which every user of the machine can read, and never from the value of a variable, which child
processes inherit.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from audit.errors import UsageError
from audit.record import sync_folder
from audit.sealed import KEY_FILE_BYTES, Secret

PASSPHRASE_FILE, PASSPHRASE_FD = "ISTHMUS_PASSPHRASE_FILE", "ISTHMUS_PASSPHRASE_FD"
NEW_PASSPHRASE_FILE = "ISTHMUS_NEW_PASSPHRASE_FILE"
PASSPHRASE_BYTES_MIN, PASSPHRASE_BYTES_MAX = 12, 1024
DEFAULT_KEY_FILE = "secret.key"


def default_key_file(keys_folder: Path) -> Path:
    """Where the key file is when the configuration names none: beside the keys folder, a copy of which then opens nothing."""
    return keys_folder.parent / DEFAULT_KEY_FILE


def read_private(path: Path, limit: int) -> bytes:
    """At most ``limit`` bytes of a file that nobody else may read.

    Raises:
        OSError: it is not there or cannot be read.
        UsageError: ``identity.permissions``: others can read or write it, or it belongs to neither this user nor root.
    """
    with path.open("rb") as file:
        check_private(path, os.fstat(file.fileno()))
        return file.read(limit)


def check_private(path: Path, found: os.stat_result) -> None:
    """Refuse a private file that others can read or write (``identity.permissions``)."""
    # systemd gives a service its credentials by an access list, whose mask shows as rights of the group that nobody in it has.
    given = os.environ.get("CREDENTIALS_DIRECTORY")
    by_systemd = given is not None and path.parent == Path(given) and found.st_uid == 0
    if found.st_mode & (0o037 if by_systemd else 0o077):
        raise UsageError(
            "identity.permissions",
            f"The private file {path} can be read or written by others (mode {stat.S_IMODE(found.st_mode):04o}).",
            remedy=f"Run `chmod 600 {path}`, and replace what it holds if others may have read it.",
        )
    if found.st_uid not in (os.geteuid(), 0):
        raise UsageError(
            "identity.permissions",
            f"The private file {path} belongs to another user (number {found.st_uid}), who can read and change it.",
            remedy=f"Make it this user's: `chown {os.geteuid()} {path}`.",
        )


# ---- key files -------------------------------------------------------------------------------------------------------------------


def read_key_file(path: Path) -> Secret:
    """The secret in a key file.

    Raises:
        UsageError: ``identity.locked``: it is not there or cannot be read; ``identity.permissions``; ``identity.key_file``.
    """
    try:
        data = read_private(path, KEY_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(
            "identity.locked",
            f"The keys are sealed with a key file, and {path} cannot be read: {error.strerror}.",
            remedy="Mount or restore it, or name the right one as key_file in the configuration.",
        ) from None
    if len(data) != KEY_FILE_BYTES:
        raise UsageError(
            "identity.key_file",
            f"{path} is no key file: one has exactly {KEY_FILE_BYTES} bytes.",
            remedy=f"Name the right file, or make a new one: `head -c {KEY_FILE_BYTES} /dev/urandom`, mode 0600.",
        )
    return Secret("key-file", data)


def new_key_file(path: Path) -> Secret:
    """Make a key file, or take the one that is there.

    Raises:
        UsageError: ``identity.unwritable``; those of :func:`read_key_file`.
    """
    data = os.urandom(KEY_FILE_BYTES)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_key_file(path)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise _unwritable(path, error) from None
    return Secret("key-file", data)


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        "identity.unwritable",
        f"The key file {path} cannot be written: {error.strerror}.",
        remedy="Give this user write access to the folder, or name another place.",
    )


# ---- passphrases -----------------------------------------------------------------------------------------------------------------


def ask_passphrase(environment: Mapping[str, str] | None = None) -> Secret:
    """The passphrase: from the file in ``ISTHMUS_PASSPHRASE_FILE``, the descriptor in ``ISTHMUS_PASSPHRASE_FD``, or a person.

    Raises:
        UsageError: ``identity.locked``: there is nobody to ask, or the file cannot be read; ``identity.permissions``.
    """
    given = os.environ if environment is None else environment
    if given.get(PASSPHRASE_FILE):
        return _from_file(Path(given[PASSPHRASE_FILE]), PASSPHRASE_FILE)
    if given.get(PASSPHRASE_FD):
        return _from_descriptor(given[PASSPHRASE_FD])
    if not sys.stdin.isatty():
        raise UsageError(
            "identity.locked",
            "The keys are sealed with a passphrase, and there is no terminal to ask for it.",
            remedy=f"Name a file with it in {PASSPHRASE_FILE} (mode 0600), or a descriptor in {PASSPHRASE_FD}.",
        )
    return _secret(click.prompt("Passphrase of the keys", hide_input=True, err=True, default="", show_default=False).encode())


def new_passphrase(environment: Mapping[str, str] | None = None, *, variable: str = PASSPHRASE_FILE) -> Secret:
    """A passphrase to seal with: from the file that ``variable`` names, or typed twice.

    Raises:
        UsageError: ``identity.weak_passphrase``: shorter than 12 bytes; those of :func:`ask_passphrase`.
    """
    given = os.environ if environment is None else environment
    if given.get(variable):
        secret = _from_file(Path(given[variable]), variable)
    elif variable == PASSPHRASE_FILE and given.get(PASSPHRASE_FD):
        secret = _from_descriptor(given[PASSPHRASE_FD])
    elif sys.stdin.isatty():
        text = click.prompt("New passphrase", hide_input=True, confirmation_prompt="The same again", err=True)
        secret = _secret(text.encode())
    else:
        raise UsageError(
            "identity.locked",
            "There is no terminal to ask for the new passphrase.",
            remedy=f"Name a file with it in {variable} (mode 0600).",
        )
    if len(secret.value) < PASSPHRASE_BYTES_MIN:
        raise UsageError(
            "identity.weak_passphrase",
            f"The passphrase is shorter than {PASSPHRASE_BYTES_MIN} characters.",
            remedy="Take several words drawn at random: who has a copy of the keys can try as many as they like.",
        )
    return secret


def _from_file(path: Path, variable: str) -> Secret:
    try:
        return _secret(read_private(path, PASSPHRASE_BYTES_MAX + 2))
    except OSError as error:
        raise UsageError(
            "identity.locked",
            f"{path}, which {variable} names, cannot be read: {error.strerror}.",
            remedy="Correct the variable, or give this user the right to read the file.",
        ) from None


def _from_descriptor(text: str) -> Secret:
    try:
        with os.fdopen(int(text), "rb") as file:
            return _secret(file.read(PASSPHRASE_BYTES_MAX + 2))
    except (ValueError, OSError):
        raise UsageError(
            "identity.locked",
            f"{PASSPHRASE_FD} names no open descriptor that can be read.",
            remedy="Open one for the process, for example `3< FILE`, and set the variable to its number.",
        ) from None


def _secret(data: bytes) -> Secret:
    """One line end is not part of it: editors add one."""
    return Secret("passphrase", data.removesuffix(b"\n").removesuffix(b"\r")[:PASSPHRASE_BYTES_MAX])
