"""The report of real jobs of every ending: the same facts as the verification's, in words that a person can follow."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from audit.facts import JobFacts
from audit.report import Page, make_page
from audit.report_html import render
from audit.report_jobs import JobPage
from audit.verify import VerifiedLogs, verify_logs
from tests.asks import CANCELLED, PLAIN, RESTARTED, TOO_FEW
from tests.joint import PARTIES, Joint, joint
from tests.unit.report_world import Parsed

ASKS = (PLAIN, CANCELLED, TOO_FEW, RESTARTED)


@pytest.fixture(scope="module")
def made() -> Joint:
    return joint(*ASKS)


@pytest.fixture(scope="module")
def verified(made: Joint) -> VerifiedLogs:
    return verify_logs(list(made.folders.values()), partners=made.partners)


@pytest.fixture(scope="module")
def page(made: Joint) -> Page:
    return make_page(list(made.folders.values()), partners=made.partners, made="2025-02-01T10:00:00Z", made_by="0.1.0")


def of(made: Joint, page: Page, ask: object) -> JobPage:
    return next(job for job in page.jobs if job.job == made.jobs[ASKS.index(ask)])


def test_every_job_is_there_with_the_facts_of_the_verification(verified: VerifiedLogs, page: Page) -> None:
    assert page.exit_status == verified.exit_status
    assert {facts.job for facts in verified.jobs} == {job.job for job in page.jobs}
    for facts in verified.jobs:
        same(facts, next(job for job in page.jobs if job.job == facts.job))


def same(facts: JobFacts, job: JobPage) -> None:
    assert job.title == facts.title
    assert [(party.name, party.part) for party in job.parties] == [
        (facts.label_holder, "label holder"),
        (facts.feature_holder, "feature holder"),
        (facts.coordinator, "coordinator"),
    ]
    assert {(a.party, a.decision, a.by, a.time) for a in job.approvals} == {
        (a.party, {"approve": "approved", "reject": "rejected"}[a.decision], a.by, a.time) for a in facts.approvals
    }
    assert job.shared_customers == facts.intersection
    assert job.rounds == facts.rounds_done
    told: Counter[tuple[str, str, str, str]] = Counter()
    for item in facts.disclosures:
        told[item.by, item.to, item.what, item.clause] += item.count
    shown: Counter[tuple[str, str, str, str]] = Counter()
    for learner in job.learners:
        for line in learner.lines:
            shown[line.by, learner.name, line.what, line.clause] += line.count
            assert line.lawful
            assert "no description" not in line.sentence
    assert shown == told
    attempts = {(step.step, step.round, step.attempt) for step in facts.timeline}
    assert len(job.steps) == len(attempts)
    assert sum(step.messages for step in job.steps) * 2 >= sum(step.messages for step in facts.timeline)
    assert [(line.party, line.sha256) for line in job.commitments] == [(node, sha256) for node, _, sha256 in facts.commitments]


def test_how_each_job_ended(made: Joint, page: Page) -> None:
    assert of(made, page, PLAIN).outcome == "finished"
    assert of(made, page, PLAIN).matching == ["Customers were matched by oblivious transfer, because the specification names it."]
    assert "cancelled" in of(made, page, CANCELLED).outcome
    few = of(made, page, TOO_FEW)
    assert "failed" in few.outcome
    assert {step.state for step in few.steps} == {"failed"}
    assert "shared_customers_at_most" in {line.what for learner in few.learners for line in learner.lines}
    restarted = of(made, page, RESTARTED)
    assert "masking them twice on a curve, because the two sets have fewer than 2,000 elements together" in restarted.matching[0]
    assert restarted.outcome == "finished"
    assert restarted.repeated
    assert [step for step in restarted.steps if step.state != "done"]


def test_the_page_of_all_of_them(made: Joint, page: Page) -> None:
    parsed = Parsed(render(page))
    for job in page.jobs:
        assert " ".join(job.job[at : at + 8] for at in range(0, 64, 8)) in parsed.text
        assert job.outcome in parsed.text
        assert all(line in parsed.text for line in job.matching)
    for log in page.logs:
        others = sorted(set(PARTIES) - {log.name})
        assert [witness.partition(",")[0] for witness in log.witnesses] == others
        assert log.fingerprint in parsed.text
        assert log.signed == log.entries


def test_one_party_s_log_alone_still_tells_its_side(made: Joint, tmp_path: Path) -> None:
    alone = make_page([made.copy(tmp_path)["platform"]], partners=made.partners, made="2025-02-01T10:00:00Z", made_by="0.1.0")
    assert alone.exit_status == 2
    assert alone.missing
    plain = of(made, alone, PLAIN)
    assert {line.by for learner in plain.learners for line in learner.lines} == {"platform"}
    assert {name for step in plain.steps for name, _ in step.sent} == {"platform", "the other"}
    assert all(count > 0 for step in plain.steps for _, count in step.sent)
