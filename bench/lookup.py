"""Lookups a second, with both parties on this machine, each in a process of its own.

    python -m bench.lookup [--rows N] [--repeats N] [--entries N ...] [--width BYTES] [--json FILE]

The link is a local pipe: what is measured is the oblivious transfer and its messages, not a network.  Processor time of a
party includes its half of the link.  Medians over the repeats.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from audit.layout import BASE_OTS
from bench.common import PipeChannel, write_json
from node.crypto.bit_columns import BLOCK
from node.crypto.drbg import Drbg
from node.crypto.ot import TableShape
from node.protocols.lookup import IndexHolder, TableHolder, fetch_entries, serve_tables
from protos.peer_pb2 import LookupTables


def dealt_holders() -> tuple[TableHolder, IndexHolder]:
    """Base transfers as a dealer would make them: their cost is 128 decryptions, once a job."""
    stream = Drbg(bytes(32), job="bench", step="lookup").stream("base transfers")
    keys = np.frombuffer(stream.bytes(2 * BASE_OTS * BLOCK), dtype=np.uint8).reshape(2, BASE_OTS, BLOCK)
    choices = np.unpackbits(np.frombuffer(stream.bytes(BASE_OTS // 8), dtype=np.uint8))
    return TableHolder(choices, keys[choices, np.arange(BASE_OTS)]), IndexHolder(keys)


def _rows_of(tables: NDArray[np.unsignedinteger], first: int, count: int) -> NDArray[np.unsignedinteger]:
    return tables[first : first + count]


def run_party(side: str, pipe: Connection, plan: list[tuple[TableShape, int]], rows: int) -> list[dict[str, float]]:
    """One party's side of every measurement of the plan."""
    table_holder, index_holder = dealt_holders()
    results = []
    for shape, session in plan:
        rng = np.random.default_rng(session)
        tables = rng.integers(0, np.iinfo(shape.dtype).max, (rows, shape.entries), dtype=shape.dtype)
        indices = rng.integers(0, shape.entries, rows)
        pipe.send_bytes(b"ready")
        pipe.recv_bytes()
        channel = PipeChannel(pipe)
        wall, processor = time.perf_counter(), time.process_time()
        common: dict[str, Any] = {"session": session, "entries": shape.entries, "width": shape.width, "message": LookupTables}
        if side == "table holder":
            serve_tables(channel, table_holder, rows=rows, tables=partial(_rows_of, tables), **common)
        else:
            got = fetch_entries(channel, index_holder, indices=indices, **common)
        results.append({"wall": time.perf_counter() - wall, "cpu": time.process_time() - processor, "bytes": channel.sent})
        channel.close()
        if side == "index holder" and not np.array_equal(got, tables[np.arange(rows), indices]):
            raise RuntimeError("a lookup gave another entry than the table's")
    return results


def _child(pipe: Connection, plan: list[tuple[TableShape, int]], rows: int) -> None:
    results = run_party("index holder", pipe, plan, rows)
    pipe.send_bytes(json.dumps(results).encode())


def measure(*, rows: int, repeats: int, entries: tuple[int, ...], width: int) -> list[dict[str, float]]:
    """Medians for each number of entries: microseconds and bytes a row on each side, and rows a second of both together."""
    # One run more than counted for each shape: the first fills caches.
    plan = [(TableShape(n, width), i * 1000 + k) for i, n in enumerate(entries) for k in range(repeats + 1)]
    mine, other = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_child, args=(other, plan, rows))
    child.start()
    other.close()
    try:
        tables = run_party("table holder", mine, plan, rows)
        indices = json.loads(mine.recv_bytes())
    finally:
        child.join(30)
    results = []
    for i, n in enumerate(entries):
        runs = slice(i * (repeats + 1) + 1, (i + 1) * (repeats + 1))

        def median(side: list[dict[str, float]], what: str, runs: slice = runs) -> float:
            return statistics.median(run[what] for run in side[runs]) / rows

        results.append(
            {
                "entries": n,
                "width": width,
                "rows": rows,
                "lookups_per_second": 1 / median(indices, "wall"),
                "table_holder_us_per_row": 1e6 * median(tables, "cpu"),
                "index_holder_us_per_row": 1e6 * median(indices, "cpu"),
                "table_holder_bytes_per_row": median(tables, "bytes"),
                "index_holder_bytes_per_row": median(indices, "bytes"),
            }
        )
    return results


@click.command(help=__doc__)
@click.option("--rows", default=32_768, show_default=True, help="Lookups in one run.")
@click.option("--repeats", default=5, show_default=True, help="Counted runs for each number of entries.")
@click.option("--entries", multiple=True, type=int, default=(32, 64, 128), show_default=True, help="Words in a table; repeatable.")
@click.option("--width", default=8, show_default=True, help="Bytes of a word.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Also write the figures here.")
def main(rows: int, repeats: int, entries: tuple[int, ...], width: int, json_file: Path | None) -> None:
    results = measure(rows=rows, repeats=repeats, entries=entries, width=width)
    table = Table(title=f"1-of-N lookups of {width} bytes, {rows:,} rows, both parties here (us of CPU, bytes: per row)")
    for heading in ("N", "lookups/s", "table holder us", "index holder us", "both us", "tables B", "columns B"):
        table.add_column(heading, justify="right")
    for r in results:
        both = r["table_holder_us_per_row"] + r["index_holder_us_per_row"]
        table.add_row(
            f"{r['entries']}",
            f"{r['lookups_per_second']:,.0f}",
            f"{r['table_holder_us_per_row']:.2f}",
            f"{r['index_holder_us_per_row']:.2f}",
            f"{both:.2f}",
            f"{r['table_holder_bytes_per_row']:.1f}",
            f"{r['index_holder_bytes_per_row']:.1f}",
        )
    Console().print(table)
    if json_file is not None:
        write_json(json_file, {"benchmark": "lookup", "results": results})


if __name__ == "__main__":
    main()
