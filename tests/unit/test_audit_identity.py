"""Identities and partner files: round trips, file permissions, nothing overwritten, no secret printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import rfc8785
from cryptography import x509

from audit.errors import IsthmusError, UsageError, VerificationError
from audit.identity import create_identity, load_identity
from audit.partner import export_partner, load_partners, parse_partner
from audit.signing import SigningKey


def test_round_trip(tmp_path: Path) -> None:
    made = create_identity(tmp_path / "keys", name="bank", role="bank")
    read = load_identity(tmp_path / "keys")
    assert (read.name, read.role) == ("bank", "bank")
    assert read.log_key.verifier == made.log_key.verifier
    assert read.log_key.name == "isthmus.log/bank"
    assert (read.tls_key_pem, read.tls_certificate_pem) == (made.tls_key_pem, made.tls_certificate_pem)
    for private in ("log.key", "tls.key"):
        assert (tmp_path / "keys" / private).stat().st_mode & 0o777 == 0o600


def test_certificate_names_the_participant_and_is_no_authority(tmp_path: Path) -> None:
    certificate = x509.load_pem_x509_certificate(create_identity(tmp_path, name="bank", role="bank").tls_certificate_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["bank.isthmus"]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert 3650 <= (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days <= 3654


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    create_identity(tmp_path, name="bank", role="bank")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match=r"identity\.exists"):
        create_identity(tmp_path, name="bank", role="bank")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(("file", "mode"), [("log.key", 0o640), ("tls.key", 0o604), ("log.key", 0o660)])
def test_a_key_others_can_read_is_refused(tmp_path: Path, file: str, mode: int) -> None:
    create_identity(tmp_path, name="bank", role="bank")
    (tmp_path / file).chmod(mode)
    with pytest.raises(UsageError, match="chmod 600") as caught:
        load_identity(tmp_path)
    assert caught.value.code == "identity.permissions"
    assert file in caught.value.message


@pytest.mark.parametrize("file", ["log.key", "tls.key", "tls.crt", "identity.json"])
def test_missing_or_damaged_files(tmp_path: Path, file: str) -> None:
    create_identity(tmp_path, name="bank", role="bank")
    secret = (tmp_path / file).read_text()
    (tmp_path / file).write_text(secret[: len(secret) // 2])
    with pytest.raises(IsthmusError) as caught:
        load_identity(tmp_path)
    assert caught.value.code == "identity.invalid"
    if file.endswith(".key"):
        assert secret[40:60] not in str(caught.value)
    (tmp_path / file).unlink()
    with pytest.raises(UsageError) as missing:
        load_identity(tmp_path)
    assert missing.value.code == "identity.missing"


def test_keys_that_do_not_belong_together(tmp_path: Path) -> None:
    create_identity(tmp_path / "a", name="bank", role="bank")
    create_identity(tmp_path / "b", name="platform", role="platform")
    (tmp_path / "a" / "tls.crt").write_bytes((tmp_path / "b" / "tls.crt").read_bytes())
    with pytest.raises(UsageError, match=r"tls\.crt is not the certificate of tls\.key"):
        load_identity(tmp_path / "a")
    (tmp_path / "b" / "log.key").write_text((tmp_path / "a" / "log.key").read_text())
    with pytest.raises(UsageError, match="is the key of"):
        load_identity(tmp_path / "b")


@pytest.mark.parametrize(
    ("name", "role"), [("Bank", "bank"), ("", "bank"), ("b ank", "bank"), ("bank", "auditor"), ("../bank", "bank")]
)
def test_bad_names_and_roles(tmp_path: Path, name: str, role: str) -> None:
    with pytest.raises(UsageError) as caught:
        create_identity(tmp_path / "keys", name=name, role=role)
    assert caught.value.code == "identity.invalid"
    assert not (tmp_path / "keys").exists()


def test_secrets_do_not_print(tmp_path: Path) -> None:
    identity = create_identity(tmp_path, name="bank", role="bank")
    private = (tmp_path / "log.key").read_text().strip().split("+", 4)[4]
    tls = identity.tls_key_pem.decode().splitlines()[1]
    for text in (repr(identity), str(identity), repr(identity.log_key), str(identity.log_key), f"{identity.log_key}"):
        assert private not in text
        assert tls not in text
    with pytest.raises(VerificationError) as caught:
        SigningKey.parse(identity.log_key.private_text()[:-4] + "AAA=")
    assert private[:20] not in str(caught.value)


# ---- partner files ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    identity = create_identity(tmp_path_factory.mktemp("keys"), name="bank", role="bank")
    return export_partner(identity, address="bank.example:7443")


def test_partner_round_trip(exported: bytes, tmp_path: Path) -> None:
    partner = parse_partner(exported)
    assert (partner.name, partner.role, partner.address) == ("bank", "bank", "bank.example:7443")
    assert rfc8785.dumps(json.loads(exported)) == exported
    assert b"PRIVATE" not in exported
    assert len(partner.fingerprint.split()) == 8
    (tmp_path / "x.partner.json").write_bytes(exported + b"\n")
    (tmp_path / "README").write_text("no partner file")
    assert load_partners(tmp_path) == {"bank": partner}
    assert load_partners(tmp_path / "absent") == {}


def test_fingerprint_covers_who_and_not_where(exported: bytes, tmp_path: Path) -> None:
    partner = parse_partner(exported)
    moved = parse_partner(rfc8785.dumps(json.loads(exported) | {"address": ""}))
    assert moved.address == ""
    assert moved.fingerprint == partner.fingerprint
    other = json.loads(export_partner(create_identity(tmp_path, name="bank", role="bank"), address=""))
    for field in ("certificate", "log_key"):
        changed = parse_partner(rfc8785.dumps(json.loads(exported) | {field: other[field]}))
        assert changed.fingerprint != partner.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"name": "platform"},
        {"role": "auditor"},
        {"address": "bank.example"},
        {"address": "bank.example:0"},
        {"address": "bank.example:70000"},
        {"address": "http://bank.example:1"},
        {"certificate": "no certificate"},
        {"log_key": "isthmus.log/bank+00000000+AAAA"},
        {"extra": 1},
        {"v": 2},
        {"kind": "isthmus.approval"},
    ],
    ids=str,
)
def test_bad_partner_files(exported: bytes, change: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_partner(rfc8785.dumps(json.loads(exported) | change))  # type: ignore[arg-type]
    assert caught.value.code == "partner.invalid"


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b'{"v":1}', b"x" * 20_000])
def test_no_partner_file_at_all(data: bytes) -> None:
    with pytest.raises(UsageError, match=r"partner\.invalid"):
        parse_partner(data)


def test_one_partner_twice(exported: bytes, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.partner.json").write_bytes(exported)
    with pytest.raises(UsageError, match=r"partner\.duplicate"):
        load_partners(tmp_path)
    (tmp_path / "a.partner.json").write_bytes(exported[:-9])
    with pytest.raises(UsageError, match=r"a\.partner\.json"):
        load_partners(tmp_path)
