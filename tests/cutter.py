"""A TCP proxy on loopback that does to a link what networks do: cut, stall, slow down, reset in the middle of a message, forget
idle connections, be away for a while.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: closing sends a reset


class _Pair:
    """One connection through the proxy: two sockets, a thread for each direction."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near, self.far = near, far
        self.frozen = threading.Event()  # nothing passes any more, and nobody is told
        self.last = time.monotonic()
        self.carried = 0

    def reset(self) -> None:
        for end in (self.near, self.far):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                end.close()


class Cutter:
    """A proxy in front of ``target`` (a port on this machine).

    Args:
        positions: total numbers of bytes, both directions together, after which the connection that carries the next is reset.
        rate: bytes a second in each direction of a connection; None is as fast as it goes.
        idle: a connection that carried nothing for so many seconds is forgotten in silence, as a firewall does.
    """

    def __init__(self, target: int, *, positions: Iterable[int] = (), rate: int | None = None, idle: float | None = None) -> None:
        self.target, self.rate, self.idle = target, rate, idle
        self._positions = sorted(positions, reverse=True)
        self._pairs: list[_Pair] = []
        self._lock = threading.Lock()
        self._away = self._frozen = False
        self.connections = self.carried = self.resets = 0
        self._listener = self._narrow(socket.socket())
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self.port = int(self._listener.getsockname()[1])
        self.address = f"127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    # -- what a test does
    def cut(self) -> None:
        """Reset every connection now."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            self.resets += 1
            pair.reset()

    def stall(self) -> None:
        """From now on packets vanish, of connections that are there: both ends believe them alive."""
        with self._lock:
            for pair in self._pairs:
                pair.frozen.set()

    def vanish(self) -> None:
        """As :meth:`stall`, and of new connections too, until :meth:`appear`."""
        self._frozen = True
        self.stall()

    def appear(self) -> None:
        """New connections work again; those that were stalled stay so."""
        self._frozen = False

    @contextmanager
    def away(self) -> Iterator[None]:
        """Cut, and nobody there meanwhile."""
        self._away = True
        self.cut()
        yield
        self._away = False

    def slow(self, rate: int | None) -> None:
        """Change the rate."""
        self.rate = rate

    def cut_again(self, positions: Iterable[int]) -> None:
        """Further positions, counted from the bytes carried so far."""
        with self._lock:
            self._positions = sorted((self.carried + position for position in positions), reverse=True)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # closing alone wakes nobody who waits in accept
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _narrow(self, end: socket.socket) -> socket.socket:
        """A slow link does not swallow megabytes, nor segments of 64 KiB as loopback's."""
        if self.rate is not None:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)
        return end

    # -- threads
    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._away:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                near.close()
                continue
            try:
                far = self._narrow(socket.socket())
                far.connect(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(near, far)
            if self._frozen:
                pair.frozen.set()
            with self._lock:
                self._pairs.append(pair)
                self.connections += 1
            if self._away:  # since it was accepted: the cut may have come before it was in the list
                self.cut()
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(pair, source, sink), daemon=True).start()
            if self.idle is not None:
                threading.Thread(target=self._forget, args=(pair, self.idle), daemon=True).start()

    def _forget(self, pair: _Pair, idle: float) -> None:
        while pair in self._pairs and not pair.frozen.wait(idle / 10):
            if time.monotonic() - pair.last > idle:
                pair.frozen.set()

    def _carry(self, pair: _Pair, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(4096 if self.rate is not None else 65_536):
                if pair.frozen.is_set():
                    continue
                pair.last = time.monotonic()
                passed, hit = self._count(len(data))
                sink.sendall(data[:passed])
                pair.carried += passed
                if hit:
                    self.resets += 1
                    pair.reset()
                    return
                if self.rate is not None:
                    time.sleep(len(data) / self.rate)
        except OSError:
            pass
        finally:
            if not pair.frozen.is_set():
                pair.reset()
            with self._lock:
                if pair in self._pairs and not pair.frozen.is_set():
                    self._pairs.remove(pair)

    def _count(self, size: int) -> tuple[int, bool]:
        """How many of the next bytes pass, and whether the connection is reset after them."""
        with self._lock:
            hit = bool(self._positions) and self._positions[-1] <= self.carried + size
            passed = max(self._positions.pop() - self.carried, 0) if hit else size
            self.carried += passed
            return passed, hit
