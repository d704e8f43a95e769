"""Keys at rest: sealed, opened by a key file or a passphrase alone, never in clear on disk, in an error or on a screen."""

from __future__ import annotations

import base64
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from audit import identity, sealed, unlocking
from audit.errors import UsageError
from audit.identity import create_identity, load_identity, seal_identity, sealed_by
from audit.sealed import Secret, new_root, seal, unseal, unwrap_root, wrap_root
from audit.unlocking import ask_passphrase, new_key_file, new_passphrase, read_key_file
from coordinator.cli import main as coordinator_main
from node.cli import main as node_main

PASSPHRASE = "correct horse battery staple"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object, main: Callable[[list[str]], int] = node_main) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert PASSPHRASE not in captured.out + captured.err
        return status, captured.out, captured.err

    return call


@pytest.fixture
def passphrase_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "passphrase"
    path.write_text(PASSPHRASE + "\n")
    path.chmod(0o600)
    monkeypatch.setenv("ISTHMUS_PASSPHRASE_FILE", str(path))
    return path


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        action()
    assert PASSPHRASE not in str(caught.value)
    return caught.value.code


# ---- envelopes -------------------------------------------------------------------------------------------------------------------


def test_an_envelope_opens_for_its_root_and_its_name_alone() -> None:
    root, data = new_root(), b"the key"
    envelope = seal(root, "log.key", data)
    assert unseal(root, "log.key", envelope) == data
    assert data not in envelope
    assert seal(root, "log.key", data) != envelope, "a fresh nonce each time"
    for other_root, what in ((new_root(), "log.key"), (root, "tls.key")):
        with pytest.raises(ValueError, match=r"envelope|root"):
            unseal(other_root, what, envelope)
    renamed = json.dumps(json.loads(envelope) | {"what": "tls.key"}).encode()
    with pytest.raises(ValueError, match="root"):
        unseal(root, "tls.key", renamed)


@pytest.mark.parametrize("field", ["nonce", "data", "v", "kind"])
def test_every_field_of_an_envelope_is_authenticated(field: str) -> None:
    root = new_root()
    document = json.loads(seal(root, "log.key", b"the key"))
    changed = {"v": 2, "kind": "isthmus.secret"}.get(field) or _flipped(document[field])
    with pytest.raises(ValueError, match=r"envelope|damaged"):
        unseal(root, "log.key", json.dumps(document | {field: changed}).encode())


def _flipped(text: str) -> str:
    return ("0" if text[0] != "0" else "1") + text[1:]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"PRIVATE+KEY+x", b'{"kind":"isthmus.sealed"}'])
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="envelope"):
        unseal(new_root(), "log.key", data)


def test_the_root_is_wrapped_as_written_down() -> None:
    """Opened by hand, from the description in docs/decisions/0008-secrets.md, with scrypt and AES-GCM alone."""
    root = new_root()
    document = json.loads(wrap_root(root, Secret("passphrase", PASSPHRASE.encode())))
    key = Scrypt(salt=bytes.fromhex(document["salt"]), length=32, **document["scrypt"]).derive(PASSPHRASE.encode())
    header = {name: value for name, value in document.items() if name != "data"}
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    assert AESGCM(key).decrypt(bytes.fromhex(document["nonce"]), base64.b64decode(document["data"]), text) == root
    assert document["scrypt"] == {"n": 131072, "r": 8, "p": 1}


def test_another_secret_and_a_weakened_file_are_refused() -> None:
    root, secret = new_root(), Secret("key-file", os.urandom(32))
    wrapped = wrap_root(root, secret)
    assert unwrap_root(wrapped, secret) == root
    for other in (Secret("key-file", os.urandom(32)), Secret("passphrase", secret.value)):
        assert code_of(lambda other=other: unwrap_root(wrapped, other)) == "identity.wrong_secret"
    document = json.loads(wrap_root(root, Secret("passphrase", b"x")))
    for scrypt in ({"n": 2, "r": 8, "p": 1}, {"n": 2**30, "r": 8, "p": 1}, {"n": 2**17, "r": 8, "p": 100}, None):
        with pytest.raises(ValueError, match=r"secret\.json"):
            sealed.kind_of(json.dumps(document | {"scrypt": scrypt}).encode())


def test_secrets_do_not_print() -> None:
    secret = Secret("passphrase", PASSPHRASE.encode())
    assert PASSPHRASE not in f"{secret!r} {secret}"


# ---- identities ------------------------------------------------------------------------------------------------------------------


def test_a_sealed_identity_is_the_same_and_nothing_of_it_lies_in_clear(tmp_path: Path) -> None:
    made = create_identity(tmp_path / "keys", name="bank", role="bank", secret=new_key_file(tmp_path / "secret.key"))
    read = load_identity(tmp_path / "keys")
    assert (read.tls_key_pem, read.log_key.private_text()) == (made.tls_key_pem, made.log_key.private_text())
    assert read.state_key == made.state_key is not None
    secrets = [made.log_key.private_text().split("+", 4)[4].encode(), *made.tls_key_pem.splitlines()[1:-1]]
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert not any(secret in path.read_bytes() for secret in secrets), path
            assert path.stat().st_mode & 0o077 == 0 or path.name in ("tls.crt", "identity.json")
    assert sealed_by(tmp_path / "keys") == "key-file"
    assert made.state_key is not None
    assert made.state_key.hex() not in repr(made)
    assert repr(made.state_key) not in repr(made)


def test_without_the_key_file_or_with_another_it_does_not_open(tmp_path: Path) -> None:
    create_identity(tmp_path / "keys", name="bank", role="bank", secret=new_key_file(tmp_path / "secret.key"))
    (tmp_path / "secret.key").rename(tmp_path / "away.key")
    assert code_of(lambda: load_identity(tmp_path / "keys")) == "identity.locked"
    assert load_identity(tmp_path / "keys", key_file=tmp_path / "away.key").name == "bank"
    new_key_file(tmp_path / "secret.key")
    assert code_of(lambda: load_identity(tmp_path / "keys")) == "identity.wrong_secret"
    (tmp_path / "secret.key").write_bytes(b"x" * 31)
    assert code_of(lambda: load_identity(tmp_path / "keys")) == "identity.key_file"


@pytest.mark.parametrize("file", ["secret.key", "keys/secret.json", "keys/log.key"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_private_files_that_others_can_reach_are_refused(tmp_path: Path, file: str, mode: int) -> None:
    create_identity(tmp_path / "keys", name="bank", role="bank", secret=new_key_file(tmp_path / "secret.key"))
    (tmp_path / file).chmod(mode)
    assert code_of(lambda: load_identity(tmp_path / "keys")) == "identity.permissions"


def test_a_private_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.key"
    new_key_file(path)
    found = list(path.stat())
    found[4] = os.geteuid() + 1
    assert code_of(lambda: unlocking.check_private(path, os.stat_result(found))) == "identity.permissions"


def test_a_credential_of_systemd_may_show_rights_of_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.key"
    new_key_file(path)
    path.chmod(0o440)
    found = list(path.stat())
    found[4] = 0  # root's
    assert code_of(lambda: unlocking.check_private(path, os.stat_result(found))) == "identity.permissions"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    unlocking.check_private(path, os.stat_result(found))
    found[0] = 0o100444
    assert code_of(lambda: unlocking.check_private(path, os.stat_result(found))) == "identity.permissions"


def test_a_lost_or_damaged_secret_json(tmp_path: Path) -> None:
    create_identity(tmp_path / "keys", name="bank", role="bank", secret=new_key_file(tmp_path / "secret.key"))
    path = tmp_path / "keys" / "secret.json"
    path.write_text("{}")
    assert code_of(lambda: load_identity(tmp_path / "keys")) == "identity.invalid"
    path.unlink()
    assert code_of(lambda: load_identity(tmp_path / "keys")) == "identity.invalid"
    assert sealed_by(tmp_path / "keys") is None


def test_sealing_that_was_cut_off_opens_and_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_identity(tmp_path / "keys", name="bank", role="bank")
    before = load_identity(tmp_path / "keys")
    secret = new_key_file(tmp_path / "secret.key")
    whole = Path.replace

    def cut(self: Path, target: Path) -> Path:
        if target.name == "tls.key":
            raise KeyboardInterrupt
        return whole(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            seal_identity(tmp_path / "keys", secret)
    assert sealed_by(tmp_path / "keys") is None
    assert load_identity(tmp_path / "keys").tls_key_pem == before.tls_key_pem
    seal_identity(tmp_path / "keys", secret)
    assert sealed_by(tmp_path / "keys") == "key-file"
    assert load_identity(tmp_path / "keys").log_key.verifier == before.log_key.verifier
    assert list((tmp_path / "keys").glob("*.partial")) == []


# ---- passphrases -----------------------------------------------------------------------------------------------------------------


def test_a_passphrase_comes_from_a_private_file_or_a_descriptor(tmp_path: Path, passphrase_file: Path) -> None:
    assert ask_passphrase().value == PASSPHRASE.encode()
    passphrase_file.chmod(0o644)
    assert code_of(ask_passphrase) == "identity.permissions"
    passphrase_file.unlink()
    assert code_of(ask_passphrase) == "identity.locked"
    reader, writer = os.pipe()
    os.write(writer, PASSPHRASE.encode() + b"\r\n")
    os.close(writer)
    assert ask_passphrase({"ISTHMUS_PASSPHRASE_FD": str(reader)}).value == PASSPHRASE.encode()
    for bad in ("x", "987654"):
        assert code_of(lambda bad=bad: ask_passphrase({"ISTHMUS_PASSPHRASE_FD": bad})) == "identity.locked"
    with open(os.devnull) as nothing, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", nothing)
        assert code_of(lambda: ask_passphrase({})) == "identity.locked"
        assert code_of(lambda: new_passphrase({})) == "identity.locked"


def test_a_short_passphrase_is_refused(tmp_path: Path, passphrase_file: Path) -> None:
    passphrase_file.write_text("short\n")
    assert code_of(new_passphrase) == "identity.weak_passphrase"


def test_the_terminal_does_not_show_the_passphrase(tmp_path: Path, passphrase_file: Path) -> None:
    """A real terminal: what is typed opens the keys, what is wrong does not, and neither is echoed."""
    create_identity(tmp_path / "keys", name="bank", role="bank", secret=new_passphrase())
    script = "import sys; from pathlib import Path; from audit.identity import load_identity\n"
    script += "try: print('opened', load_identity(Path(sys.argv[1])).name)\nexcept Exception as e: print(e.code)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ISTHMUS_")}
    for typed, answer in ((PASSPHRASE, "opened bank"), ("something else", "identity.wrong_secret")):
        outer, inner = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "keys")],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env=environment,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
        )
        os.close(inner)
        shown = b""
        while b"Passphrase of the keys" not in shown:
            shown += os.read(outer, 1024)
        os.write(outer, typed.encode() + b"\n")
        try:
            while chunk := os.read(outer, 1024):
                shown += chunk
        except OSError:  # how a terminal says that its other end is closed
            pass
        process.wait(30)
        os.close(outer)
        assert answer in shown.decode()
        assert typed not in shown.decode()


# ---- commands --------------------------------------------------------------------------------------------------------------------


def test_init_seals_with_a_key_file_beside_the_keys(tmp_path: Path, run: Run) -> None:
    assert run("init", tmp_path / "bank", "--name", "bank", "--role", "bank")[0] == 0
    assert run("init", tmp_path / "c", "--listen", "127.0.0.1:7442", main=coordinator_main)[0] == 0
    for home, main, config in (("bank", node_main, "node.toml"), ("c", coordinator_main, "coordinator.toml")):
        assert sealed_by(tmp_path / home / "keys") == "key-file"
        assert (tmp_path / home / "secret.key").stat().st_mode & 0o777 == 0o600
        assert run("--config", tmp_path / home / config, "partner", "export", "--json", main=main)[0] == 0
        (tmp_path / home / "secret.key").unlink()
        status, _, err = run("--config", tmp_path / home / config, "partner", "export", main=main)
        assert (status, "identity.locked" in err) == (2, True)


def test_init_takes_a_key_file_elsewhere(tmp_path: Path, run: Run) -> None:
    elsewhere = tmp_path / 'a "mount"' / "bank.key"
    elsewhere.parent.mkdir()
    assert run("init", tmp_path / "bank", "--name", "bank", "--role", "bank", "--key-file", elsewhere)[0] == 0
    assert not (tmp_path / "bank" / "secret.key").exists()
    assert len(elsewhere.read_bytes()) == 32
    before = elsewhere.read_bytes()
    arguments = ("init", tmp_path / "c", "--listen", "127.0.0.1:7442", "--key-file", elsewhere)
    assert run(*arguments, main=coordinator_main)[0] == 0
    assert elsewhere.read_bytes() == before, "one that is there is used"
    assert run("--config", tmp_path / "bank" / "node.toml", "partner", "export", "--json")[0] == 0
    assert run("--config", tmp_path / "c" / "coordinator.toml", "partner", "export", "--json", main=coordinator_main)[0] == 0


def test_init_takes_a_passphrase(tmp_path: Path, run: Run, passphrase_file: Path) -> None:
    home = tmp_path / "bank"
    assert run("init", home, "--name", "bank", "--role", "bank", "--passphrase")[0] == 0
    assert sealed_by(home / "keys") == "passphrase"
    assert run("--config", home / "node.toml", "partner", "export", "--json")[0] == 0
    both = ("--key-file", tmp_path / "k", "--passphrase")
    status, _, err = run("init", tmp_path / "x", "--name", "bank", "--role", "bank", *both)
    assert (status, "identity.two_secrets" in err) == (2, True)
    assert not (tmp_path / "k").exists()


@pytest.mark.parametrize("main", [node_main, coordinator_main])
def test_keys_in_clear_are_encrypted_and_rewrapped(
    main: Callable[[list[str]], int], tmp_path: Path, run: Run, passphrase_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = main is node_main
    name, role = ("bank", "bank") if node else ("coordinator", "coordinator")
    made = create_identity(tmp_path / "keys", name=name, role=role)
    config = tmp_path / "config.toml"
    config.write_text('[node]\nname = "bank"\nrole = "bank"\n' if node else '[coordinator]\nname = "coordinator"\nlisten = "a:1"\n')

    def command(*arguments: object) -> tuple[int, str]:
        status, out, err = run("--config", config, "keys", *arguments, main=main)
        return status, out + err

    def opens() -> None:
        assert load_identity(tmp_path / "keys").log_key.private_text() == made.log_key.private_text()
        assert load_identity(tmp_path / "keys").tls_key_pem == made.tls_key_pem

    assert "identity.not_sealed" in command("rewrap", "--passphrase")[1]
    assert command("encrypt")[0] == 0
    assert sealed_by(tmp_path / "keys") == "key-file"
    opens()
    assert "identity.sealed" in command("encrypt")[1]
    assert "identity.no_secret" in command("rewrap")[1]
    new = tmp_path / "new"
    new.write_text(PASSPHRASE)
    new.chmod(0o600)
    monkeypatch.setenv("ISTHMUS_NEW_PASSPHRASE_FILE", str(new))
    assert command("rewrap", "--passphrase")[0] == 0
    assert sealed_by(tmp_path / "keys") == "passphrase"
    opens()
    passphrase_file.rename(tmp_path / "away")
    identity._opened.clear()  # as in a process of its own
    assert "identity.locked" in command("rewrap", "--key-file", tmp_path / "other.key")[1]
    assert not (tmp_path / "other.key").exists(), "nothing is made before the keys open"
    (tmp_path / "away").rename(passphrase_file)
    status, said = command("rewrap", "--key-file", tmp_path / "other.key")
    assert (status, "key_file = " in said) == (0, True)
    assert code_of(lambda: load_identity(tmp_path / "keys")) == "identity.wrong_secret"
    assert load_identity(tmp_path / "keys", key_file=tmp_path / "other.key").tls_key_pem == made.tls_key_pem
    assert read_key_file(tmp_path / "other.key").kind == "key-file"


def test_a_wrong_passphrase_has_a_code_of_its_own(tmp_path: Path, run: Run, passphrase_file: Path) -> None:
    home = tmp_path / "bank"
    assert run("init", home, "--name", "bank", "--role", "bank", "--passphrase")[0] == 0
    passphrase_file.write_text("another passphrase")
    status, out, err = run("--config", home / "node.toml", "partner", "export")
    assert (status, "identity.wrong_secret" in err, out) == (2, True, "")
