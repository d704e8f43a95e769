"""Serving processes as an operator runs and watches them: real jobs, their JSON logs, their figures, their health, their end."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from audit.identity import create_identity, load_identity
from audit.sealed import derive
from coordinator.client import connect
from coordinator.config import load_config as load_coordinator
from coordinator.demo.datasets import open_user_files
from coordinator.demo.parties import Layout, job_document, lay_out
from coordinator.demo.processes import command_line
from coordinator.submit import build_spec
from node.cli import main as node_command
from node.config import load_config as load_node
from node.runtime.files import JobFiles
from node.runtime.sealed_files import MAGIC
from protos import tls
from tests.integration.test_blindness import CATEGORY_CANARY, IDENTIFIER_CANARY, NUMBER_CANARY, SHARED, _write_files
from tests.nodes import free_port

pytestmark = pytest.mark.timed

NAMES = ("coordinator", "bank", "platform")
SECONDS = 120.0
FRAME = {"time", "level", "event", "component"}


@dataclass
class Running:
    """The three parties' processes."""

    layout: Layout
    data: Any
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *options: str) -> None:
        command = "isthmus-coordinator" if name == "coordinator" else "isthmus-node"
        arguments = ["--config", str(self.layout.config(name)), "serve", "--log-format", "json", "--log-level", "debug", *options]
        with self.output(name).open("ab") as file:
            self.processes[name] = subprocess.Popen(
                command_line(command, *arguments, end_with_parent=True),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self, name: str) -> Path:
        return self.layout.folder / f"{name}.log"

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output(name).read_text().splitlines()]

    def get(self, name: str, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[name]}{path}", timeout=10) as answer:
            return answer.read().decode()

    def scrape(self, name: str) -> dict[tuple[str, ...], float]:
        """Sample name and label values, to value; nothing while nobody listens."""
        try:
            text = self.get(name, "/metrics")
        except OSError:
            return {}
        return {
            (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def submit(self, **changes: Any) -> str:
        document = job_document(self.data, rounds=2, l2="0.001", holdout="0.3", key_bits=changes.pop("key_bits", 512))
        document["align"] |= changes.pop("align", {})
        config = load_coordinator(self.layout.config("coordinator"))
        with connect(config) as operator:
            job = operator.submit(build_spec(document, coordinator="coordinator", partners=config.partners()).canonical())
        for name in ("bank", "platform"):
            approve = ["--config", str(self.layout.config(name)), "approve", job, "--by", "a person"]
            until(lambda approve=approve: node_command(approve) == 0, f"{name} was offered the job")
        return str(job)

    def state(self, job: str) -> tuple[str, str]:
        with connect(load_coordinator(self.layout.config("coordinator"))) as operator:
            view = operator.show(job)
        return view.state, view.code

    def ended(self, job: str) -> tuple[str, str]:
        until(lambda: self.state(job)[0] in ("finished", "failed"), "the job ended")
        return self.state(job)

    def health(self, name: str, *options: str) -> tuple[int, dict[str, Any]]:
        command = "isthmus-coordinator" if name == "coordinator" else "isthmus-node"
        arguments = ["--config", str(self.layout.config(name)), "health", "--json", *options]
        done = subprocess.run(command_line(command, *arguments), capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, json.loads(done.stdout)


def until(done: Callable[[], Any], what: str, pause: float = 0.05) -> None:
    deadline = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < deadline, f"did not happen: {what}"
        time.sleep(pause)


@contextmanager
def running(folder: Path, *, workers: int) -> Iterator[Running]:
    data = open_user_files(_write_files(folder), label_holder="bank", normalise="casefold", minimum=100)
    (folder / "p").mkdir()
    made = Running(lay_out(folder / "p", data, rounds=2, workers=workers, small_keys=True), data)
    for name in NAMES:
        made.ports[name] = free_port()
        with made.layout.config(name).open("a") as file:
            file.write(f'\n[metrics]\nlisten = "127.0.0.1:{made.ports[name]}"\n')
    try:
        for name in NAMES:
            made.start(name)
        until(lambda: made.scrape("coordinator").get(("isthmus_coordinator_nodes_attached",)) == 2, "both nodes are attached")
        yield made
    finally:
        for process in made.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()


# --- a whole job, watched ---------------------------------------------------------------------------------------------------------


@dataclass
class Watched:
    """What was seen of one job that was finished and one that failed, and of an orderly end."""

    running: Running
    job: str
    failed: tuple[str, str]
    figures: dict[str, dict[tuple[str, ...], float]]
    health: dict[str, tuple[int, dict[str, Any]]]
    over_tls: dict[str, str]
    after: dict[str, tuple[int, dict[str, Any]]]
    ends: dict[str, tuple[int, float]]
    ready: dict[str, str]
    prepared: dict[str, list[bytes]]
    arguments: list[bytes]
    doctor: list[dict[str, str]]


def seen_of_processes() -> list[bytes]:
    """Arguments of every process on this machine, and the variables of those that let this user read them."""
    found = []
    for path in (*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")):
        with contextlib.suppress(OSError):  # it ended, or is another's
            found.append(path.read_bytes())
    return found


class Prepared(threading.Thread):
    """Takes each node's keys and shares while they are on its disk: they are removed when the job ends."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(daemon=True)
        self.layout, self.over = layout, threading.Event()
        self.found: dict[str, list[bytes]] = {}
        self.start()

    def run(self) -> None:
        while not self.over.wait(0.01) and len(self.found) < 2:
            for name in ("bank", "platform"):
                for path in self.layout.home(name).glob("state/jobs/*/prepared.npz"):
                    if name not in self.found:
                        assert path.read_bytes().startswith(MAGIC), "sealed on disk"
                        key = load_identity(self.layout.home(name) / "keys").state_key
                        files = JobFiles(path.parent, derive(key or b"", f"files of {path.parent.name}"))
                        arrays = files.read_arrays(path.name)
                        self.found[name] = [array.tobytes() for array in arrays.values()]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    folder = tmp_path_factory.mktemp("ops")
    with running(folder, workers=1) as made:
        prepared = Prepared(made.layout)
        job = made.submit()
        assert made.ended(job) == ("finished", "")
        prepared.over.set()
        failed = made.ended(made.submit(align={"minimum": SHARED + 1}))
        arguments = seen_of_processes()
        doctor = made.layout.run("bank", "doctor", accept=(0, 1))["checks"]
        health = {name: made.health(name) for name in NAMES}
        ready = {name: made.get(name, "/readyz") for name in NAMES}
        over_tls = {who: check_over_tls(made, who, folder) for who in ("platform", "coordinator", "stranger")}
        wait = ("isthmus_node_steps_total", "failed", "align")
        until(lambda: all(made.scrape(name).get(wait) for name in ("bank", "platform")), "both nodes gave the step up")
        figures = {name: made.scrape(name) for name in NAMES}
        ends = {}
        for name in reversed(NAMES):
            started = time.monotonic()
            made.processes[name].send_signal(signal.SIGTERM)
            ends[name] = (made.processes[name].wait(30), time.monotonic() - started)
        after = {name: made.health(name) for name in NAMES}
    return Watched(made, job, failed, figures, health, over_tls, after, ends, ready, prepared.found, arguments, doctor)


def check_over_tls(made: Running, who: str, folder: Path) -> str:
    """The standard health service on the coordinator's port, asked with a party's certificate."""
    own = load_identity(made.layout.home("coordinator") / "keys")
    if who == "stranger":
        identity = create_identity(folder / "stranger", name="platform", role="platform")
    else:
        identity = load_identity(made.layout.home(who) / "keys")
    with tls.channel(
        f"127.0.0.1:{made.layout.coordinator_port}",
        server_name="coordinator",
        server_certificate_pem=own.tls_certificate_pem,
        key_pem=identity.tls_key_pem,
        certificate_pem=identity.tls_certificate_pem,
    ) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            status = stub.Check(health_pb2.HealthCheckRequest(service=""), timeout=10).status
        except grpc.RpcError as error:
            return str(error.code().name)
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=10))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))


def test_every_line_is_json_with_known_fields(watched: Watched) -> None:
    known = FRAME | {"job", "step", "round", "attempt", "peer", "code", "seconds", "bytes", "trace"}
    for name in NAMES:
        lines = watched.running.lines(name)
        assert len(lines) > 10
        for line in lines:
            assert set(line) >= FRAME
            assert set(line) <= known, line
            assert len(line.get("job", "")) in (0, 12)
        assert any(line.get("job") == watched.job[:12] for line in lines)
    bank = watched.running.lines("bank")
    done = [line for line in bank if line.get("seconds") is not None]
    assert [(line["step"], line["round"]) for line in done][:3] == [("align", 0), ("prepare", 0), ("round", 1)]
    assert all(line["bytes"] > 0 and line["attempt"] == 0 and line["component"] == "node.steps" for line in done)
    assert any(line["level"] == "debug" for line in bank), "what was searched below is all that can be logged"


def test_doctor_looks_at_the_real_thing(watched: Watched) -> None:
    checks = {check["name"]: check for check in watched.doctor}
    for name in ("keys", "encryption", "permissions", "core dumps", "coordinator", "partner platform"):
        assert checks[name]["state"] == "ok", checks[name]
    for name in ("coordinator", "partner platform"):
        assert "TLS 1.3 with the pinned certificate" in checks[name]["detail"]
        assert checks[f"{name} version"]["state"] == "ok"
        assert checks[f"{name} clock"]["state"] == "ok"


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs Linux's /proc")
def test_no_process_argument_holds_a_key(watched: Watched) -> None:
    layout = watched.running.layout
    seen = b"\n".join(watched.arguments)
    for name in NAMES:
        assert str(layout.config(name)).encode() in seen, "the serving processes are among those looked at"
        own = load_identity(layout.home(name) / "keys")
        encoded = [
            *(line for line in own.tls_key_pem.splitlines() if len(line) > 30),
            own.log_key.private_text().split("+", 4)[4].encode(),
        ]
        raw = [(layout.home(name) / "secret.key").read_bytes(), own.state_key or b""]
        for secret in (*encoded, *raw, *(data.hex().encode() for data in raw)):
            assert len(secret) >= 32
            assert secret not in seen


def test_no_log_and_no_figure_holds_a_canary_a_key_or_a_share(watched: Watched) -> None:
    layout = watched.running.layout
    logs = b"".join(watched.running.output(name).read_bytes() for name in NAMES)
    seen = (logs + repr(watched.figures).encode()).lower()
    canaries = [IDENTIFIER_CANARY.format(i) for i in range(SHARED)]
    texts = [*canaries, CATEGORY_CANARY, str(NUMBER_CANARY), "cards.csv", "shoppers.csv"]
    assert [text for text in texts if text.lower().encode() in seen] == []
    secrets: list[bytes] = []
    for name in ("bank", "platform"):
        keys = layout.home(name) / "keys"
        own = load_identity(keys)
        secrets += [line for line in own.tls_key_pem.splitlines() if len(line) > 30]
        secrets += [own.log_key.private_text().encode(), (layout.home(name) / "secret.key").read_bytes(), own.state_key or b""]
        for data in watched.prepared[name]:
            if len(set(data)) > 8:  # zeros and small counts are no secret
                secrets += [data[:16], data[-16:]]
    assert len(secrets) > 20
    for secret in secrets:
        for form in (secret, secret.hex().encode(), repr(list(secret)).encode(), str(int.from_bytes(secret, "big")).encode()):
            assert form.lower() not in seen


def test_the_nodes_figures_tell_the_job(watched: Watched) -> None:
    for name in ("bank", "platform"):
        found = watched.figures[name]
        step = "isthmus_node_steps_total"
        assert found[step, "done", "align"] == found[step, "done", "prepare"] == found[step, "done", "finish"] == 1
        assert found[step, "started", "align"] == 2
        assert found[step, "failed", "align"] == 1
        assert found["isthmus_node_errors_total", "psi.too_few_shared"] >= 1, "the failing step's code is counted"
        assert found[step, "done", "round"] == found["isthmus_node_rounds_done_total",] in (1, 2)
        assert found["isthmus_node_step_seconds_count", "prepare"] == 1
        assert found["isthmus_node_attached",] == found["isthmus_node_ready",] == found["isthmus_node_engine_workers",] == 1
        assert found["isthmus_node_jobs", "finished"] == found["isthmus_node_jobs", "failed"] == 1
        assert found["isthmus_node_log_size_bytes",] > 10_000
        assert found["process_resident_memory_bytes",] > 20 * 2**20
        assert found["process_cpu_seconds_total",] > 0
    sent, received = (("isthmus_node_bytes_total", way, "prepare") for way in ("sent", "received"))
    bank, platform = watched.figures["bank"], watched.figures["platform"]
    assert bank[sent] == platform[received] > 0
    assert bank[received] == platform[sent] > 0


def test_the_coordinators_figures_tell_the_job(watched: Watched) -> None:
    found = watched.figures["coordinator"]
    assert watched.failed == ("failed", "psi.too_few_shared")
    assert found["isthmus_coordinator_errors_total", "psi.too_few_shared"] == 1
    assert found["isthmus_coordinator_steps_total", "failed", "align"] == 1
    assert found["isthmus_coordinator_steps_total", "done", "evaluate"] == 1
    assert found["isthmus_coordinator_restarts_total",] == 0
    assert found["isthmus_coordinator_nodes_attached",] == 2
    assert found["isthmus_coordinator_jobs", "finished"] == found["isthmus_coordinator_jobs", "failed"] == 1
    between = sum(watched.figures[name]["isthmus_node_bytes_total", "sent", "round"] for name in ("bank", "platform"))
    assert found["isthmus_coordinator_bytes_total", "sent", "round"] == between > 0


def test_no_label_is_a_job_or_a_name(watched: Watched) -> None:
    values = {value for found in watched.figures.values() for key in found for value in key[1:]}
    assert not values & {"bank", "platform", "coordinator", watched.job, watched.job[:12]}
    assert not [value for value in values if re.fullmatch(r"[0-9a-f]{12,}", value)]


def test_health_by_command_by_http_and_by_the_standard_service(watched: Watched) -> None:
    for name in NAMES:
        assert watched.health[name] == (0, {"live": True, "ready": True, "failing": [], "code": ""})
        assert json.loads(watched.ready[name]) == {"ready": True, "failing": []}
    assert watched.over_tls == {"platform": "SERVING", "coordinator": "SERVING", "stranger": "UNAVAILABLE"}


def test_an_idle_process_ends_at_once_with_status_0_and_is_then_not_healthy(watched: Watched) -> None:
    for name in NAMES:
        status, seconds = watched.ends[name]
        assert status == 0
        assert seconds < 12, name
        status, told = watched.after[name]
        assert status == 1
        assert (told["live"], told["ready"], told["code"]) == (False, False, "health.not_served")


# --- stopping in the middle of a step ---------------------------------------------------------------------------------------------


def family(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]


def stop_in_prepare(made: Running, name: str, *, signals: int = 1) -> tuple[str, int, float, list[psutil.Process]]:
    """Start a job whose preparation takes seconds, and stop one process in the middle of it."""
    job = made.submit(key_bits=2048)
    begun = ("isthmus_node_steps_total", "started", "prepare")
    until(lambda: made.scrape("platform").get(begun) == made.scrape("bank").get(begun) == 1, "the preparation began")
    process = made.processes[name]
    if name != "coordinator":
        until(lambda: family(process.pid), "the workers are up")
    workers, started = family(process.pid), time.monotonic()
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    return job, process.wait(60), time.monotonic() - started, workers


def states(made: Running, name: str, step: str) -> list[tuple[int, str, str]]:
    log = made.layout.home(name) / "state" / "log" / "log.jsonl"
    entries = [json.loads(line) for line in log.read_bytes().splitlines()]
    return [(e["attempt"], e["state"], e.get("code", "")) for e in entries if e["kind"] == "step" and e["step"] == step]


def test_within_its_grace_a_node_ends_its_step_first_and_the_job_goes_on_after_the_restart(tmp_path: Path) -> None:
    with running(tmp_path, workers=2) as made:
        job, status, seconds, workers = stop_in_prepare(made, "platform")
        assert status == 0
        assert seconds < 20 + 12
        assert not [worker for worker in workers if worker.is_running()], "no orphan"
        assert states(made, "platform", "prepare") == [(0, "start", ""), (0, "done", "")]
        assert states(made, "platform", "round") == [], "no further step was begun"
        last = (made.layout.home("platform") / "state" / "log" / "checkpoint").read_text()
        assert "isthmus.log/coordinator " in last, "it waited for the cosignature of its last checkpoint"
        made.start("platform")
        assert made.ended(job) == ("finished", "")
        assert len([e for e in states(made, "platform", "prepare") if e[1] == "done"]) == 1, "what was done is not done again"


@pytest.mark.parametrize("how", ["no grace", "twice"])
def test_without_grace_or_asked_twice_it_gives_the_step_up_and_the_job_goes_on(tmp_path: Path, how: str) -> None:
    with running(tmp_path, workers=2) as made:
        if how == "no grace":
            made.processes["platform"].send_signal(signal.SIGTERM)
            assert made.processes["platform"].wait(30) == 0
            made.start("platform", "--grace", "0")
            until(lambda: made.scrape("platform").get(("isthmus_node_attached",)) == 1, "it is attached again")
        job, status, seconds, workers = stop_in_prepare(made, "platform", signals=2 if how == "twice" else 1)
        assert status == 0
        assert seconds < 12
        assert not [worker for worker in workers if worker.is_running()], "no orphan"
        assert states(made, "platform", "prepare")[:2] == [(0, "start", ""), (0, "failed", "node.stopping")]
        made.start("platform")
        assert made.ended(job) == ("finished", "")


def test_a_stopping_coordinator_takes_the_last_reports_and_directs_nothing_more(tmp_path: Path) -> None:
    with running(tmp_path, workers=2) as made:
        job, status, _, _ = stop_in_prepare(made, "coordinator")
        assert status == 0
        assert states(made, "bank", "round") == states(made, "platform", "round") == []
        said = [line["event"] for line in made.lines("bank")]
        assert any("coordinator.stopping" in event for event in said), "the nodes are told"
        assert made.health("bank")[1]["failing"] == ["attached"]
        made.start("coordinator")
        until(lambda: made.scrape("coordinator").get(("isthmus_coordinator_nodes_attached",)) == 2, "both came back")
        assert made.ended(job) == ("finished", "")
        assert len([e for e in states(made, "bank", "prepare") if e[1] == "done"]) == 1, "what was done is not done again"


# --- what ends a server, in JSON too ----------------------------------------------------------------------------------------------


def test_an_error_that_ends_serve_is_a_json_line(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text('[node]\nname = "bank"\nrole = "bank"\n[metrics]\nlisten = "0.0.0.0:9464"\n')
    for options in (["--log-format", "json"], ["--json"]):
        command = command_line("isthmus-node", "--config", str(tmp_path / "node.toml"), "serve", *options)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert done.stdout == ""
        (line,) = [json.loads(text) for text in done.stderr.splitlines()]
        assert (line["level"], line["code"]) == ("error", "metrics.not_loopback")


def test_a_bad_handshake_leaves_no_noise(tmp_path: Path) -> None:
    """gRPC's core writes to standard error by itself unless told not to."""
    with running(tmp_path, workers=1) as made:
        for name in ("coordinator", "platform"):
            port = made.layout.coordinator_port if name == "coordinator" else made.layout.platform_port
            with pytest.raises(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
        assert load_node(made.layout.config("platform")).node.listen
        for name in ("coordinator", "platform"):
            assert all(set(line) >= FRAME for line in made.lines(name))
