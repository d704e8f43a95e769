"""A coordinator over real gRPC and TLS, and scripted nodes that attach to it, for tests."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from audit.identity import Identity, create_identity
from audit.partner import export_partner
from audit.receipts import approval_statement
from audit.spec import JobSpec
from coordinator.client import connect
from coordinator.config import CoordinatorConfig, load_config
from coordinator.leader import Leadership
from coordinator.server import Server
from coordinator.submit import build_spec
from protos import control_pb2, control_pb2_grpc, tls
from tests import postgres
from tests.nodes import free_port

GAINS = [control_pb2.GainsRow(decile=1, rows=40, positives=20)]
METRICS = control_pb2.Metrics(auc=0.75, ks=0.4, log_loss=0.5, base_rate=0.21, rows=400, gains=GAINS)
WAIT = 10.0

on_both = pytest.mark.parametrize("world", ["sqlite", "postgresql"], indirect=True)
"""Marks a test that runs on either database: its fixture ``world`` hands the parameter to :func:`world_on`."""


class World:
    """One coordinator's folder and both nodes' keys.

    Args:
        store: the database's URL; SQLite in the state folder without one.
    """

    def __init__(self, folder: Path, *, store: str = "") -> None:
        self.folder = folder
        self.home = folder / "coordinator"
        self.identities = {name: create_identity(folder / name, name=name, role=name) for name in ("bank", "platform")}
        self.own = create_identity(self.home / "keys", name="coordinator", role="coordinator")
        (self.home / "partners").mkdir()
        for name, identity in self.identities.items():
            (self.home / "partners" / f"{name}.partner.json").write_bytes(export_partner(identity, address=""))
        self.port = free_port()
        section = f'[store]\nurl = "{store}"\nlease = 2\n' if store else ""
        text = f'[coordinator]\nname = "coordinator"\nlisten = "127.0.0.1:{self.port}"\n{section}'
        (self.home / "coordinator.toml").write_text(text)
        self.config: CoordinatorConfig = load_config(self.home / "coordinator.toml")
        self.server: Server | None = None
        self.leading: Leadership | None = None
        self.nodes: list[Node] = []

    def serve(self, grace: float = 5.0) -> Server:
        self.leading = Leadership.of(self.config, self.config.identity())
        if self.leading is not None:
            assert self.leading.wait(threading.Event())
        self.server = Server(self.config, grace=grace, leading=self.leading)
        self.server.start()
        return self.server

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None
        if self.leading is not None:
            self.leading.release()
            self.leading = None

    def node(self, name: str, **options: Any) -> Node:
        node = Node(self, name, **options)
        self.nodes.append(node)
        return node

    def spec(self, **model: Any) -> JobSpec:
        document = {
            "label_holder": {"name": "bank", "dataset": "cards", "features": ["limit"]},
            "feature_holder": {"name": "platform", "dataset": "shop", "features": ["spend"]},
            "label": {"column": "default"},
            "model": model,
            "disclose": {"aggregates_to_feature_holder": True, "aggregates_to_coordinator": True},
        }
        return build_spec(document, coordinator="coordinator", partners=self.config.partners())

    def submit(self, **model: Any) -> str:
        with connect(self.config) as client:
            return client.submit(self.spec(**model).canonical())

    def show(self, job: str) -> control_pb2.JobView:
        with connect(self.config) as client:
            return client.show(job)

    def until(self, job: str, *states: str) -> control_pb2.JobView:
        return poll(lambda: view if (view := self.show(job)).state in states else None, f"{states}, not {self.show(job).state}")

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.home / "state" / "log" / "log.jsonl").read_text().splitlines()]


@contextmanager
def world_on(kind: str, folder: Path) -> Iterator[World]:
    """A world in ``folder`` on ``"sqlite"`` or a new database of ``"postgresql"``; in the end its nodes hang up and it stops."""
    made = World(folder, store=postgres.server().new_database() if kind == "postgresql" else "")
    try:
        yield made
    finally:
        for node in made.nodes:
            node.hang_up()
        made.stop()


class Node:
    """A scripted node: approves what it is offered and reports steps done as ``script`` says."""

    def __init__(
        self,
        world: World,
        name: str,
        *,
        script: Callable[[control_pb2.StepStart], control_pb2.Report | None] | None = None,
        decision: str | None = "approve",
        hello: control_pb2.Hello | None = None,
        identity: Identity | None = None,
    ) -> None:
        self.world, self.name, self.script, self.decision = world, name, script or (lambda start: report(name, start)), decision
        self.identity = identity or world.identities[name]
        self.seen: list[control_pb2.Directive] = []
        self.code = ""
        self.attached = threading.Event()
        self._reports: queue.SimpleQueue[control_pb2.Report | None] = queue.SimpleQueue()
        first = hello or control_pb2.Hello(protocol=1, party=name, software="0.1.0")
        self.say(control_pb2.Report(hello=first))
        self._channel = tls.channel(
            f"127.0.0.1:{world.port}",
            server_name="coordinator",
            server_certificate_pem=world.own.tls_certificate_pem,
            key_pem=self.identity.tls_key_pem,
            certificate_pem=self.identity.tls_certificate_pem,
        )
        self._call = control_pb2_grpc.ControlStub(self._channel).Attach(iter(self._reports.get, None))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def say(self, report: control_pb2.Report) -> None:
        self._reports.put(report)

    def hang_up(self) -> None:
        self._call.cancel()
        self._reports.put(None)
        self._thread.join(WAIT)
        self._channel.close()

    def ended(self) -> str:
        """The code with which the coordinator ended the stream."""
        self._thread.join(WAIT)
        assert not self._thread.is_alive()
        return self.code

    def starts(self) -> list[tuple[str, int, int]]:
        found = [d.step_start for d in self.seen if d.WhichOneof("body") == "step_start"]
        return [(s.step, s.round, s.attempt) for s in found]

    def kinds(self) -> list[str]:
        """What it was told, but for the traffic of cosigning."""
        kinds = [str(d.WhichOneof("body")) for d in self.seen]
        return [kind for kind in kinds if kind not in ("checkpoint", "cosignature")]

    def sign(self, job: str, decision: str, *, peer: str | None = None, identity: Identity | None = None) -> control_pb2.Report:
        other = peer or ("platform" if self.name == "bank" else "bank")
        time_text = datetime.now(UTC).isoformat()
        statement = approval_statement(job=job, party=self.name, peer=other, decision=decision, by="test", time=time_text)
        signature = (identity or self.identity).log_key.sign(statement).hex()
        return control_pb2.Report(decision=control_pb2.Decision(job=job, statement=statement.decode(), signature=signature))

    def _run(self) -> None:
        try:
            for directive in self._call:
                self.seen.append(directive)
                kind = directive.WhichOneof("body")
                if kind == "welcome":
                    self.attached.set()
                elif kind == "offer" and self.decision:
                    self.say(self.sign(directive.offer.job, self.decision))
                elif kind == "step_start" and (answer := self.script(directive.step_start)) is not None:
                    self.say(answer)
        except grpc.RpcError as error:
            self.code = error.details()


def report(party: str, start: control_pb2.StepStart, **fields: Any) -> control_pb2.Report:
    """An honest report of one step."""
    own: dict[str, dict[str, Any]] = {
        "align": {"set_size": 3000 if party == "bank" else 2500, "intersection": 2000, "rows_train": 1600, "rows_holdout": 400},
        "prepare": {"columns": 2, "base_rate": "0.21"},
        "round": {"inner_products": [0.0] * (start.round - 1) + [0.1 / 30**start.round]},
        "evaluate": {"metrics": METRICS} if party == "bank" else {},
    }
    values = {"transcript_sha256": "ab" * 32, "seconds": 0.5, "bytes_sent": 10, **own.get(start.step, {}), **fields}
    done = control_pb2.StepDone(job=start.job, step=start.step, attempt=start.attempt, round=start.round, **values)
    return control_pb2.Report(step_done=done)


def poll(check: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        if found := check():
            return found
        time.sleep(0.02)
    raise AssertionError(f"did not happen: {what}")
