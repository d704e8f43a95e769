"""A node that lost what it had stored ends its job with an error on both sides, and nobody has a model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from audit.record import LOG_FILE
from coordinator.client import connect
from tests.asks import Ask
from tests.joint import ENDED, NODES, World, until, world

ASK = Ask(rounds=3, holdout="0", to_feature_holder=False, to_coordinator=False)

LOST = {
    "the whole state folder": ("state",),
    "database and results, but not the log": ("state/state.db", "state/jobs"),
    "the steps' results": ("state/jobs",),
    "the log": ("state/log",),
}


def _lose(joined: World, name: str, what: tuple[str, ...]) -> None:
    home = joined.layout.home(name)
    for part in what:
        path = home / part
        if path.is_dir():
            shutil.rmtree(path)
        else:
            for file in path.parent.glob(f"{path.name}*"):
                file.unlink()


@pytest.mark.parametrize("case", LOST)
@pytest.mark.parametrize("name", NODES)
def test_a_lost_state_ends_the_job_on_both_sides(tmp_path: Path, name: str, case: str) -> None:
    with world(tmp_path, ASK, rounds=ASK.rounds) as joined:
        node = joined.nodes[name]
        job = joined.begin(ASK)
        log = joined.layout.log(name) / LOG_FILE
        for _ in until("the training did not begin"):
            if b'"step":"round"' in log.read_bytes():
                break
        node.stop()
        _lose(joined, name, LOST[case])
        node.start()
        with connect(joined.config) as operator:
            for _ in until("the job did not end"):
                view = operator.show(job)
                if view.state in ENDED:
                    break
        assert view.state == "failed"
        assert view.code, "the error has a name"
        for each in NODES:
            assert not list((joined.layout.home(each) / "state" / "jobs").glob("*/model.json"))
