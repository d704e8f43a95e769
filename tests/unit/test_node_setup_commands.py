"""``isthmus-node init``, ``partner``, ``datasets`` and ``doctor``, as a person or a script runs them."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from audit.identity import create_identity, load_identity
from audit.partner import export_partner, load_partners
from node.cli import main
from node.config import load_config
from node.doctor import diagnose
from node.policy import load_policy
from node.transport.control import CONTROL_VERSION
from operations.health import Health, PartnersHealthService
from protos import tls

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return status, captured.out, captured.err

    return call


@pytest.fixture
def bank(tmp_path: Path, run: Run) -> Path:
    assert run("init", tmp_path / "bank", "--name", "bank", "--role", "bank")[0] == 0
    return tmp_path / "bank"


def partner_file(folder: Path, name: str, role: str, address: str = "") -> Path:
    """Another participant's keys in ``folder/name`` and its partner file."""
    identity = create_identity(folder / name, name=name, role=role)
    path = folder / f"{name}.file"
    path.write_bytes(export_partner(identity, address=address))
    return path


def add_dataset(node: Path, text: str = "id,x,y\na,1,0\nb,2,1\n", duplicates: str = "refuse") -> None:
    (node / "cards.csv").write_text(text)
    with (node / "node.toml").open("a") as file:
        file.write(
            '\n[[dataset]]\nname = "cards"\nsource = "csv"\npath = "cards.csv"\nidentifier = "id"\n'
            f'duplicates = "{duplicates}"\n'
            '[dataset.columns.x]\nkind = "number"\n[dataset.columns.y]\nkind = "label"\n'
        )


# --- init -----------------------------------------------------------------------------------------------------------------


def test_init_makes_a_node_that_loads(bank: Path) -> None:
    config = load_config(bank / "node.toml")
    assert (config.name, config.role, config.node.listen, config.dataset) == ("bank", "bank", None, [])
    load_policy(config.policy_path)
    assert load_identity(config.keys_folder).name == "bank"
    assert stat.S_IMODE((bank / "node.toml").stat().st_mode) == 0o600
    assert stat.S_IMODE((bank / "state").stat().st_mode) == 0o700
    assert sorted(path.name for path in bank.iterdir()) == ["keys", "node.toml", "partners", "policy.toml", "secret.key", "state"]


def test_every_commented_setting_of_the_samples_loads(bank: Path) -> None:
    """The samples name no key that does not exist: with all comments opened they still load."""
    for file, load in (("node.toml", load_config), ("policy.toml", load_policy)):
        opened = []
        for line in (bank / file).read_text().splitlines():
            bare = line.removeprefix("# ")
            opened.append(bare if line.startswith("# ") and (" = " in bare or bare.startswith("[")) else line)
        text = "\n".join(opened).replace('uri = "postgresql', '# uri = "postgresql').replace('query = "', '# query = "')
        path = bank / f"opened-{file}"
        path.write_text(text)
        load(path)
    config = load_config(bank / "opened-node.toml")
    assert config.dataset[0].features == ["LIMIT_BAL", "REGION"]
    assert config.node.listen is not None
    assert load_policy(bank / "opened-policy.toml").auto_approve[0].name == "nightly"


def test_init_takes_addresses(tmp_path: Path, run: Run) -> None:
    arguments = ("--name", "shop", "--role", "platform", "--listen", "0.0.0.0:7443", "--address", "shop.example:7443")
    status, out, _ = run("init", tmp_path / "deep" / "shop", *arguments, "--json")
    assert status == 0
    node = load_config(tmp_path / "deep" / "shop" / "node.toml").node
    assert (node.listen, node.address) == ("0.0.0.0:7443", "shop.example:7443")
    assert len(json.loads(out)["fingerprint"].split()) == 8
    run("init", tmp_path / "b", "--name", "b", "--role", "bank", "--listen", "127.0.0.1:7443")
    assert load_config(tmp_path / "b" / "node.toml").node.address == "127.0.0.1:7443"
    run("init", tmp_path / "c", "--name", "c", "--role", "bank", "--listen", "[::]:7443")
    assert load_config(tmp_path / "c" / "node.toml").node.address is None


def test_init_overwrites_nothing(bank: Path, run: Run) -> None:
    before = {path: path.read_bytes() for path in bank.rglob("*") if path.is_file()}
    status, _, err = run("init", bank, "--name", "other", "--role", "bank")
    assert status == 2
    assert "init.exists" in err
    assert {path: path.read_bytes() for path in bank.rglob("*") if path.is_file()} == before


def test_init_into_a_folder_with_other_files(tmp_path: Path, run: Run) -> None:
    (tmp_path / "cards.csv").write_text("id\n")
    assert run("init", tmp_path, "--name", "bank", "--role", "bank")[0] == 0
    assert (tmp_path / "cards.csv").read_text() == "id\n"
    load_config(tmp_path / "node.toml")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--name", "Bank One", "--role", "bank"),
        ("--name", "bank", "--role", "bank", "--listen", "7443"),
        ("--name", "bank", "--role", "bank", "--listen", 'a:1"\nx = "'),
        ("--name", "bank", "--role", "bank", "--address", "bank.example:7443"),
        ("--name", "bank", "--role", "coordinator"),
        ("--role", "bank"),
    ],
)
def test_bad_init_leaves_nothing(arguments: tuple[str, ...], tmp_path: Path, run: Run) -> None:
    status, _, err = run("init", tmp_path / "new", *arguments)
    assert status == 2
    assert "code: " in err
    assert list(tmp_path.iterdir()) == []


def test_failed_init_leaves_nothing_half_made(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    status, _, err = run("init", tmp_path / "new", "--name", "bank", "--role", "bank")
    assert status == 2
    assert "config.unwritable" in err
    assert "No space left" in err
    assert list(tmp_path.iterdir()) == []


# --- partners -------------------------------------------------------------------------------------------------------------


def test_export_and_add_join_two_nodes(bank: Path, tmp_path: Path, run: Run) -> None:
    run(
        "init",
        tmp_path / "shop",
        "--name",
        "shop",
        "--role",
        "platform",
        "--listen",
        "127.0.0.1:7001",
        "--address",
        "127.0.0.1:7001",
    )
    exported = tmp_path / "shop.partner.json"
    status, out, _ = run("--config", tmp_path / "shop" / "node.toml", "partner", "export", "--output", exported, "--json")
    assert status == 0
    fingerprint = json.loads(out)["fingerprint"]
    status, out, _ = run("--config", bank / "node.toml", "partner", "add", exported, "--yes")
    assert status == 0
    assert fingerprint in out
    partner = load_partners(bank / "partners")["shop"]
    assert (partner.role, partner.address, partner.fingerprint) == ("platform", "127.0.0.1:7001", fingerprint)
    # Again is no error; the file is the same.
    assert run("--config", bank / "node.toml", "partner", "add", exported, "--yes")[0] == 0


def test_export_to_standard_output_is_the_file(bank: Path, tmp_path: Path, run: Run) -> None:
    _, out, err = run("--config", bank / "node.toml", "partner", "export")
    exported = tmp_path / "bank.partner.json"
    exported.write_text(out)
    run("init", tmp_path / "shop", "--name", "shop", "--role", "platform")
    assert run("--config", tmp_path / "shop" / "node.toml", "partner", "add", exported, "--yes")[0] == 0
    assert "PRIVATE" not in out
    assert load_partners(tmp_path / "shop" / "partners")["bank"].fingerprint in err


@pytest.mark.parametrize(("answer", "added"), [("y\n", True), ("n\n", False), ("\n", False), ("", False)])
def test_add_asks_for_the_fingerprint(answer: str, added: bool, bank: Path, tmp_path: Path, run: Run, monkeypatch: Any) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    file = partner_file(tmp_path, "shop", "platform")
    status, _, err = run("--config", bank / "node.toml", "partner", "add", file)
    assert "fingerprint" in err
    assert (status == 0) is added
    assert ("shop" in load_partners(bank / "partners")) is added
    assert ("partner.not_confirmed" in err) is not added


def test_add_refuses(bank: Path, tmp_path: Path, run: Run) -> None:
    config = ("--config", bank / "node.toml")
    good = partner_file(tmp_path, "shop", "platform")
    assert run(*config, "partner", "add", good, "--yes")[0] == 0
    (tmp_path / "again").mkdir()
    cases = {
        "partner.exists": partner_file(tmp_path / "again", "shop", "platform"),
        "partner.own_name": partner_file(tmp_path / "again", "bank", "platform"),
        "partner.role": partner_file(tmp_path / "again", "second", "bank"),
        "partner.unreadable": tmp_path / "absent",
    }
    (tmp_path / "cut").write_bytes(good.read_bytes()[:-20])
    cases["partner.invalid"] = tmp_path / "cut"
    before = {path.name: path.read_bytes() for path in (bank / "partners").iterdir()}
    for code, file in cases.items():
        status, _, err = run(*config, "partner", "add", file, "--yes")
        assert status != 0
        assert code in err
    assert {path.name: path.read_bytes() for path in (bank / "partners").iterdir()} == before


# --- datasets -------------------------------------------------------------------------------------------------------------


def test_datasets_lists_what_is_offered(bank: Path, run: Run) -> None:
    add_dataset(bank, "id,x,y\na,1,0\nb,2,1\nB,3,0\n", duplicates="first")
    status, out, _ = run("--config", bank / "node.toml", "datasets")
    assert status == 0
    for text in ("cards", "3 read, 2 customers, 1 duplicates", "number       x", "label        y", "data.duplicate_identifiers"):
        assert text in out
    (report,) = json.loads(run("--config", bank / "node.toml", "datasets", "--json")[1])["datasets"]
    assert (report["rows"], report["customers"], report["duplicates"]) == (3, 2, 1)
    assert report["columns"] == {"x": "number", "y": "label"}


def test_datasets_names_problems_without_values(bank: Path, run: Run) -> None:
    add_dataset(bank, "id,x,y\na,SECRET,0\nb,2,1\n")
    status, out, err = run("--config", bank / "node.toml", "--json", "datasets")
    assert status == 1
    assert json.loads(out)["datasets"][0]["problems"][0]["code"] == "data.not_a_number"
    assert "SECRET" not in out + err


def test_error_as_json(tmp_path: Path, run: Run) -> None:
    status, out, err = run("--config", tmp_path / "node.toml", "datasets", "--json")
    assert status == 2
    assert json.loads(out)["error"]["code"] == "config.missing_file"
    assert "remedy:" in err


@pytest.mark.parametrize("command", [("init",), ("partner", "export"), ("partner", "add"), ("datasets",), ("doctor",)])
def test_help_has_an_example_and_json(command: tuple[str, ...], run: Run) -> None:
    status, out, _ = run(*command, "--help")
    assert status == 0
    assert "Example:\n" in out
    assert "--json" in out
    assert "Example:\n" in run(command[0], "--help")[1], "the group too"


# --- doctor ---------------------------------------------------------------------------------------------------------------


@dataclass
class Tells(health_pb2_grpc.HealthServicer):
    """A health service that tells what a test wants it to."""

    told: dict[str, str]

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        context.send_initial_metadata(tuple(self.told.items()))
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


@contextmanager
def serving(keys: Path, accepts: list[Path], port: int = 0, health: Any = None) -> Iterator[str]:
    """A gRPC server with the identity in ``keys`` that lets the identities in ``accepts`` in."""
    identity = load_identity(keys)
    pinned = [load_identity(folder).tls_certificate_pem for folder in accepts]
    credentials = tls.server_credentials(identity.tls_key_pem, identity.tls_certificate_pem, pinned)
    server = grpc.server(futures.ThreadPoolExecutor(1), options=tls.SERVER_OPTIONS)
    if health is not None:
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
    bound = tls.bind(server, f"127.0.0.1:{port}", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        server.stop(0).wait()


def checks_of(node: Path, **options: Any) -> dict[str, tuple[str, str]]:
    return {check.name: (check.state, check.code) for check in diagnose(node / "node.toml", **options)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def add_coordinator(node: Path, folder: Path, address: str) -> None:
    file = node / "partners" / "coordinator.partner.json"
    file.write_bytes(export_partner(load_identity(folder / "coordinator"), address=address))


def test_doctor_finds_all_well(bank: Path, tmp_path: Path, run: Run) -> None:
    add_dataset(bank)
    create_identity(tmp_path / "coordinator", name="coordinator", role="coordinator")
    run("--config", bank / "node.toml", "partner", "add", partner_file(tmp_path, "shop", "platform", "127.0.0.1:1"), "--yes")
    health = PartnersHealthService(Health(()), lambda context: tls.peer_certificate(context), protocol=CONTROL_VERSION)
    with serving(tmp_path / "coordinator", [bank / "keys"], health=health) as address:
        add_coordinator(bank, tmp_path, address)
        status, out, _ = run("--config", bank / "node.toml", "doctor", "--json")
    assert status == 0
    assert "speaks TLS 1.3 with the pinned certificate" in out
    states = {check["name"]: check["state"] for check in json.loads(out)["checks"]}
    assert states.pop("partner shop") == "warn"  # nobody serves there yet
    assert states.pop("disk") in ("ok", "warn")
    assert states.pop("core dumps") in ("ok", "warn")  # the tests' own process did not forbid them
    assert set(states.values()) == {"ok"}
    assert {"coordinator", "keys", "policy", "certificate", "clock", "listen", "data set cards"} <= set(states)
    assert {"encryption", "permissions", "coordinator version", "coordinator clock"} <= set(states)


def test_doctor_sees_another_certificate(bank: Path, tmp_path: Path) -> None:
    create_identity(tmp_path / "coordinator", name="coordinator", role="coordinator")
    create_identity(tmp_path / "impostor", name="coordinator", role="coordinator")
    with serving(tmp_path / "impostor", [bank / "keys"]) as address:
        add_coordinator(bank, tmp_path, address)
        assert checks_of(bank)["coordinator"] == ("fail", "transport.wrong_certificate")


def test_doctor_sees_that_the_coordinator_does_not_know_this_node(
    bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.doctor.CONNECT_SECONDS", 1.0)
    create_identity(tmp_path / "coordinator", name="coordinator", role="coordinator")
    create_identity(tmp_path / "other", name="other", role="bank")
    with serving(tmp_path / "coordinator", [tmp_path / "other"]) as address:
        add_coordinator(bank, tmp_path, address)
        assert checks_of(bank)["coordinator"] == ("fail", "transport.not_accepted")


def test_doctor_sees_an_unreachable_coordinator(bank: Path, tmp_path: Path, run: Run) -> None:
    create_identity(tmp_path / "coordinator", name="coordinator", role="coordinator")
    assert checks_of(bank)["coordinator"] == ("fail", "partner.no_coordinator")
    add_coordinator(bank, tmp_path, f"127.0.0.1:{free_port()}")
    assert checks_of(bank)["coordinator"] == ("fail", "transport.unreachable")
    status, out, _ = run("--config", bank / "node.toml", "doctor")
    assert status == 1
    assert "transport.unreachable" in out


def test_doctor_sees_a_full_port(tmp_path: Path, run: Run) -> None:
    port = free_port()
    shop = tmp_path / "shop"
    run("init", shop, "--name", "shop", "--role", "platform", "--listen", f"127.0.0.1:{port}")
    create_identity(tmp_path / "bank", name="bank", role="bank")
    assert checks_of(shop)["listen"] == ("ok", "")
    with serving(shop / "keys", [tmp_path / "bank"], port):
        assert checks_of(shop)["listen"] == ("ok", "")  # the node itself
    with serving(tmp_path / "bank", [shop / "keys"], port):
        assert checks_of(shop)["listen"] == ("fail", "transport.port_in_use")
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        plain.bind(("127.0.0.1", port))
        plain.listen()
        plain.settimeout(0.1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("node.doctor.CONNECT_SECONDS", 0.5)
            assert checks_of(shop)["listen"] == ("fail", "transport.port_in_use")


def test_doctor_sees_readable_keys_and_wrong_names(bank: Path) -> None:
    (bank / "keys" / "tls.key").chmod(0o644)
    assert checks_of(bank)["keys"] == ("fail", "identity.permissions")
    (bank / "keys" / "tls.key").chmod(0o600)
    text = (bank / "node.toml").read_text()
    (bank / "node.toml").write_text(text.replace('name = "bank"', 'name = "bench"', 1))
    assert checks_of(bank)["keys"] == ("fail", "identity.mismatch")


def test_doctor_sees_clocks_and_expired_certificates(bank: Path) -> None:
    now = datetime.now(UTC)
    assert checks_of(bank, clock=lambda: now + timedelta(days=4000))["certificate"] == ("fail", "transport.certificate_expired")
    assert checks_of(bank, clock=lambda: now + timedelta(days=3630))["certificate"][0] == "warn"
    early = checks_of(bank, clock=lambda: datetime(2001, 1, 1, tzinfo=UTC))
    assert early["certificate"] == ("fail", "transport.clock")
    assert early["clock"] == ("fail", "transport.clock")
    (bank / "state" / "log.jsonl").write_text("")
    assert checks_of(bank, clock=lambda: now - timedelta(hours=3))["clock"] == ("fail", "transport.clock")


def test_doctor_sees_no_route(bank: Path, tmp_path: Path, run: Run) -> None:
    run("--config", bank / "node.toml", "partner", "add", partner_file(tmp_path, "shop", "platform"), "--yes")
    (check,) = [check for check in diagnose(bank / "node.toml") if check.name == "partner shop"]
    assert (check.state, check.code) == ("ok", "")
    assert "relay" in check.detail
    path = bank / "node.toml"
    path.write_text(path.read_text() + '\n[relay]\nuse = "never"\n')
    assert checks_of(bank)["partner shop"] == ("fail", "transport.no_route")


def test_doctor_sees_bad_files(bank: Path) -> None:
    add_dataset(bank, "id,x,y\na,1,0\n,2,1\n")
    (bank / "policy.toml").write_text("[limit]\n")
    found = checks_of(bank)
    assert found["policy"] == ("fail", "config.unknown_key")
    assert found["data set cards"] == ("fail", "data.empty_identifier")
    (bank / "policy.toml").write_text('[[dataset]]\nname = "crads"\nroles = []\n')
    assert checks_of(bank)["policy"][0] == "warn"
    (bank / "policy.toml").write_text('[partners]\nallow = ["plattform"]\n')
    warned = next(check for check in diagnose(bank / "node.toml") if check.name == "policy")
    assert (warned.state, "plattform" in warned.detail, bool(warned.remedy)) == ("warn", True, True)
    (bank / "node.toml").write_text("[node]\n")
    assert checks_of(bank) == {"configuration": ("fail", "config.missing_key")}


def test_doctor_warns_of_a_readable_password(bank: Path) -> None:
    with (bank / "node.toml").open("a") as file:
        file.write(
            '\n[[dataset]]\nname = "w"\nsource = "postgresql"\nuri = "postgresql://u:hunter2@127.0.0.1:1/x"\n'
            'query = "select 1"\nidentifier = "id"\n'
        )
    assert "password" not in checks_of(bank)
    (bank / "node.toml").chmod(0o644)
    checks = diagnose(bank / "node.toml")
    assert [check.state for check in checks if check.name == "password"] == ["warn"]
    assert "hunter2" not in repr(checks)


def test_doctor_warns_of_little_disk(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    from types import SimpleNamespace

    for free, state in ((2**40, "ok"), (2**30, "warn"), (2**20, "fail")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert checks_of(bank)["disk"][0] == state
