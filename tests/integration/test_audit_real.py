"""The verification on the logs of real jobs of every kind: no false alarm, and what the facts say is what was asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from audit.checkpoint import Checkpoint, origin_of, sign_checkpoint
from audit.ledger import LogRejected
from audit.merkle import Frontier
from audit.verify import VerifiedLogs, verify_logs
from tests import asks as made
from tests.asks import SHARED
from tests.joint import NODES, Joint, joint
from tests.rechain import rechain
from tests.tampering.corpus import policy_text, story_of
from tests.tampering.story import Story
from tests.tampering.telling import hash_of, message, place_of, retell

FILTERED = made.SEVERAL_FILTERED
MANY = (made.LONG, made.REJECTED, made.CANCELLED, made.TOO_FEW, made.QUIET)


def verified(jobs: Joint, **arguments: Any) -> VerifiedLogs:
    return verify_logs(list(jobs.folders.values()), partners=jobs.partners, **arguments)


ONES = {
    "plain": made.PLAIN,
    "platform": made.PLATFORM,
    "restarted": made.RESTARTED,
    "restarted early": made.RESTARTED_EARLY,
    "killed": made.KILLED,
    "prepared again": made.REPREPARED,
    "prepared for the next": made.REPREPARED_LATE,
}


@pytest.mark.parametrize("asks", [*((ask,) for ask in ONES.values()), MANY, FILTERED], ids=[*ONES, "many", "filtered"])
def test_no_false_alarm(asks: tuple[made.Ask, ...]) -> None:
    jobs = joint(*asks)
    found = verified(jobs)
    assert found.exit_status == 0, found.open_points
    assert {step.number: step.state for step in found.steps if step.state != "passed"} == {8: "warning"}  # the keys are small
    assert sorted(fact.job for fact in found.jobs) == sorted(jobs.jobs)
    assert [fact.outcome for job in jobs.jobs for fact in found.jobs if fact.job == job] == list(jobs.states)


def test_a_published_filter_is_read_as_one() -> None:
    jobs = joint(*FILTERED)
    facts = {fact.job: fact for fact in verified(jobs).jobs}
    first, few, last = (facts[job] for job in jobs.jobs)
    assert few.code == "psi.too_few_shared"
    assert first.set_sizes == last.set_sizes == {"bank": SHARED + 40, "platform": SHARED + 40}
    told = {(item.by, item.what) for item in few.disclosures}
    assert {("platform", "filter_version"), ("platform", "set_size")} <= told
    versions = {(what, sha256) for fact in (first, last) for _, what, sha256 in fact.commitments if what.startswith("filter")}
    assert {what for what, _ in versions} == {"filter key", "filter"}
    assert len(versions) == 2  # both nodes, both jobs


def test_nothing_is_lost_when_messages_are_read_again() -> None:
    """With runs of one message at most, every attempt is checked from the file instead of from memory; the verdict is the same."""
    jobs = joint(made.PLAIN)
    with mock.patch("audit.history.RUNS_MAX", 1):
        assert verified(jobs).exit_status == 0


def test_logs_of_any_two_parties_are_incomplete_at_most() -> None:
    jobs = joint(made.PLAIN)
    nodes = [jobs.folders[name] for name in NODES]
    assert verify_logs(nodes, partners=jobs.partners).exit_status == 0
    for name in NODES:
        assert verify_logs([jobs.folders[name], jobs.folders["coordinator"]], partners=jobs.partners).exit_status == 2
    assert verify_logs([jobs.folders["coordinator"]], partners=jobs.partners).exit_status in (0, 2)


def test_the_facts_of_a_finished_job() -> None:
    [fact] = verified(joint(made.PLAIN)).jobs
    assert (fact.label_holder, fact.feature_holder, fact.coordinator) == ("bank", "platform", "coordinator")
    assert fact.set_sizes == {"bank": SHARED + 40, "platform": SHARED + 40}
    assert fact.matching == ("ot", "the specification names it")
    assert fact.intersection == SHARED == (fact.rows_train or 0) + (fact.rows_holdout or 0)
    assert fact.columns["bank"] > 3  # an intercept, two numbers, a category
    assert fact.columns["platform"] == 2
    assert (fact.key_bits, fact.rounds_done, fact.lookup_entries) == (512, 2, 256)
    assert [len(row) for row in fact.inner_products] == [1, 2]
    assert fact.small_keys == ("bank", "platform")
    assert {(item.party, item.decision, item.by) for item in fact.approvals} == {(name, "approve", "a person") for name in NODES}
    assert [(step.step, step.round) for step in fact.timeline if step.node == "bank"] == [
        ("align", 0), ("prepare", 0), ("round", 1), ("round", 2), ("finish", 0), ("evaluate", 0),
    ]  # fmt: skip
    assert all(step.state == "done" and step.started <= step.ended and step.messages for step in fact.timeline)
    told = {(item.by, item.what, item.to) for item in fact.disclosures}
    assert {("bank", "aggregates", "platform"), ("bank", "aggregates", "coordinator"), ("platform", "score_bands", "bank")} <= told
    assert ("platform", "base_rate", "bank") not in told
    json.dumps(fact.data())


def test_the_facts_of_a_job_on_a_sample() -> None:
    fact = next(fact for fact in verified(joint(*MANY)).jobs if fact.spec is not None and fact.spec.model.train_rows)
    assert (fact.intersection, fact.rows_train) == (SHARED, 100)
    assert fact.accuracy is not None
    assert (fact.accuracy.rows, fact.accuracy.available) == (100, SHARED - (fact.rows_holdout or 0))
    assert fact.accuracy.columns == sum(fact.columns.values())
    sent = [entry for entry in joint(*MANY).entries("bank") if entry["kind"] == "message" and entry["job"] == fact.job]
    assert [entry["items"] for entry in sent if entry["type"] == "FirstResiduals"] == [100]


def test_a_sample_under_the_auditors_bound(tmp_path: Path) -> None:
    jobs = joint(*MANY)
    policy = tmp_path / "policy.toml"
    for least, code in ((100, ""), (101, "audit.sample")):
        policy.write_text(f"{policy_text(story_of(jobs.folders.values(), jobs.keys))}\n[limits]\nminimum_intersection = {least}\n")
        try:
            verify_logs(list(jobs.folders.values()), policy=policy)
            found = ""
        except LogRejected as rejected:
            found = rejected.code
        assert found == code


def test_the_facts_of_a_restarted_job() -> None:
    [fact] = verified(joint(made.RESTARTED)).jobs
    attempts = {(step.step, step.attempt, step.state) for step in fact.timeline}
    assert ("round", 0, "failed") in attempts
    assert ("round", 1, "done") in attempts


def test_the_facts_of_a_job_with_a_crash() -> None:
    [fact] = verified(joint(made.KILLED)).jobs
    cut = [step for step in fact.timeline if step.code == "job.interrupted"]
    assert [(step.node, step.step, step.attempt) for step in cut] == [("platform", "round", 0)]
    assert fact.outcome == "finished"


# ---- owners who write another story and sign it ---------------------------------------------------------------------------------


FILTER_STORIES = [
    ("platform", lambda e: _clause(e, queries=209), 8, "audit.filter_queries"),
    ("platform", lambda e: _clause(e, reuse_days=0), 8, "audit.filter_key_age"),
    ("platform", lambda e: _clause(e, partner="someone"), 8, "audit.filter_not_allowed"),
    ("platform", lambda e: _made(e, "filter", sha256="00" * 32), 8, "audit.filter_differs"),
    ("bank", lambda e: _made(e, "filter", version=3), 8, "audit.filter_differs"),
    ("bank", lambda e: _made(e, "filter", rows=3), 7, "audit.commitment_sizes"),
    ("platform", lambda e: _made(e, "filter key", what="another"), 7, "audit.commitment_late"),
]


def _clause(entry: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return entry | {"filters": [clause | changes for clause in entry["filters"]]} if entry["kind"] == "policy" else entry


def _made(entry: dict[str, Any], name: str, **changes: Any) -> dict[str, Any]:
    return entry | changes if entry["kind"] == "commitment" and entry["what"] == name else entry


@pytest.mark.parametrize(("log", "change", "step", "code"), FILTER_STORIES)
def test_another_story_of_a_filter(
    tmp_path: Path, log: str, change: Callable[[dict[str, Any]], dict[str, Any]], step: int, code: str
) -> None:
    error = told_otherwise(joint(*FILTERED), tmp_path, log, change)
    assert (error.step, error.code, error.exit_status) == (step, code, 1), error.message


def both_deny_the_version(story: Story) -> None:
    for log in story.nodes():
        for entry in log.entries("commitment", what="filter"):
            entry["sha256"] = hash_of(entry["sha256"])


def both_count_another_customer(story: Story) -> None:
    """One value more was named, in the message as both have it; what the publisher confirmed is as it was."""
    for entry in message(story, "bank", "SharedValues"):
        entry["items"], entry["length"] = entry["items"] + 1, entry["length"] + 16
    retell(story, place_of(message(story, "bank", "SharedValues")[0]))


def both_hide_how_many_were_found(story: Story) -> None:
    for entry in message(story, "bank", "SharedCount"):
        entry["sha256"] = hash_of("another number")
    retell(story, place_of(message(story, "bank", "SharedCount")[0]))


@pytest.mark.parametrize(
    ("lie", "step", "code"),
    [
        (both_deny_the_version, 9, "audit.disclosure_differs"),
        (both_count_another_customer, 7, "audit.message_order"),
        (both_hide_how_many_were_found, 9, "audit.disclosure_differs"),
    ],
)
def test_both_nodes_tell_another_story_of_a_filter(tmp_path: Path, lie: Callable[[Story], None], step: int, code: str) -> None:
    jobs = joint(*FILTERED)
    story = story_of(jobs.folders.values(), jobs.keys)
    lie(story)
    with pytest.raises(LogRejected) as caught:
        verify_logs(list(story.write(tmp_path).values()), partners=jobs.partners)
    assert (caught.value.step, caught.value.code) == (step, code), caught.value.message


def told_otherwise(jobs: Joint, folder: Path, log: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> LogRejected:
    """One log rewritten by its owner, with nobody's cosignature, beside the honest others."""
    folders = jobs.copy(folder)
    for path in folders.values():
        shutil.rmtree(path / "witness", ignore_errors=True)
    path = folders[log]
    rechain(path / "log.jsonl", change)
    frontier = Frontier()
    for line in (path / "log.jsonl").read_bytes().splitlines():
        frontier.append(line)
    note = sign_checkpoint(Checkpoint(origin_of(log), frontier.size, frontier.root()), jobs.keys[log])
    shutil.rmtree(path / "checkpoints")
    (path / "checkpoint").write_text(note)
    policy = folder / "policy.toml"
    roles = {"bank": "bank", "platform": "platform", "coordinator": "coordinator"}
    keys = [f'[[log]]\nname = "{name}"\nrole = "{roles[name]}"\nkey = "{key.verifier}"\n' for name, key in jobs.keys.items()]
    policy.write_text("quorum = 0\n" + "".join(keys))
    with pytest.raises(LogRejected) as caught:
        verify_logs(list(folders.values()), policy=policy)
    return caught.value


def changed(kind: str, field: str, value: object, **where: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(entry: dict[str, Any]) -> dict[str, Any]:
        if entry["kind"] == kind and all(entry.get(name) == wanted for name, wanted in where.items()):
            return entry | {field: value}
        return entry

    return change


def aggregates(old: str, new: str, to: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The aggregates told to one party, with a part of their text exchanged."""

    def change(entry: dict[str, Any]) -> dict[str, Any]:
        if entry["kind"] != "disclosure" or (entry["what"], entry["to"]) != ("aggregates", to):
            return entry
        assert old in entry["value"]
        return entry | {"value": entry["value"].replace(old, new, 1)}

    return change


@pytest.mark.parametrize(
    ("log", "change", "step", "code"),
    [
        ("bank", changed("disclosure", "value", "999", what="set_size", to="platform"), 9, "audit.disclosure_differs"),
        ("bank", changed("disclosure", "value", "999", what="set_size"), 9, "audit.disclosure_differs"),
        ("platform", changed("disclosure", "count", 1, what="score_bands"), 9, "audit.disclosure_differs"),
        ("platform", changed("disclosure", "count", 1, what="weights_of_the_receiver"), 9, "audit.disclosure_differs"),
        ("bank", changed("disclosure", "to", "coordinator", what="shared_customers"), 9, "audit.disclosure_extra"),
        ("coordinator", changed("disclosure", "value", "0.9", what="base_rate"), 9, "audit.disclosure_differs"),
        ("coordinator", changed("disclosure", "value", "[1, 1, 0]", what="rows"), 9, "audit.disclosure_differs"),
        ("bank", aggregates('"auc": "0.', '"auc": "0.9', "platform"), 9, "audit.disclosure_differs"),
        ("bank", aggregates('"auc": "0.', '"auc": "0.9', "coordinator"), 9, "audit.disclosure_differs"),
        ("coordinator", aggregates('["1", "', '["1", "9', "coordinator"), 9, "audit.disclosure_differs"),
        ("coordinator", changed("directive", "lookup_range", "64.0", round=2), 7, "audit.directive_differs"),
        ("bank", changed("commitment", "rows", 3, what="dataset"), 7, "audit.commitment_sizes"),
        ("bank", changed("commitment", "bits", 1024, what="paillier key"), 8, "audit.key_bits"),
        ("bank", changed("policy", "minimum_intersection", SHARED + 1), 8, "audit.intersection"),
        ("platform", changed("policy", "small_keys", 0), 8, "audit.key_bits"),
    ],
)
def test_another_story(tmp_path: Path, log: str, change: Callable[[dict[str, Any]], dict[str, Any]], step: int, code: str) -> None:
    error = told_otherwise(joint(made.PLAIN), tmp_path, log, change)
    assert (error.step, error.code, error.exit_status) == (step, code, 1), error.message
