"""Takes a fuzzer's bytes apart into small decisions; where they end, every further one is zero."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
_EDGES = (0, 1, 2, 5, 63, 64, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**48, 2**63 - 1, 2**63, 2**64 - 1)


class Reader:
    """Reads from the front."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """At most ``count`` bytes."""
        found = self._data[self._at : self._at + count]
        self._at += len(found)
        return found

    def byte(self) -> int:
        return (self.take(1) or b"\0")[0]

    def pick(self, options: Sequence[T]) -> T:
        return options[self.byte() % len(options)]

    def integer(self, bits: int = 64) -> int:
        """Often a number at whose neighbours things change, otherwise any."""
        kind = self.byte()
        value = self.pick(_EDGES) if kind < 160 else int.from_bytes(self.take(8), "little")
        return value % (1 << bits)

    def number(self) -> float:
        kind = self.byte()
        if kind < 160:
            return self.pick((0.0, 1.0, -1.0, 0.5, 8.0, 1e300, 5e-324, float("inf"), float("-inf"), float("nan"), -0.0))
        return float(struct.unpack("<d", self.take(8).ljust(8, b"\0"))[0])

    def rest(self) -> bytes:
        return self.take(self.left)
