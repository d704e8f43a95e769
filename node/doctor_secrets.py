"""``doctor`` on secrets: are the keys encrypted, who can reach the folders, can memory land in a file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from audit.hardening import core_dumps_off
from audit.identity import sealed_by
from audit.unlocking import default_key_file
from node.config import NodeConfig
from node.doctor_report import Check


def encryption(config: NodeConfig) -> Iterator[Check]:
    """Whether the private keys rest encrypted, and what opens them.

    Raises:
        UsageError: see :func:`audit.identity.sealed_by`.
    """
    by = sealed_by(config.keys_folder)
    if by is None:
        yield Check(
            "encryption",
            "warn",
            f"the private keys in {config.keys_folder} rest in clear: whoever gets a copy of the folder is this node",
            "Run `isthmus-node keys encrypt`, and see that old copies are destroyed.",
            "identity.not_sealed",
        )
        return
    if by == "passphrase":
        yield Check("encryption", "ok", "the private keys are encrypted under a passphrase")
        return
    path = config.key_file or default_key_file(config.keys_folder)
    if config.keys_folder.resolve() in path.resolve().parents:
        yield Check(
            "encryption",
            "warn",
            f"the key file {path} lies in the very folder of the keys it opens: a copy of the folder opens itself",
            f"Move it elsewhere and set key_file in {config.path.name}.",
            "identity.key_beside_keys",
        )
        return
    near = path.stat().st_dev == config.keys_folder.stat().st_dev
    where = "on the same disk: that protects copies of the folder of keys, not a stolen disk" if near else "on another file system"
    yield Check("encryption", "ok", f"the private keys are encrypted under {path}, {where}")


def folders(config: NodeConfig) -> Iterator[Check]:
    """Who can reach the folders and files that decide or hold something."""
    found: list[Check] = []
    key_file = config.key_file or default_key_file(config.keys_folder)
    guarded = {
        config.keys_folder: "put other keys there",
        key_file.parent: "put another key file there",
        config.partners_folder: "name partners",
        config.path: "change what this node offers",
        config.policy_path: "change what jobs may ask",
        config.state_folder: "change what this node remembers",
    }
    for path, harm in guarded.items():
        found += _reachable(path, harm)
    state = _mode(config.state_folder)
    if state & 0o055:
        found.append(
            Check(
                "permissions",
                "fail",
                f"the state folder {config.state_folder} can be read by others (mode {state:04o}): it holds shares and models",
                f"Run `chmod 700 {config.state_folder}`.",
                "state.permissions",
            )
        )
    yield from found
    if not found:
        yield Check("permissions", "ok", "nobody else can read the state or change keys, partners, configuration or policy")


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0  # not there: another check's to tell


def _reachable(path: Path, harm: str) -> Iterator[Check]:
    try:
        found = path.stat()
    except OSError:
        return
    mode = stat.S_IMODE(found.st_mode)
    # In a folder with the sticky bit nobody can replace what is another's.
    if mode & 0o022 and not (path.is_dir() and mode & stat.S_ISVTX):
        detail, remedy = f"others can write to {path} (mode {mode:04o}) and so {harm}", f"Run `chmod go-w {path}`."
    elif found.st_uid not in (os.geteuid(), 0):
        detail = f"{path} belongs to another user (number {found.st_uid}), who can {harm}"
        remedy = f"Run `chown {os.geteuid()} {path}` as root, or run the node as its owner."
    else:
        return
    yield Check("permissions", "fail", detail, remedy, "state.permissions" if harm.endswith("remembers") else "config.permissions")


def core_dumps() -> Check:
    """Whether this process, and so the serving one, which asks likewise, leaves no core file."""
    if core_dumps_off():
        return Check("core dumps", "ok", "processes of isthmus leave none")
    return Check(
        "core dumps",
        "warn",
        "this system lets a process that fails write its memory, with keys, to a file",
        "Forbid it for the service: `ulimit -c 0`, or LimitCORE=0 in its unit.",
        "node.core_dumps",
    )
