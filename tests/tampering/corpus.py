"""Bad logs as folders, with a manifest, so that any verifier can be tried on them.

::

    good/                     the logs as they were
    NAME/bank ...             each kind's logs
    policy.toml               the true keys of the logs, as `isthmus-audit verify --policy` reads them
    last-checkpoint           a checkpoint of the bank's that the auditor kept (where a kind says so)
    manifest.json             of each kind: name, what it is, who cheats, step, code and exit status
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from audit.identity import load_identity
from audit.signing import SigningKey
from tests.tampering.kinds import KINDS, Kind
from tests.tampering.story import Story, read_story

LAST = "last-checkpoint"


def story_of(logs: Iterable[Path], keys: Mapping[str, SigningKey]) -> Story:
    """The logs in these folders, each known by the name in its first entry."""
    folders = {}
    for folder in logs:
        with (folder / "log.jsonl").open() as file:
            folders[str(json.loads(file.readline())["log"])] = folder
    return read_story(folders, keys)


def keys_of(folders: Iterable[Path]) -> dict[str, SigningKey]:
    """The signing keys in identity folders, by owner."""
    identities = [load_identity(folder) for folder in folders]
    return {identity.name: identity.log_key for identity in identities}


def policy_text(story: Story) -> str:
    """A policy that names the logs' true keys."""
    roles = {party["name"]: party["role"] for party in (story.spec["label_holder"], story.spec["feature_holder"])}
    return "".join(
        f'[[log]]\nname = "{name}"\nrole = "{roles.get(name, "coordinator")}"\nkey = "{key.verifier}"\n\n'
        for name, key in story.keys.items()
    )


def suited(story: Story) -> list[Kind]:
    """The kinds that this job has room for."""
    return [kind for kind in KINDS if kind.suits(story)]


def write_corpus(story: Story, output: Path) -> int:
    """Write every kind's logs into a new folder; returns how many kinds there are."""
    output.mkdir(parents=True)
    story.copy().write(output / "good")
    (output / "policy.toml").write_text(policy_text(story))
    shutil.copy(story.folders["bank"] / "checkpoint", output / LAST)
    described = []
    for kind in suited(story):
        kind.make(story, output / kind.name)
        described.append(
            {
                "name": kind.name,
                "about": " ".join((kind.change.__doc__ or "").split()),
                "cheat": kind.cheat,
                "fails_at": kind.fails_at,
                "code": kind.code,
                "exit_status": kind.status,
                "last": LAST if kind.last else "",
            }
        )
    (output / "manifest.json").write_text(json.dumps({"job": story.job, "kinds": described}, indent=2) + "\n")
    return len(described)
