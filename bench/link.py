"""A direct stream between two nodes beside one through the coordinator's relay, all three on this machine, each in its own process.

    python -m bench.link [--messages N] [--size BYTES] [--trips N] [--repeats N] [--json FILE]

One direction of messages of one size, then small messages to and fro.  Real TLS, real sealing, loopback: what is measured is what
the processors do, not a network.  Medians over the repeats.
"""

from __future__ import annotations

import multiprocessing
import secrets
import statistics
import tempfile
import threading
import time
from concurrent import futures
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import grpc
from rich.console import Console
from rich.table import Table

from audit.identity import Identity, create_identity, load_identity
from audit.partner import Partner, partner_of
from audit.spec import JobSpec
from bench.common import write_json
from coordinator.relay import RelayService
from coordinator.server import OPTIONS
from node.limits import LIMITS
from node.transport.channel import PROTOCOL_VERSION, GrpcChannel
from node.transport.client import dial
from node.transport.options import TIMEOUTS, server_options
from node.transport.relay import meet
from node.transport.servicer import PeerServicer, accept
from node.transport.switchboard import Switchboard
from protos import peer_pb2, peer_pb2_grpc, relay_pb2_grpc, tls
from protos.peer_pb2 import MaskedPoints, PsiStart

NAMES = ("bank", "platform", "coordinator")
THREADS = 16


def spec() -> JobSpec:
    """A job between the two, which nobody runs."""

    def party(name: str) -> dict[str, Any]:
        return {"name": name, "role": name, "dataset": "d", "features": ["x"]}

    fields = {"label_holder": party("bank"), "feature_holder": party("platform"), "label": {"column": "y"}}
    return JobSpec.model_validate({"nonce": "0" * 32, "coordinator": "coordinator", **fields})


def _opening(name: str, attempt: int) -> peer_pb2.Open:
    return peer_pb2.Open(protocol=PROTOCOL_VERSION, party=name, job=spec().identity(), step="align", attempt=attempt)


def _listen(known: dict[str, Identity], me: str, pinned: list[str], options: Any) -> tuple[grpc.Server, str]:
    server = grpc.server(futures.ThreadPoolExecutor(THREADS), options=options)
    own, others = known[me], [known[name].tls_certificate_pem for name in pinned]
    port = tls.bind(server, "127.0.0.1:0", tls.server_credentials(own.tls_key_pem, own.tls_certificate_pem, others))
    return server, f"127.0.0.1:{port}"


def _relay(folder: Path, pipe: Connection) -> None:
    """The coordinator's process: its relay alone; tells its processor seconds whenever asked."""
    known = {name: load_identity(folder / name) for name in NAMES}
    server, address = _listen(known, "coordinator", ["bank", "platform"], OPTIONS)
    pinned = {name: known[name].tls_certificate_pem for name in ("bank", "platform")}
    attempt = [0]
    service = RelayService(pinned=pinned, running=lambda job: (("bank", "platform"), ("align", 0, attempt[0])))
    relay_pb2_grpc.add_RelayServicer_to_server(service, server)
    server.start()
    pipe.send(address)
    while (number := pipe.recv()) >= 0:
        attempt[0] = number
        pipe.send(time.process_time())
    server.stop(None).wait()


def _platform(folder: Path, pipe: Connection) -> None:
    """The platform's process: takes everything, answers once, then answers every small message."""
    known = {name: load_identity(folder / name) for name in NAMES}
    server, address = _listen(known, "platform", ["bank"], server_options(LIMITS))
    board = Switchboard()
    pinned = {"bank": known["bank"].tls_certificate_pem}
    servicer = PeerServicer(pinned=pinned, permit=lambda peer, job: None, board=board)
    peer_pb2_grpc.add_PeerServicer_to_server(servicer, server)
    server.start()
    pipe.send(address)
    relay = pipe.recv()
    while (asked := pipe.recv()) is not None:
        way, attempt, messages, trips = asked
        opening = _opening("platform", attempt)
        if way == "direct":
            stop = threading.Event()
            channel = accept(board, "bank", opening, limits=LIMITS, timeouts=TIMEOUTS, stop=stop)
        else:
            coordinator = partner_of(known["coordinator"], address=relay)
            bank = partner_of(known["bank"], address="")
            channel = meet(coordinator, known["platform"], bank, spec(), opening, board=board)
        for _ in range(messages):
            channel.recv(MaskedPoints)
        for _ in range(trips + 1):
            channel.send(PsiStart(elements=1))
            channel.recv(PsiStart)
        channel.close()
    server.stop(None).wait()


def _measure(channel: GrpcChannel, messages: int, size: int, trips: int) -> tuple[float, float]:
    """Bytes a second one way, and seconds of a small message to and fro."""
    batch = MaskedPoints(first=0, count=1, values=secrets.token_bytes(size))
    start = time.perf_counter()
    for _ in range(messages):
        channel.send(batch)
    channel.recv(PsiStart)
    rate = messages * size / (time.perf_counter() - start)
    channel.send(PsiStart(elements=1))
    start = time.perf_counter()
    for _ in range(trips):
        channel.recv(PsiStart)
        channel.send(PsiStart(elements=1))
    trip = (time.perf_counter() - start) / trips
    channel.close()
    return rate, trip


def measure(folder: Path, *, messages: int, size: int, trips: int, repeats: int) -> dict[str, dict[str, float]]:
    """For both ways: bytes a second and seconds of a trip; for the relay also the coordinator's processor seconds for each GiB."""
    known = {name: create_identity(folder / name, name=name, role=name) for name in NAMES}
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    children = []
    for name, body in (("coordinator", _relay), ("platform", _platform)):
        pipes[name], other = context.Pipe()
        children.append(context.Process(target=body, args=(folder, other)))
        children[-1].start()
    addresses = {name: pipe.recv() for name, pipe in pipes.items()}
    pipes["platform"].send(addresses["coordinator"])
    coordinator, platform = (partner_of(known[name], address=addresses[name]) for name in ("coordinator", "platform"))
    found: dict[str, list[tuple[float, float, float]]] = {"direct": [], "relay": []}
    for attempt in range(repeats + 1):  # the first fills caches
        for way, results in found.items():
            results.append(_once(way, attempt, pipes, known["bank"], coordinator, platform, (messages, size, trips)))
    pipes["platform"].send(None)
    pipes["coordinator"].send(-1)
    for child in children:
        child.join()
    return {way: _medians(results[1:], messages * size) for way, results in found.items()}


def _once(
    way: str,
    attempt: int,
    pipes: dict[str, Connection],
    bank: Identity,
    coordinator: Partner,
    platform: Partner,
    work: tuple[int, int, int],
) -> tuple[float, float, float]:
    messages, size, trips = work
    pipes["coordinator"].send(attempt)
    before = pipes["coordinator"].recv()
    pipes["platform"].send((way, attempt, messages, trips))
    opening = _opening("bank", attempt)
    if way == "direct":
        channel = dial(platform, bank, opening)
    else:
        channel = meet(coordinator, bank, platform, spec(), opening, board=Switchboard())
    rate, trip = _measure(channel, messages, size, trips)
    pipes["coordinator"].send(attempt)
    return rate, trip, pipes["coordinator"].recv() - before


def _medians(results: list[tuple[float, float, float]], moved: int) -> dict[str, float]:
    rate, trip, cpu = (statistics.median(values) for values in zip(*results, strict=True))
    return {"bytes_per_second": rate, "trip_seconds": trip, "coordinator_cpu_seconds_per_gib": cpu / moved * 2**30}


@click.command(help=__doc__)
@click.option("--messages", default=128, show_default=True, type=click.IntRange(1))
@click.option("--size", default=2**20, show_default=True, type=click.IntRange(1, LIMITS.message_bytes - 64))
@click.option("--trips", default=200, show_default=True, type=click.IntRange(1))
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1))
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="where the figures go")
def main(messages: int, size: int, trips: int, repeats: int, path: Path | None) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), messages=messages, size=size, trips=trips, repeats=repeats)
    table = Table("way", "MiB/s", "to and fro, ms", "coordinator, CPU s/GiB")
    for way, figures in found.items():
        cpu = figures["coordinator_cpu_seconds_per_gib"]
        table.add_row(way, f"{figures['bytes_per_second'] / 2**20:.0f}", f"{figures['trip_seconds'] * 1e3:.2f}", f"{cpu:.2f}")
    Console().print(table)
    if path is not None:
        write_json(path, {"benchmark": "link", "messages": messages, "size": size, "trips": trips, "repeats": repeats, **found})


if __name__ == "__main__":
    main()
