"""The preparation of a training, where most of its processor time goes: both parties here, each in a process of its own.

    python -m bench.preparation [--rows N] [--columns L F] [--rounds N] [--bits N ...]
                                [--key-kind KIND ...] [--json FILE]

The link is a local pipe and each party works on one core, inline.  A third of the columns is one-hot, the others standard normal.
Wall time is the slower party's; processor time that of each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from audit.layout import KeyKind
from bench.common import PipeChannel, machine, write_json
from node.crypto.drbg import Drbg
from node.crypto.paillier_keys import generate_key
from node.engine import InlineEngine
from node.limits import LIMITS
from node.protocols.preparation import prepare
from node.protocols.rings import Role
from node.protocols.training import TrainingPlan

ROLES: tuple[Role, Role] = ("label_holder", "feature_holder")
JOB = "be" * 32


def features(rows: int, columns: int, seed: int) -> NDArray[np.int32]:
    """Standardised columns at scale 10: two thirds normal, one third one-hot (a tenth of the rows)."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, columns))
    for j in range(0, columns, 3):
        values[:, j] = np.where(rng.random(rows) < 0.1, 3.0, -1 / 3)
    return np.clip(np.rint(values * 1024), -8191, 8191).astype(np.int32)


def run_party(pipe: Connection, side: int, rows: int, columns: int, rounds: int, bits: int, kind: KeyKind) -> dict[str, float]:
    """One party's preparation: seconds and bytes sent."""
    plan = TrainingPlan(
        role=ROLES[side],
        job=JOB,
        l2=Fraction(1, 1000),
        rounds=rounds,
        key_bits=bits,
        minimum_key_bits=bits,
        lookup_entries=128,
        rows=rows,
        key_kind=kind,
    )
    matrix = features(rows, columns, side)
    label = (np.random.default_rng(2).random(rows) < 0.2).astype(np.int8) if plan.holds_label else None
    drbg = Drbg(bytes([side]) * 32, job=JOB, step="prepare")
    pipe.send_bytes(b"ready")
    pipe.recv_bytes()
    channel = PipeChannel(pipe)
    wall, processor = time.perf_counter(), time.process_time()
    own = generate_key(bits, drbg.stream("key"), kind=kind)
    prepare(channel, plan=plan, own=own, matrix=matrix, label=label, drbg=drbg, engine=InlineEngine(), limits=LIMITS)
    result = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - processor, "sent_bytes": channel.sent}
    channel.close()
    return result


def _child(pipe: Connection, *arguments: Any) -> None:
    result = run_party(pipe, 1, *arguments)
    pipe.send_bytes(json.dumps(result).encode())


def measure(rows: int, columns: tuple[int, int], rounds: int, bits: int, kind: KeyKind) -> dict[str, Any]:
    """One preparation at both parties."""
    mine, other = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_child, args=(other, rows, columns[1], rounds, bits, kind))
    child.start()
    other.close()
    try:
        left = run_party(mine, 0, rows, columns[0], rounds, bits, kind)
        right = json.loads(mine.recv_bytes())
    finally:
        child.join(30)
    return {"bits": bits, "key_kind": kind, "label_holder": left, "feature_holder": right}


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=18_000)
    parser.add_argument("--columns", type=int, nargs=2, default=(10, 11), help="of the label holder and of the feature holder")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--bits", type=int, nargs="+", default=[2048, 3072])
    parser.add_argument("--key-kind", nargs="+", choices=["standard", "short-order"], default=["standard", "short-order"])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    console = Console()
    console.print("; ".join(f"{name} {value}" for name, value in machine().items()), style="dim")
    title = f"preparation of {given.rows:,} rows, {given.columns[0]} and {given.columns[1]} columns, {given.rounds} rounds"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for heading in ("bits", "keys", "wall s", "L: CPU s", "F: CPU s", "L sent MB", "F sent MB"):
        table.add_column(heading, justify="right")
    results = [
        measure(given.rows, tuple(given.columns), given.rounds, bits, kind) for bits in given.bits for kind in given.key_kind
    ]
    for result in results:
        left, right = result["label_holder"], result["feature_holder"]
        table.add_row(
            f"{result['bits']}",
            result["key_kind"],
            f"{max(left['wall_s'], right['wall_s']):.1f}",
            f"{left['cpu_s']:.1f}",
            f"{right['cpu_s']:.1f}",
            f"{left['sent_bytes'] / 1e6:.1f}",
            f"{right['sent_bytes'] / 1e6:.1f}",
        )
    console.print(table)
    if given.json:
        settings = {"rows": given.rows, "columns": list(given.columns), "rounds": given.rounds}
        write_json(given.json, {"benchmark": "preparation", "settings": settings, "results": results})


if __name__ == "__main__":
    main()
