"""Mutual TLS with pinned, self-signed certificates: the only credentials that any server or client of isthmus uses.

There is no certificate authority.  Each party holds the exact certificate of each partner (exchanged once, by partner file), so
that

* a server trusts as roots only the pinned certificates, requires one from whoever connects, and then compares the exact DER
  (:func:`authenticate`): a key that a partner signed with its own is not that partner;
* a client trusts as root only the certificate of the party it dials, whose host name is ``<name>.isthmus``.

While a party renews its certificate, two are pinned under its name: wherever certificates are pinned, PEM of one or more is meant.

gRPC reports every failed handshake as "unavailable".  :func:`explain_failure` looks again with the standard library's TLS to say
which it was: nobody there, something that speaks no TLS, or a certificate that is not the pinned one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import grpc

HOST_SUFFIX = ".isthmus"
PROBE_TIMEOUT = 5.0
SERVER_OPTIONS: tuple[tuple[str, int], ...] = (("grpc.so_reuseport", 0),)
"""Options that every server is made with."""
_PEM = re.compile(rb"\s*-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*")
Shown = tuple[bytes, bytes, bytes]
"""What a server shows and whom it lets in: its private key, its certificate, and all pinned ones, PEM."""


class TlsError(Exception):
    """A link that could not be made or trusted; the wings map it to their ``TransportError``.

    ``code`` is one of ``transport.unreachable``, ``transport.not_tls``, ``transport.wrong_certificate``,
    ``transport.not_accepted``, ``transport.no_partners``, ``transport.bad_address``, ``transport.bad_certificate``,
    ``transport.port_in_use``.
    """

    def __init__(self, code: str, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy


def host_name(party: str) -> str:
    """The TLS host name of a party: what its certificate's subject alternative name holds."""
    return party + HOST_SUFFIX


def server_credentials(key_pem: bytes, certificate_pem: bytes, pinned: Iterable[bytes]) -> grpc.ServerCredentials:
    """Credentials of a server that asks everyone for a certificate and trusts the pinned ones alone.

    Args:
        key_pem: the server's own private key.
        certificate_pem: the server's own certificate.
        pinned: the partners' certificates, PEM.

    Raises:
        TlsError: ``transport.no_partners`` when nothing is pinned (gRPC would then fall back to the system's
            authorities or to none), ``transport.bad_certificate``.
    """
    roots = _roots(b"".join(pinned))
    return grpc.ssl_server_credentials([(key_pem, certificate_pem)], root_certificates=roots, require_client_auth=True)


def renewable_credentials(current: Callable[[], Shown]) -> grpc.ServerCredentials:
    """As :func:`server_credentials`, with what ``current`` says at each handshake.  Connections that stand are not touched.

    A state that cannot be used, such as one in which nobody is pinned any more, leaves the credentials as they were: who is let
    in by them is still refused by :func:`authenticate`, call by call.

    Raises:
        TlsError: as :func:`server_credentials`, for what ``current`` says now.
    """
    lock, used = threading.Lock(), current()

    def configuration(shown: Shown) -> Any:
        key_pem, certificate_pem, pinned = shown
        return grpc.ssl_server_certificate_configuration([(key_pem, certificate_pem)], root_certificates=_roots(pinned))

    def fetch() -> Any:
        nonlocal used
        with lock:
            shown = current()
            if shown == used:
                return None
            try:
                renewed = configuration(shown)
            except TlsError:
                return None
            used = shown
            return renewed

    return grpc.dynamic_ssl_server_credentials(configuration(used), fetch, require_client_authentication=True)


def _roots(pinned: bytes) -> bytes:
    """Written again as one PEM block for each, so that what becomes a root is what is compared."""
    roots = [ssl.DER_cert_to_PEM_cert(der).encode("ascii") for der in to_ders(pinned)]
    if not roots:
        raise TlsError(
            "transport.no_partners",
            "No partner certificate is pinned, so nobody could be let in.",
            remedy="Add a partner file with `partner add FILE` before serving.",
        )
    return b"".join(roots)


def bind(server: grpc.Server, address: str, credentials: grpc.ServerCredentials) -> int:
    """Listen at ``address`` (port 0: any free one), with TLS, as the only listener there; returns the port.

    The server must have been made with :data:`SERVER_OPTIONS`: without them gRPC shares a taken port in silence.

    Raises:
        TlsError: ``transport.bad_address``, ``transport.port_in_use``.
    """
    if not address.endswith(":0"):
        split_address(address)
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError:
        port = 0
    if not port:
        raise TlsError(
            "transport.port_in_use",
            f"Cannot listen at {address}: the port is taken, or the address is not this machine's.",
            remedy="Stop the other program or choose another port under `listen` in the configuration file.",
        )
    return int(port)


def channel(
    address: str,
    *,
    server_name: str,
    server_certificate_pem: bytes,
    key_pem: bytes,
    certificate_pem: bytes,
    options: Sequence[tuple[str, Any]] = (),
) -> grpc.Channel:
    """A channel to ``server_name`` at ``address``; it is lazy: nothing is dialled before the first call.

    Raises:
        TlsError: ``transport.bad_address``, ``transport.bad_certificate``.
    """
    split_address(address)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_roots(server_certificate_pem), private_key=key_pem, certificate_chain=certificate_pem
    )
    # An http_proxy variable in the environment must not decide where a pinned link goes.
    fixed = [("grpc.ssl_target_name_override", host_name(server_name)), ("grpc.enable_http_proxy", 0)]
    return grpc.secure_channel(address, credentials, options=[*fixed, *options])


def peer_certificate(context: grpc.ServicerContext) -> bytes:
    """The DER certificate the caller presented.

    Raises:
        TlsError: ``transport.wrong_certificate`` when there is none (the link has no client certificate at all).
    """
    entries = context.auth_context().get("x509_pem_cert", [])
    if len(entries) != 1:
        raise TlsError("transport.wrong_certificate", "The caller presented no certificate.")
    return to_der(bytes(entries[0]))


def authenticate(context: grpc.ServicerContext, pinned: Mapping[str, bytes]) -> str:
    """The name under which the caller's exact certificate is pinned.

    Args:
        pinned: name -> certificate, PEM.

    Raises:
        TlsError: ``transport.wrong_certificate``.
    """
    presented = peer_certificate(context)
    name = name_of(presented, pinned)
    if name is not None:
        return name
    raise TlsError(
        "transport.wrong_certificate",
        f"The caller's certificate ({fingerprint(presented)}) is not a pinned one.",
        remedy="Exchange partner files again if the partner has made new keys.",
    )


def name_of(der: bytes, pinned: Mapping[str, bytes]) -> str | None:
    """The name under which a certificate is pinned; None when it is not."""
    return next((name for name, pem in pinned.items() if der in to_ders(pem)), None)


def probe_certificate(address: str, *, server_name: str, timeout: float = PROBE_TIMEOUT) -> bytes:
    """The DER certificate that a server presents, trusting nothing and saying nothing to it.

    Raises:
        TlsError: ``transport.bad_address``, ``transport.unreachable``, ``transport.not_tls``.
    """
    return probe(address, server_name=server_name, timeout=timeout)[0]


def probe(address: str, *, server_name: str, timeout: float = PROBE_TIMEOUT) -> tuple[bytes, str]:
    """The DER certificate that a server presents, and the version of TLS it agreed to, for example ``TLSv1.3``.

    Raises:
        TlsError: as :func:`probe_certificate`.
    """
    host, port = split_address(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the point is to see a certificate that does not verify
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection((host, port), timeout=timeout) as plain:
            try:
                with context.wrap_socket(plain, server_hostname=host_name(server_name)) as link:
                    der, spoken = link.getpeercert(binary_form=True), link.version()
            except (ssl.SSLError, OSError) as error:
                raise TlsError(
                    "transport.not_tls",
                    f"{address} accepts connections but does not speak TLS ({_reason(error)}).",
                    remedy=f"Check that {server_name} serves at this address and port.",
                ) from None
    except OSError as error:
        raise TlsError(
            "transport.unreachable",
            f"Nobody answers at {address} ({_reason(error)}).",
            remedy=f"Check that {server_name} is running, its address in the partner file, and firewalls between.",
        ) from None
    if der is None:
        raise TlsError("transport.not_tls", f"{address} speaks TLS but presents no certificate.")
    return der, spoken or ""


def explain_failure(address: str, *, server_name: str, server_certificate_pem: bytes, timeout: float = PROBE_TIMEOUT) -> TlsError:
    """Why a channel to ``address`` could not be made; returns the error, for the caller to raise as its own kind.

    Codes: ``transport.unreachable``, ``transport.not_tls``, ``transport.wrong_certificate``, and ``transport.not_accepted`` when
    the server is the right one (then it did not accept our certificate, or went away).
    """
    try:
        der = probe_certificate(address, server_name=server_name, timeout=timeout)
    except TlsError as error:
        return error
    pinned = to_ders(server_certificate_pem)
    if der not in pinned:
        return TlsError(
            "transport.wrong_certificate",
            f"The server at {address} presents a certificate ({fingerprint(der)}) that is not the one pinned for {server_name}"
            f" ({', '.join(map(fingerprint, pinned)) or 'none'}).",
            remedy=f"If {server_name} has made new keys, exchange partner files again; if not, do not connect.",
        )
    return TlsError(
        "transport.not_accepted",
        f"{server_name} at {address} is the right server, but it did not accept this side's certificate or closed the connection.",
        remedy=f"Ask {server_name} to add this side's partner file, as it is now.",
    )


def to_der(pem: bytes) -> bytes:
    """The DER bytes of a PEM certificate.

    Raises:
        TlsError: ``transport.bad_certificate``.
    """
    found = to_ders(pem)
    if len(found) != 1:
        raise _bad_certificate()
    return found[0]


def to_ders(pem: bytes) -> tuple[bytes, ...]:
    """The DER bytes of certificates that follow each other in PEM; none of nothing.

    Raises:
        TlsError: ``transport.bad_certificate``.
    """
    found, at = [], 0
    while block := _PEM.match(pem, at):
        try:
            found.append(base64.b64decode(b"".join(block[1].split()), validate=True))
        except binascii.Error:
            break
        at = block.end()
    if pem[at:].strip():
        raise _bad_certificate()
    return tuple(found)


def _bad_certificate() -> TlsError:
    return TlsError(
        "transport.bad_certificate", "A pinned certificate is not one PEM certificate.", remedy="Export the partner file again."
    )


def fingerprint(der: bytes) -> str:
    """The first 16 bytes of a certificate's SHA-256, as 8 groups of 4 hex digits, for people to compare."""
    digits = hashlib.sha256(der).hexdigest()[:32]
    return " ".join(digits[i : i + 4] for i in range(0, 32, 4))


def split_address(address: str) -> tuple[str, int]:
    """``HOST:PORT`` (or ``[IPv6]:PORT``) as host and port.

    Raises:
        TlsError: ``transport.bad_address``.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536 or "/" in host:
        raise TlsError(
            "transport.bad_address",
            f"{address!r} is not an address of the form HOST:PORT.",
            remedy="Write, for example, bank.example:7443.",
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
