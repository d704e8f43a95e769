"""Two nodes and a coordinator's identity in a temporary folder, for tests that need real keys, partner files and configurations."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from audit.identity import Identity, create_identity
from audit.partner import Partner, partner_of
from audit.receipts import approval_statement
from audit.record import LogWriter
from audit.spec import JobSpec
from node.config import NodeConfig, load_config
from node.engine import InlineEngine
from node.errors import IsthmusError
from node.policy import load_policy
from node.runtime.jobs import Jobs
from node.runtime.journal import StepLabels
from node.runtime.listener import peer_server
from node.runtime.parts import NodeParts
from node.runtime.serve import PeerLinks
from node.runtime.store import Store
from node.transport.options import Timeouts
from node.transport.switchboard import Switchboard
from protos import control_pb2

QUICK = Timeouts(patience=6.0, peer=20.0, open=3.0, close=2.0, backoff=0.05, backoff_max=0.2)

POLICY = """
[partners]
allow = "added"
[datasets]
offer = ["label_holder", "feature_holder"]
[limits]
minimum_intersection = 10
[disclose]
aggregates_to_feature_holder = true
aggregates_to_coordinator = true
"""

CARDS = """
[[dataset]]
name = "cards"
source = "csv"
path = "cards.csv"
identifier = "id"
[dataset.columns.a]
kind = "number"
[dataset.columns.b]
kind = "number"
[dataset.columns.y]
kind = "label"
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Heard:
    """What a node reported and printed."""

    reports: list[control_pb2.Report] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def report(self, report: control_pb2.Report) -> None:
        with self.changed:
            self.reports.append(report)
            self.changed.notify_all()

    def of(self, kind: str) -> list[Any]:
        return [getattr(r, kind) for r in self.reports if r.WhichOneof("body") == kind]

    def wait(self, count: int, seconds: float = 60.0) -> list[control_pb2.Report]:
        """The reports once ``count`` of them, progress aside, are there."""
        with self.changed:
            if not self.changed.wait_for(lambda: len(self.reports) >= count, seconds):
                raise AssertionError(f"{len(self.reports)} of {count} reports; lines: {self.lines}")
            return list(self.reports)


@dataclass
class TestNode:
    """One node's runtime with a scripted coordinator."""

    __test__ = False

    config: NodeConfig
    identity: Identity
    store: Store
    log: LogWriter
    parts: NodeParts
    jobs: Jobs
    heard: Heard

    def entries(self, kind: str = "") -> list[dict[str, Any]]:
        found = [json.loads(line) for line in (self.config.state_folder / "log" / "log.jsonl").read_bytes().splitlines()]
        return [entry for entry in found if not kind or entry["kind"] == kind]


def identities(folder: Path) -> dict[str, Identity]:
    roles = {"bank": "bank", "platform": "platform", "coordinator": "coordinator"}
    return {name: create_identity(folder / name / "keys", name=name, role=role) for name, role in roles.items()}


def spec_of(**changes: Any) -> JobSpec:
    fields: dict[str, Any] = {
        "nonce": "0" * 32,
        "coordinator": "coordinator",
        "label_holder": {"name": "bank", "role": "bank", "dataset": "cards", "features": ["a", "b"]},
        "feature_holder": {"name": "platform", "role": "platform", "dataset": "shop", "features": ["c", "d", "e"]},
        "label": {"column": "y"},
        "align": {"minimum": 50},
        "model": {"key_bits": 512, "rounds": 2, "holdout": "0.3", "l2": "0.001"},
        "disclose": {"aggregates_to_feature_holder": True, "aggregates_to_coordinator": True},
    }
    return JobSpec.model_validate(fields | changes)


def approvals_of(spec: JobSpec, known: dict[str, Identity], *, decision: str = "approve") -> control_pb2.Approvals:
    job, found = spec.identity(), []
    for party in (spec.label_holder.name, spec.feature_holder.name):
        statement = approval_statement(
            job=job, party=party, peer=spec.peer_of(party).name, decision=decision, by="a test", time="2026-01-01T00:00:00Z"
        )
        signature = known[party].log_key.sign(statement).hex()
        found.append(control_pb2.Decision(job=job, statement=statement.decode(), signature=signature))
    return control_pb2.Approvals(job=job, decisions=found)


def write_node(folder: Path, name: str, dataset: str, *, port: int = 0) -> NodeConfig:
    reach = f'listen = "127.0.0.1:{port}"\naddress = "127.0.0.1:{port}"\n' if port else ""
    (folder / "policy.toml").write_text(POLICY)
    (folder / "node.toml").write_text(f'[node]\nname = "{name}"\nrole = "{name}"\n{reach}[unsafe]\nsmall_keys = true\n{dataset}')
    return load_config(folder / "node.toml")


@contextmanager
def node(
    config: NodeConfig, known: dict[str, Identity], addresses: dict[str, str], *, timeouts: Timeouts = QUICK
) -> Iterator[TestNode]:
    """A node's runtime without its control stream: the test is the coordinator."""
    identity = known[config.name]
    partners: dict[str, Partner] = {
        name: partner_of(other, address=addresses.get(name, "")) for name, other in known.items() if name != config.name
    }
    store = Store(config.state_folder)
    log = LogWriter.open(config.state_folder / "log", key=identity.log_key, clock=lambda: datetime.now(UTC))
    board = Switchboard()
    links = PeerLinks(lambda: identity, config.node.address or "", partners, board, timeouts=timeouts, relay=config.relay)
    parts = NodeParts(
        config=config,
        policy=load_policy(config.policy_path),
        identity=identity,
        partners=partners,
        store=store,
        log=log,
        connect=links.connect,
        engine=InlineEngine(),
    )
    heard = Heard()
    jobs = Jobs(parts, report=heard.report, progress=lambda **_: None, notify=heard.lines.append)
    pinned = {name: partner.trusted_pem for name, partner in partners.items() if partner.role != "coordinator"}
    served = peer_server(config, lambda: identity, pinned, permit=jobs.permit, board=board, timeouts=timeouts)
    try:
        yield TestNode(config, identity, store, log, parts, jobs, heard)
    finally:
        jobs.stop(2.0)
        if served is not None:
            served[0].stop(None).wait()
        log.close()
        store.close()


def offer(one: TestNode, spec: JobSpec) -> str:
    """Have a job offered to a node; its identity."""
    job = spec.identity()
    one.jobs.handle(control_pb2.Directive(offer=control_pb2.Offer(job=job, spec=spec.canonical().decode())))
    return job


def approved(one: TestNode, known: dict[str, Identity], spec: JobSpec) -> str:
    """Have a job offered, approved by a person and signed by both sides; its identity."""
    job = offer(one, spec)
    one.store.request(job, decision="approve", by="Ana")
    one.jobs.poll()
    one.jobs.decisions.approvals(approvals_of(spec, known))
    return job


def refusal(one: TestNode, labels: StepLabels) -> str:
    """The code with which a node refuses to begin a step."""
    try:
        one.jobs.check_start(labels)
    except IsthmusError as error:
        refused = error
    else:
        raise AssertionError("the step was not refused")
    assert refused.message
    return refused.code


def jobs_of(parts: NodeParts, one: TestNode) -> Jobs:
    """The jobs of a process that starts with ``parts``, heard as the node's first one is."""
    return Jobs(parts, report=one.heard.report, progress=lambda **_: None, notify=one.heard.lines.append)
