"""Sequences of items of any number of bits over a channel, in bounded messages of ``first``, ``count`` and ``values``.

The sender chooses how many items a message has; the receiver checks position, number and length of each before it takes memory for
it, and grows by what has come, never by what was announced.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.errors import PeerError
from node.limits import Limits
from node.protocols.channel import Channel

_SAME_RELEASE = "The other node does not follow the protocol: both sides should run the same release."


def send_items(ch: Channel, kind: Any, values: NDArray[np.uint8], items: int, bits: int, limits: Limits) -> None:
    """A sequence of items of ``bits`` bits, in messages of half the largest size that begin at whole bytes."""
    batch = max(1, limits.message_bytes // 2 // bits) * 8
    for first in range(0, items, batch):
        count = min(batch, items - first)
        start = first * bits // 8
        ch.send(kind(first=first, count=count, values=values[start : start + -(-count * bits // 8)].tobytes()))


def receive_items(ch: Channel, kind: Any, items: int, bits: int, limits: Limits) -> bytes:
    """What :func:`_send` sent; grows by what has come, never by what was announced."""
    data, done = bytearray(), 0
    while done < items:
        part, count = take_items(ch, kind, done, items, bits, limits)
        data += part
        done += count
    return bytes(data)


def take_items(ch: Channel, kind: Any, done: int, items: int, bits: int, limits: Limits) -> tuple[bytes, int]:
    """Values and number of items of the next message, of which ``done`` of ``items`` came before; all but the last end at a byte.

    Raises:
        PeerError: ``psi.wrong_position``, ``psi.more_than_declared``, ``psi.less_than_declared``, ``psi.batch_size``,
            ``psi.wrong_length``.
    """
    message, name = ch.recv(kind), kind.DESCRIPTOR.name
    if message.first != done:
        raise deviates("psi.wrong_position", f"{name}: items from {message.first} came where {done} was next")
    if not 1 <= message.count <= items - done:
        code = "psi.more_than_declared" if message.count else "psi.less_than_declared"
        raise deviates(code, f"{name}: {message.count} items came where {items - done} are left")
    if message.count * bits > 8 * limits.message_bytes:
        raise deviates("psi.batch_size", f"{name}: {message.count} items came at once")
    ends = message.count == items - done or message.count * bits % 8 == 0
    if not ends or len(message.values) != -(-message.count * bits // 8):
        raise deviates("psi.wrong_length", f"{name}: {len(message.values)} bytes came for {message.count} items")
    return bytes(message.values), int(message.count)


def deviates(code: str, reason: str) -> PeerError:
    return PeerError(code, f"{reason}.", remedy=_SAME_RELEASE)
