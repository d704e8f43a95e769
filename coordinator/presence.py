"""Which nodes are attached, and how long the coordinator waits for one that went.

A node attaches with one stream; a second one of the same party takes over.  When a node's stream ends during a step, the step
waits ``grace`` seconds for it to come back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from coordinator.attachment import Attachment, approvals, job_end, step_start
from coordinator.errors import PeerError, TransportError
from coordinator.jobs import Job, Order, SendApprovals, SendEnd, SendStep
from coordinator.timers import later


class Presence:
    """Not thread-safe: the runner's lock guards it, and the timers take it.

    Args:
        lock: the runner's.
        grace: seconds a node may be away during a step.
        lost: told, with the lock held, of a party that did not come back in time.
    """

    def __init__(self, *, lock: threading.Condition, grace: float, lost: Callable[[str], None]) -> None:
        self._lock, self._grace, self._lost = lock, grace, lost
        self.streams: dict[str, Attachment] = {}
        """The streams of attached nodes, by party."""
        self._timers: dict[str, threading.Timer] = {}

    def __contains__(self, party: str) -> bool:
        """Whether a party is attached."""
        return party in self.streams

    def both(self, job: Job) -> bool:
        """Whether both parties of a job are attached."""
        return all(party in self.streams for party in job.parties)

    def holds(self, attachment: Attachment) -> bool:
        """Whether this stream is the one by which its party is attached."""
        return self.streams.get(attachment.party) is attachment

    def arrive(self, party: str) -> Attachment:
        """A node's stream opened."""
        older = self.streams.get(party)
        if older is not None:
            older.close(PeerError("control.superseded", f"{party} attached again.", remedy="Run one node under this name."))
        # An older stream may still be open: the node has lost it all the same, and the step it ran with it.
        came_back = self._timers.pop(party, None)
        if came_back is not None:
            came_back.cancel()
        self.streams[party] = Attachment(party)
        return self.streams[party]

    def leave(self, attachment: Attachment, *, awaited: bool) -> None:
        """The stream by which a node was attached ended; ``awaited``: something waits for it to come back."""
        del self.streams[attachment.party]
        attachment.close()
        if awaited:
            self._timers[attachment.party] = later(self._grace, self._grace_over, attachment.party)

    def _grace_over(self, party: str) -> None:
        with self._lock:
            if self._timers.get(party) is threading.current_thread():  # it has not come back, nor come and gone again
                del self._timers[party]
                self._lost(party)

    def tell(self, job: Job, order: Order) -> None:
        """Send an order to those parties of the job that are attached."""
        for party in job.parties:
            attachment = self.streams.get(party)
            if attachment is None:
                continue
            if isinstance(order, SendApprovals):
                attachment.send(approvals=approvals(job))
            elif isinstance(order, SendStep):
                attachment.send(step_start=step_start(job, order.step))
            elif isinstance(order, SendEnd):
                attachment.send(job_end=job_end(job))

    def waiting(self) -> int:
        """Directives that wait to go out."""
        return sum(attachment.waiting.qsize() for attachment in self.streams.values())

    def stop(self) -> None:
        """End all streams, for the coordinator is stopping, and wait for nobody."""
        for timer in self._timers.values():
            timer.cancel()
        for attachment in self.streams.values():
            attachment.close(TransportError("coordinator.stopping", "The coordinator is stopping."))
