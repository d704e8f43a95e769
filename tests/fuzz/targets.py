"""The table of all targets: a name, a function of bytes, and how it may end other than by acceptance."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from audit.errors import DataError, PeerError, PolicyError, TransportError, UsageError, VerificationError
from tests.fuzz import documents, events, halves, machines

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "fuzz"
REFUSED = (PeerError, DataError, VerificationError)
"""How foreign bytes are refused."""
CUT = (*REFUSED, TransportError)
"""On a stream the recording or the records may also end too early, which is a cut link."""
LOCAL = (*REFUSED, UsageError)
"""A file that a person on this side wrote or ordered, or a directive that is not due."""


@dataclass(frozen=True)
class Target:
    """One function of foreign bytes.

    Attributes:
        run: takes any bytes; whatever else it raises than ``allowed`` is a finding.
        seeds: gives valid inputs.
    """

    name: str
    run: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]
    seeds: Callable[[], Iterable[bytes]]

    def __call__(self, data: bytes) -> bool:
        """Run on ``data``; whether it was accepted.  Raises a finding."""
        try:
            self.run(data)
        except self.allowed:
            return False
        return True

    def regressions(self) -> list[Path]:
        """Inputs that failed once."""
        return sorted((VECTORS / self.name).glob("*"))


def _document(name: str, *allowed: type[Exception]) -> Target:
    run = getattr(documents, name.replace("-", "_"))
    return Target(name, run, allowed or REFUSED, functools.partial(documents.seeds, name))


def _machine(name: str, *allowed: type[Exception]) -> Target:
    run = getattr(machines, name.replace("-", "_"))
    return Target(name, run, allowed or REFUSED, functools.partial(machines.seeds, name))


def _events(name: str, *allowed: type[Exception]) -> Target:
    return Target(name, getattr(events, name), allowed or REFUSED, functools.partial(events.seeds, name))


def _half(name: str, recorded: Callable[[], halves.Recorded], *allowed: type[Exception]) -> list[Target]:
    """Both roles of a protocol.  A seed of zeros is the honest run; others change one message each."""

    def run(role: str, data: bytes) -> object:
        return recorded().run(role, data)

    seeds = [b"", *(bytes(k) + bytes([140, 0, k, 100, 7, k, 9, 200]) for k in range(8))]
    names = {"label_holder": f"{name}-l", "feature_holder": f"{name}-f"}
    return [Target(names[role], functools.partial(run, role), allowed or CUT, lambda: seeds) for role in names]


TARGETS: tuple[Target, ...] = (
    _machine("message"),
    _machine("opening"),
    _machine("frames", *CUT),
    _machine("windows"),
    _machine("points"),
    _machine("abort-code", TransportError),
    _machine("sealed"),
    _machine("carried", *CUT),
    _machine("rooms"),
    _events("report"),
    _events("course"),
    _events("runner"),
    _events("directives"),
    *_half("align", halves.aligning, *CUT, PolicyError),
    *_half("align-ot", halves.aligning_by_ot, *CUT, PolicyError),
    *_half("filter", halves.filtering, *CUT, PolicyError),
    *_half("filter-again", halves.filtering_again, *CUT, PolicyError),
    *_half("join", halves.joining, *CUT, PolicyError),
    *_half("count", halves.counting, *CUT, PolicyError),
    *_half("prepare", halves.preparing),
    *_half("round-one", functools.partial(halves.rounding, 1)),
    *_half("round-two", functools.partial(halves.rounding, 2)),
    *_half("finish", halves.finishing),
    *_half("evaluate", halves.evaluating),
    *_half("lookup", halves.looking_up),
    _document("paillier-key"),
    _document("ciphertexts"),
    _document("base-rate"),
    _document("spec", *LOCAL),
    _document("approval"),
    _document("partner", *LOCAL),
    _document("note"),
    _document("cosignature"),
    _document("proof"),
    _document("witness"),
    _document("entry"),
    _document("lines"),
    _document("log"),
    _document("own-log", *LOCAL),
    _document("toml", *LOCAL),
    _document("identity", *LOCAL),
    _document("state-arrays"),
    _document("kept-inbound"),
    _document("kept-table"),
    _document("seed"),
    _document("csv"),
    _document("parquet"),
)
BY_NAME = {target.name: target for target in TARGETS}
