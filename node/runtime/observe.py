"""What the runtime tells whoever watches it: steps, bytes, errors, links.  An observer is passed in.

An observer never sees a value: labels, codes, seconds and sizes are all there is.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from node.runtime.journal import StepLabels

_log = logging.getLogger("isthmus.node.steps")


class Queues(Protocol):
    """A link whose queues can be looked at."""

    def depths(self) -> tuple[int, int]:
        """Messages waiting to go out, and messages waiting to be taken."""


class Observer(Protocol):
    """Told as it happens, from any thread; must not block and must not raise."""

    def step_started(self, labels: StepLabels) -> None:
        """An attempt begins."""

    def step_done(self, labels: StepLabels, *, seconds: float, sent: int, received: int) -> None:
        """An attempt is done and stored; ``sent`` and ``received`` are bytes of messages."""

    def step_failed(self, labels: StepLabels, code: str, *, sent: int, received: int) -> None:
        """An attempt was given up."""

    def error(self, code: str) -> None:
        """Something else was refused or failed."""

    def linked(self, link: Queues) -> None:
        """A stream to the other node is open."""


class Silent:
    """Watches nothing."""

    def step_started(self, labels: StepLabels) -> None:
        """See :class:`Observer`."""

    def step_done(self, labels: StepLabels, *, seconds: float, sent: int, received: int) -> None:
        """See :class:`Observer`."""

    def step_failed(self, labels: StepLabels, code: str, *, sent: int, received: int) -> None:
        """See :class:`Observer`."""

    def error(self, code: str) -> None:
        """See :class:`Observer`."""

    def linked(self, link: Queues) -> None:
        """See :class:`Observer`."""


SILENT: Observer = Silent()


class StepLog(Silent):
    """Writes steps to the local log.  That one failed is told to the operator by the step itself, with the reason."""

    def step_started(self, labels: StepLabels) -> None:
        """See :class:`Observer`."""
        _log.debug("%s started", _name(labels), extra=labels.fields())

    def step_done(self, labels: StepLabels, *, seconds: float, sent: int, received: int) -> None:
        """See :class:`Observer`."""
        extra: dict[str, Any] = labels.fields() | {"seconds": seconds, "bytes": sent + received}
        _log.info("%s done in %.1f s, %d bytes", _name(labels), seconds, sent + received, extra=extra)


def _name(labels: StepLabels) -> str:
    return f"job {labels.job[:12]} {labels.step}{f' {labels.round}' if labels.round else ''} (attempt {labels.attempt})"
