"""The verification's rate and memory on large logs.

    python -m bench.audit [--entries N ...] [--logs FOLDER] [--json FILE]

Three logs of finished jobs are made (``bench.audit_logs``), then verified by a process of its own, on one core: its wall and
processor time, entries a second of each, and the largest resident size it had.  Several sizes show whether memory grows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench.audit_logs import write_logs
from bench.common import write_json

_CHILD = """
import json, resource, sys, time
from pathlib import Path
from audit.verify import verify_logs
start, processor = time.perf_counter(), time.process_time()
verified = verify_logs([Path(path) for path in sys.argv[1:]])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
figures = {"exit_status": verified.exit_status, "entries": sum(ledger.size for ledger in verified.ledgers)}
processor = time.process_time() - processor
figures |= {"jobs": len(verified.jobs), "seconds": seconds, "processor_seconds": processor, "peak_bytes": peak}
print(json.dumps(figures))
"""


def measure(folder: Path, entries: int) -> dict[str, Any]:
    """Make the logs and verify them in a process of its own."""
    start = time.perf_counter()
    logs = write_logs(folder, entries)
    making = time.perf_counter() - start
    size = sum((log.folder / "log.jsonl").stat().st_size for log in logs.values())
    command = [sys.executable, "-c", _CHILD, *(str(log.folder) for log in logs.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    if done.returncode != 0:
        raise SystemExit(f"error: the verification failed: {done.stderr.strip().splitlines()[-1:]}")
    figures: dict[str, Any] = json.loads(done.stdout)
    rates = {"rate": figures["entries"] / figures["seconds"], "processor_rate": figures["entries"] / figures["processor_seconds"]}
    return figures | rates | {"bytes": size, "making_seconds": making}


@click.command()
@click.option("--entries", multiple=True, type=click.IntRange(1), default=(100_000, 1_000_000), show_default=True)
@click.option("--logs", type=click.Path(path_type=Path), help="Keep the logs in this folder, which must be new.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "audit.json")
def main(entries: tuple[int, ...], logs: Path | None, json_file: Path) -> None:
    """Verify large logs: entries a second, and memory."""
    table = Table("entries", "jobs", "MB", "seconds", "entries/s", "of processor time", "peak MB", "exit")
    results = []
    with tempfile.TemporaryDirectory(prefix="isthmus-audit-") as scratch:
        for count in entries:
            found = measure((logs or Path(scratch)) / str(count), count)
            results.append(found)
            table.add_row(
                f"{found['entries']:,}",
                str(found["jobs"]),
                f"{found['bytes'] / 1e6:.0f}",
                f"{found['seconds']:.1f}",
                f"{found['rate']:,.0f}",
                f"{found['processor_rate']:,.0f}",
                f"{found['peak_bytes'] / 1e6:.0f}",
                str(found["exit_status"]),
            )
    Console().print(table)
    write_json(json_file, {"benchmark": "audit", "results": results})


if __name__ == "__main__":
    main()
