"""What is to be done some seconds later, unless it is cancelled meanwhile."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from audit.errors import IsthmusError

_log = logging.getLogger("isthmus.coordinator")


def later(seconds: float, action: Callable[..., None], *arguments: Any) -> threading.Timer:
    """A started timer; what the action may raise (a database that cannot be written) is told in the program's log."""

    def act() -> None:
        try:
            action(*arguments)
        except IsthmusError as error:
            _log.error("%s", error)

    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
    return timer
