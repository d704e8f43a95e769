"""What a process that serves for months asks of the C library: to give memory back that a step has left."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8
ARENAS = 1
"""glibc's own bound is eight a core.  Each step runs in a thread of its own, and each stream in several; what a step frees in one
arena is of no use to the next step in another: a node's memory grew by the bytes of a round's messages with every round (measured
over eight rounds of 40,000 rows: 394 MB at the end, 244 MB with one arena, at the same speed)."""


def share_one_heap() -> bool:
    """Let all threads of this process use one heap; whether the C library took it (glibc does).  Before threads are started."""
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS))
    except (OSError, AttributeError):
        return False
