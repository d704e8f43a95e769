"""How a serving node ends: no new step is begun, the running one may finish, what was said still goes out.

A node that goes in the middle of a step loses that step's attempt and nothing else, so waiting is a courtesy, with a limit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from node.runtime.cosigning import CosignedLog
from node.runtime.jobs import Jobs
from operations.stopping import wait_for

COSIGN_SECONDS = 2.0
"""How long the last checkpoint may wait for its cosignatures; a later run offers it again."""


def leave(
    jobs: Jobs,
    cosigned: CosignedLog,
    *,
    grace: float,
    give_up: float,
    at_once: threading.Event,
    attached: Callable[[], bool],
    notify: Callable[[str], None],
) -> None:
    """Bring this node's steps to an end.

    Args:
        grace: seconds that running steps may take to be done.
        give_up: seconds that those which are not may take to notice.
        at_once: cuts every waiting short.
        attached: whether anybody can still cosign.
    """
    jobs.drain()
    if running := jobs.running():
        names = ", ".join(f"{labels.step} of job {labels.job[:12]}" for labels in running)
        if grace and not at_once.is_set():
            notify(f"stopping: waiting up to {grace:g} seconds for {names}; a second signal stops at once")
        if not wait_for(lambda: not jobs.running(), grace, at_once):
            notify(f"stopping: {names} is given up; it runs again after the next start")
    jobs.stop(give_up)
    wait_for(lambda: cosigned.settled or not attached(), COSIGN_SECONDS, at_once)
