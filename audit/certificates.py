"""Certificates of links: made here, self-signed, authorities for nobody, and what can be read off them.

Partners pin the exact certificate, so nobody's signature could stand in for it.  It names the host ``<name>.isthmus``, whatever the
address.  A participant's successive certificates have the same name and different keys; while one replaces the other both are
pinned.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CERTIFICATE_YEARS = 10
EXPIRES_SOON = timedelta(days=60)
"""So long before a certificate's end people are told to renew it."""


def host_of(name: str) -> str:
    """The name a participant's certificate holds and its partners ask for, at whatever address."""
    return f"{name}.isthmus"


def new_certificate(name: str, now: datetime) -> tuple[bytes, bytes]:
    """A P-256 key (PKCS 8 PEM) and its self-signed certificate (PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host_of(name))])
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A day back, for partners whose clock is behind.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365 * CERTIFICATE_YEARS + CERTIFICATE_YEARS // 4))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host_of(name))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), certificate.public_bytes(Encoding.PEM)


def certificate_sha256(pem: bytes) -> str:
    """SHA-256 of a certificate (DER), hex: what partner fingerprints and logs say of it."""
    return hashlib.sha256(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)).hexdigest()


def ends_on(pem: bytes) -> datetime:
    """When a certificate's validity ends (UTC)."""
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc


def seed_key_of(tls_key_pem: bytes) -> bytes:
    """What a node whose keys rest in clear seals seeds of jobs under: 32 bytes, HKDF-SHA256 (RFC 5869) of its TLS key.

    Raises:
        ValueError, TypeError: it is no key.
    """
    material = load_pem_private_key(tls_key_pem, password=None).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"isthmus seed v1 sealing").derive(material)


def is_of_key(certificate_pem: bytes, tls_key_pem: bytes) -> bool:
    """Whether a certificate is of this private key.

    Raises:
        ValueError, TypeError, UnsupportedAlgorithm, InvalidVersion: one of them is not what it should be.
    """
    key = load_pem_private_key(tls_key_pem, password=None)
    return key.public_key() == x509.load_pem_x509_certificate(certificate_pem).public_key()
