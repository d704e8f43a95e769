"""Alignment: hashing, masking and whole runs of two parties, in elements per second.

    python -m bench.alignment [--elements N] [--peer-elements N] [--shared FRACTION] [--json FILE]

Rates of a part are those of one core.  A whole run counts the elements of both sets against the wall clock, once with both
parties as threads of one process (they share one interpreter lock, hence one core) and once as two processes, as two nodes are; of
these the processor time and the growth of resident memory are given too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from bench.common import PipeChannel, machine
from node.crypto.curve import Blinder, encode_to_curve, encode_to_u
from node.crypto.drbg import Drbg
from node.limits import LIMITS
from node.protocols.psi import Alignment, Role, align
from tests.pair import run_pair

JOB = "00" * 32
TAG = b"isthmus-bench"
SEEDS: dict[Role, bytes] = {"label_holder": bytes(32), "feature_holder": bytes(31) + b"\x01"}


def half(ch: Any, role: Role, identifiers: list[str]) -> Alignment:
    drbg = Drbg(SEEDS[role], job=JOB, step="align")
    return align(ch, role=role, job=JOB, identifiers=identifiers, minimum=1, drbg=drbg, limits=LIMITS)


class PeakMemory:
    """Growth of this process's resident memory, sampled every 10 ms."""

    def __enter__(self) -> PeakMemory:
        self._process = psutil.Process()
        self._before = self._peak = self._process.memory_info().rss
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample)
        self._sampler.start()
        return self

    def _sample(self) -> None:
        while not self._ended.wait(0.01):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._sampler.join()

    @property
    def growth(self) -> int:
        return self._peak - self._before


def _process(pipe: Connection, role: Role, identifiers: list[str], out: Connection) -> None:
    channel = PipeChannel(pipe)
    out.send(None)  # started
    out.recv()  # both have
    with PeakMemory() as memory:
        start, processor = time.perf_counter(), time.process_time()
        result = half(channel, role, identifiers)
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
    channel.close()
    figures = {"seconds": seconds, "cpu_seconds": processor, "bytes_sent": channel.sent, "rss_growth_bytes": memory.growth}
    out.send({**figures, "shared": len(result.rows)})


def in_processes(sets: dict[Role, list[str]]) -> dict[str, Any]:
    """One run with a process for each party: seconds of the slower one; processor time, bytes and memory growth by role."""
    context = multiprocessing.get_context("spawn")
    pipes = dict(zip(sets, context.Pipe(), strict=True))
    controls: dict[Role, Connection] = {}
    processes = []
    for role, identifiers in sets.items():
        controls[role], theirs = context.Pipe()
        process = context.Process(target=_process, args=(pipes[role], role, identifiers, theirs))
        process.start()
        processes.append(process)
    for control in controls.values():
        control.recv()
    for control in controls.values():
        control.send(None)
    results = {role: control.recv() for role, control in controls.items()}
    for process in processes:
        process.join()
    figures: dict[str, Any] = {
        name: {role: result[name] for role, result in results.items()} for name in ("cpu_seconds", "bytes_sent", "rss_growth_bytes")
    }
    seconds = max(result["seconds"] for result in results.values())
    return {"seconds": seconds, "shared": results["label_holder"]["shared"], **figures}


def in_threads(sets: dict[Role, list[str]]) -> dict[str, Any]:
    """One run with both parties in this process."""
    start = time.perf_counter()
    left, right = run_pair(
        lambda ch: half(ch, "label_holder", sets["label_holder"]),
        lambda ch: half(ch, "feature_holder", sets["feature_holder"]),
        timeout=3600,
    ).results()
    seconds = time.perf_counter() - start
    if [sets["label_holder"][i] for i in left.rows] != [sets["feature_holder"][i] for i in right.rows]:
        raise RuntimeError("the two sides disagree about the shared rows")
    return {"seconds": seconds, "shared": len(left.rows)}


def parts(identifiers: list[str]) -> dict[str, float]:
    """Elements per second of each part, on one core."""
    messages = [name.encode() for name in identifiers]
    few = messages[: max(1, len(messages) // 10)]
    batches = [messages[i : i + LIMITS.psi_batch] for i in range(0, len(messages), LIMITS.psi_batch)]
    points = encode_to_u(messages, TAG)
    blinder = Blinder(bytes(range(32)))
    return {
        "hash to curve, plain (affine, with y)": rate(len(few), lambda: [encode_to_curve(message, TAG) for message in few]),
        "hash to curve, in bulk (u alone)": rate(len(messages), lambda: [encode_to_u(batch, TAG) for batch in batches]),
        "masking (X25519)": rate(len(messages), lambda: blinder.blind(points)),
    }


def rate(count: int, work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def measure(elements: int, peer_elements: int, shared: float) -> dict[str, Any]:
    """All figures, as the JSON document holds them."""
    overlap = int(min(elements, peer_elements) * shared)
    sets: dict[Role, list[str]] = {
        "label_holder": [f"customer-{i:012d}" for i in range(elements)],
        "feature_holder": [f"customer-{i:012d}" for i in range(elements - overlap, elements - overlap + peer_elements)],
    }
    figures: dict[str, Any] = {
        "benchmark": "alignment",
        "machine": machine(),
        "label_holder_elements": elements,
        "feature_holder_elements": peer_elements,
        "parts_per_second": parts(sets["label_holder"]),
        "threads": in_threads(sets),
        "processes": in_processes(sets),
    }
    for kind in ("threads", "processes"):
        figures[kind]["elements_per_second"] = (elements + peer_elements) / figures[kind]["seconds"]
    return figures


def show(figures: dict[str, Any], console: Console) -> None:
    table = Table(title=f"Alignment of {figures['label_holder_elements']:,} and {figures['feature_holder_elements']:,} elements")
    table.add_column("what")
    table.add_column("elements/s", justify="right")
    table.add_column("us an element", justify="right")
    table.add_column("seconds", justify="right")
    for name, value in figures["parts_per_second"].items():
        table.add_row(name, f"{value:,.0f}", f"{1e6 / value:.1f}", "")
    for kind, name in (("threads", "both parties, one process"), ("processes", "both parties, two processes")):
        value = figures[kind]["elements_per_second"]
        table.add_row(name, f"{value:,.0f}", f"{1e6 / value:.1f}", f"{figures[kind]['seconds']:.2f}")
    console.print(table)
    figures = figures["processes"]
    for role, sent in figures["bytes_sent"].items():
        grown = figures["rss_growth_bytes"][role] / 2**20
        console.print(
            f"{role}: {figures['cpu_seconds'][role]:.2f} s of processor time, {sent:,} bytes sent, memory grew by {grown:.1f} MiB"
        )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.alignment", description="Measure the alignment of two sets.")
    parser.add_argument("--elements", type=int, default=20_000, help="identifiers of the label holder")
    parser.add_argument("--peer-elements", type=int, default=0, help="identifiers of the feature holder (default: the same)")
    parser.add_argument("--shared", type=float, default=0.5, help="shared fraction of the smaller set")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    chosen = parser.parse_args(argv)
    figures = measure(chosen.elements, chosen.peer_elements or chosen.elements, chosen.shared)
    show(figures, Console())
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
