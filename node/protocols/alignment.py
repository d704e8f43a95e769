"""Alignment by the method that a job names, or the sizes of the two sets decide (:mod:`audit.aligning`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from audit.aligning import Method, chosen_method, label_holder_receives, reason
from node.crypto.drbg import Drbg
from node.engine import Engine
from node.limits import Limits
from node.protocols import psi, psi_ot
from node.protocols.channel import Channel, Progress, silent
from node.protocols.psi import Alignment, Role
from node.scratch import Scratch


@dataclass(frozen=True)
class Choice:
    """Which method was chosen and why; sizes of both sets, which decided."""

    method: Method
    reason: str
    label_holder: int
    feature_holder: int

    def fields(self) -> dict[str, str | int]:
        """As the log holds it."""
        return dict(vars(self))


def align(
    ch: Channel,
    *,
    method: Literal["auto", "curve", "ot"],
    choose: Callable[[Choice], None],
    role: Role,
    job: str,
    identifiers: Sequence[str],
    minimum: int,
    drbg: Drbg,
    limits: Limits,
    engine: Engine | None = None,
    scratch: Scratch | None = None,
    progress: Progress = silent,
) -> Alignment:
    """Find the customers both sides have.

    Args:
        method: as the job's specification says; both sides must name the same.
        choose: told of the choice before anything but sizes is sent, unless the specification says ``curve``.
        engine: where identifiers are masked on the curve; None: here.
        scratch: where hashes go that are too many for memory (:func:`node.protocols.psi_ot.match`).
        ch, role, job, identifiers, minimum, drbg, limits, progress: as :func:`node.protocols.psi.align`.

    Raises:
        DataError, PolicyError, PeerError: as :func:`node.protocols.psi.align` and :func:`node.protocols.psi_ot.match`.
    """
    own = len(identifiers)
    peer = psi.declare(ch, role=role, elements=own, minimum=minimum, limits=limits)
    holds_label = role == "label_holder"
    sizes = (own, peer.size) if holds_label else (peer.size, own)
    chosen = chosen_method(method, *sizes)
    if method != "curve":
        choose(Choice(chosen, reason(method, *sizes), *sizes))
    if chosen == "curve":
        return psi.match(ch, peer, job=job, identifiers=identifiers, minimum=minimum, drbg=drbg, engine=engine, progress=progress)
    receives = label_holder_receives(*sizes) == holds_label
    return psi_ot.match(
        ch,
        peer,
        receives=receives,
        job=job,
        identifiers=identifiers,
        minimum=minimum,
        drbg=drbg,
        scratch=scratch,
        progress=progress,
    )
