"""Laying out the three parties through their own public commands: keys, configuration, policies, partner files.

Folders: ``<folder>/coordinator``, ``<folder>/bank``, ``<folder>/platform``.  The coordinator listens on a free loopback port, and
so do the nodes that are to be reachable: the platform's alone, unless asked otherwise.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from coordinator.demo.datasets import PARTIES, DemoData, PartyName, Side
from coordinator.demo.processes import free_port, run_command

DATASET = "customers"
N = TypeVar("N", bound=str)
CONFIG = {"coordinator": "coordinator.toml", "bank": "node.toml", "platform": "node.toml"}
COMMAND = {"coordinator": "isthmus-coordinator", "bank": "isthmus-node", "platform": "isthmus-node"}


@dataclass(frozen=True)
class Layout:
    """Where the three parties are: their folders and the two ports that listen."""

    folder: Path
    coordinator_port: int
    platform_port: int

    def home(self, name: str) -> Path:
        """A party's folder."""
        return self.folder / name

    def config(self, name: str) -> Path:
        """A party's configuration file."""
        return self.home(name) / CONFIG[name]

    def log(self, name: str) -> Path:
        """A party's log folder."""
        return self.home(name) / "state" / "log"

    def partner_file(self, name: str) -> Path:
        """The partner file that a party exported."""
        return self.folder / f"{name}.partner.json"

    def run(self, name: str, *arguments: str, accept: Sequence[int] = (0,)) -> dict[str, Any]:
        """Run one of a party's own commands; raises what it said when it ends with another status than those to accept."""
        command = ("--config", str(self.config(name)), *arguments, "--json")
        return run_command(COMMAND[name], *command, cwd=self.home(name), accept=accept)

    def run_each(
        self, names: Sequence[N], arguments: Callable[[N], Sequence[str]], *, accept: Sequence[int] = (0,)
    ) -> dict[N, dict[str, Any]]:
        """Run a command of several parties side by side: each starts an interpreter, and two cores start two."""
        with ThreadPoolExecutor(len(names)) as pool:
            return dict(zip(names, pool.map(lambda name: self.run(name, *arguments(name), accept=accept), names), strict=True))


def lay_out(
    folder: Path, data: DemoData, *, rounds: int, workers: int, small_keys: bool, reachable: Sequence[PartyName] = ("platform",)
) -> Layout:
    """Make the three parties, introduce them to each other, and let the two nodes offer their data for this one purpose.

    Args:
        reachable: the nodes that listen; with none of them the frames take the coordinator's relay.
    """
    layout = Layout(folder, free_port(), free_port())
    names = ("coordinator", *PARTIES)
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: _make(layout, name, reachable), names))
        list(pool.map(lambda name: _introduce(layout, name, [other for other in names if other != name]), names))
    for party in PARTIES:
        side = data.side(party)
        _edit(layout.config(party), partial(_configure, data=data, side=side, workers=workers, small_keys=small_keys))
        _edit(layout.home(party) / "policy.toml", partial(_allow, data=data, party=party, rounds=rounds))
    return layout


def _make(layout: Layout, name: str, reachable: Sequence[str]) -> None:
    ports = {"coordinator": layout.coordinator_port, "platform": layout.platform_port}
    where: tuple[str, ...] = ()
    if name == "coordinator" or name in reachable:
        address = f"127.0.0.1:{ports.get(name) or free_port()}"
        where = ("--listen", address, "--address", address)
    role = () if name == "coordinator" else ("--role", name)
    run_command(COMMAND[name], "init", str(layout.home(name)), "--name", name, *role, *where, "--json", cwd=layout.folder)
    layout.run(name, "partner", "export", "--output", str(layout.partner_file(name)))


def _introduce(layout: Layout, name: str, others: Sequence[str]) -> None:
    # In earnest two people compare fingerprints here; the demo is both of them.
    for other in others:
        layout.run(name, "partner", "add", str(layout.partner_file(other)), "--yes")


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(tomli_w.dumps(document), encoding="utf-8")


def _configure(document: dict[str, Any], *, data: DemoData, side: Side, workers: int, small_keys: bool) -> None:
    columns: dict[str, dict[str, str]] = {name: {"kind": "number"} for name in side.numbers}
    if data.missing != "refuse":
        for column in columns.values():
            column["missing"] = data.missing
    columns |= {name: {"kind": "category"} for name in side.categories}
    if side.label is not None:
        columns[side.label] = {"kind": "label"} | ({"positive": data.positive} if data.positive is not None else {})
    document["dataset"] = [
        {
            "name": DATASET,
            "source": side.source,
            "path": str(side.path),
            "identifier": side.identifier,
            "normalise": data.normalise,
            "columns": columns,
        }
    ]
    document["engine"] = {"kind": "processes", "workers": workers} if workers > 1 else {"kind": "inline"}
    if small_keys:
        document["unsafe"] = {"small_keys": True}


def _allow(document: dict[str, Any], *, data: DemoData, party: PartyName, rounds: int) -> None:
    document["partners"] = {"allow": ["platform" if party == "bank" else "bank"]}
    document["dataset"] = [{"name": DATASET, "roles": ["label_holder" if party == data.label_holder else "feature_holder"]}]
    limits = document.setdefault("limits", {})
    limits["minimum_intersection"] = data.minimum
    limits["rounds_max"] = max(rounds, int(limits.get("rounds_max", 16)))
    document["disclose"] = {"aggregates_to_feature_holder": True, "aggregates_to_coordinator": True}


def job_document(data: DemoData, *, rounds: int, l2: str, holdout: str, key_bits: int, train_rows: int = 0) -> dict[str, Any]:
    """The job as `isthmus-coordinator submit` reads it."""

    def party(name: PartyName) -> dict[str, Any]:
        return {"name": name, "role": name, "dataset": DATASET, "features": data.side(name).features}

    return {
        "title": f"demo, {data.title}"[:200],
        "label_holder": party(data.label_holder),
        "feature_holder": party(data.feature_holder),
        "label": {"column": data.side(data.label_holder).label},
        "align": {"normalise": data.normalise, "minimum": data.minimum},
        "model": {"rounds": rounds, "l2": l2, "holdout": holdout, "key_bits": key_bits, "train_rows": train_rows},
        "disclose": {"aggregates_to_feature_holder": True, "aggregates_to_coordinator": True},
    }
