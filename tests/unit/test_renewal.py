"""A certificate renewed: what the folder of keys, partner files, log and verification make of it, and of every mishap."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
import rfc8785

from audit import renewal
from audit.certificates import certificate_sha256, new_certificate
from audit.errors import DataError, IsthmusError, UsageError
from audit.identity import Identity, load_identity, seal_identity, sealed_by
from audit.opening import write_opening, write_renewal
from audit.partner import Partner, load_partners, parse_partner, partner_of
from audit.partner_commands import RENEWING, REPLACED, RETIRED, change_of
from audit.record import LogWriter
from audit.verify import verify_logs
from node.cli import main
from node.doctor import diagnose
from node.doctor_certificates import own_certificate, partner_validity
from node.runtime.files import JobFiles
from node.runtime.seeds import draw_seed, open_seed
from tests.renewals import SECRET, keys, renewed_files
from tests.unit.audit_world import BANK, COORDINATOR, PLATFORM, Event, events, index, policy, write
from tests.unit.audit_world import JOB as WORLD_JOB

JOB = "ab" * 32


def shown(identity: Identity) -> tuple[object, ...]:
    """An identity as values that can be compared."""
    links = (identity.tls_key_pem, identity.tls_certificate_pem, identity.next_certificate_pem)
    return (identity.name, identity.role, identity.log_key.private_text(), *links, identity.state_key, identity.retired_keys)


# ---- the folder of keys ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", [False, True])
def test_from_the_old_certificate_to_the_new(tmp_path: Path, sealed: bool) -> None:
    folder, old = keys(tmp_path, sealed=sealed)
    prepared = renewal.prepare(folder)
    assert shown(load_identity(folder)) == shown(prepared)
    assert (prepared.tls_key_pem, prepared.tls_certificate_pem) == (old.tls_key_pem, old.tls_certificate_pem)
    assert prepared.next_certificate_pem not in (None, old.tls_certificate_pem)
    assert (folder / "next.key").stat().st_mode & 0o777 == 0o600
    assert (b"PRIVATE" in (folder / "next.key").read_bytes()) is not sealed
    assert (sealed_by(folder) is not None) is sealed
    following = renewal.next_identity(folder)
    new = renewal.activate(folder)
    assert shown(load_identity(folder)) == shown(new) == shown(following)
    assert new.tls_certificate_pem == prepared.next_certificate_pem
    assert (new.next_certificate_pem, new.log_key.verifier, new.state_key) == (None, old.log_key.verifier, old.state_key)
    assert not list(folder.glob("next.*"))
    assert old.tls_key_pem not in b"".join(path.read_bytes() for path in folder.iterdir()), "the former key is gone"
    with pytest.raises(UsageError, match=r"identity\.no_next"):
        renewal.activate(folder)


def test_a_next_certificate_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    folder, _ = keys(tmp_path)
    first = renewal.prepare(folder)
    with pytest.raises(UsageError, match=r"identity\.next_exists"):
        renewal.prepare(folder)
    assert shown(load_identity(folder)) == shown(first)
    assert renewal.prepare(folder, again=True).next_certificate_pem != first.next_certificate_pem
    (folder / "next.key").write_bytes(new_certificate("bank", datetime.now(UTC))[0])
    with pytest.raises(UsageError, match=r"next\.crt .* is not the certificate of next\.key"):
        renewal.activate(folder)
    (folder / "next.key").chmod(0o644)
    with pytest.raises(UsageError, match=r"identity\.permissions"):
        renewal.activate(folder)


def test_cut_off_anywhere_it_opens_and_can_be_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every state of the folder that a power cut can leave, one after the other."""

    class Cut(Exception):
        pass

    done = 0
    for at in range(1, 20):
        home = tmp_path / str(at)
        folder, old = keys(home, sealed=True)
        following = renewal.prepare(folder).next_certificate_pem
        changes = 0

        def counted(original: Callable[..., object], *, at: int = at) -> Callable[..., object]:
            def change(*arguments: object, **named: object) -> object:
                nonlocal changes
                changes += 1
                if changes == at:
                    raise Cut
                return original(*arguments, **named)

            return change

        with monkeypatch.context() as patched:
            for method in ("replace", "unlink"):
                patched.setattr(Path, method, counted(getattr(Path, method)))
            try:
                renewal.activate(folder)
                done = at
            except Cut:
                pass
        found = load_identity(folder)
        assert found.tls_certificate_pem in (old.tls_certificate_pem, following)
        if found.tls_certificate_pem == following:
            assert found.next_certificate_pem is None
        if done:
            break
        assert renewal.activate(folder).tls_certificate_pem == following == load_identity(folder).tls_certificate_pem
        assert len(load_identity(folder).retired_keys) == 1
        assert not list(folder.glob("next.*"))
    assert done > 6, "the cuts went through all changes"


def test_keys_in_clear_can_be_sealed_in_the_middle(tmp_path: Path) -> None:
    folder, _ = keys(tmp_path)
    following = renewal.prepare(folder).next_certificate_pem
    handle = os.open(tmp_path / "secret.key", os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(handle, SECRET.value)
    os.close(handle)
    seal_identity(folder, SECRET)
    assert b"PRIVATE" not in (folder / "next.key").read_bytes()
    assert renewal.activate(folder).tls_certificate_pem == following


def test_seeds_of_before_open_after(tmp_path: Path) -> None:
    """With keys in clear, seeds are sealed under the TLS key: also under one that two renewals have replaced."""
    folder, old = keys(tmp_path)
    files = JobFiles(tmp_path / "job")
    seed = draw_seed(files, job=JOB, identity=old)
    for _ in range(2):
        renewal.prepare(folder)
        renewal.activate(folder)
    assert open_seed(files, job=JOB, identity=load_identity(folder)) == seed
    (folder / "retired.keys").unlink()
    with pytest.raises(DataError, match=r"seed\.unreadable"):
        open_seed(files, job=JOB, identity=load_identity(folder))


# ---- partner files ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    return renewed_files(tmp_path / "bank")


def test_the_file_names_both_and_the_fingerprint_covers_both(files: dict[str, bytes], tmp_path: Path) -> None:
    before, during, after = (parse_partner(files[name]) for name in ("before", "during", "after"))
    assert [json.loads(data)["v"] for data in files.values()] == [1, 2, 1]
    assert rfc8785.dumps(json.loads(files["during"])) == files["during"]
    assert during.trusted_pem == before.certificate_pem + after.certificate_pem
    assert len({before.fingerprint, during.fingerprint, after.fingerprint}) == 3
    other = new_certificate("bank", datetime.now(UTC))[1].decode()
    changed = parse_partner(rfc8785.dumps(json.loads(files["during"]) | {"next_certificate": other}))
    assert changed.fingerprint != during.fingerprint


def test_bad_files_of_version_2(files: dict[str, bytes]) -> None:
    good = json.loads(files["during"])
    stranger = new_certificate("shop", datetime.now(UTC))[1].decode()
    for change in (
        {"v": 1},
        {"v": 3},
        {"next_certificate": None},
        {"next_certificate": good["certificate"]},
        {"next_certificate": stranger},
        {"next_certificate": "no certificate"},
        {"next_certificate": good["next_certificate"] + good["certificate"]},
    ):
        with pytest.raises(UsageError, match=r"partner\.invalid"):
            parse_partner(rfc8785.dumps(good | change))


def test_what_a_file_changes(files: dict[str, bytes]) -> None:
    before, during, after = (parse_partner(files[name]) for name in ("before", "during", "after"))
    assert change_of(None, before) == change_of(during, during) == ""
    assert change_of(before, during) == RENEWING
    assert change_of(during, after) == RETIRED
    assert change_of(before, after) == REPLACED, "the next file was never added"
    assert change_of(during, before) == REPLACED, "a file of before would keep a former key that is to go"


def added(node: Path, file: Path, *more: str) -> int:
    return main(["--config", str(node / "node.toml"), "partner", "add", str(file), *more])


def test_partner_add_asks_unless_only_the_former_certificate_goes(
    files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", StringIO())  # nobody answers
    node = tmp_path / "shop"
    assert main(["init", str(node), "--name", "shop", "--role", "platform"]) == 0
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert added(node, tmp_path / "before", "--yes") == 0
    assert added(node, tmp_path / "during") != 0, "nobody is there to compare"
    assert added(node, tmp_path / "during", "--yes") == 0
    assert added(node, tmp_path / "before") != 0
    assert "partner.not_confirmed" in capsys.readouterr().err
    assert added(node, tmp_path / "after") == 0
    assert load_partners(node / "partners")["bank"].trusted_pem == parse_partner(files["after"]).certificate_pem


# ---- log and verification --------------------------------------------------------------------------------------------------------


def test_the_log_has_every_certificate_of_a_run(tmp_path: Path) -> None:
    folder, old = keys(tmp_path)
    log = LogWriter.open(tmp_path / "log", key=old.log_key, clock=lambda: datetime(2025, 1, 1, tzinfo=UTC))
    write_opening(log, old)
    renewal.prepare(folder)
    new = renewal.activate(folder)
    write_renewal(log, new)
    log.close()
    entries = [json.loads(line) for line in (tmp_path / "log" / "log.jsonl").read_bytes().splitlines()]
    shown = [entry["sha256"] for entry in entries if entry.get("what") == "tls certificate"]
    assert shown == [certificate_sha256(old.tls_certificate_pem), certificate_sha256(new.tls_certificate_pem)]
    assert {(entry["job"], entry["step"]) for entry in entries} == {("", "")}


def certificate(log: str, digits: str = "ab") -> Event:
    return Event(log, "commitment", {"what": "tls certificate", "sha256": digits * 32})


@pytest.mark.parametrize(
    ("log", "step", "kind"), [(BANK, "align", "step"), (COORDINATOR, "round", "message"), (BANK, "finish", "receipt")]
)
def test_several_certificates_in_one_run_are_lawful(tmp_path: Path, log: str, step: str, kind: str) -> None:
    """At the start of a run, and again in the middle of a job, a step or between messages."""
    told = events()
    at = index(told, BANK, kind, step=step)
    told[at:at] = [certificate(log, "cd"), certificate(log, "cd"), certificate(PLATFORM)]
    told[:0] = [certificate(BANK), certificate(PLATFORM), certificate(COORDINATOR)]
    verified = verify_logs(list(write(tmp_path, told).values()), policy=policy(tmp_path))
    assert verified.whole, verified.open_points


@pytest.mark.parametrize(
    ("event", "step", "code"),
    [
        (Event(BANK, "commitment", {"what": "log key", "sha256": "ab" * 32}), 3, "audit.other_key"),
        (Event(BANK, "commitment", {"what": "tls certificate", "sha256": "no digest"}), 7, "audit.field"),
        (Event(BANK, "commitment", {"what": "tls certificate", "sha256": "ab" * 32, "job": WORLD_JOB}), 7, "audit.order"),
    ],
    ids=["another log key", "no digest", "in a job"],
)
def test_what_a_renewal_cannot_be(tmp_path: Path, event: Event, step: int, code: str) -> None:
    """The log key stays; a certificate is a digest, and belongs to the run and to no job."""
    told = events()
    told.insert(index(told, BANK, "step", step="round"), event)
    with pytest.raises(IsthmusError) as caught:
        verify_logs(list(write(tmp_path, told).values()), policy=policy(tmp_path))
    assert getattr(caught.value, "step", None) == step
    assert caught.value.code == code


# ---- doctor ----------------------------------------------------------------------------------------------------------------------


def test_doctor_warns_and_says_which_commands(tmp_path: Path) -> None:
    folder, old = keys(tmp_path)
    now, end = datetime.now(UTC), datetime.now(UTC) + timedelta(days=3652)
    assert [check.state for check in own_certificate(old, now)] == ["ok"]
    (soon,) = own_certificate(old, end - timedelta(days=30))
    assert (soon.state, soon.code) == ("warn", "transport.certificate_expires")
    for command in ("keys renew-certificate", "partner add", "keys activate"):
        assert command in soon.remedy
    (late,) = own_certificate(old, end + timedelta(days=2))
    assert (late.state, late.code) == ("fail", "transport.certificate_expired")
    present, following = own_certificate(renewal.prepare(folder), now)
    assert (present.state, following.state, following.code) == ("ok", "warn", "identity.next_waits")
    assert "keys activate" in following.remedy


def test_doctor_on_a_partner_that_renews(files: dict[str, bytes]) -> None:
    end = datetime.now(UTC) + timedelta(days=3640)
    before: Partner = parse_partner(files["before"])
    check = partner_validity("partner bank", before, end)
    assert (check.state, check.code) == ("warn", "transport.certificate_expires")
    assert "keys renew-certificate" in check.remedy
    assert "renewing" in partner_validity("partner bank", parse_partner(files["during"]), datetime.now(UTC)).detail


def test_doctor_and_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "bank"
    assert main(["init", str(home), "--name", "bank", "--role", "bank"]) == 0
    config, file = ["--config", str(home / "node.toml")], tmp_path / "bank.partner.json"
    assert main([*config, "keys", "activate"]) != 0
    assert "identity.no_next" in capsys.readouterr().err
    assert main([*config, "keys", "renew-certificate", "--output", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fingerprint"] == parse_partner(file.read_bytes()).fingerprint
    assert parse_partner(file.read_bytes()).next_certificate_pem is not None
    assert "next certificate" in {check.name for check in diagnose(home / "node.toml")}
    assert main([*config, "keys", "activate", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fingerprint"] == partner_of(load_identity(home / "keys"), address="").fingerprint
    assert "next certificate" not in {check.name for check in diagnose(home / "node.toml")}
