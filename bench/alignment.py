"""Alignment by both methods: parts on one core, and whole runs of two parties as two processes, as two nodes are.

    python -m bench.alignment [--elements N ...] [--methods ot curve] [--curve-most N] [--repeats N] [--rival PYTHON] [--json FILE]

A run gives the seconds of the slower party, each one's processor time and growth of resident memory, and the bytes that each sent;
of several repeats the one with the median time.  ``--rival`` names the Python of an environment that has ``spu``, whose protocols
then take turns with ours on the same sets (``bench/psi_rivals.py``).
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from audit.aligning import BASE_TRANSFERS, BIN_ELEMENTS, CHUNK_SLOTS, COORDINATES, bin_shape
from bench import psi_rivals
from bench.common import PipeChannel, write_json
from node.crypto import base_ot, okvs, vole
from node.crypto.curve import Blinder, encode_to_curve, encode_to_u
from node.crypto.drbg import Drbg
from node.limits import LIMITS
from node.protocols import psi_items
from node.protocols.alignment import align
from node.protocols.psi import Alignment, Role
from node.runtime.spill import SpillingScratch
from node.scratch import CHUNK_ROWS, Scratch, TextsBuilder

Method = Literal["curve", "ot"]
JOB = "00" * 32
TAG = b"isthmus-bench"
SEEDS: dict[Role, bytes] = {"label_holder": bytes(32), "feature_holder": bytes(31) + b"\x01"}
RIVALS = ("RR22", "KKRT")
RESULTS = Path(__file__).parent / "results" / "alignment.json"


def half(ch: Any, method: Method, role: Role, identifiers: Sequence[str], scratch: Scratch) -> Alignment:
    """One party."""
    drbg = Drbg(SEEDS[role], job=JOB, step="align")
    return align(
        ch,
        method=method,
        choose=lambda choice: None,
        role=role,
        job=JOB,
        identifiers=identifiers,
        minimum=1,
        drbg=drbg,
        limits=LIMITS,
        scratch=scratch,
    )


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

    @property
    def peak(self) -> int:
        return self._peak


def _process(pipe: Connection, method: Method, role: Role, span: range, out: Connection) -> None:
    channel = PipeChannel(pipe)
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder, SpillingScratch(Path(folder)) as scratch:
        identifiers = packed_names(span, scratch)
        out.send(None)  # started
        out.recv()  # both have
        with PeakMemory() as memory:
            start, processor = time.perf_counter(), time.process_time()
            result = half(channel, method, role, identifiers, scratch)
            seconds, processor = time.perf_counter() - start, time.process_time() - processor
        spilled = scratch.bytes_on_disk
    channel.close()
    figures: dict[str, Any] = {
        "seconds": seconds,
        "cpu_seconds": processor,
        "bytes_sent": channel.sent,
        "growth_bytes": memory.growth,
        "scratch_bytes": spilled,
    }
    figures["peak_rss_bytes"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out.send({**figures, "shared": len(result.rows)})


def in_processes(method: Method, sets: dict[Role, range]) -> dict[str, Any]:
    """One run with a process for each party: seconds of the slower one; processor time, bytes and memory growth by role."""
    context = multiprocessing.get_context("spawn")
    pipes = dict(zip(sets, context.Pipe(), strict=True))
    controls: dict[Role, Connection] = {}
    processes = []
    for role, span in sets.items():
        controls[role], theirs = context.Pipe()
        process = context.Process(target=_process, args=(pipes[role], method, role, span, theirs))
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
        name: {role: result[name] for role, result in results.items()}
        for name in ("cpu_seconds", "bytes_sent", "growth_bytes", "peak_rss_bytes", "scratch_bytes")
    }
    seconds = max(result["seconds"] for result in results.values())
    return {"seconds": seconds, "shared": results["label_holder"]["shared"], **figures}


def overlapping(elements: int, shared: float) -> dict[Role, range]:
    """Two sets of the same size, by their customers' numbers."""
    first = elements - int(elements * shared)
    return {"label_holder": range(elements), "feature_holder": range(first, first + elements)}


def named(span: range) -> list[str]:
    """The identifiers of customers."""
    return [f"customer-{number:012d}" for number in span]


def packed_names(span: range, scratch: Scratch) -> Sequence[str]:
    """The same as a node holds them."""
    built = TextsBuilder(scratch)
    for first in range(span.start, span.stop, CHUNK_ROWS):
        built.extend(named(range(first, min(first + CHUNK_ROWS, span.stop))))
    return built.result()


# ---- parts ----------------------------------------------------------------------------------------------------------------------


def parts_of_curve(identifiers: list[str]) -> dict[str, float]:
    """Processor seconds an element of each part."""
    messages = [name.encode() for name in identifiers]
    few = messages[: max(1, len(messages) // 10)]
    points = encode_to_u(messages, TAG)
    blinder = Blinder(bytes(range(32)))
    return {
        "hash to curve, plain (affine, with y)": timed(len(few), lambda: [encode_to_curve(message, TAG) for message in few]),
        "hash to curve, in bulk (u alone)": timed(len(messages), lambda: encode_to_u(messages, TAG)),
        "masking (X25519)": timed(len(messages), lambda: blinder.blind(points)),
    }


def parts_of_ot(identifiers: list[str]) -> dict[str, float]:
    """Processor seconds of the base transfers, and an element of each part of a whole bin."""
    drbg = Drbg(bytes(32), job=JOB, step="parts")
    base = base_ot.Sender.draw(JOB, drbg.stream("base"))
    secrets = np.frombuffer(drbg.stream("secret").bytes(COORDINATES), dtype=np.uint8) & np.uint8(15)
    choose = lambda: base_ot.choose(JOB, base.point, vole.path_choices(secrets), drbg.stream("choices"))  # noqa: E731
    times: dict[str, float] = {}
    points, chosen = kept(times, f"{BASE_TRANSFERS} base transfers, chooser", 1, choose)
    keys = kept(times, f"{BASE_TRANSFERS} base transfers, sender", 1, lambda: base.keys(points))
    roots = np.frombuffer(drbg.stream("roots").bytes(16 * COORDINATES), dtype=np.uint8).reshape(COORDINATES, 16)
    leaves, sums = vole.grow(roots, keys)
    receiver, sender = vole.ReceiverStreams(leaves), vole.SenderStreams(secrets, vole.puncture(secrets, chosen, sums))
    shape, count = bin_shape(len(identifiers), len(identifiers)), len(identifiers)
    [items] = kept(times, "hashes and bins", count, lambda: psi_items.into_bins(identifiers, bytes(32), 1, count))
    store = kept(times, "store: peeling and assignment", count, lambda: psi_items.store_of(items, shape))
    per_slot = CHUNK_SLOTS * count / shape.slots  # elements that a chunk of slots serves
    words = kept(times, "codewords of the store", per_slot, lambda: psi_items.code_words(store[:CHUNK_SLOTS]))
    pads, share = kept(times, "receiver's streams", per_slot, lambda: receiver.read(CHUNK_SLOTS))
    other = kept(times, "sender's streams", per_slot, lambda: sender.read(CHUNK_SLOTS))
    kept(times, "sender's product", per_slot, lambda: sender.add_product(other, pads ^ words))
    kept(times, "compression and transpose", per_slot, lambda: psi_items.compressed(share))
    found = kept(times, "lookup in the own shares", count, lambda: okvs.decode(store, items.places(shape.segment)))
    products = psi_items.ValueProducts(sender)
    kept(times, "sender's products of values", count, lambda: products.add_to(found, items.values))
    tags = kept(times, "tags", count, lambda: psi_items.tags_of(found, items.tweaks, shape.tag_bytes))
    kept(times, "order of tags", count, lambda: psi_items.tag_order(tags))
    kept(times, "matching", count, lambda: psi_items.common(tags, tags ^ np.uint64(1)))
    return times


def timed(units: float, work: Callable[[], object]) -> float:
    """Processor seconds a unit."""
    start = time.process_time()
    work()
    return (time.process_time() - start) / units


def kept(times: dict[str, float], name: str, units: float, work: Callable[[], Any]) -> Any:
    """Time a part and keep what it gives."""
    out: list[Any] = []
    times[name] = timed(units, lambda: out.append(work()))
    return out[0]


# ---- whole runs -----------------------------------------------------------------------------------------------------------------


def runs(elements: int, shared: float, methods: list[Method], repeats: int, rival: Path | None) -> dict[str, Any]:
    """Whole runs of one size, all that are compared taking turns."""
    sets = overlapping(elements, shared)
    tasks: dict[str, Callable[[], dict[str, Any]]] = {m: lambda m=m: in_processes(m, sets) for m in methods}  # type: ignore[misc]
    if rival:
        both = [named(span) for span in sets.values()]
        tasks |= {f"spu {p}": lambda p=p: psi_rivals.run(rival, p, both, timeout=600) for p in RIVALS}  # type: ignore[misc]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            found[name].append(task())
    middle = {name: sorted(each, key=lambda run: float(run["seconds"]))[len(each) // 2] for name, each in found.items()}
    for figures in middle.values():
        if "bytes_sent" in figures:
            figures["bytes_per_element"] = sum(figures["bytes_sent"].values()) / elements
    ratios = {
        name: {
            "seconds, protocol alone": figures["seconds"] / middle["ot"]["seconds"],
            "processor seconds of both": sum(figures["cpu_seconds"].values()) / sum(middle["ot"]["cpu_seconds"].values()),
        }
        for name, figures in middle.items()
        if name.startswith("spu") and "ot" in middle
    }
    return {"elements": elements, "shared": shared, "repeats": repeats, "runs": middle, "rival over ot": ratios}


def show(document: dict[str, Any], console: Console) -> None:
    """Two tables."""
    table = Table(title="Parts, on one core")
    table.add_column("what")
    table.add_column("us an element", justify="right")
    for method, times in document["parts"].items():
        for name, value in times.items():
            unit = "ms in all" if name.startswith(str(BASE_TRANSFERS)) else ""
            table.add_row(f"{method}: {name}", f"{value * 1e3:.1f} {unit}" if unit else f"{value * 1e6:.3f}")
    console.print(table)
    table = Table(title="Whole runs, two processes; of two figures the label holder's comes first")
    for name in ("elements", "method", "seconds", "processor s", "bytes sent", "bytes an element", "memory MiB"):
        table.add_column(name, justify="right")
    for size in document["results"]:
        for name, run in size["runs"].items():
            used = run["cpu_seconds"]
            whole = f"{run['seconds']:.2f}" + (f" (with files {run['seconds_with_files']:.2f})" if name.startswith("spu") else "")
            table.add_row(
                f"{size['elements']:,}",
                name,
                whole,
                " + ".join(f"{one:.2f}" for one in used.values()),
                " + ".join(f"{one:,}" for one in run["bytes_sent"].values()) if "bytes_sent" in run else "",
                f"{run['bytes_per_element']:.1f}" if "bytes_per_element" in run else "",
                " + ".join(f"{one / 2**20:.0f}" for one in run["peak_rss_bytes"].values()),
            )
    console.print(table)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.alignment", description="Measure the alignment of two sets.")
    parser.add_argument("--elements", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="identifiers of each side")
    parser.add_argument("--methods", nargs="+", default=["ot", "curve"], choices=["ot", "curve"], help="what to run")
    parser.add_argument("--curve-most", type=int, default=100_000, help="no larger sets are masked on the curve")
    parser.add_argument("--shared", type=float, default=0.5, help="shared fraction")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each, of which the median counts")
    parser.add_argument("--rival", type=Path, help="the Python of an environment that has spu")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go")
    given = parser.parse_args(argv)
    one_bin = named(range(BIN_ELEMENTS))
    parts = {"ot": parts_of_ot(one_bin), "curve": parts_of_curve(one_bin[:4_000])}
    sizes = []
    for elements in given.elements:
        methods = [m for m in given.methods if m != "curve" or elements <= given.curve_most]
        sizes.append(runs(elements, given.shared, methods, given.repeats, given.rival))
    document = {"benchmark": "alignment", "parts": parts, "results": sizes, "rival": "spu" if given.rival else "not available"}
    show(document, Console())
    write_json(given.json, document)


if __name__ == "__main__":
    main()
