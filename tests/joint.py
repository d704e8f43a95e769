"""Real jobs in one process: the coordinator's own server and two serving nodes over real gRPC and TLS, with 512-bit keys and a
few hundred rows, and the logs they leave.

``joint(Ask(...), ...)`` runs the jobs asked for, one after the other, between the same three parties and returns their log folders
and signing keys.  What was asked for once is run once in a test session: copy the folders before you change them::

    made = joint(PLAIN)
    verify_logs(list(made.copy(tmp_path).values()), partners=made.partners)
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

from audit.checkpoint import parse_note
from audit.identity import load_identity
from audit.signing import SigningKey
from coordinator.cli import main as coordinator_command
from coordinator.client import connect
from coordinator.config import load_config as load_coordinator
from coordinator.demo import parties
from coordinator.demo.datasets import DemoData
from coordinator.server import Server
from node.cli import main as node_command
from node.config import load_config as load_node
from node.runtime.serve import serve
from node.transport.channel import GrpcChannel
from tests.asks import KEYS, Ask, data_for, spec_for

NODES = ("bank", "platform")
PARTIES = (*NODES, "coordinator")
ENDED = ("finished", "failed", "cancelled", "rejected")
_SECONDS = 90.0


@dataclass(frozen=True)
class Joint:
    """What the jobs left: log folders and signing keys by party, partner files, the jobs' identities and final states."""

    folders: dict[str, Path]
    keys: dict[str, SigningKey] = field(repr=False)
    partners: tuple[Path, ...]
    jobs: tuple[str, ...]
    states: tuple[str, ...]

    def copy(self, folder: Path) -> dict[str, Path]:
        """The log folders, copied into ``folder`` to be changed."""
        return {name: Path(shutil.copytree(path, folder / name)) for name, path in self.folders.items()}

    def entries(self, name: str) -> list[dict[str, Any]]:
        """All entries of one log."""
        return [json.loads(line) for line in (self.folders[name] / "log.jsonl").read_bytes().splitlines()]


@functools.cache
def joint(*asks: Ask) -> Joint:
    """Run the jobs; all must name the same label holder, because each node offers its data for one role."""
    folder = Path(_folder().name) / f"{len(list(Path(_folder().name).iterdir())):03d}"
    folder.mkdir()
    with world(folder, asks[0], rounds=max(ask.rounds for ask in asks)) as joined:
        ran = [joined.run(ask) for ask in asks]
        joined.wait_cosigned()
    layout = joined.layout
    return Joint(
        folders={name: layout.log(name) for name in PARTIES},
        keys={name: load_identity(layout.home(name) / "keys").log_key for name in PARTIES},
        partners=tuple(layout.partner_file(name) for name in PARTIES),
        jobs=tuple(job for job, _ in ran),
        states=tuple(state for _, state in ran),
    )


@dataclass(frozen=True)
class World:
    """Three parties that serve."""

    data: DemoData
    layout: parties.Layout
    config: Any
    nodes: dict[str, _Node]
    server: Server

    def run(self, ask: Ask) -> tuple[str, str]:
        """Run one job to its end; its identity and final state."""
        return _run(ask, self.data, self.layout, self.config, self.nodes)

    def begin(self, ask: Ask) -> str:
        """Submit a job and approve it at both nodes; its identity."""
        with connect(self.config) as operator:
            job = operator.submit(spec_for(ask, self.data, self.config).canonical())
        for name in NODES:
            for _ in until(f"{name} was not offered the job"):
                if _offered(self.layout.log(name), job):
                    break
            _decide(self.layout, name, job, "approve")
        return job

    def wait_cosigned(self) -> None:
        """Until the last checkpoint of every log has the cosignatures of the two others."""
        for _ in until("the last checkpoints were not cosigned"):
            notes = [parse_note((self.layout.log(name) / "checkpoint").read_bytes()) for name in PARTIES]
            if all(len(note.signatures) == len(PARTIES) for note in notes):
                return


@contextmanager
def world(folder: Path, ask: Ask, *, rounds: int = 2) -> Iterator[World]:
    """The three parties, serving, with data that suit ``ask``."""
    data = data_for(ask, folder)
    (folder / "parties").mkdir()
    with mock.patch.object(parties, "run_command", _command), redirect_stdout(StringIO()):
        layout = parties.lay_out(
            folder / "parties",
            data,
            rounds=rounds,
            workers=1,
            small_keys=True,
            reachable=ask.reachable,  # type: ignore[arg-type]
        )
        if ask.publisher:
            _allow_filter(layout, ask)
        for name in NODES:
            _offer_more(layout, name, ask)
        config = load_coordinator(layout.config("coordinator"))
        server = Server(config)
        server.start()
        running = {name: _Node(layout.config(name)) for name in NODES}
        try:
            yield World(data, layout, config, running, server)
        finally:
            for node in running.values():
                node.stop()
            server.stop()


def _allow_filter(layout: parties.Layout, ask: Ask) -> None:
    for name in NODES:
        publishes = (ask.publisher == "label_holder") == (name == ask.label_holder)
        role, queries = ("publisher", "queries = 1000\n") if publishes else ("querier", "")
        partner = next(other for other in NODES if other != name)
        clause = f'partner = "{partner}"\ndataset = "{parties.DATASET}"\nrole = "{role}"\nreuse_days = 30\n{queries}'
        with (layout.home(name) / "policy.toml").open("a") as policy:
            policy.write(f"\n[[filter]]\n{clause}")


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="isthmus-joint-")


def _command(name: str, *arguments: str, cwd: Path, accept: Any = (0,)) -> dict[str, Any]:
    """A party's command, in this process."""
    status = (coordinator_command if name == "isthmus-coordinator" else node_command)(list(arguments))
    assert status in accept, (name, arguments, status)
    return {}


def _offer_more(layout: parties.Layout, name: str, ask: Ask) -> None:
    """Allow counts; where the jobs name keys, declare them and keep what a replay takes."""

    def policy(document: dict[str, Any]) -> None:
        document["count"] = {"allow": True, "partner_learns": True, "step": 10}
        document |= {"retention": {"keep": "always"}} if ask.keys else {}

    def node(document: dict[str, Any]) -> None:
        (dataset,) = document["dataset"]
        dataset["keys"] = {key: {"column": key, "normalise": rule, "missing": "skip"} for key, rule in KEYS.items()}
        for key in KEYS:
            del dataset["columns"][key]

    parties._edit(layout.home(name) / "policy.toml", policy)
    if ask.keys:
        parties._edit(layout.config(name), node)


class _Node:
    """A serving node that can be stopped and started again."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.failed: list[Exception] = []
        self.lines: list[str] = []
        """What it told its operator."""
        self.start()

    def start(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._body, args=(self._stop,), daemon=True)
        self._thread.start()

    def _body(self, stop: threading.Event) -> None:
        try:
            serve(load_node(self.config), notify=self.lines.append, stop=stop)
        except Exception as error:  # noqa: BLE001 - reported by the assertion below
            self.failed.append(error)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(20)
        assert not self.failed, self.failed
        assert not self._thread.is_alive()


def _run(ask: Ask, data: DemoData, layout: parties.Layout, config: Any, running: dict[str, _Node]) -> tuple[str, str]:
    spec = spec_for(ask, data, config)
    with (
        connect(config) as operator,
        _stopping(ask, running["platform"]),
        _killing(ask, running["platform"], layout.log("platform")),
    ):
        job = operator.submit(spec.canonical())
        asked = False
        for _ in until("the job did not end"):
            state = operator.show(job).state
            if state in ENDED:
                break
            if not asked and all(_offered(layout.log(name), job) for name in NODES):
                asked = True
                if ask.ending == "cancel":
                    operator.cancel(job)
                else:
                    _decide(layout, "bank", job, "approve")
                    _decide(layout, "platform", job, "reject" if ask.ending == "reject" else "approve")
    for _ in until("a node did not hear of the end"):
        if all(_has(layout.log(name), job, "job") for name in NODES):
            return job, state
    raise AssertionError


def _decide(layout: parties.Layout, name: str, job: str, decision: str) -> None:
    more = ("--reason", "a test") if decision == "reject" else ()
    # The log tells of an offer a moment before the command line can find it.
    for _ in until(f"{name} could not {decision}"):
        if node_command(["--config", str(layout.config(name)), decision, job, "--by", "a person", *more]) == 0:
            return


def until(what: str) -> Iterator[None]:
    """Look again and again, for as long as anything here may take."""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        yield
        time.sleep(0.05)
    raise AssertionError(what)


def _offered(log: Path, job: str) -> bool:
    return _has(log, job, "spec")


def _has(log: Path, job: str, kind: str) -> bool:
    path = log / "log.jsonl"
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    return any(b'"kind":"%s"' % kind.encode() in line and job.encode() in line for line in lines)


@contextmanager
def _stopping(ask: Ask, node: _Node) -> Iterator[None]:
    """Where asked for: stop ``node`` at the first message of a kind, and start it again."""
    if ask.ending != "stop":
        yield
        return
    send, threads, lock = GrpcChannel.send_payload, list[threading.Thread](), threading.Lock()

    def again() -> None:
        node.stop()
        node.start()

    def noted(self: GrpcChannel, kind: str, payload: bytes) -> None:
        with lock:
            due = kind == ask.stop_at and len(threads) < ask.stops and not any(thread.is_alive() for thread in threads)
            if due:
                threads.append(threading.Thread(target=again, daemon=True))
                threads[-1].start()
        if due:
            node._stop.wait(5)
            time.sleep(0.3)
        send(self, kind, payload)

    with mock.patch.object(GrpcChannel, "send_payload", noted):
        yield
    assert len(threads) == ask.stops, f"no message {ask.stop_at} was sent"
    for thread in threads:
        thread.join(30)


@contextmanager
def _killing(ask: Ask, node: _Node, log: Path) -> Iterator[None]:
    """Where asked for: run ``node`` as a process, kill it at a kind of message, and go on in this process."""
    if ask.ending != "kill":
        yield
        return
    node.stop()
    command = [sys.executable, "-c", "from node.cli import main; main()", "--config", str(node.config), "serve"]
    before = (log / "log.jsonl").read_bytes().count(f'"type":"{ask.stop_at}"'.encode())
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    killed, send = threading.Event(), GrpcChannel.send_payload

    def held(self: GrpcChannel, kind: str, payload: bytes) -> None:
        if kind == ask.stop_at:  # the other node, in this process: without its message the step cannot end before the kill
            killed.wait(_SECONDS)
        send(self, kind, payload)

    def kill() -> None:
        for _ in until(f"no message {ask.stop_at} was sent"):
            if (log / "log.jsonl").read_bytes().count(f'"type":"{ask.stop_at}"'.encode()) > before:
                break
        process.kill()
        process.wait()
        killed.set()
        node.start()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        with mock.patch.object(GrpcChannel, "send_payload", held):
            yield
    finally:
        killed.set()
        process.kill()
        killer.join(30)
