"""Whole jobs of nodes that may only dial out: with inbound connections refused, in both role assignments, through the relay."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from audit.partner import read_partner
from audit.verify import verify_logs
from coordinator.client import connect
from coordinator.views import as_json
from node.config import load_config
from tests.asks import PLAIN, PLATFORM, Ask
from tests.joint import PARTIES, World, joint, world

APART = replace(PLAIN, reachable=())
RESTARTED_APART = replace(PLAIN, ending="stop", reachable=())


@pytest.mark.parametrize("ask", [PLAIN, PLATFORM], ids=["bank holds the label", "platform holds the label"])
@pytest.mark.parametrize("reachable", [("platform",), (), ("bank",)], ids=["bank dials", "both dial the relay", "platform dials"])
def test_a_job_finishes_whoever_can_be_reached(ask: Ask, reachable: tuple[str, ...], tmp_path: Path) -> None:
    with world(tmp_path, replace(ask, reachable=reachable)) as joined:
        for name in ("bank", "platform"):
            assert (load_config(joined.layout.config(name)).node.listen is not None) is (name in reachable)
            assert bool(read_partner(joined.layout.partner_file(name)).address) is (name in reachable)
        job, state = joined.run(ask)
        assert state == "finished"
        lines = [line for node in joined.nodes.values() for line in node.lines if "relay" in line]
        assert len(lines) == (0 if reachable else 2), lines
        assert all(line.startswith(f"job {job[:12]}") for line in lines)
        assert _relayed(joined, job) is not bool(reachable)


def _relayed(joined: World, job: str) -> bool:
    with connect(joined.config) as operator:
        steps = as_json(operator.show(job))["steps"]
    relayed = {step["bytes_relayed"] > 0 for step in steps}
    assert len(relayed) == 1
    return relayed.pop()


def test_without_a_listener_nothing_can_come_in(tmp_path: Path) -> None:
    """The bank's process holds no listening socket; whoever dials its machine is refused, and the job finishes all the same."""
    before = _listening()
    with world(tmp_path, APART) as joined:
        # All three run in this process: what listens in it beside the test's own is the coordinator's port.
        assert _listening() - before == {joined.layout.coordinator_port}
        for port in (joined.layout.platform_port, 7443):
            if port not in before:
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", port), timeout=2).close()
        assert joined.run(APART)[1] == "finished"
        assert _listening() - before == {joined.layout.coordinator_port}


def _listening() -> set[int]:
    return {link.laddr.port for link in psutil.Process().net_connections("inet") if link.status == psutil.CONN_LISTEN}


def test_logs_of_a_relayed_job_verify_and_hold_nothing_of_the_relay() -> None:
    made = joint(APART)
    assert made.states == ("finished",)
    assert verify_logs([made.folders[name] for name in PARTIES], partners=made.partners).whole
    for name in PARTIES:
        assert not any("relay" in entry["kind"] for entry in made.entries(name))


def test_a_node_that_stops_in_a_relayed_round_comes_back_and_the_job_finishes() -> None:
    made = joint(RESTARTED_APART)
    assert made.states == ("finished",)
    attempts = {entry["attempt"] for entry in made.entries("bank") if entry["kind"] == "step" and entry["state"] == "done"}
    assert len(attempts) == 2
