"""A whole job, coordinator and all, over a link that is cut in every step: nobody but the operator's lines can tell afterwards."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from audit.verify import verify_logs
from coordinator.client import connect
from node.runtime import serve
from node.runtime.execution import WAITING
from node.transport.channel import GrpcChannel
from node.transport.client import dial
from tests.asks import Ask
from tests.cutter import Cutter
from tests.joint import NODES, PARTIES, world

pytestmark = pytest.mark.timed

ONE = Ask(rounds=1)


class _Between:
    """Puts a cutter between the two nodes, whichever dials."""

    def __init__(self) -> None:
        self.cutter: Cutter | None = None

    def dial(self, partner: Any, *args: Any, **kwargs: Any) -> GrpcChannel:
        if self.cutter is None:
            self.cutter = Cutter(int(partner.address.rpartition(":")[2]))
        return dial(replace(partner, address=self.cutter.address), *args, **kwargs | {"latest": None})


def test_cuts_in_every_step_leave_one_attempt_and_lawful_logs(tmp_path: Path) -> None:
    between, rng = _Between(), random.Random(3)
    steps: dict[str, int] = {}
    sent, cut_lock = GrpcChannel.send_payload, threading.Lock()

    def noted(self: GrpcChannel, kind: str, payload: bytes) -> None:
        step = self.session._opening.step
        with cut_lock:
            steps[step] = steps.get(step, 0) + 1
            if steps[step] in (1, 3, 9) and between.cutter is not None:
                between.cutter.cut_again([rng.randrange(400)])
        sent(self, kind, payload)

    with (
        mock.patch.object(serve, "dial", between.dial),
        mock.patch.object(GrpcChannel, "send_payload", noted),
        world(tmp_path, ONE, rounds=1) as joined,
    ):
        job, state = joined.run(ONE)
        joined.wait_cosigned()
        with connect(joined.config) as operator:
            view = operator.show(job)
    assert state == "finished", [node.lines for node in joined.nodes.values()]
    assert between.cutter is not None
    between.cutter.close()
    assert set(steps) == {"align", "prepare", "round", "finish", "evaluate"}
    assert between.cutter.resets >= len(steps)
    assert [step.attempt for step in view.steps] == [0] * 5
    layout = joined.layout
    verified = verify_logs([layout.log(name) for name in PARTIES], partners=tuple(layout.partner_file(name) for name in PARTIES))
    assert verified.whole, verified.open_points


def test_a_node_that_is_away_is_waited_for_and_watch_says_so(tmp_path: Path) -> None:
    between = _Between()
    sent, once = GrpcChannel.send_payload, threading.Event()
    phases: set[str] = set()

    def noted(self: GrpcChannel, kind: str, payload: bytes) -> None:
        if kind == "RowMasks" and not once.is_set() and between.cutter is not None:
            once.set()
            threading.Thread(target=outage, args=(between.cutter,), daemon=True).start()
            time.sleep(0.1)
        sent(self, kind, payload)

    def outage(cutter: Cutter) -> None:
        with cutter.away(), connect(joined.config) as operator:
            for _ in range(30):
                time.sleep(0.1)
                for view in operator.jobs():
                    phases.update(party.phase for party in view.parties)

    with (
        mock.patch.object(serve, "dial", between.dial),
        mock.patch.object(GrpcChannel, "send_payload", noted),
        world(tmp_path, ONE, rounds=1) as joined,
    ):
        job, state = joined.run(ONE)
        with connect(joined.config) as operator:
            view = operator.show(job)
    assert (state, once.is_set()) == ("finished", True)
    assert WAITING in phases
    assert [step.attempt for step in view.steps] == [0] * 5
    assert WAITING not in {party.phase for party in view.parties}
    for name in NODES:
        lines = joined.nodes[name].lines
        assert sum("waits for" in line and "policy links.patience" in line for line in lines) == 1, lines
        assert sum("the link to" in line and "is back" in line for line in lines) == 1, lines
