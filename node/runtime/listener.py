"""The port where other nodes dial this one: there is no way to serve without TLS, nor for a certificate that is not pinned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent import futures

import grpc

from audit.identity import Identity
from node.config import NodeConfig
from node.limits import LIMITS, Limits
from node.runtime.watching import Watch
from node.transport.errors import from_tls
from node.transport.options import TIMEOUTS, Timeouts, server_options
from node.transport.servicer import PeerServicer
from node.transport.switchboard import Switchboard
from protos import peer_pb2_grpc, tls

_STREAM_THREADS = 32


def peer_server(
    config: NodeConfig,
    current: Callable[[], Identity],
    pinned: Mapping[str, bytes],
    *,
    permit: Callable[[str, str], None],
    board: Switchboard,
    limits: Limits = LIMITS,
    timeouts: Timeouts = TIMEOUTS,
    watch: Watch | None = None,
) -> tuple[grpc.Server, PeerServicer] | None:
    """The listener for other nodes, started, and what answers there; None where the configuration names no ``listen``.

    Args:
        current: this node's identity, with the certificate of now: asked at each handshake.
        pinned: certificates (PEM, one or more) by partner name, as they are at each look.
        watch: with it the listener has the standard health service too.

    Raises:
        TransportError: ``transport.port_in_use``, ``transport.no_partners``, ``transport.bad_address``.
    """
    if config.node.listen is None:
        return None
    pool = futures.ThreadPoolExecutor(max_workers=_STREAM_THREADS, thread_name_prefix="peer")
    server = grpc.server(pool, options=server_options(limits), maximum_concurrent_rpcs=_STREAM_THREADS)
    servicer = PeerServicer(pinned=pinned, permit=permit, board=board, limits=limits, timeouts=timeouts)
    peer_pb2_grpc.add_PeerServicer_to_server(servicer, server)
    if watch is not None:
        servicer.refused = watch.refused
        watch.serve_health(server, pinned)

    def shown() -> tls.Shown:
        identity = current()
        return identity.tls_key_pem, identity.tls_certificate_pem, b"".join(pinned.values())

    try:
        tls.bind(server, config.node.listen, tls.renewable_credentials(shown))
    except tls.TlsError as error:
        server.stop(None)
        raise from_tls(error) from None
    server.start()
    return server, servicer
