"""What the session layer costs on loopback, and how long a link takes to come back.

    python -m bench.links [--quick] [--json FILE]

Throughput and lock-step round trips over TLS, beside a bare gRPC stream of the same messages (nothing kept, no acknowledgements, no
windows, one frame a message); then the time from a cut to the next message that arrives, and from packets that silently vanish.
"""

from __future__ import annotations

import argparse
import functools
import queue
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc

from audit.identity import Identity, create_identity
from bench.common import write_json
from node.limits import LIMITS
from node.transport.channel import GrpcChannel
from node.transport.options import TIMEOUTS
from protos import peer_pb2_grpc, tls
from protos.peer_pb2 import Data, Frame, MaskedPoints
from tests.links import Ends

RESULTS = Path(__file__).parent / "results"
SIZES = (16 * 2**10, 196_608, 512 * 2**10, 2 * 2**20)
"""Bytes of one message: small, a batch of ciphertexts at 3072 bits, of identifiers, of lookup tables."""
_OPTIONS = [("grpc.max_send_message_length", 9 * 2**20), ("grpc.max_receive_message_length", 9 * 2**20)]


class Bare(peer_pb2_grpc.PeerServicer):
    """A gRPC stream with a short queue in each direction and nothing else."""

    def __init__(self, known: dict[str, Identity]) -> None:
        self.work: Callable[[queue.Queue[Any], Iterator[Frame]], None] = lambda out, frames: None
        bank, platform = known["bank"], known["platform"]
        self.server = grpc.server(futures.ThreadPoolExecutor(4), options=[*_OPTIONS, *tls.SERVER_OPTIONS])
        peer_pb2_grpc.add_PeerServicer_to_server(self, self.server)
        credentials = tls.server_credentials(bank.tls_key_pem, bank.tls_certificate_pem, [platform.tls_certificate_pem])
        port = tls.bind(self.server, "127.0.0.1:0", credentials)
        self.server.start()
        self.channel = tls.channel(
            f"127.0.0.1:{port}",
            server_name="bank",
            server_certificate_pem=bank.tls_certificate_pem,
            key_pem=platform.tls_key_pem,
            certificate_pem=platform.tls_certificate_pem,
            options=_OPTIONS,
        )

    def Exchange(self, frames: Iterator[Frame], context: Any) -> Iterator[Frame]:
        out: queue.Queue[Any] = queue.Queue(4)
        threading.Thread(target=self.work, args=(out, frames), daemon=True).start()
        yield from iter(out.get, None)

    def run(self, answer: Callable[..., None], call: Callable[..., None]) -> None:
        """Both sides' functions over one stream."""
        self.work = answer
        out: queue.Queue[Any] = queue.Queue(4)
        frames = peer_pb2_grpc.PeerStub(self.channel).Exchange(iter(out.get, None))
        call(out, frames)
        for _ in frames:
            pass


def bare_bulk(bare: Bare, size: int, count: int) -> None:
    """One way, as fast as it goes."""
    payload = bytes(size)

    def answer(out: Any, frames: Any) -> None:
        for _ in range(count):
            _ = next(frames).data.payload
        out.put(None)

    def call(out: Any, frames: Any) -> None:
        for k in range(count):
            out.put(Frame(data=Data(type="MaskedPoints", seq=k, payload=payload)))
        out.put(None)

    bare.run(answer, call)


def bare_steps(bare: Bare, size: int, count: int) -> None:
    """A message each way in turn."""
    payload = bytes(size)

    def one(out: Any, frames: Any) -> None:
        for k in range(count):
            out.put(Frame(data=Data(type="MaskedPoints", seq=k, payload=payload)))
            _ = next(frames).data.payload
        out.put(None)

    bare.run(one, one)


def _ends(known: dict[str, Identity], **cutter: Any) -> Ends:
    ends = Ends(known, limits=LIMITS, times=replace(TIMEOUTS, close=2.0), **cutter)
    return ends


def session(known: dict[str, Identity], bank: Callable[[GrpcChannel], Any], platform: Callable[[GrpcChannel], Any]) -> None:
    """Both sides' functions over a session without a proxy."""
    ends = _ends(known)
    ends.partner = replace(ends.partner, address=f"127.0.0.1:{ends.port}")
    halves = [ends.bank(bank), ends.platform(platform)]
    for half in halves:
        if half.join(600).error is not None:
            raise SystemExit(f"error: {half.error}")
    ends.close()


def session_bulk(known: dict[str, Identity], size: int, count: int) -> None:
    """As :func:`bare_bulk`."""
    payload = bytes(size)

    def write(ch: GrpcChannel) -> None:
        for _ in range(count):
            ch.send_payload("MaskedPoints", payload)

    def read(ch: GrpcChannel) -> None:
        for _ in range(count):
            ch.recv_payload("MaskedPoints")

    session(known, read, write)


def session_steps(known: dict[str, Identity], size: int, count: int) -> None:
    """As :func:`bare_steps`."""
    payload = bytes(size)

    def half(ch: GrpcChannel) -> None:
        for _ in range(count):
            ch.send_payload("MaskedPoints", payload)
            ch.recv_payload("MaskedPoints")

    session(known, half, half)


def recovery(known: dict[str, Identity], repeats: int, fail: str) -> list[float]:
    """Seconds from a failure to the next message that arrives, both sides sending all the while."""
    times = {"silence": 45.0} if fail == "cut" else {"silence": 4.5, "heartbeat": 1.0}
    ends = Ends(known, limits=LIMITS, times=replace(TIMEOUTS, close=2.0, **times))
    found: list[float] = []
    failed_at = [0.0]

    def half(ch: GrpcChannel, *, measures: bool) -> None:
        for k in range(repeats * 40):
            if measures and k % 40 == 20:
                getattr(ends.cutter, fail)()
                failed_at[0] = time.perf_counter()
            ch.send(MaskedPoints(values=bytes(1000)))
            ch.recv(MaskedPoints)
            if measures and failed_at[0]:
                found.append(time.perf_counter() - failed_at[0])
                failed_at[0] = 0.0

    bank = ends.bank(lambda ch: half(ch, measures=False))
    platform = ends.platform(lambda ch: half(ch, measures=True))
    for one in (bank, platform):
        if one.join(600).error is not None:
            raise SystemExit(f"error: {one.error}")
    ends.close()
    return found


def _side_by_side(first: Callable[[], None], second: Callable[[], None], repeats: int) -> list[tuple[float, float]]:
    """Processor seconds (both sides share this process) and elapsed seconds of each: medians over turns taken in alternation."""
    times: list[list[tuple[float, float]]] = [[], []]
    for _ in range(repeats):
        for task, found in zip((first, second), times, strict=True):
            cpu, wall = time.process_time(), time.perf_counter()
            task()
            found.append((time.process_time() - cpu, time.perf_counter() - wall))
    return [(statistics.median(c for c, _ in found), statistics.median(w for _, w in found)) for found in times]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench.links", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="little work, to see that it runs")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of each comparison; the median counts")
    parser.add_argument("--json", type=Path, default=RESULTS / "links.json", help="where the figures go")
    given = parser.parse_args()
    repeats, total, steps = (1, 8 * 2**20, 100) if given.quick else (given.repeats, 96 * 2**20, 1000)
    figures: dict[str, Any] = {"bulk": [], "lock_step": [], "recovery": {}}
    with tempfile.TemporaryDirectory() as folder:
        names = ("bank", "platform", "other")
        known = {name: create_identity(Path(folder) / name, name=name, role="bank") for name in names}
        bare = Bare(known)
        print("one way              processor time, ms a MB        elapsed, MB/s")
        print(f"{'message':>10}    {'bare stream':>12}  {'session':>8}    {'bare stream':>12}  {'session':>8}")
        for size in SIZES:
            count = total // size
            ours, theirs = functools.partial(session_bulk, known, size, count), functools.partial(bare_bulk, bare, size, count)
            (cpu_bare, wall_bare), (cpu, wall) = _side_by_side(theirs, ours, repeats)
            sent = count * size / 1e6
            row = {"bare_cpu_ms_mb": 1e3 * cpu_bare / sent, "session_cpu_ms_mb": 1e3 * cpu / sent}
            row |= {"bare_mb_s": sent / wall_bare, "session_mb_s": sent / wall}
            figures["bulk"].append({"bytes": size} | {key: round(value, 2) for key, value in row.items()})
            print("{:>10}    {:>12.2f}  {:>8.2f}    {:>12.0f}  {:>8.0f}".format(size, *row.values()), flush=True)
        print("\na message each way   processor time, us a turn      elapsed, us a turn")
        for size in (1000, 196_608):
            ours, theirs = functools.partial(session_steps, known, size, steps), functools.partial(bare_steps, bare, size, steps)
            (cpu_bare, wall_bare), (cpu, wall) = _side_by_side(theirs, ours, repeats)
            row = {"bare_cpu_us": cpu_bare, "session_cpu_us": cpu, "bare_us": wall_bare, "session_us": wall}
            row = {key: round(1e6 * value / steps) for key, value in row.items()}
            figures["lock_step"].append({"bytes": size} | row)
            print("{:>10}    {:>12}  {:>8}    {:>12}  {:>8}".format(size, *row.values()), flush=True)
        bare.server.stop(None).wait()
        print("\nuntil the next message, seconds: median, worst")
        for fail, times in (("cut", 4 * repeats), ("stall", 2 * repeats if not given.quick else 1)):
            found = recovery(known, times, fail)
            figures["recovery"][fail] = {"median_s": round(statistics.median(found), 3), "worst_s": round(max(found), 3)}
            print(f"{fail:>10}  {statistics.median(found):.3f}  {max(found):.3f}", flush=True)
    write_json(given.json, {"benchmark": "links", **figures})


if __name__ == "__main__":
    sys.exit(main())
