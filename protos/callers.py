"""Who calls a server, for as long as the call lasts: a stream ends when its caller's certificate is not accepted any more.

TLS looks at a certificate once, at the handshake, and a stream may last for days.  So a certificate that was withdrawn, or was
replaced and dropped, would be good for as long as whoever holds it keeps one stream open.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import grpc

from protos import tls


class Callers:
    """The open streams of one service.

    Args:
        pinned: certificates (PEM, one or more) by name, as they are at each look.
    """

    def __init__(self, pinned: Mapping[str, bytes]) -> None:
        self._pinned = pinned
        self._lock = threading.Lock()
        self._open: dict[grpc.ServicerContext, tuple[str, bytes]] = {}

    def enter(self, context: grpc.ServicerContext) -> str:
        """The name under which the caller's exact certificate is pinned; its call is remembered until it ends.

        Raises:
            tls.TlsError: ``transport.wrong_certificate``.
        """
        name = tls.authenticate(context, self._pinned)
        with self._lock:
            self._open[context] = name, tls.peer_certificate(context)
        if not context.add_callback(lambda: self._left(context)):
            self._left(context)
        return tls.authenticate(context, self._pinned)  # once more: a recheck just now did not know of this call

    def _left(self, context: grpc.ServicerContext) -> None:
        with self._lock:
            self._open.pop(context, None)

    def recheck(self) -> list[str]:
        """Cut the calls whose certificate is not pinned under their name any more; whose they were."""
        with self._lock:
            calls = list(self._open.items())
        cut = [(context, name) for context, (name, der) in calls if tls.name_of(der, self._pinned) != name]
        for context, _ in cut:
            context.cancel()
        return sorted({name for _, name in cut})
