"""The whole training, measured: alignment to evaluation over three processes, gRPC and TLS, through ``isthmus-coordinator demo``.

    python -m bench.training                                        the synthetic data at 2048 and 3072 bits
    python -m bench.training --key-bits 2048 -- --dataset breast-cancer
    python -m bench.training -- --bank FILE --bank-id COL --label COL --platform FILE --platform-id COL

Everything after ``--`` goes to the demo.  Prints one table and writes ``bench/results/training.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.common import machine, write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
STEPS = ("align", "prepare", "round", "finish", "evaluate")
DEMO = "import sys; sys.argv[0] = 'isthmus-coordinator'; from coordinator.cli import main; sys.exit(main())"


def run_demo(key_bits: int, arguments: list[str]) -> dict[str, Any]:
    """One run of the demo; its JSON result."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        command = [sys.executable, "-P", "-c", DEMO, "demo", *arguments, "--key-bits", str(key_bits), "--json", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"the demo at {key_bits} bits ended with status {done.returncode}:\n{done.stderr}")
        result: dict[str, Any] = json.loads(path.read_text())
    return result


def show(console: Console, results: list[dict[str, Any]]) -> None:
    """One column a run, one row a figure."""
    table = Table(box=box.SIMPLE_HEAD, title="the whole training", title_justify="left")
    table.add_column("")
    for result in results:
        table.add_column(f"{result['key_bits']} bits", justify="right")

    def row(name: str, *cells: str) -> None:
        table.add_row(name, *cells)

    row("rows to train on", *(f"{r['rows_train']:,}" for r in results))
    row("rounds", *(f"{r['rounds']}{'' if r['converged'] else ' (not converged)'}" for r in results))
    for step in STEPS:
        row(f"{step}, s", *(f"{r['seconds'].get(step, 0.0):.1f}" for r in results))
    row("all steps, s", *(f"{sum(r['seconds'].values()):.1f}" for r in results))
    row("start to end, s", *(f"{r['total_seconds']:.1f}" for r in results))
    for direction in ("bank_to_platform", "platform_to_bank"):
        row(
            f"{direction.replace('_', ' ')}, MB",
            *(f"{sum(step[direction] for step in r['bytes'].values()) / 1e6:.1f}" for r in results),
        )
    for name in results[0]["peak_rss_bytes"]:
        row(f"peak memory of {name}, MB", *(f"{r['peak_rss_bytes'][name] / 1e6:.0f}" for r in results))
    row("train log-loss, joint minus pooled", *(f"{r['log_loss_train_difference']:+.1e}" for r in results))
    row("train AUC, joint minus pooled", *(f"{r['auc_train_difference']:+.1e}" for r in results))
    row("held-out AUC, by bands", *("-" if r["auc"] is None else f"{r['auc']:.4f}" for r in results))
    row("held-out AUC, pooled", *("-" if r["auc_pooled"] is None else f"{r['auc_pooled']:.4f}" for r in results))
    console.print(table)


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--key-bits", type=int, nargs="+", default=[2048, 3072])
    parser.add_argument("--json", type=Path, default=RESULTS / "training.json")
    parser.add_argument("demo", nargs="*", help="options of the demo, after --")
    given = parser.parse_args()
    console = Console()
    console.print("; ".join(f"{name} {value}" for name, value in machine().items()), style="dim")
    results = []
    for bits in given.key_bits:
        console.print(f"training at {bits} bits ...", style="dim")
        results.append(run_demo(bits, given.demo))
    show(console, results)
    write_json(given.json, {"benchmark": "training", "demo_options": given.demo, "runs": results})
    console.print(f"written to {given.json}", style="dim")


if __name__ == "__main__":
    main()
