"""The bounded run of every fuzz target: seeds, inputs that failed once, and a fixed number of changed seeds.

The longer, coverage-guided run is ``python -m tests.fuzz``.
"""

from __future__ import annotations

import json
import random

import pytest

from audit.errors import PeerError
from node.transport.channel import MESSAGE_TYPES
from tests.asks import PLAIN
from tests.fuzz import bounded
from tests.fuzz.machines import seeds
from tests.fuzz.targets import BY_NAME, TARGETS, VECTORS, Target
from tests.joint import joint

SLOW = ("prepare-l", "prepare-f", "round-two-l", "evaluate-l", "evaluate-f")
"""Whose inputs take tens of milliseconds each."""
SLOWEST = ("runner", "align-ot-l", "align-ot-f")
NEVER = ("abort-code", "carried", "opening")
"""Whose every input is refused: nothing that they are given is true."""


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_any_bytes_are_accepted_or_refused(target: Target) -> None:
    ran, accepted = bounded.run(target, 8 if target.name in SLOWEST else 25 if target.name in SLOW else 150)
    assert ran >= 10
    assert accepted < ran or target.name in ("rooms", "directives", "course", "runner")
    assert accepted or target.name in NEVER, "no input is good: the seeds are stale"


def test_names_are_unique_and_every_regression_has_its_target() -> None:
    assert len(BY_NAME) == len(TARGETS)
    assert {path.name for path in VECTORS.iterdir() if path.is_dir()} <= BY_NAME.keys()
    assert all(path.stat().st_size <= 4096 for path in VECTORS.rglob("*") if path.is_file())


def test_the_recorded_messages_are_of_every_type_that_needs_no_signature() -> None:
    assert len(seeds("message")) >= len(MESSAGE_TYPES) - 2  # receipts are the runtime's; tables of bands are recorded


def test_logs_of_a_real_job_are_seeds_too() -> None:
    """A log as a job leaves it, cut and changed at many places."""
    made = joint(PLAIN)
    log = (made.folders["platform"] / "log.jsonl").read_bytes()
    lines = log.splitlines(keepends=True)
    assert BY_NAME["lines"](log)
    kinds = {json.loads(line)["kind"]: line for line in lines}
    for kind, line in kinds.items():
        assert BY_NAME["entry"](line.rstrip(b"\n")), kind
    rng = random.Random(1)
    for _ in range(12):
        changed = list(lines)
        at = rng.randrange(len(changed))
        changed[at] = bounded.change(changed[at], rng)
        BY_NAME["log"](b"".join(changed))
    notes = (made.folders["platform"] / "checkpoint").read_bytes()
    BY_NAME["note"](notes)
    document = json.loads(kinds["spec"])["document"].encode()
    assert BY_NAME["spec"](document)


def test_a_finding_is_told_with_its_input() -> None:
    def broken(data: bytes) -> None:
        if data.startswith(b"x"):
            raise ZeroDivisionError("by nobody")

    bad = Target("broken", broken, (PeerError,), lambda: [b"ok", b"xyz"])
    with pytest.raises(AssertionError, match=r"broken on 78797a: ZeroDivisionError"):
        bounded.run(bad, 0)
