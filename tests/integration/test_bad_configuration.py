"""A folder, a port or a certificate with which a program cannot serve: one message with a code and a remedy, and an exit status.
And what a program writes for its operator, nobody else may read.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.identity import Identity
from audit.partner import export_partner
from coordinator.cli import main as coordinator_main
from node.cli import main as node_main
from node.commands.jobs import _write_private
from tests.coordinator_world import World
from tests.integration.test_control_link import Coordinator
from tests.nodes import free_port, identities


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    return identities(tmp_path_factory.mktemp("keys"))


def served_folder(folder: Path, capsys: pytest.CaptureFixture[str], *, port: int, world: World) -> list[str]:
    """A bank's folder that could serve, made by the commands."""
    made = ["init", str(folder), "--name", "bank", "--role", "bank", "--listen", f"127.0.0.1:{port}"]
    assert node_main(made) == 0
    config = ["--config", str(folder / "node.toml")]
    files = {
        "coordinator": export_partner(world.own, address=f"127.0.0.1:{world.port}"),
        "platform": export_partner(world.identities["platform"], address=""),
    }
    for name, data in files.items():
        path = folder.parent / f"{name}.partner.json"
        path.write_bytes(data)
        assert node_main([*config, "partner", "add", str(path), "--yes"]) == 0
    capsys.readouterr()
    return config


def refused(capsys: pytest.CaptureFixture[str], status: int, expected: int, code: str, *named: str) -> None:
    out, err = capsys.readouterr()
    assert status == expected, err
    assert f"  code: {code}" in err
    assert "  remedy: " in err
    assert "Traceback" not in out + err
    for word in named:
        assert word in err


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path / "world")
    yield found
    found.stop()


def test_an_unknown_key_stops_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], world: World) -> None:
    config = served_folder(tmp_path / "bank", capsys, port=free_port(), world=world)
    path = tmp_path / "bank" / "node.toml"
    path.write_text(path.read_text() + "\n[unsafe]\nsmal_keys = true\n")
    for command in (["serve"], ["datasets"], ["jobs"]):
        refused(capsys, node_main([*config, *command]), 2, "config.unknown_key", "unsafe.smal_keys", "'small_keys'", "node.toml")
    assert not any((tmp_path / "bank" / "state").iterdir())
    path = world.home / "coordinator.toml"
    path.write_text(path.read_text() + "[jobs]\ndetach_grase = 3\n")
    for command in (["serve"], ["jobs"]):
        status = coordinator_main(["--config", str(path), *command])
        refused(capsys, status, 2, "config.unknown_key", "jobs.detach_grase", "'detach_grace'")
    assert not (world.home / "state").exists()


def test_a_taken_port_stops_both_servers(tmp_path: Path, capsys: pytest.CaptureFixture[str], world: World) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        config = served_folder(tmp_path / "bank", capsys, port=port, world=world)
        refused(capsys, node_main([*config, "serve"]), 1, "transport.port_in_use", str(port))
        path = world.home / "coordinator.toml"
        path.write_text(path.read_text().replace(str(world.port), str(port)))
        status = coordinator_main(["--config", str(path), "serve"])
        refused(capsys, status, 1, "transport.port_in_use", str(port))
        assert not (world.home / "state").exists()


def test_a_coordinator_with_another_certificate_ends_serve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], world: World, known: dict[str, Identity]
) -> None:
    impostor = Coordinator(known)
    world.port = impostor.port
    config = served_folder(tmp_path / "bank", capsys, port=free_port(), world=world)
    try:
        refused(capsys, node_main([*config, "serve"]), 1, "transport.wrong_certificate", f"127.0.0.1:{impostor.port}")
    finally:
        impostor.stop()


def test_a_coordinator_of_another_version_ends_serve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], world: World, known: dict[str, Identity]
) -> None:
    config = served_folder(tmp_path / "bank", capsys, port=free_port(), world=world)
    bank = tmp_path / "bank" / "keys"
    for file in bank.iterdir():  # the scripted coordinator knows this bank
        file.unlink()
    own = known["bank"]
    contents = {
        "tls.key": own.tls_key_pem,
        "tls.crt": own.tls_certificate_pem,
        "log.key": own.log_key.private_text().encode() + b"\n",
        "identity.json": b'{"v":1,"name":"bank","role":"bank"}',
    }
    for name, data in contents.items():
        (bank / name).write_bytes(data)
        (bank / name).chmod(0o600)
    newer = Coordinator(known, protocol=2)
    partner = tmp_path / "bank" / "partners" / "coordinator.partner.json"
    partner.write_bytes(export_partner(known["coordinator"], address=newer.partner.address))
    try:
        status = node_main([*config, "serve"])
        refused(capsys, status, 1, "transport.protocol_version", "control protocol 2", "speaks 1")
    finally:
        newer.stop()


def test_personal_data_stays_private_in_a_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "members.csv"
    path.touch(mode=0o644)
    _write_private(path, lambda file: file.write(b"identifier\n"))
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_coordinators_configuration_and_database_are_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert coordinator_main(["init", str(tmp_path / "c"), "--listen", f"127.0.0.1:{free_port()}"]) == 0
    capsys.readouterr()
    assert (tmp_path / "c" / "coordinator.toml").stat().st_mode & 0o077 == 0
