"""Two parties and one fake link: runs the two halves of a protocol in two threads over an in-memory channel.

The link serialises every message (so a test sees what the wire would carry), keeps a transcript, and can be told to
drop, repeat, reorder or corrupt the k-th message of a direction.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError, Message

from node.errors import PeerError, TransportError


@dataclass
class Link:
    """One direction of the fake link."""

    tamper: Callable[[int, str, bytes], list[tuple[str, bytes]]] | None = None
    sent: list[tuple[str, bytes]] = field(default_factory=list)
    frames: queue.Queue[tuple[str, bytes] | None] = field(default_factory=queue.Queue)

    def put(self, kind: str, payload: bytes) -> None:
        index = len(self.sent)
        self.sent.append((kind, payload))
        for frame in self.tamper(index, kind, payload) if self.tamper else [(kind, payload)]:
            self.frames.put(frame)


class MemoryChannel:
    """One party's end."""

    def __init__(self, out: Link, into: Link, timeout: float) -> None:
        self.out, self.into, self.timeout = out, into, timeout

    def send(self, message: Message) -> None:
        self.out.put(message.DESCRIPTOR.name, message.SerializeToString(deterministic=True))

    def recv(self, kind: Any) -> Any:
        try:
            frame = self.into.frames.get(timeout=self.timeout)
        except queue.Empty:
            raise TransportError("transport.timeout", "The peer said nothing.") from None
        if frame is None:
            raise TransportError("transport.closed", "The peer hung up.")
        name, payload = frame
        if name != kind.DESCRIPTOR.name:
            raise PeerError("protocol.unexpected_message", f"Expected {kind.DESCRIPTOR.name}, received {name}.")
        message = kind()
        try:
            message.ParseFromString(payload)
        except DecodeError:
            raise PeerError("protocol.malformed_message", f"{name} cannot be parsed.") from None
        return message


@dataclass
class Outcome:
    """What each side returned or raised, and every message that was sent."""

    left: Any
    right: Any
    left_error: BaseException | None
    right_error: BaseException | None
    left_sent: list[tuple[str, bytes]]
    right_sent: list[tuple[str, bytes]]

    def results(self) -> tuple[Any, Any]:
        """Both results; raises the first error if there was one."""
        for error in (self.left_error, self.right_error):
            if error is not None and not isinstance(error, TransportError):
                raise error
        for error in (self.left_error, self.right_error):
            if error is not None:
                raise error
        return self.left, self.right


def run_pair(
    left: Callable[[MemoryChannel], Any],
    right: Callable[[MemoryChannel], Any],
    *,
    tamper_left: Callable[[int, str, bytes], list[tuple[str, bytes]]] | None = None,
    tamper_right: Callable[[int, str, bytes], list[tuple[str, bytes]]] | None = None,
    timeout: float = 60.0,
) -> Outcome:
    """Run two halves of a protocol against each other.

    ``tamper_left(index, type, payload)`` sees each message that *left* sends and returns what arrives instead: ``[]`` drops
    it, two frames repeat it, other bytes corrupt it.  ``tamper_right`` likewise.  When a side ends with an error, the
    other's ``recv`` fails.
    """
    to_right, to_left = Link(tamper_left), Link(tamper_right)
    results: dict[str, Any] = {}
    errors: dict[str, BaseException] = {}

    def run(name: str, half: Callable[[MemoryChannel], Any], channel: MemoryChannel) -> None:
        try:
            results[name] = half(channel)
        except BaseException as error:  # noqa: BLE001 - every end of a party is an outcome that the test looks at
            errors[name] = error
            channel.out.frames.put(None)

    threads = [
        threading.Thread(target=run, args=("left", left, MemoryChannel(to_right, to_left, timeout)), daemon=True),
        threading.Thread(target=run, args=("right", right, MemoryChannel(to_left, to_right, timeout)), daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout * 4)
        if thread.is_alive():
            raise RuntimeError("a party did not end: the protocol hangs")
    return Outcome(results.get("left"), results.get("right"), errors.get("left"), errors.get("right"), to_right.sent, to_left.sent)
