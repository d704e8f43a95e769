"""A TCP proxy on loopback that counts what passes in each direction and changes nothing.

In front of the coordinator's port it tells how much the nodes say to it and hear from it, TLS and HTTP/2 included: figures of the
wire that no program reports of itself.
"""

from __future__ import annotations

import contextlib
import socket
import threading


class Tap:
    """A proxy in front of ``target``, a port on this machine.

    Attributes:
        address: where to dial instead.
        sent, received: bytes from the side that dials to the target, and back.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.sent = self.received = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End all connections."""
        self._shut(self._listener)
        with self._lock:
            left = list(self._open)
        for end in left:
            self._shut(end)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._carry, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._carry, args=(far, near, False), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, outward: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                with self._lock:
                    if outward:
                        self.sent += len(data)
                    else:
                        self.received += len(data)
                sink.sendall(data)
        # One end left: the other must hear of it, and both directions are over.
        for end in (source, sink):
            self._shut(end)
            with self._lock:
                self._open.discard(end)

    @staticmethod
    def _shut(end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            end.close()
