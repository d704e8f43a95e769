"""What a serving node does when a certificate was renewed: its own, or a partner's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from audit.trust import Change, Trust, accepted
from node.transport.control import ControlClient
from node.transport.servicer import PeerServicer


@dataclass
class Renewing:
    """Takes up renewed certificates, of this node and of its partners, and lets go of connections made with the former ones.

    Streams between nodes begin anew at once: their sessions go on.  The stream to the coordinator waits until no job runs, since
    the coordinator starts a step again when a node attaches anew in the middle of it.
    """

    trust: Trust
    coordinator: str
    control: ControlClient
    relink: Callable[[Change], None]
    servicer: PeerServicer | None
    idle: Callable[[], bool]
    notify: Callable[[str], None]
    due: bool = False

    def look(self) -> None:
        """Called from the main loop."""
        change = self.trust.refresh()
        if change:
            self._take_up(change)
        if self.due and (self.idle() or not self.trust.partners[self.coordinator].trusted_pem):
            self.due = False
            self.control.reattach()

    def _take_up(self, change: Change) -> None:
        if change.own:
            self.notify("this node's new certificate is used from now on")
        for name in sorted(change.partners):
            self.notify(f"the partner file of {name} changed: {accepted(self.trust.partners[name])}")
        if self.servicer is not None:
            self.servicer.callers.recheck()
        self.due |= change.own or self.coordinator in change.partners
        self.relink(change)
