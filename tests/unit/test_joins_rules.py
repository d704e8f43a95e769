"""Keys and counts before anything runs: the specification, the data set, the policy, and what the coordinator takes of a report."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from audit import wording
from audit.errors import IsthmusError, UsageError
from audit.spec import Count, JobSpec, parse_spec
from coordinator import jobs
from coordinator.commands.jobs import _SPEC_OPTIONS
from coordinator.disclosures import of_report
from coordinator.jobs import Job, SendEnd
from coordinator.reports import StepReport
from coordinator.views import _counted
from node.commands.wording import counted, describe_spec, will_disclose
from node.config import DatasetConfig
from node.data.commitment import dataset_root
from node.data.load import Table, load_table
from node.data.report import examine
from node.errors import DataError, PolicyError
from node.policy import Policy
from node.runtime.counting import check_budget
from node.runtime.files import JobFiles
from node.runtime.kept import read_table, write_table
from node.runtime.store import Store
from tests.unit.test_jobs import APPROVE, PARTIES
from tests.unit.test_policy import configuration, decide, policy, specification

KEYS = [{"name": "phone", "normalise": "phone-e164:DE"}, {"name": "email", "normalise": "email"}]


def a_count(**changes: Any) -> JobSpec:
    document: dict[str, Any] = {
        "kind": "count",
        "nonce": "0" * 32,
        "coordinator": "coordinator",
        "label_holder": {"name": "bank", "role": "bank", "dataset": "cards"},
        "feature_holder": {"name": "platform", "role": "platform", "dataset": "shop"},
    }
    return JobSpec.model_validate(document | changes)


def keyed(document: dict[str, Any]) -> None:
    document["align"] = {"keys": KEYS}


# ---- the specification ----------------------------------------------------------------------------------------------------------

BEFORE = (
    '{"align":{"method":"curve","minimum":1000,"normalise":"casefold"},"coordinator":"coordinator",'
    '"disclose":{"aggregates_to_coordinator":true,"aggregates_to_feature_holder":true},'
    '"feature_holder":{"dataset":"shop","features":["BILL"],"name":"platform","role":"platform"},"kind":"train",'
    '"label":{"column":"default"},'
    '"label_holder":{"dataset":"cards","features":["LIMIT_BAL"],"name":"bank","role":"bank"},'
    '"model":{"bands":40,"holdout":"0.2","key_bits":3072,"kind":"logistic","l2":"0.0001","lookup_entries":"auto","rounds":8,'
    '"tolerance":"0.00001"},"nonce":"00000000000000000000000000000000","title":"","v":1}'
)


def test_a_training_by_one_identifier_has_the_form_it_always_had() -> None:
    """But for the method of the alignment, which is now left to the sizes where nobody names one."""

    def on_the_curve(document: dict[str, Any]) -> None:
        document["align"]["method"] = "curve"

    assert specification(on_the_curve).canonical().decode() == BEFORE
    assert parse_spec(BEFORE.encode()) == specification(on_the_curve)
    assert specification().align_method == "auto"


def test_several_keys_and_counts_are_matched_on_the_curve() -> None:
    assert specification(keyed).align_method == a_count().align_method == "curve"
    for align in ({"method": "ot"}, {"method": "ot", "keys": KEYS}):
        with pytest.raises(ValueError, match="neither several keys nor a count"):
            a_count(align=align)


@pytest.mark.parametrize("spec", [specification(keyed), a_count(), a_count(align={"keys": KEYS[:1]})])
def test_each_kind_has_one_form(spec: JobSpec) -> None:
    assert parse_spec(spec.canonical()) == spec
    assert JobSpec.model_validate(spec.model_dump()) == spec
    text = spec.canonical().decode()
    assert ('"normalise":"casefold"' in text) != bool(spec.align.keys)
    assert ('"model"' in text) == ('"label"' in text) == ('"disclose"' in text) == (spec.kind == "train")
    assert ('"count":{' in text) == (spec.kind == "count")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "features": ({"label_holder": {"name": "bank", "role": "bank", "dataset": "cards", "features": ["a"]}}, "takes no features"),
    "label": ({"label": {"column": "y"}}, "takes no label"),
    "model": ({"model": {}}, "takes no model"),
    "two keys": ({"align": {"keys": KEYS}}, "counted by one identifier"),
    "step": ({"align": {"minimum": 1050}}, "multiple of count.step"),
    "rule and keys": ({"align": {"keys": KEYS[:1], "normalise": "email"}}, "names its own rule"),
    "key twice": ({"align": {"keys": KEYS[:1] * 2}}, "named twice"),
    "key's name": ({"align": {"keys": [{"name": "E-mail!", "normalise": "email"}]}}, "pattern"),
    "nine keys": ({"align": {"keys": [{"name": f"k{i}", "normalise": "exact"} for i in range(9)]}}, "at most 8"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_count_cannot_be(name: str) -> None:
    change, reason = BAD[name]
    with pytest.raises(ValidationError, match=reason):
        a_count(**change)


def test_a_training_takes_no_count_and_needs_its_label() -> None:
    with pytest.raises(ValidationError, match="takes no count"):
        specification(lambda d: d.update(count={}))
    with pytest.raises(ValidationError, match="label is missing"):
        specification(lambda d: d.pop("label"))
    with pytest.raises(ValidationError, match="features are missing"):
        specification(lambda d: d["feature_holder"].update(features=[]))
    with pytest.raises(UsageError) as caught:
        parse_spec(a_count().canonical().replace(b'"count":{', b'"model":{"rounds":8},"count":{'))
    assert caught.value.code == "spec.invalid"


def test_numbers_are_rounded_down_and_never_below_the_minimum() -> None:
    count = Count(step=100)
    assert [count.told(size, 1000) for size in (0, 1, 999, 1000, 1099, 1100, 12345)] == [0, 0, 0, 1000, 1000, 1100, 12300]
    assert Count(step=1).told(7, 7) == 7


# ---- the data set ---------------------------------------------------------------------------------------------------------------

PEOPLE = "id,mobile,mail,amount\nA,030 1234567,x@a.de,1\nB,,X@A.de,2\nC,+49 30 1234568, ,3\nD,0301234567,,4\n"
OFFERED: dict[str, Any] = {
    "phone": {"column": "mobile", "normalise": "phone-e164:DE", "missing": "skip"},
    "email": {"column": "mail", "normalise": "email", "missing": "skip"},
    "number": {"column": "id", "normalise": "exact"},
}


def people(folder: Path, text: str = PEOPLE, **changes: dict[str, str]) -> DatasetConfig:
    (folder / "people.csv").write_text(text)
    keys = {name: key | changes.get(name, {}) for name, key in OFFERED.items()}
    document = {"name": "people", "source": "csv", "path": str(folder / "people.csv"), "identifier": "id", "keys": keys}
    return DatasetConfig.model_validate(document | {"columns": {"amount": {"kind": "number"}}})


def load(dataset: DatasetConfig, *keys: str) -> Table:
    return load_table(dataset, features=["amount"], label=None, normalise="casefold", keys=keys)


@pytest.mark.parametrize(
    ("duplicates", "phones", "mails"),
    [
        ("first", ["+49301234567", "", "+49301234568", ""], ["x@a.de", "", "", ""]),
        ("none", ["", "", "+49301234568", ""], ["", "", "", ""]),
    ],
)
def test_values_that_several_customers_have_count_as_declared(
    duplicates: str, phones: list[str], mails: list[str], tmp_path: Path
) -> None:
    rule = {"duplicates": duplicates}
    table = load(people(tmp_path, phone=rule, email=rule), "phone", "email", "number")
    assert table.keys == [phones, mails, ["A", "B", "C", "D"]]
    assert [[bool(text) for text in raw] for raw in table.raw_keys] == [[bool(text) for text in key] for key in table.keys]
    assert table.columns["amount"].tolist() == [1, 2, 3, 4], "no customer is lost"


REFUSED: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "missing": ({"phone": {"missing": "refuse"}}, PEOPLE, "data.empty_identifier", "row 2"),
    "shared": ({}, PEOPLE, "data.duplicate_key", "row 4"),
    "unfit": ({}, PEOPLE.replace("030 1234567", "call me"), "data.unfit_identifier", "row 1"),
    "absent": ({}, PEOPLE.replace("mobile", "cell"), "data.missing_column", "'mobile'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_key_cannot_be_is_refused_by_its_row(name: str, tmp_path: Path) -> None:
    changes, text, code, where = REFUSED[name]
    with pytest.raises(DataError) as caught:
        load(people(tmp_path, text, **changes), "phone")
    assert caught.value.code == code
    assert where in caught.value.message
    assert "1234567" not in str(caught.value)


def test_a_job_by_the_identifier_reads_no_key(tmp_path: Path) -> None:
    table = load(people(tmp_path))
    assert (table.keys, table.raw_keys) == ([], [])


def test_the_operator_sees_how_many_can_be_found_by_each_key(tmp_path: Path) -> None:
    report = examine(people(tmp_path, email={"duplicates": "none"}))
    assert {name: key.customers for name, key in report.keys.items()} == {"phone": None, "email": 0, "number": 4}
    assert [problem.code for problem in report.problems if problem.grave] == ["data.duplicate_key"]


def test_a_keys_column_is_not_offered() -> None:
    with pytest.raises(ValidationError, match="must not be offered"):
        DatasetConfig.model_validate(
            {"name": "d", "source": "csv", "path": "d", "identifier": "id", "keys": {"m": {"column": "mail"}},
             "columns": {"mail": {"kind": "category"}}}
        )  # fmt: skip


def test_keys_are_committed_to_and_kept(tmp_path: Path) -> None:
    first = {"duplicates": "first"}
    table = load(people(tmp_path, phone=first, email=first), "phone", "email")
    names = ["phone", "email"]
    root = dataset_root(table, ["amount"], {}, salt=bytes(32), keys=names)
    assert root != dataset_root(table, ["amount"], {}, salt=bytes(32), keys=names[::-1])
    assert root != dataset_root(
        replace(table, raw_keys=[table.raw_keys[0], ["", "", "", "x@a.de"]]), ["amount"], {}, salt=bytes(32), keys=names
    )
    write_table(JobFiles(tmp_path / "kept"), 0, table, ["amount"], {})
    again, _ = read_table(JobFiles(tmp_path / "kept"), 0, ["amount"], "exact", ["phone-e164:DE", "email"])
    assert (again.keys, again.raw_keys) == (table.keys, table.raw_keys)


# ---- the policy -----------------------------------------------------------------------------------------------------------------


def with_keys(**changes: Any) -> Any:
    config = configuration()
    dataset = config.dataset[0].model_copy(update={"keys": people_keys(**changes)})
    return config.model_copy(update={"dataset": [dataset]})


def people_keys(**changes: dict[str, str]) -> Any:
    keys = {name: key | changes.get(name, {}) for name, key in OFFERED.items()}
    document = {"name": "d", "source": "csv", "path": "d", "identifier": "customer_id", "columns": {}, "keys": keys}
    return DatasetConfig.model_validate(document).keys


def refused(spec: JobSpec, **more: Any) -> str:
    with pytest.raises(IsthmusError) as caught:
        decide(spec, **more)
    assert caught.value.remedy
    return caught.value.code


def test_keys_must_be_offered_under_the_same_rule() -> None:
    assert decide(specification(keyed), config=with_keys()).warnings == ()
    assert refused(specification(keyed)) == "policy.key_not_offered"
    assert refused(specification(keyed), config=with_keys(email={"normalise": "casefold"})) == "policy.normalise"


def counts(**changes: Any) -> Policy:
    return policy(count={"allow": True, "partner_learns": True} | changes)


def test_counts_are_asked_for_by_name() -> None:
    assert refused(a_count()) == "policy.count"
    assert decide(a_count(), rules=counts()).warnings == ()
    assert decide(a_count(), rules=counts(partner_learns=False)).warnings == ()
    theirs = a_count(count={"learner": "feature_holder"})
    assert refused(theirs, rules=counts(partner_learns=False)) == "policy.count_learner"
    assert "exact number" in decide(theirs, rules=counts()).warnings[0]
    assert refused(a_count(count={"step": 50}), rules=counts()) == "policy.count_step"
    assert refused(a_count(align={"minimum": 500}), rules=counts()) == "policy.minimum_intersection"
    assert refused(a_count(align={"normalise": "digits"}), rules=counts()) == "policy.normalise"
    assert decide(a_count(align={"keys": KEYS[:1]}), rules=counts(), config=with_keys()).auto_rule is None


def test_a_rule_for_trainings_approves_no_count() -> None:
    rule = {"name": "nightly", "partner": "platform", "dataset": "cards", "coordinator": "coordinator"}

    def rules(**kinds: Any) -> Policy:
        return counts().model_copy(update={"auto_approve": policy(auto_approve=[rule | kinds]).auto_approve})

    assert decide(a_count(), rules=rules()).auto_rule is None
    assert decide(a_count(), rules=rules(kinds=["count"])).auto_rule == "nightly"
    assert decide(rules=rules(kinds=["count"])).auto_rule is None


def test_counts_with_one_partner_are_limited_in_a_period(tmp_path: Path) -> None:
    store, now = Store(tmp_path, bytes(32)), datetime(2025, 6, 30, tzinfo=UTC)
    rules = counts(per_period=3, period_days=10)

    def begun(days_ago: int, attempts: int, **changes: Any) -> None:
        spec = a_count(nonce=f"{days_ago:032d}", **changes)
        job, then = spec.identity(), (now - timedelta(days=days_ago)).strftime("%Y-%m-%dT%H:%M:%SZ")
        store.add_job(job, spec.canonical().decode(), state="waiting", code="", now=then)
        for attempt in range(attempts):
            store.begin_step(job=job, step="count", round=0, attempt=attempt, now=then)
            store.end_step(job=job, step="count", round=0, attempt=attempt, state="failed", now=then, code="transport.closed")

    def check(spec: JobSpec) -> None:
        check_budget(spec, me="bank", policy=rules, store=store, now=now)

    begun(11, 3)  # before the period
    begun(9, 2)
    begun(2, 5, feature_holder={"name": "market", "role": "platform", "dataset": "shop"})  # another partner
    check(a_count())
    begun(1, 1)
    with pytest.raises(PolicyError) as caught:
        check(a_count())
    assert caught.value.code == "policy.count_period"
    check(specification())
    store.close()


# ---- the coordinator ------------------------------------------------------------------------------------------------------------


def running(spec: JobSpec) -> Job:
    job = Job(spec.identity(), spec)
    for party in PARTIES:
        job, _ = jobs.decide(job, party, APPROVE)
    job, _ = jobs.start(job)
    assert job.state == "count"
    return job


def said(size: int = 0, set_size: int = 5000) -> StepReport:
    return StepReport("count", 0, 0, "ab" * 32, set_size=set_size, intersection=size)


def test_a_count_is_one_step_whose_number_its_learner_tells() -> None:
    job = running(a_count())
    job, orders = jobs.report(job, "bank", said(1200))
    assert (job.counted, orders) == (None, ())
    job, orders = jobs.report(job, "platform", said(set_size=9000))
    assert (job.state, job.counted, orders) == ("finished", 1200, (SendEnd(),))
    assert [(d.what, d.value) for d in of_report(job, "bank", said(1200))] == [("set_size", "5000"), ("rounded_size", "1200")]
    assert [d.what for d in of_report(job, "platform", said())] == ["set_size"]
    assert [d.value for d in of_report(job, "bank", said(0))] == ["5000", "below 1000"]
    restarted, _ = jobs.restart(running(a_count()))
    assert restarted.running is not None
    assert (restarted.running.step, restarted.running.attempt) == ("count", 1)


WRONG: dict[str, tuple[dict[str, Any], str, int, str]] = {
    "by the teller": ({}, "platform", 1200, "coordinator.undisclosed_count"),
    "kept from the coordinator": ({"count": {"tell_coordinator": False}}, "bank", 1200, "coordinator.undisclosed_count"),
    "not rounded": ({}, "bank", 1234, "coordinator.bad_report"),
    "below the minimum": ({}, "bank", 900, "coordinator.bad_report"),
    "above the set": ({}, "bank", 5100, "coordinator.bad_report"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_number_that_may_not_be_told_fails_the_job(name: str) -> None:
    changes, party, size, code = WRONG[name]
    job, _ = jobs.report(running(a_count(**changes)), party, said(size))
    assert (job.state, job.code) == ("failed", code)


def test_the_operators_see_what_was_told() -> None:
    step = {"reports": [{"party": "platform", "intersection": 0}, {"party": "bank", "intersection": 1200}]}
    assert _counted(a_count(), None) is None
    assert _counted(a_count(), step) == {"told": 1200, "step": 100, "minimum": 1000}
    assert _counted(a_count(count={"learner": "feature_holder"}), step) == {"told": None, "step": 100, "minimum": 1000}
    assert _counted(a_count(count={"tell_coordinator": False}), step) is None
    assert {"kind", "align.keys", "count.learner", "count.step"} <= {key for _, key, _ in _SPEC_OPTIONS}


# ---- words ----------------------------------------------------------------------------------------------------------------------


def test_whoever_approves_reads_what_will_be_learned() -> None:
    spec = a_count(count={"learner": "feature_holder", "step": 100})
    assert any("how many customers both share" in line and "nothing else" in line for line in describe_spec(spec, "bank"))
    ours, theirs = will_disclose(spec, "bank"), will_disclose(spec, "platform")
    assert ours[-1] == "to platform: exactly how many customers you share, however few; not which"
    assert theirs[-1].startswith("to bank and coordinator: how many customers you share, rounded down to a multiple of 100")
    quiet = a_count(count={"tell_partner": False, "tell_coordinator": False})
    assert len(will_disclose(quiet, "bank")) == 1, "the learner tells nobody"
    joined = specification(keyed)
    assert any("phone (phone-e164:DE), email (email)" in line for line in describe_spec(joined, "bank"))
    assert any("by which of phone, email each was found" in line for line in will_disclose(joined, "bank"))


def test_the_report_says_it_in_words() -> None:
    terms = dict(wording.terms(a_count()))
    assert terms["Question"] == "how many customers both share, and nothing else"
    assert terms["Learns the exact number"] == "bank"
    matched = dict(wording.terms(specification(keyed)))["Customers matched"]
    assert matched.startswith("by phone (by the rule phone-e164:DE), then email (as e-mail addresses); who is found by one")
    line = wording.learned("by_key", by="bank", to="platform", count=2, values=["[[500, 400], [80, 7]]"])
    assert line.endswith(": 400 of 500, 7 of 80.")
    assert "1,200" in wording.learned("rounded_size", by="bank", to="platform", count=1, values=["1200"])
    for clause, yes in (("spec: count.tell_partner", True), ("spec: count.tell_coordinator", False)):
        assert wording.allowed(clause, a_count(count={"tell_coordinator": False}))[1] is yes
    told = {"customers": 1234, "told": 1200, "minimum": 1000, "step": 100}
    assert counted(told) == "1234 exactly; told onwards: 1200"
    assert counted(told | {"customers": None}) == "1200, rounded down to a multiple of 100"
    assert counted(told | {"customers": None, "told": 0}) == "below 1000"
