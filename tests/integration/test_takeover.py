"""Two coordinator processes on one PostgreSQL database: one is killed or paused within a job, the other goes on with it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

import pytest

from audit.checkpoint import parse_note, verify_checkpoint
from audit.cosignature import verify_cosignature
from audit.identity import load_identity
from audit.verify import verify_logs
from coordinator.client import connect
from coordinator.config import load_config
from coordinator.demo import parties
from coordinator.submit import build_spec
from tests import joint, postgres
from tests.asks import Ask, data_for
from tests.coordinator_world import World, poll, report
from tests.nodes import free_port

pytestmark = pytest.mark.timed

LEASE = 2
SECONDS = 60.0


class Coordinator:
    """``isthmus-coordinator serve`` as a process."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.state = load_config(config).state_folder
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._out = self.config.with_suffix(f".{time.monotonic_ns()}.out")
        with self._out.open("wb") as file:
            command = [sys.executable, "-m", "coordinator.cli", "--config", str(self.config), "serve"]
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def said(self) -> str:
        return self._out.read_text()

    def until(self, words: str) -> float:
        """Wait until it said this; the time at which it was seen."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if words in self.said():
                return time.monotonic()
            assert self.process is not None
            assert self.process.poll() is None, self.said()
            time.sleep(0.02)
        raise AssertionError(f"{words!r} was not said: {self.said()}")

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def ended(self) -> int:
        assert self.process is not None
        return self.process.wait(SECONDS)

    def log(self) -> bytes:
        return (self.state / "log" / "log.jsonl").read_bytes()


@contextmanager
def coordinators(*configs: Path) -> Iterator[list[Coordinator]]:
    """The first leads, the others wait."""
    made: list[Coordinator] = []
    try:
        for config in configs:
            made.append(Coordinator(config))
            made[-1].until("serves at" if len(made) == 1 else "waits as the standby")
        yield made
    finally:
        for each in made:
            if each.process is not None and each.process.poll() is None:
                each.process.kill()
                each.process.wait()


def second(config: Path, *, store: str, listen: str = "") -> Path:
    """A configuration beside the first, with the same keys and a state folder of its own; both get the database."""
    text = re.sub(r"(?ms)^\[store\].*?(?=^\[|\Z)", "", config.read_text())
    text += f'\n[store]\nurl = "{store}"\nlease = {LEASE}\n'
    config.write_text(text)
    other = re.sub(r'(?m)^listen = ".*"$', f'listen = "{listen}"', text) if listen else text
    other = re.sub(r'(?m)^state = ".*\n', "", other).replace("[coordinator]\n", '[coordinator]\nstate = "state-2"\n')
    made = config.with_name("second.toml")
    made.write_text(other)
    return made


def test_a_killed_leader_is_followed_within_a_real_job(tmp_path: Path) -> None:
    ask = Ask(rounds=2)
    data = data_for(ask, tmp_path)
    (tmp_path / "parties").mkdir()
    with mock.patch.object(parties, "run_command", joint._command), redirect_stdout(StringIO()):
        layout = parties.lay_out(tmp_path / "parties", data, rounds=ask.rounds, workers=1, small_keys=True)
    config = layout.config("coordinator")
    standby = second(config, store=postgres.server().new_database())
    with coordinators(config, standby) as (first, follower):
        nodes = {name: joint._Node(layout.config(name)) for name in joint.NODES}
        try:
            job, took = _kill_within(Ask(), data, layout, config, first, follower)
            deadline = time.monotonic() + SECONDS
            with connect(load_config(standby)) as operator:
                while (view := operator.show(job)).state not in joint.ENDED and time.monotonic() < deadline:
                    time.sleep(0.1)
            assert (view.state, view.code) == ("finished", "")
            folders = [layout.log("bank"), layout.log("platform"), follower.state / "log"]
            _wait_cosigned(folders)
        finally:
            for node in nodes.values():
                node.stop()
        follower.signal(signal.SIGTERM)
        assert follower.ended() == 0, follower.said()
    print(f"the standby served {took:.2f} s after the leader was killed")
    assert took < LEASE + 5
    assert follower.log().startswith(first.log()[: first.log().rfind(b"\n") + 1])
    verified = verify_logs(folders, partners=[layout.partner_file(name) for name in joint.PARTIES])
    assert [point.text for point in verified.open_points] == []
    assert verified.exit_status == 0
    entries = [json.loads(line) for line in follower.log().splitlines()]
    assert len([entry for entry in entries if entry["kind"] == "software"]) == 2, "one log, two runs"
    assert {entry["attempt"] for entry in entries if entry["kind"] == "directive"} == {0, 1}
    _check_cosignatures(layout, follower.state / "log", entries)


def _kill_within(ask, data, layout, config, first, follower):  # type: ignore[no-untyped-def]
    """Submit, approve, and kill the leader as soon as it directed the preparation."""
    document = parties.job_document(data, rounds=ask.rounds, l2="0.001", holdout=ask.holdout, key_bits=ask.key_bits)
    document["align"]["minimum"] = ask.minimum
    loaded = load_config(config)
    with connect(loaded) as operator:
        job = operator.submit(build_spec(document, coordinator="coordinator", partners=loaded.partners()).canonical())
    for _ in joint.until("a node was not offered the job"):
        if all(joint._offered(layout.log(name), job) for name in joint.NODES):
            break
    for name in joint.NODES:
        joint._decide(layout, name, job, "approve")
    for _ in joint.until("the preparation was not directed"):
        if b'"step":"prepare"' in first.log():
            break
    first.signal(signal.SIGKILL)
    began = time.monotonic()
    first.ended()
    return job, follower.until("serves at") - began


def _wait_cosigned(folders: list[Path]) -> None:
    for _ in joint.until("the last checkpoints were not cosigned"):
        if all(len(parse_note((folder / "checkpoint").read_bytes()).signatures) == 3 for folder in folders):
            return


def _check_cosignatures(layout: parties.Layout, log: Path, entries: list[dict[str, object]]) -> None:
    """Every checkpoint of either leader is there; those of the job that both nodes saw have their cosignatures."""
    keys = {name: load_identity(layout.home(name) / "keys").log_key.verifier for name in joint.PARTIES}
    cosigned = 0
    for file in sorted((log / "checkpoints").iterdir()):
        note = file.read_bytes()
        assert verify_checkpoint(note, keys["coordinator"]).size == int(file.name) <= len(entries)
        if len(parse_note(note).signatures) == 3:
            for name in joint.NODES:
                verify_cosignature(parse_note(note), keys[name])
            cosigned += 1
    runs = [int(str(entry["seq"])) for entry in entries if entry["kind"] == "software"]
    sizes = [int(file.name) for file in (log / "checkpoints").iterdir()]
    assert min(sizes) <= runs[1] < max(sizes), "of both runs"
    assert cosigned >= 4


def test_a_leader_that_is_stopped_past_its_lease_and_continued_steps_down(tmp_path: Path) -> None:
    world = World(tmp_path)
    port = free_port()
    config = world.home / "coordinator.toml"
    standby = second(config, store=postgres.server().new_database(), listen=f"127.0.0.1:{port}")
    with coordinators(config, standby) as (first, follower):
        silent = [world.node("bank", script=lambda start: None if start.step == "round" else report("bank", start))]
        silent.append(world.node("platform"))
        job = world.submit()
        world.until(job, "round")
        first.signal(signal.SIGSTOP)
        began = time.monotonic()
        took = follower.until("serves at") - began
        world.port, world.config = port, load_config(standby)
        nodes = [world.node("bank"), world.node("platform")]
        assert world.until(job, "finished", "failed").state == "finished"
        kept = first.log()
        first.signal(signal.SIGCONT)
        assert first.ended() == 1, first.said()
        assert "code: coordinator.not_leader" in first.said()
        assert postgres.PASSWORD not in first.said() + follower.said()
        assert first.log() == kept
        assert follower.log().startswith(kept)
        first.start()
        first.until("waits as the standby")
        assert "127.0.0.1" in first.said()
        for node in (*silent, *nodes):
            node.hang_up()
        follower.signal(signal.SIGTERM)
        assert follower.ended() == 0
        first.until("serves at")
        assert first.log().startswith(follower.log())
        first.signal(signal.SIGTERM)
        assert first.ended() == 0
    print(f"the standby served {took:.2f} s after the leader was stopped; its lease is {LEASE} s")
    assert LEASE * 0.5 < took < LEASE + 8


def test_two_on_one_state_folder_are_refused(tmp_path: Path) -> None:
    world = World(tmp_path, store=postgres.server().new_database())
    world.serve()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "coordinator.cli", "--config", str(world.home / "coordinator.toml"), "serve"],
            capture_output=True, text=True, check=False, timeout=SECONDS,
        )  # fmt: skip
    finally:
        world.stop()
    assert done.returncode == 2
    assert "coordinator.folder_in_use" in done.stderr


def test_a_sqlite_coordinator_that_moves_to_postgresql_keeps_its_log(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.serve()
    world.stop()
    before = (world.home / "state" / "log" / "log.jsonl").read_bytes()
    second(world.home / "coordinator.toml", store=postgres.server().new_database())
    world.config = load_config(world.home / "coordinator.toml")
    world.serve()
    world.stop()
    shutil.rmtree(world.home / "state")
    world.serve()
    poll(lambda: (world.home / "state" / "log" / "log.jsonl").read_bytes().startswith(before), "the log is back")
    world.stop()
    assert [entry["seq"] for entry in world.log() if entry["kind"] == "software"] == [0, 3, 6]
