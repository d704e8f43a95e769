"""``doctor`` on certificates: until when each is valid, how far a renewal has come, and what to run next."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import grpc
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from audit.certificates import EXPIRES_SOON, ends_on
from audit.identity import Identity
from audit.partner import Partner
from audit.renewal import next_identity
from node.config import NodeConfig
from node.doctor_report import Check, failed
from node.errors import IsthmusError
from protos import tls

_RENEW = (
    "Run `isthmus-node keys renew-certificate`, have the coordinator and every partner add the file it writes (`partner add`), "
    "then run `isthmus-node keys activate`; nothing needs a restart."
)
_ACTIVATE = "Once the coordinator and every partner have added the partner file, run `isthmus-node keys activate`."
_EXPORT = "Send the file that `isthmus-node partner export` writes, and wait with `keys activate` until it was added there."


def validity(name: str, certificate_pem: bytes, now: datetime, *, renew: str) -> Check:
    """Whether a certificate is valid now and for a while; ``renew`` says what to do when it ends soon."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start:
        detail = f"not valid before {start:%Y-%m-%d}: this machine's clock says {now:%Y-%m-%d}"
        return Check(name, "fail", detail, "Set the clock.", "transport.clock")
    if now >= end:
        return Check(name, "fail", f"expired on {end:%Y-%m-%d}", renew, "transport.certificate_expired")
    if end - now < EXPIRES_SOON:
        return Check(name, "warn", f"expires on {end:%Y-%m-%d}", renew, "transport.certificate_expires")
    return Check(name, "ok", f"valid until {end:%Y-%m-%d}")


def own_certificate(identity: Identity, now: datetime) -> Iterator[Check]:
    """This node's certificate, and the one that will replace it."""
    following = identity.next_certificate_pem
    yield validity("certificate", identity.tls_certificate_pem, now, renew=_RENEW if following is None else _ACTIVATE)
    if following is not None:
        found = validity("next certificate", following, now, renew=_RENEW)
        if found.state == "ok":
            found = Check(found.name, "warn", f"made and not in use yet, {found.detail}", _ACTIVATE, "identity.next_waits")
        yield found


def partner_validity(name: str, partner: Partner, now: datetime) -> Check:
    """A partner's certificate; of two the one that is valid for longer, since either may be shown."""
    who = "isthmus-coordinator" if partner.role == "coordinator" else "isthmus-node"
    renew = f"Ask {partner.name} to renew it (`{who} keys renew-certificate`), and add the file that it sends."
    following = partner.next_certificate_pem
    if following is None:
        return validity(name, partner.certificate_pem, now, renew=renew)
    found = validity(name, max((partner.certificate_pem, following), key=ends_on), now, renew=renew)
    return Check(name, found.state, f"{found.detail} (two certificates: it is renewing its own)", found.remedy, found.code)


def accepts_next(name: str, partner: Partner, config: NodeConfig, *, seconds: float) -> Check:
    """Dial a partner as this node will be after ``keys activate``: has it added the partner file with both certificates?

    Args:
        name: how the check of the link is called.
        seconds: how long to wait for the answer.
    """
    name = f"{name} accepts next"
    try:
        following = next_identity(config.keys_folder, key_file=config.key_file)
    except IsthmusError as error:
        return failed(name, error)
    channel = tls.channel(
        partner.address,
        server_name=partner.name,
        server_certificate_pem=partner.trusted_pem,
        key_pem=following.tls_key_pem,
        certificate_pem=following.tls_certificate_pem,
    )
    with channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=seconds)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                detail = f"{partner.name} does not accept this node's next certificate yet"
                return Check(name, "warn", detail, _EXPORT, "partner.next_not_added")
    return Check(name, "ok", f"{partner.name} accepts this node's next certificate")
