"""What ``isthmus-node doctor`` says of secrets, rights, and the other side of a link: each failing case, with code and remedy."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest

from audit.identity import create_identity
from audit.partner import export_partner
from node.cli import main
from node.doctor import diagnose
from node.doctor_report import Check
from tests.unit.test_node_setup_commands import Tells, add_coordinator, serving


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    home = tmp_path / "bank"
    assert main(["init", str(home), "--name", "bank", "--role", "bank"]) == 0
    create_identity(tmp_path / "coordinator", name="coordinator", role="coordinator")
    return home


def found(node: Path, name: str) -> Check:
    (check,) = [check for check in diagnose(node / "node.toml") if check.name == name]
    assert (check.state == "ok") == (check.remedy == ""), "whatever is not well says what to do"
    return check


def told(node: Path, name: str) -> tuple[str, str]:
    check = found(node, name)
    return check.state, check.code


# ---- folders ---------------------------------------------------------------------------------------------------------------------


def test_a_folder_for_rows_beyond_memory(bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bank / "node.toml"
    text = path.read_text()
    assert not [check for check in diagnose(path) if check.name == "scratch"]
    path.write_text(text.replace("[node]\n", f'[node]\nscratch = "{tmp_path}/elsewhere/rows"\n', 1))
    assert found(bank, "scratch").state in ("ok", "warn")
    assert not (tmp_path / "elsewhere").exists(), "doctor makes nothing: it may run as another user"
    monkeypatch.setattr("node.doctor.os.access", lambda *_: False)
    assert told(bank, "scratch") == ("fail", "state.scratch")
    (tmp_path / "elsewhere").write_text("a file")
    monkeypatch.undo()
    assert told(bank, "scratch") == ("fail", "state.scratch")


# ---- secrets ---------------------------------------------------------------------------------------------------------------------


def test_keys_in_clear(bank: Path) -> None:
    assert told(bank, "encryption") == ("ok", "")
    for path in (bank / "keys").iterdir():
        path.unlink()
    create_identity(bank / "keys", name="bank", role="bank")
    assert told(bank, "encryption") == ("warn", "identity.not_sealed")
    assert "keys encrypt" in found(bank, "encryption").remedy
    assert main(["--config", str(bank / "node.toml"), "keys", "encrypt"]) == 0
    assert told(bank, "encryption") == ("ok", "")


def test_a_key_file_among_the_keys(bank: Path) -> None:
    (bank / "secret.key").rename(bank / "keys" / "secret.key")
    with (bank / "node.toml").open() as file:
        text = file.read()
    (bank / "node.toml").write_text(text.replace('keys = "keys" ', 'key_file = "keys/secret.key"\nkeys = "keys" '))
    assert told(bank, "encryption") == ("warn", "identity.key_beside_keys")


@pytest.mark.parametrize(("mode", "code"), [(0o644, "identity.permissions"), (None, "identity.locked")])
def test_a_key_file_that_cannot_be_used(bank: Path, mode: int | None, code: str) -> None:
    if mode is None:
        (bank / "secret.key").unlink()
    else:
        (bank / "secret.key").chmod(mode)
    assert told(bank, "keys") == ("fail", code)


def test_another_key_file(bank: Path) -> None:
    (bank / "secret.key").write_bytes(os.urandom(32))
    assert told(bank, "keys") == ("fail", "identity.wrong_secret")


@pytest.mark.parametrize(
    ("path", "mode", "code"),
    [
        ("keys", 0o770, "config.permissions"),
        ("partners", 0o777, "config.permissions"),
        ("node.toml", 0o662, "config.permissions"),
        ("policy.toml", 0o666, "config.permissions"),
        (".", 0o775, "config.permissions"),
        ("state", 0o750, "state.permissions"),
        ("state", 0o722, "state.permissions"),
    ],
)
def test_what_others_can_reach(bank: Path, path: str, mode: int, code: str) -> None:
    assert told(bank, "permissions") == ("ok", "")
    (bank / path).chmod(mode)
    assert told(bank, "permissions") == ("fail", code)
    assert "chmod" in found(bank, "permissions").remedy


def test_folders_of_another_user(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.geteuid()
    if real == 0:
        os.chown(bank / "partners", 12345, -1)
    else:
        monkeypatch.setattr("node.doctor_secrets.os.geteuid", lambda: real + 1)
    checks = [check for check in diagnose(bank / "node.toml") if check.name == "permissions"]
    assert {(check.state, check.code) for check in checks} <= {("fail", "config.permissions"), ("fail", "state.permissions")}
    assert all("chown" in check.remedy for check in checks)
    assert any("partners" in check.detail for check in checks)


def test_core_dumps(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for off, expected in ((True, ("ok", "")), (False, ("warn", "node.core_dumps"))):
        monkeypatch.setattr("node.doctor_secrets.core_dumps_off", lambda off=off: off)
        assert told(bank, "core dumps") == expected


# ---- the other side --------------------------------------------------------------------------------------------------------------


@contextmanager
def plain_server() -> Iterator[str]:
    """Answers everybody in clear, as a web server would."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        over = threading.Event()

        def answer() -> None:
            while not over.is_set():
                try:
                    link, _ = server.accept()
                except OSError:
                    return
                with link:
                    link.recv(64)
                    link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        over.set()
        server.shutdown(socket.SHUT_RDWR)


def test_a_link_that_is_no_tls(bank: Path, tmp_path: Path) -> None:
    shop = create_identity(tmp_path / "shop", name="shop", role="platform")
    with plain_server() as address:
        add_coordinator(bank, tmp_path, address)
        (bank / "partners" / "shop.partner.json").write_bytes(export_partner(shop, address=address))
        assert told(bank, "coordinator") == ("fail", "transport.not_tls")
        assert told(bank, "partner shop") == ("fail", "transport.not_tls")


def test_a_partner_with_another_certificate(bank: Path, tmp_path: Path) -> None:
    shop = create_identity(tmp_path / "shop", name="shop", role="platform")
    create_identity(tmp_path / "impostor", name="shop", role="platform")
    with serving(tmp_path / "impostor", [bank / "keys"]) as address:
        (bank / "partners" / "shop.partner.json").write_bytes(export_partner(shop, address=address))
        assert told(bank, "partner shop") == ("fail", "transport.wrong_certificate")


@pytest.mark.parametrize(
    ("tells", "expected"),
    [
        ({"isthmus-version": version("isthmus"), "isthmus-protocol": "1"}, ("ok", "")),
        ({"isthmus-version": "9.9.9", "isthmus-protocol": "1"}, ("ok", "")),
        ({"isthmus-version": "9.9.9", "isthmus-protocol": "7"}, ("fail", "transport.protocol_version")),
        ({"isthmus-version": "\\x1b[31m", "isthmus-protocol": "1"}, ("warn", "peer.version_unknown")),
        ({}, ("warn", "peer.version_unknown")),
        (None, ("warn", "peer.version_unknown")),
    ],
    ids=str,
)
def test_versions(bank: Path, tmp_path: Path, tells: dict[str, str] | None, expected: tuple[str, str]) -> None:
    with serving(tmp_path / "coordinator", [bank / "keys"], health=None if tells is None else Tells(tells)) as address:
        add_coordinator(bank, tmp_path, address)
        assert told(bank, "coordinator") == ("ok", "")
        assert told(bank, "coordinator version") == expected


@pytest.mark.parametrize(("ahead", "expected"), [(0, "ok"), (100, "warn"), (-100, "warn"), (1000, "fail"), (-1000, "fail")])
def test_clocks(bank: Path, tmp_path: Path, ahead: float, expected: str) -> None:
    tells = {"isthmus-version": "1", "isthmus-protocol": "1", "isthmus-time": str(time.time() + ahead)}
    with serving(tmp_path / "coordinator", [bank / "keys"], health=Tells(tells)) as address:
        add_coordinator(bank, tmp_path, address)
        assert told(bank, "coordinator clock") == (expected, "" if expected == "ok" else "transport.clock")


@pytest.mark.parametrize("text", ["nan", "inf", "noon"])
def test_a_clock_that_is_no_number_is_not_compared(bank: Path, tmp_path: Path, text: str) -> None:
    tells = {"isthmus-version": "1", "isthmus-protocol": "1", "isthmus-time": text}
    with serving(tmp_path / "coordinator", [bank / "keys"], health=Tells(tells)) as address:
        add_coordinator(bank, tmp_path, address)
        assert not [check for check in diagnose(bank / "node.toml") if check.name == "coordinator clock"]


# ---- what configuration and policy say of links ----------------------------------------------------------------------------------


def test_settings_of_links_that_cannot_be_meant(bank: Path) -> None:
    with (bank / "node.toml").open("a") as file:
        file.write('\n[relay]\nalways_with = ["shpo"]\n')
    assert told(bank, "relay") == ("warn", "partner.unknown")
    text = (bank / "policy.toml").read_text()
    (bank / "policy.toml").write_text(text.replace("patience = 600", "patience = 5"))
    assert told(bank, "links") == ("warn", "policy.patience")


# ---- the engine --------------------------------------------------------------------------------------------------------------


def with_engine(node: Path, text: str) -> None:
    path = node / "node.toml"
    path.write_text(path.read_text().replace('kind = "processes"', text))


def test_processes_beside_the_cores_there_are(bank: Path) -> None:
    assert told(bank, "engine") == ("ok", "")
    with_engine(bank, 'kind = "processes"\nworkers = 256')
    assert told(bank, "engine") == ("warn", "engine.workers")


def test_a_cluster_that_does_not_answer(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.engine.cluster.CONNECT_SECONDS", 0.3)
    files = 'ca = "ca.pem"\ncertificate = "n.pem"\nkey = "n.key"'
    with_engine(bank, f'kind = "dask"\naddress = "tls://127.0.0.1:9"\ntrust = "data"\n{files}')
    assert told(bank, "engine") == ("fail", "engine.cluster_files")
    path = bank / "node.toml"
    text = path.read_text().replace(files, "").replace("tls://127", "tcp://127")
    path.write_text(text + "\n[unsafe]\ncluster_without_tls = true\n")
    assert told(bank, "engine") == ("fail", "engine.cluster_unreachable")


def test_whether_a_partner_accepts_the_next_certificate(bank: Path, tmp_path: Path) -> None:
    config = ["--config", str(bank / "node.toml")]
    assert main([*config, "keys", "renew-certificate", "--output", str(tmp_path / "bank.partner.json")]) == 0
    after = Path(shutil.copytree(bank, tmp_path / "after"))
    assert main(["--config", str(after / "node.toml"), "keys", "activate"]) == 0
    for accepts, state, code in (([bank / "keys"], "warn", "partner.next_not_added"), ([bank / "keys", after / "keys"], "ok", "")):
        with serving(tmp_path / "coordinator", accepts, health=Tells({})) as address:
            add_coordinator(bank, tmp_path, address)
            assert told(bank, "coordinator")[0] == "ok"
            assert told(bank, "coordinator accepts next") == (state, code)
