"""What the report says: complete, in words, the same facts as its JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from audit.facts import DisclosureFact, JobFacts
from audit.reading import read_log
from audit.record import LOG_FILE
from audit.report import Page
from audit.report_commands import page_json
from audit.report_html import duration, moment, render, size
from audit.report_jobs import job_pages
from audit.verify import STEPS
from audit.wording import allowed, learned
from tests.unit import audit_world
from tests.unit.audit_world import BANK, COORDINATOR, KEYS, PLATFORM, Event, approvals, policy, write
from tests.unit.report_world import JOB, SPEC, Parsed, every, page_of, story


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write(tmp_path_factory.mktemp("world"), story())


@pytest.fixture(scope="module")
def page(world: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(every(world), policy=policy(tmp_path_factory.mktemp("policy")))


@pytest.fixture(scope="module")
def parsed(page: Page) -> Parsed:
    return Parsed(render(page))


def test_every_check_is_listed_in_words(page: Page, parsed: Parsed) -> None:
    assert [check.number for check in page.checks] == list(range(10))
    for check in page.checks:
        assert STEPS[check.number].lower() in parsed.text.lower()
        assert check.meaning in parsed.text
        assert f"{check.mark}{check.word}" in parsed.text
        assert " ".join(check.detail.split()) in parsed.text


def test_who_and_what_was_approved(parsed: Parsed) -> None:
    for said in (
        "“cards & co”: utilisation, <b>late</b>",
        "“shoppers”: orders_90d",
        "column “default_12m” of bank",
        "Paillier keys of 3,072 bits",
        "1,000; with fewer the job stops before anything else happens",
        "Figures of the evaluation to the feature holder no Figures of the evaluation to the coordinator yes",
        "finished, 2025-01-01",
        "Shared customers 7,001",
    ):
        assert said in parsed.text, said


def test_what_was_learned_and_why(page: Page, parsed: Parsed) -> None:
    (job,) = page.jobs
    by_name = {learner.name: {line.what: line for line in learner.lines} for learner in job.learners}
    assert list(by_name) == [BANK, PLATFORM, COORDINATOR]
    assert set(by_name[BANK]) == {"set_size", "score_bands", "<i>novel</i>"}
    assert by_name[PLATFORM]["shared_customers"].lawful
    assert by_name[COORDINATOR]["aggregates"].lawful
    assert by_name[PLATFORM]["aggregates"].lawful is False, "the job does not allow it"
    assert by_name[BANK]["<i>novel</i>"].lawful is None
    assert (job.kinds, job.unlawful) == (8, 1)
    assert "✗ 1 not allowed by the approved job" in parsed.text
    assert "7,001 shared, 5,600 to train on, 1,401 to test with" in parsed.text
    assert "AUC 0.7503 (standard error 0.0521), KS 0.4038, log-loss 0.4658, base rate 0.2344, 145 rows" in parsed.text


def test_a_job_that_was_rejected(tmp_path: Path) -> None:
    told = [Event(log, "spec", {"job": JOB, "document": SPEC.canonical().decode()}) for log in KEYS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_world, "JOB", JOB)
        told += approvals(JOB, decision="reject")
    codes = {BANK: "job.rejected_here", PLATFORM: "coordinator.rejected", COORDINATOR: "coordinator.rejected"}
    told += [Event(log, "job", {"job": JOB, "state": "rejected", "code": code}) for log, code in codes.items()]
    told += [Event(log, "") for log in KEYS]
    page = page_of(every(write(tmp_path / "world", told)), policy=policy(tmp_path))
    (job,) = page.jobs
    assert job.outcome == "rejected by a party [coordinator.rejected, job.rejected_here]"
    assert {(approval.party, approval.decision) for approval in job.approvals} == {(BANK, "rejected"), (PLATFORM, "rejected")}
    assert (job.steps, job.kinds) == ([], 0)
    text = Parsed(render(page)).text
    assert "Approved by nobody" in text
    assert "No step was taken" in text


def test_what_was_committed(page: Page, parsed: Parsed) -> None:
    assert [(line.party, line.what, line.sizes, line.step) for line in page.jobs[0].commitments] == [
        (BANK, "the seed of its randomness", "", "approval"),
        (BANK, "its data set as loaded", "12,000 rows", "align, attempt 1"),
    ]
    assert " ".join(["dadadada"] * 8) in parsed.text


def test_the_timeline(page: Page) -> None:
    (job,) = page.jobs
    assert [(step.step.split(":")[0], step.attempt, step.state, step.code) for step in job.steps] == [
        ("Align", 0, "failed", "transport.closed"),
        ("Align", 1, "done", ""),
        ("Training round 1", 0, "done", ""),
    ]
    for step in job.steps:
        assert step.messages == 6
        assert step.sent == [(BANK, 303), (PLATFORM, 303)], "payloads of 100, 101 and 102 bytes each way"
        assert step.seconds is not None
        assert step.seconds > 0
        assert 0 <= step.bar_start < step.bar_start + step.bar_width <= 1000
    starts = [step.bar_start for step in job.steps]
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert job.rounds == 1


def test_the_json_has_the_same_facts_as_the_page(page: Page, parsed: Parsed) -> None:
    data = json.loads(page_json(page))
    assert data == json.loads(json.dumps(asdict(page)))

    def shown(value: Any, name: str = "") -> Iterator[str]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from shown(item, key)
        elif isinstance(value, list):
            for item in value:
                yield from shown(item, name)
        elif isinstance(value, str) and name not in LEFT_OUT:
            yield value

    # Times and hashes are written for people; states stand as words; the rest is there letter by letter.
    facts = {" ".join(fact.split()) for fact in shown(data)}
    assert len(facts) > 80
    assert [fact for fact in facts if fact not in parsed.text and fact.capitalize() not in parsed.text] == []


LEFT_OUT = {"made", "time", "start", "end", "begun", "ended", "first_time", "last_time", "root", "sha256", "job"}
LEFT_OUT |= {"kind", "keys", "confirmed", "state", "what", "clause", "signature"}


def test_a_page_is_the_same_every_time(world: dict[str, Path], page: Page, tmp_path: Path) -> None:
    again = page_of(every(world), policy=policy(tmp_path))
    assert render(again) == render(page)


# ---- single sentences -----------------------------------------------------------------------------------------------------------


def test_what_a_crash_kept_from_being_listed(world: dict[str, Path]) -> None:
    lost = DisclosureFact(BANK, PLATFORM, "base_rate", 1, "protocols.md: base rate", "0.21", "prepare", 0, 1, listed=False)
    seen = [read_log(world[name] / LOG_FILE, name=name) for name in (BANK, PLATFORM)]
    (job,) = job_pages(seen, facts=[JobFacts(JOB, disclosures=(lost,))], approvals="passed")
    lines = next(learner.lines for learner in job.learners if learner.name == PLATFORM)
    assert "two digits: 0.21. Not in the giver’s own list" in lines[-1].sentence
    assert "prepare, attempt 1" in lines[-1].sentence


@pytest.mark.parametrize("what", ["rows", "aggregates", "set_size"])
@pytest.mark.parametrize("value", ["", "[", "[" * 100_000, "{}", "[1]", '"x"', "9" * 30, '{"auc": 1}'])
def test_values_of_any_form_give_a_sentence(what: str, value: str) -> None:
    sentence = learned(what, by=BANK, to=PLATFORM, count=3, values=[value] if value else [])
    assert sentence.endswith(".")


def test_what_allows_a_disclosure() -> None:
    assert allowed("protocols.md: sizes", None)[1] is True
    assert allowed("spec: disclose.aggregates_to_coordinator", SPEC)[1] is True
    assert allowed("spec: disclose.aggregates_to_coordinator", None)[1] is None
    assert allowed("spec: disclose.model_dump", SPEC)[1] is False
    assert allowed("spec: model.rounds", SPEC)[1] is False
    assert allowed("because", SPEC)[1] is None


def test_figures_for_people() -> None:
    assert [size(count) for count in (0, 999, 44_816, 5_699_000, 7 * 10**12)] == [
        "0 bytes",
        "999 bytes",
        "44.8 kB",
        "5.7 MB",
        "7,000.0 GB",
    ]
    assert [duration(seconds) for seconds in (None, 0.214, 59.9, 61, 7265)] == ["–", "0.2 s", "59.9 s", "1 min 1 s", "2 h 1 min"]
    assert moment("2025-01-01T00:00:00.120000Z") == "2025-01-01 00:00:00 UTC"
    assert moment("2025-01-01T02:00:00.129999+02:00", precise=True) == "2025-01-01 00:00:00.12 UTC"
    assert [moment(text) for text in ("", "yesterday", "2025-01-01")] == ["–", "yesterday", "2025-01-01"]
