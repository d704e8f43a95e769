"""Alignment by the method that a job names, or the sizes of the two sets decide (:mod:`audit.aligning`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from audit.aligning import chosen_method, label_holder_receives
from node.crypto.drbg import Drbg
from node.limits import Limits
from node.protocols import psi, psi_ot
from node.protocols.channel import Channel, Progress, silent
from node.protocols.psi import Alignment, Role


def align(
    ch: Channel,
    *,
    method: Literal["auto", "curve", "ot"],
    role: Role,
    job: str,
    identifiers: Sequence[str],
    minimum: int,
    drbg: Drbg,
    limits: Limits,
    progress: Progress = silent,
) -> Alignment:
    """Find the customers both sides have.

    Args:
        method: as the job's specification says; both sides must name the same.
        ch, role, job, identifiers, minimum, drbg, limits, progress: as :func:`node.protocols.psi.align`.

    Raises:
        DataError, PolicyError, PeerError: as :func:`node.protocols.psi.align` and :func:`node.protocols.psi_ot.match`.
    """
    own = len(identifiers)
    peer = psi.declare(ch, role=role, elements=own, minimum=minimum, limits=limits)
    holds_label = role == "label_holder"
    sizes = (own, peer.size) if holds_label else (peer.size, own)
    if chosen_method(method, *sizes) == "curve":
        return psi.match(ch, peer, job=job, identifiers=identifiers, minimum=minimum, drbg=drbg, progress=progress)
    receives = label_holder_receives(*sizes) == holds_label
    return psi_ot.match(
        ch, peer, receives=receives, job=job, identifiers=identifiers, minimum=minimum, drbg=drbg, progress=progress
    )
