"""Partner files: what two participants exchange once, so that each knows the other's certificate, log key and address.

One canonical JSON document with public material alone.  The fingerprint is what two people compare aloud: it covers the name,
the role, every certificate and the log key, and not the address, which decides nothing about who is trusted and may change.

Version 1 has one certificate.  Version 2 has two: the present one, and the one that will replace it (audit/renewal.py); who adds
such a file accepts both.  The log key is the same before and after.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import rfc8785
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from audit.certificates import certificate_sha256, host_of
from audit.checkpoint import origin_of
from audit.errors import UsageError, VerificationError
from audit.identity import Identity, Role
from audit.signing import VerifierKey
from audit.spec import Name, explain

PARTNER_BYTES_MAX = 16 * 2**10
PARTNER_SUFFIX = ".partner.json"

Address = Annotated[str, StringConstraints(max_length=260, pattern=r"^$|^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$")]
"""``host:port`` or ``[IPv6]:port``; empty when nobody can dial it."""
_Pem = Annotated[str, StringConstraints(max_length=8192)]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    v: Literal[1, 2] = 1
    kind: Literal["isthmus.partner"] = "isthmus.partner"
    name: Name
    role: Role
    address: Address
    certificate: _Pem
    next_certificate: _Pem | None = None
    log_key: Annotated[str, StringConstraints(max_length=512)]

    @model_validator(mode="after")
    def _next_in_version_2(self) -> _Document:
        if (self.next_certificate is None) != (self.v == 1):
            raise ValueError("a next_certificate makes version 2, and version 1 has none")
        return self


@dataclass(frozen=True)
class Partner:
    """Another participant, as its partner file describes it.  ``address`` is empty when it cannot be dialled."""

    name: str
    role: str
    address: str
    certificate_pem: bytes
    log_key: VerifierKey
    next_certificate_pem: bytes | None = None

    @property
    def trusted_pem(self) -> bytes:
        """Every certificate that is accepted as this participant's, PEM, one after the other."""
        return self.certificate_pem + (self.next_certificate_pem or b"")

    @property
    def fingerprint(self) -> str:
        """Eight groups of four hexadecimal digits (128 bits of a SHA-256), for two people to compare."""
        content = {
            "kind": "isthmus.partner.fingerprint",
            "name": self.name,
            "role": self.role,
            "certificate_sha256": certificate_sha256(self.certificate_pem),
            "log_key": str(self.log_key),
        }
        if self.next_certificate_pem is not None:
            content["next_certificate_sha256"] = certificate_sha256(self.next_certificate_pem)
        digits = hashlib.sha256(rfc8785.dumps(content)).hexdigest()
        return " ".join(digits[i : i + 4] for i in range(0, 32, 4))


def partner_of(identity: Identity, *, address: str) -> Partner:
    """The participant's own partner view: what others will see."""
    own = (identity.tls_certificate_pem, identity.log_key.verifier, identity.next_certificate_pem)
    return Partner(identity.name, identity.role, address, *own)


def export_partner(identity: Identity, *, address: str) -> bytes:
    """The partner file of ``identity`` (canonical JSON, RFC 8785): public material alone.

    Raises:
        UsageError: ``partner.invalid`` when the address is not ``host:port``.
    """
    following = identity.next_certificate_pem
    fields = {
        "v": 1 if following is None else 2,
        "name": identity.name,
        "role": identity.role,
        "address": address,
        "certificate": identity.tls_certificate_pem.decode(),
        "next_certificate": None if following is None else following.decode(),
        "log_key": str(identity.log_key.verifier),
    }
    try:
        document = _Document.model_validate(fields)
    except ValidationError as error:
        raise _invalid(explain(error)) from None
    return rfc8785.dumps(document.model_dump(mode="json", exclude_none=True))


def _invalid(reason: str) -> UsageError:
    return UsageError(
        "partner.invalid",
        f"The partner file is not valid: {reason.rstrip('.')}.",
        remedy="Ask the partner for a new one (`isthmus-node partner export`), and compare the fingerprint aloud.",
    )


def parse_partner(data: bytes) -> Partner:
    """Read a partner file.  Who gave it is for two people to find out, by the fingerprint.

    Raises:
        UsageError: ``partner.invalid`` names the key and the reason.
    """
    if len(data) > PARTNER_BYTES_MAX:
        raise _invalid(f"it has more than {PARTNER_BYTES_MAX} bytes")
    try:
        document = _Document.model_validate_json(data)
    except ValidationError as error:
        raise _invalid(explain(error)) from None
    try:
        log_key = VerifierKey.parse(document.log_key)
    except VerificationError as error:
        raise _invalid(f"log_key: {error.message}") from None
    if log_key.name != origin_of(document.name):
        raise _invalid(f"log_key: it is the key of {log_key.name!r}, not of {document.name!r}")
    if document.address and not 0 < int(document.address.rpartition(":")[2]) < 65536:
        raise _invalid("address: the port is out of range")
    certificate, following = _certificate(document, "certificate"), None
    if document.next_certificate is not None:
        following = _certificate(document, "next_certificate")
        if following == certificate:
            raise _invalid("next_certificate: it is the present one")
    return Partner(document.name, document.role, document.address, certificate, log_key, following)


def _certificate(document: _Document, key: str) -> bytes:
    """The one certificate (PEM) under this key of the document: it must name the partner and be no authority for others."""
    try:
        found = x509.load_pem_x509_certificates(getattr(document, key).encode())
        names = found[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
        authority = found[0].extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        found[0].public_key()  # a certificate of no key would be found out only when the link is opened
    except (
        ValueError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ):
        raise _invalid(f"{key}: it is no X.509 certificate of an isthmus participant") from None
    if len(found) != 1:
        raise _invalid(f"{key}: there are {len(found)} of them, not one")
    if names != [host_of(document.name)]:
        raise _invalid(f"{key}: it does not name {host_of(document.name)!r}")
    if authority:
        raise _invalid(f"{key}: it is one of an authority, which could speak for others")
    return found[0].public_bytes(Encoding.PEM)


def load_partners(folder: Path) -> dict[str, Partner]:
    """Every ``*.partner.json`` in ``folder``, by the partner's name; none when the folder is not there.

    Raises:
        UsageError: ``partner.invalid`` or ``partner.duplicate`` (names the file), ``partner.unreadable``.
    """
    partners: dict[str, Partner] = {}
    for path in sorted(folder.glob(f"*{PARTNER_SUFFIX}")):
        partner = read_partner(path)
        if partner.name in partners:
            raise UsageError(
                "partner.duplicate",
                f"{path} is a second partner file of {partner.name!r}.",
                remedy="Keep the one whose fingerprint you compared.",
            )
        partners[partner.name] = partner
    return partners


def read_partner(path: Path) -> Partner:
    """The partner file at ``path``; its errors name it.

    Raises:
        UsageError: ``partner.unreadable``, ``partner.invalid``.
    """
    try:
        with path.open("rb") as file:
            data = file.read(PARTNER_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(
            "partner.unreadable",
            f"The partner file {path} cannot be read: {error.strerror}.",
            remedy="Correct the path and the rights to the file, or ask the partner for it again.",
        ) from None
    try:
        return parse_partner(data)
    except UsageError as error:
        raise UsageError(error.code, f"{path}: {error.message}", remedy=error.remedy) from None
