"""Certificates renewed while a job runs: a node's and the coordinator's, at once, in the middle of a round, without a restart."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from audit.certificates import certificate_sha256
from audit.identity import Identity, load_identity
from audit.partner import Partner, load_partners, read_partner
from audit.verify import verify_logs
from coordinator.cli import main as coordinator_command
from coordinator.client import connect
from node.cli import main as node_command
from node.transport.channel import GrpcChannel
from protos import tls
from tests.asks import Ask
from tests.joint import ENDED, PARTIES, World, until, world

HELD_AT = "MaskedGradients"
RENEWED = ("bank", "coordinator")


def command(joined: World, name: str, *arguments: str) -> None:
    run = coordinator_command if name == "coordinator" else node_command
    assert run(["--config", str(joined.layout.config(name)), *arguments]) == 0, (name, arguments)


def own(joined: World, name: str) -> Identity:
    return load_identity(joined.layout.home(name) / "keys")


def known(joined: World, by: str, of: str) -> Partner:
    return load_partners(joined.layout.home(by) / "partners")[of]


def commitments(joined: World, name: str) -> list[str]:
    """Of the log, each once, in order."""
    lines = (joined.layout.log(name) / "log.jsonl").read_bytes().splitlines()
    found = (json.loads(line) for line in lines if b'"tls certificate"' in line)
    return list(dict.fromkeys(str(entry["sha256"]) for entry in found))


def exchange(joined: World, file: Path, of: str, *more: str) -> None:
    for other in PARTIES:
        if other != of:
            command(joined, other, "partner", "add", str(file), *more)


def accepts(partner: Partner, identity: Identity) -> bool:
    """Whether whoever serves at the partner's address lets this certificate in."""
    channel = tls.channel(
        partner.address,
        server_name=partner.name,
        server_certificate_pem=partner.trusted_pem,
        key_pem=identity.tls_key_pem,
        certificate_pem=identity.tls_certificate_pem,
        options=[("grpc.use_local_subchannel_pool", 1)],
    )
    with channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return True


@contextmanager
def beating(joined: World) -> Iterator[None]:
    """The coordinator's main loop."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.1):
            joined.server.beat()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


@contextmanager
def held() -> Iterator[tuple[threading.Event, threading.Event]]:
    """The first message of a kind waits: (it has come, it may go)."""
    come, go, send = threading.Event(), threading.Event(), GrpcChannel.send_payload

    def waits(self: GrpcChannel, kind: str, payload: bytes) -> None:
        if kind == HELD_AT and not go.is_set():
            come.set()
            assert go.wait(60)
        send(self, kind, payload)

    with mock.patch.object(GrpcChannel, "send_payload", waits):
        try:
            yield come, go
        finally:
            go.set()


@pytest.mark.parametrize("reachable", [("platform",), ()], ids=["direct", "relayed"])
def test_a_job_runs_while_certificates_are_renewed(tmp_path: Path, reachable: tuple[str, ...]) -> None:
    ask = Ask(rounds=1, holdout="0", reachable=reachable)
    with world(tmp_path, ask, rounds=1) as joined, beating(joined), held() as (come, go), connect(joined.config) as operator:
        job = joined.begin(ask)
        assert come.wait(60)
        former = {name: own(joined, name) for name in RENEWED}
        announced = announce(joined, former)
        time.sleep(2)  # the serving processes look at their partner files a few times a second; people wait for hours
        use(joined, former)
        go.set()
        with connect(joined.config) as again:  # with the new certificate; the one of before is no operator's any more
            for _ in until("the job did not end"):
                view = again.show(job)
                if view.state in ENDED:
                    break
            with pytest.raises(Exception, match=r"transport\.|control\.not_an_operator"):
                operator.show(job)
        assert view.state == "finished", (view.code, [node.lines for node in joined.nodes.values()])
        assert [step.attempt for step in view.steps] == [0] * len(view.steps)
        attached_anew(joined)
        retire(joined, announced)
        refused(joined, former)
        joined.wait_cosigned()
    check_logs(joined, former, announced)


def announce(joined: World, former: dict[str, Identity]) -> dict[str, Path]:
    """Next certificates are made; partners accept both; the links are as they were."""
    files = {name: joined.layout.folder / f"next-{name}.partner.json" for name in RENEWED}
    for name, file in files.items():
        command(joined, name, "keys", "renew-certificate", "--output", str(file))
        exchange(joined, file, name, "--yes")
        assert own(joined, name).tls_certificate_pem == former[name].tls_certificate_pem
        assert len(tls.to_ders(known(joined, "platform", name).trusted_pem)) == 2
        assert read_partner(file).fingerprint == known(joined, "platform", name).fingerprint
    return files


def use(joined: World, former: dict[str, Identity]) -> None:
    """The next certificates are used; the serving processes take them up and commit to them in their logs."""
    for name in RENEWED:
        command(joined, name, "keys", "activate")
    for name in RENEWED:
        now = own(joined, name)
        assert now.tls_certificate_pem != former[name].tls_certificate_pem
        assert now.log_key.verifier == former[name].log_key.verifier
        expected = [certificate_sha256(found.tls_certificate_pem) for found in (former[name], now)]
        for _ in until(f"{name} did not take its certificate up"):
            if commitments(joined, name) == expected:
                break
    address = known(joined, "bank", "coordinator").address
    assert tls.probe_certificate(address, server_name="coordinator") == tls.to_der(own(joined, "coordinator").tls_certificate_pem)


def attached_anew(joined: World) -> None:
    """With no job any more the node comes with its new certificate."""
    now = tls.to_der(own(joined, "bank").tls_certificate_pem)
    callers = joined.server._callers[0]
    for _ in until("the node did not attach again"):
        if ("bank", now) in list(callers._open.values()):
            return


def retire(joined: World, announced: dict[str, Path]) -> None:
    """A fresh partner file drops the former certificate; nobody is asked, since the other was compared before."""
    for name in RENEWED:
        file = joined.layout.folder / f"now-{name}.partner.json"
        command(joined, name, "partner", "export", "--output", str(file))
        exchange(joined, file, name)
        assert known(joined, "platform", name).trusted_pem == own(joined, name).tls_certificate_pem
        assert read_partner(announced[name]).next_certificate_pem == own(joined, name).tls_certificate_pem


def refused(joined: World, former: dict[str, Identity]) -> None:
    """Who comes with a former certificate is not let in, and a server that shows one is not believed."""
    coordinator = known(joined, "bank", "coordinator")
    servers = [coordinator, *(found for found in [known(joined, "bank", "platform")] if found.address)]
    for server in servers:
        for _ in until(f"{server.name} accepts a former certificate still"):
            if not accepts(server, former["bank"]):
                break
        assert accepts(server, own(joined, "bank"))
    found = tls.explain_failure(
        coordinator.address, server_name="coordinator", server_certificate_pem=former["coordinator"].tls_certificate_pem
    )
    assert found.code == "transport.wrong_certificate"


def check_logs(joined: World, former: dict[str, Identity], announced: dict[str, Path]) -> None:
    """Several certificates in one run are lawful, under the partner files of before, of meanwhile and of after."""
    logs = [joined.layout.log(name) for name in PARTIES]
    before = {name: joined.layout.partner_file(name) for name in PARTIES}
    after = {name: joined.layout.folder / f"now-{name}.partner.json" for name in RENEWED}
    for files in (before, before | announced, before | after):
        verified: Any = verify_logs(logs, partners=tuple(files.values()))
        assert verified.whole, verified.open_points
    for name in RENEWED:
        assert commitments(joined, name)[0] == certificate_sha256(former[name].tls_certificate_pem)
        assert len(commitments(joined, name)) == 2
