"""What seals the keys, as ``init`` and ``keys`` of a node and of a coordinator offer it alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from audit.console import emit
from audit.errors import UsageError
from audit.identity import open_root, seal_identity, sealed_by
from audit.sealed import Secret
from audit.unlocking import NEW_PASSPHRASE_FILE, PASSPHRASE_FILE, default_key_file, new_key_file, new_passphrase

F = TypeVar("F", bound=Callable[..., Any])


def secret_options(command: F) -> F:
    """Adds ``--key-file`` and ``--passphrase``."""
    for option in (
        click.option("--passphrase", is_flag=True, help="Seal the keys with a passphrase, which is asked for."),
        click.option(
            "--key-file",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="PATH",
            help="Seal the keys with this file: 32 random bytes, made when it is not there.",
        ),
    ):
        command = option(command)
    return command


def _one_of(key_file: Path | None, passphrase: bool) -> None:
    if key_file is not None and passphrase:
        raise UsageError("identity.two_secrets", "--key-file and --passphrase exclude each other.", remedy="Give one of them.")


def chosen_at_init(key_file: Path | None, passphrase: bool) -> Secret | None:
    """What the keys of a new folder are sealed with; None: a key file beside them.

    Raises:
        UsageError: ``identity.two_secrets``; those of :mod:`audit.unlocking`.
    """
    _one_of(key_file, passphrase)
    if passphrase:
        return new_passphrase()
    return None if key_file is None else new_key_file(key_file)


@dataclass(frozen=True)
class Keys:
    """The keys that a configuration names.

    Args:
        folder: where they are.
        key_file: what the configuration names as ``key_file``, if anything.
        config: the configuration's file name, for what is printed.
    """

    folder: Path
    key_file: Path | None
    config: str

    def encrypt(self, *, key_file: Path | None, passphrase: bool, as_json: bool) -> None:
        """Seal keys that rest in clear.

        Raises:
            UsageError: ``identity.sealed``: they are; those of :func:`audit.identity.seal_identity`.
        """
        _one_of(key_file, passphrase)
        if sealed_by(self.folder) is not None:
            raise UsageError(
                "identity.sealed",
                f"The keys in {self.folder} are encrypted already.",
                remedy="To change the passphrase or the key file, use `keys rewrap`.",
            )
        path = None if passphrase else self._key_file(key_file)
        seal_identity(self.folder, new_passphrase() if path is None else new_key_file(path), key_file=self.key_file)
        self._tell("Encrypted", path, as_json)

    def rewrap(self, *, key_file: Path | None, passphrase: bool, as_json: bool) -> None:
        """Put sealed keys under another passphrase or key file.

        Raises:
            UsageError: ``identity.not_sealed``, ``identity.two_secrets``; those of :func:`audit.identity.seal_identity`.
        """
        _one_of(key_file, passphrase)
        if sealed_by(self.folder) is None:
            raise UsageError(
                "identity.not_sealed",
                f"The keys in {self.folder} are not encrypted, or not all of them.",
                remedy="Encrypt them with `keys encrypt`.",
            )
        if key_file is None and not passphrase:
            raise UsageError(
                "identity.no_secret",
                "There is nothing to put the keys under.",
                remedy="Give --key-file PATH or --passphrase.",
            )
        open_root(self.folder, key_file=self.key_file)  # the present secret first: nobody types a new one in vain
        path = None if key_file is None else self._key_file(key_file)
        secret = new_passphrase(variable=NEW_PASSPHRASE_FILE) if path is None else new_key_file(path)
        seal_identity(self.folder, secret, key_file=self.key_file)
        self._tell("Put under another secret", path, as_json)

    def _key_file(self, path: Path | None) -> Path:
        return (path or self.key_file or default_key_file(self.folder)).absolute()

    def _tell(self, what: str, path: Path | None, as_json: bool) -> None:
        configured = (self.key_file or default_key_file(self.folder)).absolute()

        def human(console: Console) -> None:
            console.print(f"{what}: the private keys in {self.folder}.")
            if path is None:
                console.print(f"  `serve` asks for the passphrase, or reads it from the file that {PASSPHRASE_FILE} names.")
            else:
                console.print(f"  They open with {path}.  Keep a copy of it apart from copies of the keys.")
            if path is not None and path != configured:
                console.print(f'  Set key_file = "{path}" in {self.config}, before the next start.')
            console.print("  Copies made before, and the disk itself, may still hold the keys as they were.")

        by = "passphrase" if path is None else "key-file"
        emit({"folder": str(self.folder), "by": by, "key_file": None if path is None else str(path)}, as_json=as_json, human=human)
