"""The HTTP endpoint for the machine's own monitoring: ``/metrics``, ``/healthz``, ``/readyz``.  It shows no data.

It speaks plain HTTP: see :mod:`operations.config` for where it may listen.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from audit.errors import UsageError
from operations.health import Health

REQUEST_SECONDS = 10.0
"""How long a client may take for its request."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 16


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    timeout = REQUEST_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape every few seconds is not worth a line."""


class Endpoint:
    """Serves until closed.

    Raises (on construction):
        UsageError: ``metrics.port_in_use``.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, health: Health) -> None:
        self._metrics, self._health = make_wsgi_app(registry), health
        kind = _Server6 if ":" in host else _Server
        try:
            self._server = make_server(host, port, self._answer, server_class=kind, handler_class=_Quiet)
        except OSError as error:
            raise UsageError(
                "metrics.port_in_use",
                f"The metrics endpoint cannot listen at {host}:{port}: {error.strerror}.",
                remedy="Name another port under [metrics]; two processes on one machine need one each.",
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="metrics", daemon=True)
        self._thread.start()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return _say(start, "405 Method Not Allowed", {"error": "GET alone"})
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            return self._metrics(environ, start)
        if path == "/healthz":
            live = self._health.live()
            return _say(start, "200 OK" if live else "503 Service Unavailable", {"live": live})
        if path == "/readyz":
            failing = self._health.failing()
            return _say(start, "503 Service Unavailable" if failing else "200 OK", {"ready": not failing, "failing": failing})
        return _say(start, "404 Not Found", {"error": "/metrics, /healthz, /readyz"})

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2.0)


def _say(start: Callable[..., Any], status: str, body: dict[str, Any]) -> list[bytes]:
    data = json.dumps(body).encode() + b"\n"
    start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(data))), ("Cache-Control", "no-store")])
    return [data]
