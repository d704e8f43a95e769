"""A small set against a large one that was masked once: a first job, a later one, and the filter at its size.

    python -m bench.asymmetric [--large N] [--small N] [--changed FRACTION] [--workers N] [--filter-elements N] [--json FILE]

Two parties, a process and a pool of workers each, run two jobs, the second after a fraction of the large set was exchanged:
seconds, processor time (workers included), bytes of each direction and resident memory of each party's own process.  A hundred
million against a million (``--large 100000000 --small 1000000``) takes an hour of two cores.

The filter's code is also built, asked and changed by itself at ``--filter-elements``, from uniform 16-byte values, which is what
masked customers are.  Elements of a set that is not in the filter are asked about too: how many it says yes to is counted.

A size that was measured before is replaced in the file, other sizes stay.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from audit.layout import filter_prefix_bits
from bench.alignment import PeakMemory, named
from bench.common import PipeChannel, machine
from node.crypto.drbg import Drbg
from node.crypto.elias_fano import VALUE, changed, contains, encode, shortened
from node.engine import PoolEngine
from node.engine.base import cores
from node.limits import LIMITS
from node.protocols.filter_state import Setting, Terms
from node.protocols.filter_values import ascending
from node.protocols.psi_filter import Outcome, publish, query
from node.runtime.spill import SpillingScratch
from node.scratch import CHUNK_ROWS, Scratch, TextsBuilder, pieces_of

TERMS = Terms(reuse_days=30, filter_days=30)
SIDES = ("publisher", "querier")
JOBS = ("first_job", "later_job")
RESULTS = Path(__file__).parent / "results" / "asymmetric.json"
COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
MILLION = 10**6
Spans = list[range]


def identifiers_of(spans: Spans, scratch: Scratch) -> Sequence[str]:
    """Customers by their numbers, as a node holds them."""
    built = TextsBuilder(scratch)
    for span in spans:
        for first in range(span.start, span.stop, CHUNK_ROWS):
            built.extend(named(range(first, min(first + CHUNK_ROWS, span.stop))))
    return built.result()


def processor_seconds() -> float:
    """Of this process and its workers."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def digest_of(identifiers: Sequence[str], rows: Any) -> str:
    """Of the identifiers of some rows, in their order: the same at both parties."""
    digest = hashlib.sha256()
    bounds = ((first, min(first + CHUNK_ROWS, len(rows))) for first in range(0, len(rows), CHUNK_ROWS))
    for texts in pieces_of(identifiers, rows, bounds):
        digest.update("\n".join([*texts, ""]).encode())
    return digest.hexdigest()


def _party(side: str, pipe: Connection, jobs: list[Spans], workers: int, out: Connection) -> None:
    channel, engine, state = PipeChannel(pipe), PoolEngine(workers), None
    for number, spans in enumerate(jobs, 1):
        with (
            tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder,
            SpillingScratch(Path(folder)) as scratch,
            Progress(*COLUMNS, console=Console(stderr=True)) as bar,
        ):
            task = bar.add_task(f"{side}, job {number}", total=None, visible=side == "publisher")
            setting = Setting(
                relation="00" * 32,
                identifiers=identifiers_of(spans, scratch),
                minimum=1,
                drbg=Drbg(bytes([SIDES.index(side)]) * 32, job=f"{number:064x}", step="align"),
                engine=engine,
                limits=LIMITS,
                terms=TERMS,
                commit=lambda what, sha256, **sizes: None,
                progress=lambda _, done, total, bar=bar, task=task: bar.update(task, completed=done, total=total),
            )
            out.send(None)  # ready
            out.recv()  # both are
            sent = channel.sent
            with PeakMemory() as memory:
                start, processor = time.perf_counter(), processor_seconds()
                outcome = _half(side, channel, setting, state)
                seconds, processor = time.perf_counter() - start, processor_seconds() - processor
            state, rows = outcome.state, outcome.alignment.rows
            figures = {
                "seconds": seconds,
                "cpu_seconds": processor,
                "bytes_sent": channel.sent - sent,
                "peak_rss_bytes": memory.peak,
                "scratch_bytes": scratch.bytes_on_disk,
            }
            out.send((figures, len(rows), digest_of(setting.identifiers, rows)))
    channel.close()
    engine.close()


def _half(side: str, channel: Any, setting: Setting, state: Any) -> Outcome:
    if side == "publisher":
        return publish(channel, setting, state=state, reserve=lambda count: None)
    return query(channel, setting, state=state)


def two_jobs(large: int, small: int, moved: int, workers: int) -> dict[str, Any]:
    """The figures of both jobs, by job and by side.

    Raises:
        RuntimeError: the parties found other customers than the plain ranges share.
    """
    asked = range(large - small // 2, large + small - small // 2)
    new = range(asked.stop, asked.stop + moved)
    plans: dict[str, list[Spans]] = {"publisher": [[range(large)], [range(moved, large), new]], "querier": [[asked], [asked]]}
    context = multiprocessing.get_context("spawn")
    pipes = dict(zip(SIDES, context.Pipe(), strict=True))
    controls: dict[str, Connection] = {}
    processes = []
    for side in SIDES:
        controls[side], theirs = context.Pipe()
        process = context.Process(target=_party, args=(side, pipes[side], plans[side], workers, theirs))
        process.start()
        theirs.close()  # a party that died is then an end of file here
        processes.append(process)
    try:
        figures = {job: _one_job(controls, large - asked.start) for job in JOBS}
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.kill()
    return figures


def _one_job(controls: dict[str, Connection], shared: int) -> dict[str, Any]:
    for control in controls.values():
        control.recv()
    for control in controls.values():
        control.send(None)
    told = {side: control.recv() for side, control in controls.items()}
    (figures, *ours), (_, *theirs) = told.values()
    if ours != theirs or ours[0] != shared:
        raise RuntimeError("the two sides, or the plain sets, disagree about the shared rows")
    by_side = {name: {side: one[0][name] for side, one in told.items()} for name in figures}
    return by_side | {"seconds": max(by_side["seconds"].values()), "shared": shared}


def filter_figures(elements: int, fraction: float) -> dict[str, Any]:
    """Building, asking and changing the code of a filter."""
    rng = np.random.default_rng(1)
    values = np.frombuffer(rng.bytes(16 * elements), dtype=VALUE)
    bits = filter_prefix_bits(elements)
    figures: dict[str, Any] = {"elements": elements, "prefix_bits": bits}

    def clocked(name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = work()
        figures[name] = time.process_time() - start
        return result

    values = clocked("sort_seconds", lambda: values[ascending(values)])
    coded = clocked("encode_seconds", lambda: encode(values, bits))
    figures["bytes_an_element"] = coded.size / elements
    strangers = np.frombuffer(rng.bytes(16 * MILLION), dtype=VALUE)
    figures["strangers_asked"] = len(strangers)
    figures["strangers_found"] = int(clocked("ask_seconds", lambda: contains(coded, strangers)).sum())
    members = values[:: max(1, elements // MILLION)]
    figures["members_asked"], figures["members_found"] = len(members), int(contains(coded, members).sum())
    count = int(elements * fraction)
    gone = np.sort(shortened(values[:: max(1, elements // max(count, 1))][:count], bits))
    come = np.sort(shortened(strangers[:count], bits))
    figures["changes"] = len(gone) + len(come)
    clocked("change_seconds", lambda: changed(coded, removed=gone, added=come))
    return figures


def measure(large: int, small: int, fraction: float, workers: int) -> dict[str, Any]:
    """One size, as the JSON document holds it."""
    return {
        "machine": machine(),
        "large": large,
        "small": small,
        "changed": fraction,
        "workers": workers,
        **two_jobs(large, small, int(large * fraction), workers),
    }


def show(figures: dict[str, Any], coded: dict[str, Any], console: Console) -> None:
    title = f"{figures['small']:,} against {figures['large']:,}; {figures['changed']:.1%} exchanged before the later job"
    table = Table(title=f"{title}; of two figures the publisher's comes first")
    for name in ("job", "seconds", "processor s", "bytes sent", "memory GB", "shared"):
        table.add_column(name, justify="left" if name == "job" else "right")
    for name in JOBS:
        one = figures[name]
        table.add_row(
            name.replace("_", " "),
            f"{one['seconds']:.1f}",
            " + ".join(f"{value:.2f}" for value in one["cpu_seconds"].values()),
            " + ".join(f"{value:,}" for value in one["bytes_sent"].values()),
            " + ".join(f"{value / 1e9:.2f}" for value in one["peak_rss_bytes"].values()),
            f"{one['shared']:,}",
        )
    console.print(table)
    console.print("the filter's code")
    for name, value in coded.items():
        console.print(f"  {name.replace('_', ' ')}: {value:,.3f}" if isinstance(value, float) else f"  {name}: {value:,}")


def store(path: Path, figures: dict[str, Any], coded: dict[str, Any]) -> None:
    """Put a size beside the others in the file."""
    known = json.loads(path.read_text())["results"] if path.exists() else []
    others = [one for one in known if (one["large"], one["small"]) != (figures["large"], figures["small"])]
    results = sorted([*others, figures], key=lambda one: (one["large"], one["small"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"benchmark": "asymmetric alignment", "results": results, "filter": {"machine": machine(), **coded}}
    path.write_text(json.dumps(document, indent=1) + "\n")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.asymmetric", description="Measure a small set against a published filter."
    )
    parser.add_argument("--large", type=int, default=100_000, help="customers of the publisher")
    parser.add_argument("--small", type=int, default=5_000, help="customers of the querier")
    parser.add_argument("--changed", type=float, default=0.01, help="fraction of the large set that is exchanged between the jobs")
    parser.add_argument("--workers", type=int, default=cores(), help="worker processes of each party")
    parser.add_argument("--filter-elements", type=int, default=10_000_000, help="elements of the filter that is built by itself")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go")
    chosen = parser.parse_args(argv)
    if not 2 <= chosen.small <= chosen.large or not 0 <= chosen.changed <= 0.5:
        parser.error("the small set has 2 customers or more, the large one as many at least; up to half are exchanged")
    coded = filter_figures(chosen.filter_elements, chosen.changed)
    figures = measure(chosen.large, chosen.small, chosen.changed, chosen.workers)
    show(figures, coded, Console())
    store(chosen.json, figures, coded)


if __name__ == "__main__":
    main()
