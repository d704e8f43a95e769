"""Partner files: what two participants exchange once, so that each knows the other's certificate, log key and address.

One canonical JSON document with public material alone.  The fingerprint is what two people compare aloud: it covers the name,
the role, the certificate and the log key, and not the address, which decides nothing about who is trusted and may change.
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
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from audit.checkpoint import origin_of
from audit.errors import UsageError, VerificationError
from audit.identity import Identity, Role, host_of
from audit.signing import VerifierKey
from audit.spec import Name, explain

PARTNER_BYTES_MAX = 16 * 2**10
PARTNER_SUFFIX = ".partner.json"

Address = Annotated[str, StringConstraints(max_length=260, pattern=r"^$|^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$")]
"""``host:port`` or ``[IPv6]:port``; empty when nobody can dial it."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    v: Literal[1] = 1
    kind: Literal["isthmus.partner"] = "isthmus.partner"
    name: Name
    role: Role
    address: Address
    certificate: Annotated[str, StringConstraints(max_length=8192)]
    log_key: Annotated[str, StringConstraints(max_length=512)]


@dataclass(frozen=True)
class Partner:
    """Another participant, as its partner file describes it.  ``address`` is empty when it cannot be dialled."""

    name: str
    role: str
    address: str
    certificate_pem: bytes
    log_key: VerifierKey

    @property
    def fingerprint(self) -> str:
        """Eight groups of four hexadecimal digits (128 bits of a SHA-256), for two people to compare."""
        certificate = x509.load_pem_x509_certificate(self.certificate_pem).public_bytes(Encoding.DER)
        content = {
            "kind": "isthmus.partner.fingerprint",
            "name": self.name,
            "role": self.role,
            "certificate_sha256": hashlib.sha256(certificate).hexdigest(),
            "log_key": str(self.log_key),
        }
        digits = hashlib.sha256(rfc8785.dumps(content)).hexdigest()
        return " ".join(digits[i : i + 4] for i in range(0, 32, 4))


def partner_of(identity: Identity, *, address: str) -> Partner:
    """The participant's own partner view: what others will see."""
    return Partner(identity.name, identity.role, address, identity.tls_certificate_pem, identity.log_key.verifier)


def export_partner(identity: Identity, *, address: str) -> bytes:
    """The partner file of ``identity`` (canonical JSON, RFC 8785): public material alone.

    Raises:
        UsageError: ``partner.invalid`` when the address is not ``host:port``.
    """
    fields = {
        "name": identity.name,
        "role": identity.role,
        "address": address,
        "certificate": identity.tls_certificate_pem.decode(),
        "log_key": str(identity.log_key.verifier),
    }
    try:
        document = _Document.model_validate(fields)
    except ValidationError as error:
        raise _invalid(explain(error)) from None
    return rfc8785.dumps(document.model_dump(mode="json"))


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
    certificate = _certificate(document)
    return Partner(document.name, document.role, document.address, certificate.public_bytes(Encoding.PEM), log_key)


def _certificate(document: _Document) -> x509.Certificate:
    """The one certificate of the document: it must name the partner and be no authority for others."""
    try:
        found = x509.load_pem_x509_certificates(document.certificate.encode())
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
        raise _invalid("certificate: it is no X.509 certificate of an isthmus participant") from None
    if len(found) != 1:
        raise _invalid(f"certificate: there are {len(found)} of them, not one")
    if names != [host_of(document.name)]:
        raise _invalid(f"certificate: it does not name {host_of(document.name)!r}")
    if authority:
        raise _invalid("certificate: it is one of an authority, which could speak for others")
    return found[0]


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
