"""The bounded run: a target's seeds, its regressions, and a fixed number of changed seeds, the same in every run."""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Iterator

from tests.fuzz.targets import Target

SLOW = 5.0
"""Seconds that no input may take."""


def inputs(target: Target, count: int) -> Iterator[bytes]:
    """Regressions and seeds first, then ``count`` changed ones."""
    yield from (path.read_bytes() for path in target.regressions())
    seeds = list(target.seeds())
    yield from seeds
    rng = random.Random(zlib.crc32(target.name.encode()))
    for _ in range(count):
        yield change(rng.choice(seeds), rng)


def change(data: bytes, rng: random.Random) -> bytes:
    """One to three small changes."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at, way = rng.randint(0, len(found)), rng.randrange(6)
        if way == 0 and at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            found[at:at] = rng.randbytes(rng.randint(1, 12))
        elif way == 2:
            del found[at : at + rng.randint(1, 16)]
        elif way == 3:
            found[at : at + 8] = rng.choice((b"\0" * 8, b"\xff" * 8, b"\x80", b"\x7f\xff\xff\xff", b"-1", b"1e999", b"[" * 8))
        elif way == 4:
            del found[at:]
        else:
            found += rng.randbytes(rng.randint(1, 40))
    return bytes(found)


def run(target: Target, count: int) -> tuple[int, int]:
    """Run all; how many inputs there were, and how many were accepted.  A finding names its input in hexadecimal."""
    ran = accepted = 0
    for data in inputs(target, count):
        began = time.monotonic()
        try:
            accepted += target(data)
        except Exception as error:
            raise AssertionError(f"{target.name} on {data.hex()}: {type(error).__name__}: {error}") from error
        seconds = time.monotonic() - began
        if seconds > SLOW and ran > len(target.regressions()) + 1:  # the first builds what all need
            raise AssertionError(f"{target.name} took {seconds:.1f} s on {data.hex()}")
        ran += 1
    return ran, accepted
