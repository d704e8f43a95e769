"""What the runner tells whoever watches it: how jobs and steps move, and errors.  An observer is passed in."""

from __future__ import annotations

from typing import Protocol

from coordinator.jobs import Job


class Observer(Protocol):
    """Told under the runner's lock: must not block and must not raise."""

    def moved(self, before: Job, after: Job) -> None:
        """A job is another than before, and stored."""

    def error(self, code: str) -> None:
        """A node's stream, report or checkpoint was refused."""


class Silent:
    """Watches nothing."""

    def moved(self, before: Job, after: Job) -> None:
        """See :class:`Observer`."""

    def error(self, code: str) -> None:
        """See :class:`Observer`."""


SILENT: Observer = Silent()
