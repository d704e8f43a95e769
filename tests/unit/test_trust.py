"""Trust, while a process runs: what it makes of partner files and of its own keys when they change under it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from audit import renewal
from audit.errors import DataError
from audit.identity import Identity, seal_identity
from audit.partner import export_partner, parse_partner
from audit.trust import Trust
from tests.renewals import SECRET, keys, renewed_files


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    return renewed_files(tmp_path / "bank")


class Serving:
    """What a process that serves sees: its keys, a folder of partner files, what it was told."""

    def __init__(self, folder: Path) -> None:
        self.keys, self.first = keys(folder / "own", name="shop", role="platform", sealed=True)
        self.partners = folder / "partners"
        self.partners.mkdir()
        self.errors: list[str] = []
        self.committed: list[str] = []

    def start(self) -> Trust:
        trust = Trust(self.first, keys=self.keys, key_file=None, partners=self.partners, told=lambda e: self.errors.append(e.code))
        trust.committed = lambda renewed: self.committed.append(renewed.tls_certificate_pem.decode())
        return trust

    def put(self, data: bytes, name: str = "bank") -> None:
        """As ``partner add`` does: another file is put in its place."""
        partial = self.partners / "partial"
        partial.write_bytes(data)
        partial.replace(self.partners / f"{name}.partner.json")


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    return Serving(tmp_path)


def test_partner_files_are_taken_up(serving: Serving, files: dict[str, bytes]) -> None:
    serving.put(files["before"])
    trust = serving.start()
    pinned = trust.pinned()
    assert not trust.refresh()
    for name in ("during", "after"):
        serving.put(files[name])
        assert trust.refresh().partners == {"bank"}
        assert pinned["bank"] == parse_partner(files[name]).trusted_pem
        assert not trust.refresh()
    assert serving.errors == []


def test_a_damaged_file_leaves_the_trust_as_it_was_and_is_told_once(serving: Serving, files: dict[str, bytes]) -> None:
    serving.put(files["before"])
    trust = serving.start()
    serving.put(files["during"][:-7])
    for _ in range(3):
        assert not trust.refresh()
    assert serving.errors == ["partner.invalid"]
    assert trust.pinned()["bank"] == parse_partner(files["before"]).trusted_pem
    serving.put(files["during"])
    assert trust.refresh().partners == {"bank"}


def test_a_file_that_is_gone_ends_the_trust(serving: Serving, files: dict[str, bytes]) -> None:
    serving.put(files["before"])
    trust = serving.start()
    (serving.partners / "bank.partner.json").unlink()
    assert trust.refresh().partners == {"bank"}
    assert trust.pinned()["bank"] == b""
    assert trust.partners["bank"].log_key == parse_partner(files["before"]).log_key
    serving.put(files["before"])
    assert trust.refresh().partners == {"bank"}
    assert trust.pinned()["bank"] == parse_partner(files["before"]).trusted_pem


def test_another_log_key_is_not_taken_up_and_ends_the_trust(serving: Serving, files: dict[str, bytes], tmp_path: Path) -> None:
    serving.put(files["before"])
    trust = serving.start()
    serving.put(export_partner(keys(tmp_path / "other")[1], address=""))
    assert trust.refresh().partners == {"bank"}
    assert serving.errors == ["partner.other_keys"]
    assert trust.pinned()["bank"] == b""
    assert trust.partners["bank"].log_key == parse_partner(files["before"]).log_key


def test_a_new_partner_and_a_second_file_of_one(serving: Serving, files: dict[str, bytes], tmp_path: Path) -> None:
    serving.put(files["before"])
    trust = serving.start()
    serving.put(files["during"], "again")
    assert not trust.refresh()
    assert serving.errors == ["partner.duplicate"]
    (serving.partners / "bank.partner.json").unlink()
    assert trust.refresh().partners == {"bank"}
    assert trust.pinned()["bank"] == parse_partner(files["during"]).trusted_pem
    coordinator = keys(tmp_path / "c", name="coordinator", role="coordinator")[1]
    serving.put(export_partner(coordinator, address="c:1"), "coordinator")
    assert trust.refresh().partners == {"coordinator"}
    assert set(trust.partners) == {"bank", "coordinator"}
    assert set(trust.pinned()) == {"bank"}, "a coordinator dials nobody"


def test_the_own_certificate_is_committed_to_before_it_is_used(serving: Serving) -> None:
    trust = serving.start()
    prepared = renewal.prepare(serving.keys)
    assert not trust.refresh(), "nothing is used yet"
    used: list[bytes] = []
    trust.committed = lambda renewed: used.append(trust.identity.tls_certificate_pem)
    (serving.keys.parent / "secret.key").unlink()  # what opened the keys at the start may be gone by now
    handle = os.open(serving.keys.parent / "secret.key", os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(handle, SECRET.value)
    os.close(handle)
    renewal.activate(serving.keys)
    (serving.keys.parent / "secret.key").unlink()
    assert trust.refresh().own
    assert used == [serving.first.tls_certificate_pem]
    assert trust.identity.tls_certificate_pem == trust.own()["shop"] == prepared.next_certificate_pem
    assert not trust.refresh()


def test_a_certificate_that_the_log_cannot_commit_to_is_not_used(serving: Serving) -> None:
    trust = serving.start()

    def full(renewed: Identity) -> None:
        raise DataError("log.write_failed", "The disk is full.")

    trust.committed = full
    renewal.prepare(serving.keys)
    renewal.activate(serving.keys)
    assert not trust.refresh().own
    assert serving.errors == ["log.write_failed"]
    assert trust.identity.tls_certificate_pem == serving.first.tls_certificate_pem


@pytest.mark.parametrize("by", ["key-file", "passphrase"])
def test_keys_that_were_sealed_meanwhile(tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, old = keys(tmp_path)
    errors: list[str] = []
    trust = Trust(old, keys=folder, key_file=None, partners=tmp_path, told=lambda error: errors.append(error.code))
    if by == "passphrase":  # a real one would be stretched for a second
        monkeypatch.setattr("audit.trust.sealed_by", lambda folder: by)
    handle = os.open(tmp_path / "secret.key", os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(handle, SECRET.value)
    os.close(handle)
    seal_identity(folder, SECRET)
    renewal.prepare(folder)
    renewal.activate(folder)
    assert trust.refresh().own is (by == "key-file")
    assert errors == ([] if by == "key-file" else ["identity.locked"])


def test_other_keys_are_not_taken_up(serving: Serving, tmp_path: Path) -> None:
    trust = serving.start()
    other, _ = keys(tmp_path / "other", name="shop", role="platform", sealed=True)
    for path in other.iterdir():
        path.replace(serving.keys / path.name)
    assert not trust.refresh()
    assert serving.errors in (["identity.other_keys"], ["identity.invalid"])
    assert trust.identity == serving.first
