"""The preparation of a training as two nodes run it, beside what each side computes alone: how much of the wall clock is waiting.

    python -m bench.pipeline [--rows N] [--columns L F] [--key-bits N] [--workers N ...] [--link MS,MBIT ...] [--json FILE]

Each party is a process; between them lies a link with a latency (one way) and a rate.  The joint run cannot be shorter than the
slower side's computation alone; the ratio of the two says how well encryption, transfer and products overlap.

**Inline** (``--workers 0``) the clock of each party is its own processor time plus what it waits: a message carries the sender's
clock, and a receiver whose clock is behind its arrival waits for it.  That is the wall clock of two machines with a free core
each, whatever else runs on this one.  The computation alone is the processor time.

**With workers** the clock is the wall's, and the machine must have idle cores for both parties.  Every message that a party
receives is kept, and afterwards each party runs once more by itself over what it received, as a replay does: that is its
computation alone.  Processor seconds are those of the party and its workers together, and beside them those of the party's own
thread, which no number of workers takes away.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import queue
import threading
import time
from collections.abc import Sequence
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from google.protobuf.message import Message
from rich import box
from rich.console import Console
from rich.table import Table

from bench.common import machine, write_json
from node.crypto.drbg import Drbg
from node.crypto.paillier_keys import generate_key
from node.engine import make_engine
from node.limits import LIMITS
from node.protocols.preparation import prepare
from node.protocols.training import TrainingPlan

RESULTS = Path(__file__).resolve().parent / "results"
ROLES = ("label_holder", "feature_holder")
_SEND_QUEUE = 32
"""Messages that wait for the pipe before ``send`` blocks; a session's window holds more."""


class SlowPipe:
    """A channel over a pipe with a latency and a rate; it sends in the background, as the transport does, and keeps what came.

    Args:
        latency: seconds from the last byte's departure to its arrival.
        rate: bytes a second; 0 for no bound.
        processor: whether the clock counts this thread's processor time and waiting, instead of real time.
    """

    def __init__(self, pipe: Connection, *, latency: float, rate: float, processor: bool) -> None:
        self._pipe, self._latency, self._rate, self._processor = pipe, latency, rate, processor
        self._waiting: queue.Queue[tuple[float, bytes] | None] = queue.Queue(_SEND_QUEUE)
        self._arrived: queue.Queue[tuple[float, bytes]] = queue.Queue()
        self._threads = [threading.Thread(target=self._drain), threading.Thread(target=self._fill, daemon=True)]
        for thread in self._threads:
            thread.start()
        self.received: list[bytes] = []
        self.sent = 0
        self.blocked = self._line_free = 0.0
        self.blocked_for: dict[str, float] = {}
        self._started = time.thread_time()

    def clock(self) -> float:
        """Seconds, on the clock that counts; that of real time is the same for both parties."""
        return time.thread_time() - self._started + self.blocked if self._processor else time.monotonic()

    def _drain(self) -> None:
        while (item := self._waiting.get()) is not None:
            self._pipe.send(item)

    def _fill(self) -> None:
        try:
            while True:
                self._arrived.put(self._pipe.recv())
        except EOFError:
            return

    def send(self, message: Message) -> None:
        payload = message.SerializeToString(deterministic=True)
        self.sent += len(payload)
        self._line_free = max(self.clock(), self._line_free) + (len(payload) / self._rate if self._rate else 0.0)
        self._waiting.put((self._line_free + self._latency, payload))

    def recv(self, kind: Any) -> Any:
        start = self.clock()
        due, payload = self._arrived.get()
        if not self._processor:
            time.sleep(max(0.0, due - self.clock()))
        waited = max(0.0, due - start) if self._processor else self.clock() - start
        self.blocked += waited
        name = kind.DESCRIPTOR.name
        self.blocked_for[name] = self.blocked_for.get(name, 0.0) + waited
        self.received.append(payload)
        return kind.FromString(payload)

    def close(self) -> None:
        self._waiting.put(None)
        self._threads[0].join()


class Recorded:
    """A channel that gives what was received before and takes what is sent."""

    def __init__(self, received: Sequence[bytes]) -> None:
        self._received = iter(received)
        self.sent, self.blocked = 0, 0.0
        self.blocked_for: dict[str, float] = {}

    def send(self, message: Message) -> None:
        self.sent += len(message.SerializeToString(deterministic=True))

    def recv(self, kind: Any) -> Any:
        return kind.FromString(next(self._received))

    def close(self) -> None:
        """Nothing to end."""


def _processor() -> float:
    """Processor seconds of this process and its workers so far."""
    here = psutil.Process()
    used = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return sum(times.user + times.system for times in used)


def party(role: str, given: dict[str, Any], pipe: Connection | None, received: list[bytes] | None, out: Connection) -> None:
    """One party in its process: prepares once, over ``pipe`` or over what it received before."""
    side = ROLES.index(role)
    rows, columns = given["rows"], given["columns"][side]
    random = np.random.default_rng(side)
    matrix = np.clip(random.normal(scale=1024, size=(rows, columns)), -8191, 8191).astype(np.int32)
    drbg = Drbg(bytes([side]) * 32, job="bench", step="prepare")
    own = generate_key(given["key_bits"], drbg.stream("paillier key"))
    plan = TrainingPlan(
        role=role,  # type: ignore[arg-type]
        job="bench",
        l2=Fraction(1, 1000),
        rounds=given["rounds"],
        key_bits=given["key_bits"],
        minimum_key_bits=512,
        lookup_entries=64,
        rows=rows,
    )
    engine = make_engine("processes" if given["workers"] else "inline", given["workers"] or 1)
    list(engine.map(abs, range(4 * engine.workers)))  # the workers have started
    latency, rate = given["link"]
    inline = not given["workers"]
    out.send(None)
    out.recv()  # both are ready
    ch: Any = Recorded(received or [])
    if pipe is not None:
        ch = SlowPipe(pipe, latency=latency / 1e3, rate=rate * 1e6 / 8, processor=inline)
    start, before = time.monotonic(), _processor()
    own_start = time.thread_time()
    prepared = prepare(
        ch,
        plan=plan,
        own=own,
        matrix=matrix,
        label=(random.random(rows) < 0.2).astype(np.int8) if role == "label_holder" else None,
        drbg=drbg,
        engine=engine,
        limits=LIMITS,
    )
    seconds, used, here = time.monotonic() - start, _processor() - before, time.thread_time() - own_start
    if inline:
        seconds, used = here + ch.blocked, here
    engine.close()
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in prepared.to_arrays().values())).hexdigest()
    figures = {
        "seconds": seconds,
        "cpu_seconds": used,
        "node_seconds": here,
        "blocked": ch.blocked,
        "blocked_for": ch.blocked_for,
        "bytes_sent": ch.sent,
    }
    out.send({**figures, "digest": digest, "received": getattr(ch, "received", [])})
    ch.close()


def run(given: dict[str, Any], received: dict[str, list[bytes]]) -> dict[str, dict[str, Any]]:
    """Both parties over a link, or those of ``received`` by themselves; figures by role."""
    context = multiprocessing.get_context("spawn")
    pipes = dict(zip(ROLES, context.Pipe(), strict=True))
    controls, processes = {}, []
    for role in received or ROLES:
        controls[role], theirs = context.Pipe()
        arguments = (role, given, None if received else pipes[role], received.get(role), theirs)
        processes.append(context.Process(target=party, args=arguments))
        processes[-1].start()
    for control in controls.values():
        control.recv()
    for control in controls.values():
        control.send(None)
    results = {role: control.recv() for role, control in controls.items()}
    for process in processes:
        process.join()
    return results


def measure(given: dict[str, Any], repeats: int) -> dict[str, Any]:
    """The joint run and each side alone, in turns; the run with the median ratio."""
    runs = []
    for _ in range(repeats):
        joint = run(given, {})
        alone = {}
        for role in ROLES:
            if not given["workers"]:
                alone[role] = joint[role] | {"seconds": joint[role]["cpu_seconds"]}
                continue
            alone |= run(given, {role: joint[role]["received"]})
            if alone[role]["digest"] != joint[role]["digest"]:
                raise SystemExit("the run alone has another result than the joint one")
        wall, slower = (max(result["seconds"] for result in results.values()) for results in (joint, alone))
        sides = {
            role: {
                "alone_seconds": alone[role]["seconds"],
                "cpu_seconds": joint[role]["cpu_seconds"],
                "node_seconds": joint[role]["node_seconds"],
                "blocked_seconds": joint[role]["blocked"],
                "blocked_for_seconds": joint[role]["blocked_for"],
                "bytes_sent": joint[role]["bytes_sent"],
            }
            for role in ROLES
        }
        runs.append({"wall_seconds": wall, "slower_alone_seconds": slower, "ratio": wall / slower, "sides": sides})
    return {**given, **sorted(runs, key=lambda one: one["ratio"])[len(runs) // 2], "ratios": [one["ratio"] for one in runs]}


def show(console: Console, results: Sequence[dict[str, Any]]) -> None:
    """One line a case."""
    table = Table(box=box.SIMPLE_HEAD, title="the preparation", title_justify="left")
    for name in (
        "workers",
        "link",
        "wall, s",
        "slower side alone, s",
        "ratio",
        "CPU s, L / F",
        "in the node, s",
        "waiting s, L / F",
    ):
        table.add_column(name, justify="right")
    for result in results:
        latency, rate = result["link"]
        sides = [result["sides"][role] for role in ROLES]
        table.add_row(
            str(result["workers"] or "inline"),
            f"{latency:g} ms, {f'{rate:g} Mbit/s' if rate else 'no bound'}",
            f"{result['wall_seconds']:.2f}",
            f"{result['slower_alone_seconds']:.2f}",
            f"{result['ratio']:.2f}",
            " / ".join(f"{side['cpu_seconds']:.2f}" for side in sides),
            " / ".join(f"{side['node_seconds']:.2f}" for side in sides),
            " / ".join(f"{side['blocked_seconds']:.2f}" for side in sides),
        )
    console.print(table)


def _link(text: str) -> tuple[float, float]:
    latency, rate = text.split(",")
    return float(latency), float(rate)


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.pipeline", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--columns", type=int, nargs=2, default=[10, 14], help="of the label holder and the feature holder")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--key-bits", type=int, default=2048)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1], help="worker processes of each party; 0: inline")
    parser.add_argument(
        "--link", type=_link, nargs="+", default=[(0.0, 0.0), (20.0, 100.0)], help="ms one way, Mbit/s (0: no bound)"
    )
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS / "pipeline.json")
    given = vars(parser.parse_args())
    path, repeats, workers, links = (given.pop(name) for name in ("json", "repeats", "workers", "link"))
    console = Console()
    console.print("; ".join(f"{name} {value}" for name, value in machine().items()), style="dim")
    results = [measure({**given, "workers": count, "link": link}, repeats) for count in workers for link in links]
    show(console, results)
    write_json(path, {"benchmark": "pipeline", "runs": results})
    console.print(f"written to {path}", style="dim")


if __name__ == "__main__":
    main()
