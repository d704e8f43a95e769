"""The stream to a coordinator over real gRPC and TLS, and the serving process around it."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc._cython import cygrpc

from audit.identity import Identity
from audit.partner import Partner, export_partner, partner_of
from coordinator import server
from node.errors import IsthmusError
from node.runtime.serve import serve
from node.transport.control import ControlClient
from node.transport.options import Backoff, Timeouts, client_options, server_options
from protos import control_pb2, control_pb2_grpc, tls
from tests.cutter import Cutter
from tests.nodes import QUICK, free_port, identities, write_node

pytestmark = pytest.mark.timed

PERMISSIVE = [("grpc.http2.min_ping_interval_without_data_ms", 200)]
"""So that a test may ping more often than a real node."""


class Scripted(control_pb2_grpc.ControlServicer):
    """A coordinator that welcomes, keeps what it hears, and sends what a test puts into ``say``."""

    def __init__(self, *, protocol: int = 1) -> None:
        self.protocol = protocol
        self.heard: queue.Queue[control_pb2.Report] = queue.Queue()
        self.say: queue.Queue[control_pb2.Directive | None] = queue.Queue()

    def Attach(self, reports: Iterator[control_pb2.Report], context: Any) -> Iterator[control_pb2.Directive]:
        def listen() -> None:
            try:
                for report in reports:
                    self.heard.put(report)
            except grpc.RpcError:
                pass

        threading.Thread(target=listen, daemon=True).start()
        yield control_pb2.Directive(welcome=control_pb2.Welcome(protocol=self.protocol, party="coordinator", software="1"))
        # After a cut several may be open: each ends with its own link, or the server's threads would keep Python from ending.
        while context.is_active():
            try:
                directive = self.say.get(timeout=0.05)
            except queue.Empty:
                continue
            if directive is None:
                return
            yield directive


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    return identities(tmp_path_factory.mktemp("keys"))


class Coordinator:
    def __init__(self, known: dict[str, Identity], *, protocol: int = 1, port: int = 0) -> None:
        self.script = Scripted(protocol=protocol)
        self.server = grpc.server(futures.ThreadPoolExecutor(4), options=[*tls.SERVER_OPTIONS, *PERMISSIVE])
        control_pb2_grpc.add_ControlServicer_to_server(self.script, self.server)
        own = known["coordinator"]
        pinned = [known["bank"].tls_certificate_pem]
        credentials = tls.server_credentials(own.tls_key_pem, own.tls_certificate_pem, pinned)
        self.port = tls.bind(self.server, f"127.0.0.1:{port}", credentials)
        self.server.start()
        self.partner = partner_of(own, address=f"127.0.0.1:{self.port}")

    def stop(self) -> None:
        self.script.say.put(None)
        self.server.stop(None).wait()


@pytest.fixture
def coordinator(known: dict[str, Identity]) -> Iterator[Coordinator]:
    found = Coordinator(known)
    yield found
    found.stop()


def client(partner: Partner, known: dict[str, Identity], **more: Any) -> ControlClient:
    options: dict[str, Any] = {"handle": lambda d: None, "on_attach": lambda: None, "notify": lambda line: None} | more
    return ControlClient(coordinator=partner, identity=known["bank"], software="1.0", timeouts=QUICK, **options)


def test_hello_welcome_directives_and_reports(coordinator: Coordinator, known: dict[str, Identity]) -> None:
    received: queue.Queue[control_pb2.Directive] = queue.Queue()
    link = client(coordinator.partner, known, handle=received.put)
    link.start()
    hello = coordinator.script.heard.get(timeout=5).hello
    assert (hello.protocol, hello.party, hello.software) == (1, "bank", "1.0")
    coordinator.script.say.put(control_pb2.Directive(job_end=control_pb2.JobEnd(job="x", outcome="failed")))
    assert received.get(timeout=5).job_end.outcome == "failed"
    link.report(control_pb2.Report(step_failed=control_pb2.StepFailed(code="a.b")))
    assert coordinator.script.heard.get(timeout=5).step_failed.code == "a.b"
    link.stop()


def test_progress_is_throttled_but_the_end_is_told(coordinator: Coordinator, known: dict[str, Identity]) -> None:
    link = client(coordinator.partner, known)
    link.start()
    coordinator.script.heard.get(timeout=5)
    assert link.attached.wait(5)
    time.sleep(0.1)
    for done in range(1, 1001):
        link.progress(job="j", step="align", attempt=0, round=0, phase="align", done=done, total=1000)
    link.stop()
    told = []
    while not coordinator.script.heard.empty():
        told.append(coordinator.script.heard.get().progress.done)
    assert told[0] == 1
    assert told[-1] == 1000
    assert len(told) <= 4


def test_it_attaches_again_after_a_cut_and_says_again_what_may_be_missed(known: dict[str, Identity]) -> None:
    first = Coordinator(known)
    attached = threading.Semaphore(0)
    lines: list[str] = []
    link = client(first.partner, known, on_attach=attached.release, notify=lines.append)
    link.start()
    assert attached.acquire(timeout=5)
    port = first.port
    first.stop()
    second = Coordinator(known, port=port)
    assert attached.acquire(timeout=10)
    link.stop()
    second.stop()
    assert sum("attached to the coordinator" in line and "not " not in line for line in lines) == 2


def test_a_half_open_stream_is_noticed_and_opened_again(coordinator: Coordinator, known: dict[str, Identity]) -> None:
    """Packets vanish without a word: the pings go unanswered, and what was missed is said again on the new stream."""
    cutter = Cutter(coordinator.port)
    attached = threading.Semaphore(0)
    link = ControlClient(
        coordinator=replace(coordinator.partner, address=cutter.address),
        identity=known["bank"],
        software="1.0",
        handle=lambda directive: None,
        on_attach=attached.release,
        notify=lambda line: None,
        timeouts=replace(QUICK, keepalive=0.4, keepalive_answer=0.5),
    )
    link.start()
    assert attached.acquire(timeout=5)
    time.sleep(3)
    assert cutter.connections == 1  # pings alone keep it
    cutter.stall()
    stalled = time.monotonic()
    assert attached.acquire(timeout=10)
    assert time.monotonic() - stalled < 8
    assert cutter.connections == 2
    link.stop()
    cutter.close()


def test_every_option_is_one_that_grpc_knows() -> None:
    """gRPC passes over an option that it does not know without a word."""
    library = Path(cygrpc.__file__).read_bytes()
    options = [*server.OPTIONS, *server_options(), *client_options(), *client_options(pinging=Timeouts()), *PERMISSIVE]
    unknown = {name for name, _ in options if name.encode() + b"\0" not in library}
    assert not unknown
    assert b"grpc.http2.min_recv_ping_interval_without_data_ms" not in library, "the search finds anything"


def test_many_nodes_do_not_come_back_at_once() -> None:
    """Full jitter: pauses spread over the whole of their growing range."""
    times = Timeouts(backoff=0.2, backoff_max=5.0)
    first = [Backoff(times).pause() for _ in range(400)]
    assert max(first) <= 0.2
    assert 0.08 < sum(first) / len(first) < 0.12
    late = []
    for _ in range(400):
        backoff = Backoff(times)
        for _ in range(8):
            last = backoff.pause()
        late.append(last)
        backoff.reset()
        assert backoff.pause() <= 0.2
    assert max(late) <= 5.0
    assert 2.0 < sum(late) / len(late) < 3.0


@pytest.mark.parametrize(
    ("kind", "code"), [("version", "transport.protocol_version"), ("certificate", "transport.wrong_certificate")]
)
def test_what_no_waiting_heals_ends_it(known: dict[str, Identity], kind: str, code: str) -> None:
    running = Coordinator(known, protocol=2 if kind == "version" else 1)
    partner = running.partner
    if kind == "certificate":
        other = partner_of(known["platform"], address=partner.address)
        partner = Partner("coordinator", "coordinator", other.address, other.certificate_pem, other.log_key)
    link = client(partner, known)
    link.start()
    assert link.ended.wait(10)
    running.stop()
    assert isinstance(link.fatal, IsthmusError)
    assert link.fatal.code == code
    assert link.fatal.remedy
    assert not link.attached.is_set()


def _serving_folder(tmp_path: Path, known: dict[str, Identity], coordinator: Coordinator, **where: int) -> Path:
    config = write_node(tmp_path, "bank", "", **where)
    keys = config.keys_folder
    keys.mkdir()
    own = known["bank"]
    for name, data in (("tls.key", own.tls_key_pem), ("tls.crt", own.tls_certificate_pem)):
        (keys / name).write_bytes(data)
    (keys / "log.key").write_text(own.log_key.private_text() + "\n")
    (keys / "identity.json").write_text('{"v":1,"name":"bank","role":"bank"}')
    for name in ("tls.key", "log.key"):
        (keys / name).chmod(0o600)
    config.partners_folder.mkdir()
    for name, address in (("coordinator", coordinator.partner.address), ("platform", "")):
        (config.partners_folder / f"{name}.partner.json").write_bytes(export_partner(known[name], address=address))
    return config.path


def test_serving_and_stopping(tmp_path: Path, known: dict[str, Identity], coordinator: Coordinator) -> None:
    """A real process: one readable line when ready, no second process on the same state, a quick end on SIGTERM."""
    port = free_port()
    path = _serving_folder(tmp_path, known, coordinator, port=port)
    command = [sys.executable, "-c", "from node.cli import main; main()", "--config", str(path), "serve"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        lines = [process.stderr.readline().strip() for _ in range(2)]
        assert any("isthmus-node bank: ready, listening at" in line for line in lines), lines
        second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert second.returncode == 2
        assert "state.in_use" in second.stderr
        assert "Traceback" not in second.stderr
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert time.monotonic() - started < 6
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
    assert (tmp_path / "state" / "log" / "checkpoint").exists()
    assert os.stat(tmp_path / "state" / "state.db").st_mode & 0o077 == 0


def _listening() -> list[int]:
    """Ports that this process listens at."""
    found = psutil.Process().net_connections(kind="tcp")
    return sorted(one.laddr.port for one in found if one.status == psutil.CONN_LISTEN)


def test_without_listen_there_is_no_listener(tmp_path: Path, known: dict[str, Identity], coordinator: Coordinator) -> None:
    from node.config import load_config

    before, during = _listening(), []
    stop, lines = threading.Event(), []

    def notify(line: str) -> None:
        lines.append(line)
        if "ready" in line:
            during.extend(_listening())
            stop.set()

    serve(load_config(_serving_folder(tmp_path, known, coordinator)), notify=notify, stop=stop, timeouts=QUICK)
    assert before, "the coordinator's, which is in this process"
    assert during == before, "no port of its own, for partners or for monitoring"
    assert any("no inbound port" in line for line in lines)
