"""What a process that holds keys asks of the system: that its memory lands in no file and no other process's hands."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4


def forbid_core_dumps() -> None:
    """No core file of this process, and on Linux no reading of its memory by other processes of the same user.

    Both are asked for: the limit alone does not hold where the kernel pipes core files to a program (core(5)), and the flag alone
    is Linux's.  A program that is started anew by ``exec`` asks again: the flag is not inherited.  What the system refuses,
    ``doctor`` says.
    """
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)


def core_dumps_off() -> bool:
    """Whether this process can leave no core file."""
    limited = resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
    return limited and (not sys.platform.startswith("linux") or _prctl(_PR_GET_DUMPABLE, 0) == 0)


def _prctl(option: int, value: int) -> int:
    if not sys.platform.startswith("linux"):
        return -1
    try:
        return int(ctypes.CDLL(None).prctl(option, value, 0, 0, 0))
    except (OSError, AttributeError):  # a C library without it
        return -1
