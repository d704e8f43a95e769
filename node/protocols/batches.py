"""Batches of fixed-width items over a channel: the one place where counts, positions and lengths are checked.

Every bulk message has ``first``, ``count`` and ``values`` (peer.proto).  A batch that does not continue where the last one
ended, or whose length is not what both sides can compute, ends the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from gmpy2 import mpz

from node.crypto.packing import ciphertexts_from_bytes, ciphertexts_to_bytes
from node.crypto.paillier_keys import PublicKey
from node.errors import PeerError
from node.protocols.channel import Channel

R = TypeVar("R")


def ahead(steps: int, distance: int, send: Callable[[int], None], receive: Callable[[int], R]) -> Iterator[R]:
    """Send and receive a batch a step, the sending ``distance`` steps ahead; gives what each step received.

    Both parties do so at once: while one works on what it received, the next batches of both are on their way, so that neither
    waits for the link unless that is slower than both.  The order of sending and receiving is fixed, whatever arrives when: a
    replay repeats it.  In each direction at most ``distance`` messages are unread, and a link that holds as many cannot
    deadlock: a party that is blocked has received all but ``distance`` of what the other has sent, and the other likewise, which is
    more than either has sent.
    """
    for step in range(min(distance, steps)):
        send(step)
    for step in range(steps):
        received = receive(step)
        if step + distance < steps:
            send(step + distance)
        yield received


def receive_batch(ch: Channel, kind: type[Any], *, first: int, count: int, width: int) -> bytes:
    """The values of the next message, which must hold items ``first`` to ``first + count`` of ``width`` bytes.

    Raises:
        PeerError: ``protocol.wrong_position``, ``protocol.wrong_count``, ``protocol.wrong_length``.
    """
    message = ch.recv(kind)
    name = kind.DESCRIPTOR.name
    if message.first != first:
        raise PeerError("protocol.wrong_position", f"{name}: expected items from {first}, received from {message.first}.")
    if message.count != count:
        raise PeerError("protocol.wrong_count", f"{name}: expected {count} items from {first}, received {message.count}.")
    if len(message.values) != count * width:
        raise PeerError(
            "protocol.wrong_length", f"{name}: {count} items of {width} bytes expected, {len(message.values)} bytes received."
        )
    return bytes(message.values)


def send_values(ch: Channel, kind: type[Any], values: bytes | memoryview, *, width: int, batch: int) -> None:
    """Send a whole sequence of ``width``-byte items in messages of at most ``batch`` items."""
    total = len(values) // width
    for first in range(0, total, batch):
        count = min(batch, total - first)
        ch.send(kind(first=first, count=count, values=bytes(values[first * width : (first + count) * width])))


def receive_values(ch: Channel, kind: type[Any], *, count: int, width: int, batch: int) -> bytes:
    """Receive what :func:`send_values` sent."""
    parts = []
    for first in range(0, count, batch):
        parts.append(receive_batch(ch, kind, first=first, count=min(batch, count - first), width=width))
    return b"".join(parts)


def send_ring(ch: Channel, kind: type[Any], values: Sequence[int], *, bits: int, batch: int) -> None:
    """Send ring elements modulo 2**bits, little-endian, ceil(bits / 8) bytes each."""
    size = (bits + 7) // 8
    mask = (1 << bits) - 1
    send_values(ch, kind, b"".join((int(v) & mask).to_bytes(size, "little") for v in values), width=size, batch=batch)


def receive_ring(ch: Channel, kind: type[Any], *, count: int, bits: int, batch: int) -> list[int]:
    """Receive ring elements modulo 2**bits.

    Raises:
        PeerError: ``protocol.not_reduced`` for an element of more than ``bits`` bits, and as :func:`receive_batch`.
    """
    size = (bits + 7) // 8
    data = receive_values(ch, kind, count=count, width=size, batch=batch)
    values = [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]
    if any(v >> bits for v in values):
        raise PeerError("protocol.not_reduced", f"{kind.DESCRIPTOR.name}: an element has more than {bits} bits.")
    return values


def send_ciphertexts(ch: Channel, kind: type[Any], ciphertexts: Sequence[mpz], key: PublicKey, *, first: int) -> None:
    """Send one batch of ciphertexts under ``key``."""
    ch.send(kind(first=first, count=len(ciphertexts), values=ciphertexts_to_bytes(ciphertexts, key)))


def receive_ciphertexts(ch: Channel, kind: type[Any], key: PublicKey, *, first: int, count: int) -> list[mpz]:
    """Receive one batch of ciphertexts under ``key``; each is checked to be a unit in range (``paillier.ciphertext_*``)."""
    data = receive_batch(ch, kind, first=first, count=count, width=key.ciphertext_bytes)
    return ciphertexts_from_bytes(data, count, key)
