"""Real jobs by several keys, and counts: what they find, what each log says of it, and that the audit and the replay agree."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from audit.ledger import LogRejected
from audit.report import make_page
from audit.report_html import render
from audit.verify import verify_logs
from node.config import load_config
from node.identity import own_identity
from node.runtime.files import JobFiles
from node.runtime.members import write_csv
from node.runtime.store import Store
from tests.asks import COUNTED, KEYED, SHARED, TOLD_LITTLE, contact
from tests.joint import NODES, PARTIES, Joint, joint
from tests.replay_world import replay
from tests.tampering.corpus import story_of
from tests.tampering.sharing import COUNT_KINDS, JOIN_KINDS, QUIET_KINDS, SharingKind

TOLD_NOTHING = "below 160"


@pytest.fixture(scope="module")
def made() -> Joint:
    return joint(KEYED, COUNTED, TOLD_LITTLE)


def files(made: Joint, name: str, job: str) -> JobFiles:
    config = load_config(made.folders[name].parents[1] / "node.toml")
    store = Store(config.state_folder, own_identity(config).state_key)
    try:
        return store.files(job)
    finally:
        store.close()


def pairs() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Who is whom: by telephone, then by e-mail among those that are left; bank's number and platform's."""
    bank = {number: contact("bank", number) for number in range(SHARED + 40)}
    shop = {number: contact("platform", number) for number in [*range(SHARED), *range(1000 + SHARED, 1040 + SHARED)]}
    left, right, found = dict(bank), dict(shop), ([], [])
    for place, by in enumerate(found):
        there = {digits(values[place]): number for number, values in right.items() if values[place]}
        for number, values in list(left.items()):
            if values[place] and digits(values[place]) in there:
                other = there[digits(values[place])]
                by.append((number, other))
                del left[number], right[other]
    return found


def digits(text: str) -> str:
    return text.casefold() if "@" in text else "".join(c for c in text if c.isdigit()).removeprefix("49").removeprefix("0")


def disclosed(made: Joint, log: str, job: str, what: str) -> list[tuple[str, int, str]]:
    entries = [e for e in made.entries(log) if e["kind"] == "disclosure" and e["job"] == job and e["what"] == what]
    return [(e["to"], e["count"], e["value"]) for e in entries]


def test_customers_are_found_by_the_first_key_that_finds_them(made: Joint) -> None:
    assert made.states[0] == "finished"
    members = {}
    for name in NODES:
        file = io.BytesIO()
        write_csv(files(made, name, made.jobs[0]).read_arrays("align.npz"), file)
        rows = file.getvalue().decode().splitlines()[1:]
        members[name] = [int(row.split(",")[0][1:]) for row in rows]
    by_phone, by_email = pairs()
    found = list(zip(members["bank"], members["platform"], strict=True))
    assert set(found[: len(by_phone)]) == set(by_phone)
    assert set(found[len(by_phone) :]) == set(by_email)
    assert (1, 1) in by_phone, "her e-mail address is customer 2's at the other side"
    assert found[: len(by_phone)] != sorted(found[: len(by_phone)]), "the order says nothing"
    for name, other in (("bank", "platform"), ("platform", "bank")):
        ((to, count, value),) = disclosed(made, name, made.jobs[0], "by_key")
        assert (to, count) == (other, 2)
        assert [found for _, found in json.loads(value)] == [len(by_phone), len(by_email)]
        assert disclosed(made, "coordinator", made.jobs[0], "by_key") == []


def test_a_count_tells_the_rounded_number_and_nothing_else(made: Joint) -> None:
    job = made.jobs[1]
    assert made.states[1] == "finished"
    known = {name: json.loads(files(made, name, job).read("count.json")) for name in NODES}
    assert known["bank"] == {"customers": SHARED, "told": SHARED - SHARED % 10, "minimum": 110, "step": 10}
    assert known["platform"] == known["bank"] | {"customers": None}
    assert disclosed(made, "bank", job, "rounded_size") == [("platform", 1, "170"), ("coordinator", 1, "170")]
    assert disclosed(made, "platform", job, "intersection_size") == [("bank", 1, "")]
    whats = {e["what"] for name in made.folders for e in made.entries(name) if e["kind"] == "disclosure" and e["job"] == job}
    assert whats == {"set_size", "rounded_size", "intersection_size"}
    assert {e["step"] for name in made.folders for e in made.entries(name) if e["job"] == job} == {"", "count"}


def test_below_the_minimum_only_that_is_told(made: Joint) -> None:
    job = made.jobs[2]
    assert made.states[2] == "finished"
    assert json.loads(files(made, "platform", job).read("count.json")) == {
        "customers": None, "told": 0, "minimum": 160, "step": 20,
    }  # fmt: skip
    assert not files(made, "bank", job).has("count.json"), "it is told nothing"
    assert disclosed(made, "platform", job, "rounded_size") == [("coordinator", 1, TOLD_NOTHING)]
    assert disclosed(made, "bank", job, "intersection_size") == [("platform", 1, "")]
    assert not [e for e in made.entries("platform") if e["job"] == job and e.get("type") == "IntersectionSize"]


def test_the_verification_finds_all_of_it_lawful(made: Joint) -> None:
    verified = verify_logs(list(made.folders.values()), partners=made.partners)
    assert verified.exit_status == 0, verified.open_points
    facts = {fact.job: fact for fact in verified.jobs}
    by_phone, by_email = pairs()
    assert facts[made.jobs[0]].intersection == len(by_phone) + len(by_email)
    assert [facts[job].counted for job in made.jobs] == ["", "170", TOLD_NOTHING]
    for name in NODES:  # a node's log alone is not contradicted
        assert verify_logs([made.folders[name]], partners=made.partners).exit_status in (0, 2)


@pytest.mark.parametrize("name", NODES)
def test_the_replay_reproduces_every_message(made: Joint, name: str) -> None:
    found = replay(made.folders[name].parents[1], workers=1)
    assert found.exit_status == 0, found
    assert [result.name.step for job in found.jobs for result in job.results].count("count") == 2


BAD = [(0, kind) for kind in JOIN_KINDS] + [(1, kind) for kind in COUNT_KINDS] + [(2, kind) for kind in QUIET_KINDS]


@pytest.mark.parametrize(("place", "kind"), BAD, ids=[kind.name for _, kind in BAD])
def test_bad_logs_fail_at_their_step(made: Joint, place: int, kind: SharingKind, tmp_path: Path) -> None:
    folders = kind.make(story_of(made.folders.values(), made.keys), made.jobs[place], tmp_path)
    with pytest.raises(LogRejected) as caught:
        verify_logs(list(folders.values()), partners=made.partners)
    assert (caught.value.step, caught.value.code) == (kind.fails_at, kind.code), caught.value.message


def test_logs_as_they_were_at_any_checkpoint_are_at_most_incomplete(made: Joint, tmp_path: Path) -> None:
    told = story_of(made.folders.values(), made.keys)
    for name in PARTIES:
        for number, mark in enumerate(told[name].marks()[::3]):
            older = told.copy()
            older[name].items = older[name].items[: told[name].where(mark) + 1]
            folders = older.write(tmp_path / f"{name}-{number}", colluders=(name,))
            assert verify_logs(list(folders.values()), partners=made.partners).exit_status in (0, 2)


def test_the_report_answers_the_question(made: Joint) -> None:
    text = render(make_page(list(made.folders.values()), partners=made.partners, made="2025-02-01T10:00:00Z", made_by="0.1.0"))
    assert "Shared customers, rounded down" in text
    assert TOLD_NOTHING in text
    assert "By which identifier each shared customer was found" in text
