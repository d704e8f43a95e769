"""Pinned mutual TLS over real sockets: who gets in, who does not, and how a failure is explained."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from protos import tls


@dataclass(frozen=True)
class Leaf:
    key: ec.EllipticCurvePrivateKey
    key_pem: bytes
    pem: bytes


def leaf(name: str, *, issuer: Leaf | None = None, issuer_name: str = "") -> Leaf:
    """A certificate as a party makes it: P-256, CA:FALSE, host ``<name>.isthmus``; signed by itself unless an issuer is named."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer_name or name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(tls.host_name(name))]), critical=False)
        .sign((issuer or Leaf(key, b"", b"")).key, hashes.SHA256())
    )
    key_pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Leaf(key, key_pem, certificate.public_bytes(serialization.Encoding.PEM))


class _WhoAmI(grpc.GenericRpcHandler):
    """One method that answers with the name the caller's certificate is pinned under."""

    def __init__(self, pinned: dict[str, bytes]) -> None:
        self.pinned = pinned

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return tls.authenticate(context, self.pinned).encode()
        except tls.TlsError as error:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, error.code)
            raise


@pytest.fixture(scope="module")
def parties() -> dict[str, Leaf]:
    return {name: leaf(name) for name in ("coordinator", "bank", "platform")}


@pytest.fixture(scope="module")
def server(parties: dict[str, Leaf]) -> Iterator[str]:
    pinned = {name: parties[name].pem for name in ("bank", "platform")}
    own = parties["coordinator"]
    running = grpc.server(futures.ThreadPoolExecutor(2), handlers=[_WhoAmI(pinned)], options=tls.SERVER_OPTIONS)
    port = tls.bind(running, "127.0.0.1:0", tls.server_credentials(own.key_pem, own.pem, pinned.values()))
    running.start()
    yield f"127.0.0.1:{port}"
    running.stop(0)


def call(address: str, own: Leaf, server_pem: bytes, name: str = "coordinator") -> str:
    with tls.channel(
        address, server_name=name, server_certificate_pem=server_pem, key_pem=own.key_pem, certificate_pem=own.pem
    ) as channel:
        return channel.unary_unary("/x.Y/Who")(b"", timeout=5).decode()


@pytest.mark.parametrize("name", ["bank", "platform"])
def test_pinned_leaf_is_accepted_both_ways_and_named(server: str, parties: dict[str, Leaf], name: str) -> None:
    assert call(server, parties[name], parties["coordinator"].pem) == name


def test_server_refuses_a_certificate_that_is_not_pinned(server: str, parties: dict[str, Leaf]) -> None:
    for stranger in (leaf("bank"), leaf("stranger"), leaf("platform", issuer=parties["bank"], issuer_name="bank")):
        with pytest.raises(grpc.RpcError) as caught:
            call(server, stranger, parties["coordinator"].pem)
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED)


def test_server_refuses_a_caller_without_certificate(server: str, parties: dict[str, Leaf]) -> None:
    credentials = grpc.ssl_channel_credentials(root_certificates=parties["coordinator"].pem)
    with grpc.secure_channel(server, credentials, options=[("grpc.ssl_target_name_override", "coordinator.isthmus")]) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/x.Y/Who")(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_client_refuses_another_servers_certificate(server: str, parties: dict[str, Leaf]) -> None:
    for pinned, name in (
        (leaf("coordinator").pem, "coordinator"),
        (parties["bank"].pem, "bank"),
        (parties["coordinator"].pem, "bank"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(server, parties["bank"], pinned, name)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_leaf_issued_by_a_pinned_key_is_not_that_partner(parties: dict[str, Leaf]) -> None:
    """Even when the handshake would let it pass, the exact certificate decides."""
    issued = leaf("platform", issuer=parties["bank"], issuer_name="bank")

    class Context:
        def auth_context(self) -> dict[str, list[bytes]]:
            return {"x509_pem_cert": [issued.pem]}

    with pytest.raises(tls.TlsError) as caught:
        tls.authenticate(Context(), {name: parties[name].pem for name in ("bank", "platform")})
    assert caught.value.code == "transport.wrong_certificate"


def test_plain_text_caller_gets_nothing(server: str) -> None:
    with grpc.insecure_channel(server) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/x.Y/Who")(b"", timeout=5)
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_no_pinned_certificate_serves_nobody(parties: dict[str, Leaf]) -> None:
    with pytest.raises(tls.TlsError) as caught:
        tls.server_credentials(parties["bank"].key_pem, parties["bank"].pem, [])
    assert caught.value.code == "transport.no_partners"


def test_failures_are_told_apart(server: str, parties: dict[str, Leaf]) -> None:
    def code(address: str, pinned: bytes) -> str:
        return tls.explain_failure(address, server_name="coordinator", server_certificate_pem=pinned, timeout=2).code

    assert code(server, parties["coordinator"].pem) == "transport.not_accepted"
    assert code(server, leaf("coordinator").pem) == "transport.wrong_certificate"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def speak() -> None:
            link, _ = listener.accept()
            link.sendall(b"220 mail.example ESMTP\r\n")
            link.close()

        thread = threading.Thread(target=speak, daemon=True)
        thread.start()
        assert code(f"127.0.0.1:{port}", parties["coordinator"].pem) == "transport.not_tls"
        thread.join(5)
    assert code(f"127.0.0.1:{port}", parties["coordinator"].pem) == "transport.unreachable"
    assert code("127.0.0.1", parties["coordinator"].pem) == "transport.bad_address"


def test_a_taken_port_is_an_error(server: str, parties: dict[str, Leaf]) -> None:
    own = parties["bank"]
    second = grpc.server(futures.ThreadPoolExecutor(1), options=tls.SERVER_OPTIONS)
    with pytest.raises(tls.TlsError) as caught:
        tls.bind(second, server, tls.server_credentials(own.key_pem, own.pem, [own.pem]))
    assert caught.value.code == "transport.port_in_use"
    assert caught.value.remedy


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:0", "host:65536", "host:1x", "http://host:80/x", "host:-1"])
def test_bad_addresses(address: str) -> None:
    with pytest.raises(tls.TlsError) as caught:
        tls.split_address(address)
    assert caught.value.code == "transport.bad_address"


def test_addresses() -> None:
    assert tls.split_address("bank.example:7443") == ("bank.example", 7443)
    assert tls.split_address("[::1]:7443") == ("::1", 7443)


def test_pem_must_be_exactly_one_certificate(parties: dict[str, Leaf]) -> None:
    one, other = parties["bank"].pem, parties["platform"].pem
    assert tls.to_der(one) == x509.load_pem_x509_certificate(one).public_bytes(serialization.Encoding.DER)
    for bad in (b"", b"x", one + other, one.replace(b"BEGIN", b"BEGUN"), parties["bank"].key_pem):
        with pytest.raises(tls.TlsError) as caught:
            tls.to_der(bad)
        assert caught.value.code == "transport.bad_certificate"
