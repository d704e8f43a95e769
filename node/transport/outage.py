"""An outage: what a session tells its step while no link to the peer stands, and the step waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outage:
    """A step waits for its peer."""

    peer: str
    seconds: float
    """How long already."""
    patience: float
    """How long it will, at most."""
    cause: str
    """A code."""


OnWait = Callable[[Outage | None], None]
"""Told that the protocol waits for a link, again every few seconds, and None once when the link is back."""
