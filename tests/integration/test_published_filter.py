"""Jobs that align by a published filter, between two nodes over gRPC: state from job to job, policy, replay, and the auditor."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from audit.errors import PolicyError
from audit.spec import JobSpec
from node.admission import check_spec
from node.policy import Policy, load_policy
from node.runtime import relations
from protos import control_pb2
from tests.nodes import TestNode
from tests.replay_world import World, make_world, write_data

CLAUSES = {
    "bank": """
[[filter]]
partner = "platform"
dataset = "cards"
role = "querier"
reuse_days = 30
""",
    "platform": """
[[filter]]
partner = "bank"
dataset = "shop"
role = "publisher"
reuse_days = 30
queries = 400
period_days = 7
""",
}


def world_of(folder: Path, *, shared: int = 60, **changes: str) -> World:
    world = make_world(folder, shared=shared)
    for name, clause in (CLAUSES | changes).items():
        path = world.configs[name].policy_path
        path.write_text(path.read_text() + clause)
    return world


def job_of(world: World, number: int, **align: Any) -> JobSpec:
    return world.spec(nonce=f"{number:032x}", align={"method": "filter", "publisher": "feature_holder", "minimum": 20} | align)


def align(world: World, number: int, *, attempt: int = 0, job: str = "") -> tuple[str, list[Any]]:
    """Approve a job and run its alignment."""
    job = job or world.approve(job_of(world, number))
    return job, world.step(job=job, step="align", attempt=attempt)


def sent(one: TestNode, job: str, kind: str) -> int:
    return sum(e["items"] for e in one.entries("message") if (e["job"], e["type"], e["direction"]) == (job, kind, "sent"))


def committed(one: TestNode, job: str, what: str) -> list[dict[str, Any]]:
    return [e for e in one.entries("commitment") if (e["job"], e["what"]) == (job, what)]


def test_a_second_job_asks_about_new_customers_alone(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    with world.nodes():
        bank, platform = world.both
        first, reports = align(world, 1)
        assert [report.intersection for report in reports] == [60, 60]
        assert sent(bank, first, "BlindedPoints") == 80
        assert sent(platform, first, "FilterRemainders") == 90
        # Three customers more on both sides: three masked anew by each.
        write_data(tmp_path, "bank", 63)
        second, reports = align(world, 2)
        assert [report.intersection for report in reports] == [63, 63]
        assert (sent(bank, second, "BlindedPoints"), sent(platform, second, "FilterRemainders")) == (3, 0)
        assert sent(platform, second, "FilterAdded") == 3
        versions = [committed(one, job, "filter")[0]["version"] for one in world.both for job in (first, second)]
        assert versions == [1, 2, 1, 2]
        for what in ("filter key", "filter"):
            assert committed(bank, second, what)[0]["sha256"] == committed(platform, second, what)[0]["sha256"]
        folder = platform.store.folder / "relations" / job_of(world, 1).relation()
        assert sorted(path.name.split("-")[0] for path in folder.iterdir()) == ["relation.json", "state"]
    for name in ("bank", "platform"):
        found = world.replay(name)
        assert (found.exit_status, found.reproduced) == (0, found.sent), found.jobs
        kept = world.configs[name].state_folder / "jobs" / second / "kept"
        (kept / "relation-0.json").rename(kept / "away.json")
        assert world.replay(name, job=second).exit_status == 2
        # The state that another attempt found is not the one that this one ran on.
        other = json.loads((kept / "away.json").read_text()) | {"state": ""}
        (kept / "relation-0.json").write_text(json.dumps(other))
        assert world.replay(name, job=second).exit_status == 1


def test_queries_are_counted_over_jobs_and_attempts_and_bounded_by_the_policy(tmp_path: Path) -> None:
    world = world_of(tmp_path, bank=CLAUSES["bank"].replace("30", "0"), platform=CLAUSES["platform"].replace("400", "170"))
    with world.nodes():
        platform = world.running["platform"]
        job, reports = align(world, 1)
        assert all(isinstance(report, control_pb2.StepDone) for report in reports)
        _, reports = align(world, 1, attempt=1, job=job)
        assert all(isinstance(report, control_pb2.StepDone) for report in reports)
        last, reports = align(world, 2)
        assert {report.code for report in reports} == {"policy.filter_queries"}
        assert not sent(platform, last, "EvaluatedPoints")
        assert not sent(platform, last, "FilterRemainders")
        assert platform.store.queries("bank/shop", since="2000") == 160
        keys = {entry["sha256"] for entry in platform.entries("commitment") if entry["what"] == "filter key"}
        assert len(keys) == 3
        assert not list((platform.store.folder / "relations").glob("*"))
    for name in ("bank", "platform"):
        found = world.replay(name)
        assert (found.exit_status, found.reproduced) == (0, found.sent), found.jobs


def test_a_failed_attempt_keeps_what_it_masked_and_its_queries_counted(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    with world.nodes():
        platform = world.running["platform"]
        job = world.approve(job_of(world, 1, minimum=61))
        reports = world.step(job=job, step="align", attempt=0)
        assert {report.code for report in reports} == {"psi.too_few_shared"}
        assert platform.store.queries("bank/shop", since="2000") == 80
        assert not list((world.running["bank"].store.folder / "relations").glob("*"))
        world.step(job=job, step="align", attempt=1)
        keys = {entry["sha256"] for entry in committed(platform, job, "filter key")}
        assert (len(keys), [entry["version"] for entry in committed(platform, job, "filter")]) == (1, [1, 2])
        said = {entry["what"] for one in world.both for entry in one.entries("disclosure")}
        assert said == {"set_size", "filter_version", "shared_customers_at_most"}
        world.end(job, "failed")
    for name in ("bank", "platform"):
        found = world.replay(name)
        assert (found.exit_status, found.reproduced) == (0, found.sent), found.jobs


def test_damaged_state_starts_afresh(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    with world.nodes():
        bank, platform = world.both
        align(world, 1)
        (state,) = (platform.store.folder / "relations").glob("*/state-*")
        state.write_bytes(b"no archive")
        job, reports = align(world, 2)
        assert all(isinstance(report, control_pb2.StepDone) for report in reports)
        assert sent(bank, job, "BlindedPoints") == 80


@pytest.fixture
def policy(tmp_path: Path) -> Callable[[str, str], Policy]:
    def make(name: str, clause: str) -> Policy:
        path = tmp_path / f"{name}.toml"
        path.write_text(f'[partners]\nallow = "added"\n[datasets]\noffer = ["label_holder", "feature_holder"]\n{clause}')
        return load_policy(path)

    return make


@pytest.mark.parametrize("name", ["bank", "platform"])
def test_no_policy_allows_it_but_by_name(tmp_path: Path, name: str, policy: Callable[[str, str], Policy]) -> None:
    world = make_world(tmp_path / "world", shared=20)
    spec = job_of(world, 1)
    others = (CLAUSES[name].replace(f'{word} = "', f'{word} = "other-') for word in ("dataset", "partner"))
    for clause in ("", *others):
        with pytest.raises(PolicyError) as caught:
            policy(name, clause).filter_clause(spec, name)
        assert caught.value.code == "policy.filter"
    assert policy(name, CLAUSES[name]).filter_clause(spec, name).reuse_days == 30
    with world.nodes():
        parts = world.running[name].parts
        with pytest.raises(PolicyError, match="filter"):
            check_spec(spec, config=parts.config, policy=parts.policy, partners=parts.partners)


def test_what_no_policy_lets_serve_any_longer_is_removed(tmp_path: Path, policy: Callable[[str, str], Policy]) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    for name, days in (("a", 29), ("b", 31), ("c", -1)):
        folder = tmp_path / "state" / "relations" / name
        folder.mkdir(parents=True)
        since = (now - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
        description = {"state": "s", "clause": ["bank", "shop", "publisher"], "key": since, "whole": since}
        (folder / relations.DESCRIPTION).write_text(json.dumps(description))
    assert relations.sweep(tmp_path / "state", policy("p", CLAUSES["platform"]), now) == 2
    assert [path.name for path in (tmp_path / "state" / "relations").iterdir()] == ["a"]
    assert relations.sweep(tmp_path / "state", policy("p", CLAUSES["bank"]), now) == 1
