"""The report's page: well-formed, on its own, escaped, complete, the same facts as its JSON; written whatever the verdict."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from audit.checkpoint import parse_note, sign_note
from audit.cli import cli
from audit.console import run
from audit.cosignature import cosign
from audit.errors import DataError
from audit.facts import DisclosureFact, JobFacts
from audit.reading import read_log
from audit.record import CHECKPOINT_FILE, LOG_FILE
from audit.report import Page, make_page
from audit.report_commands import page_json
from audit.report_html import duration, moment, render, size
from audit.report_jobs import job_pages
from audit.spec import Disclose, JobSpec, Label, Party
from audit.verify import STEPS
from audit.wording import allowed, learned
from tests.unit import audit_world
from tests.unit.audit_world import BANK, COORDINATOR, KEYS, PLATFORM, Event, approvals, policy, write

MADE = "2025-02-01T10:00:00.000000Z"
HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"
SPEC = JobSpec(
    title=HOSTILE,
    nonce="0" * 32,
    coordinator=COORDINATOR,
    label_holder=Party(name=BANK, role="bank", dataset="cards & co", features=["utilisation", "<b>late</b>"]),
    feature_holder=Party(name=PLATFORM, role="platform", dataset="shoppers", features=["orders_90d"]),
    label=Label(column="default_12m"),
    disclose=Disclose(aggregates_to_coordinator=True),
)
JOB = SPEC.identity()
METRICS = json.dumps({"auc": "0.75026", "ks": "0.40381", "log_loss": "0.4658", "base_rate": "0.2344", "rows": "145"})


def disclosure(by: str, to: str, what: str, count: int, clause: str, value: str = "", step: str = "align") -> Event:
    fields = {"job": JOB, "step": step, "what": what, "to": to, "count": count, "clause": clause, "value": value, "salt": "00" * 16}
    return Event(by, "disclosure", fields)


DISCLOSED = [
    disclosure(BANK, PLATFORM, "set_size", 1, "protocols.md: sizes", "12000"),
    disclosure(BANK, PLATFORM, "shared_customers", 7001, "protocols.md: which of its own customers are shared", "7001"),
    disclosure(BANK, COORDINATOR, "rows", 3, "protocols.md: sizes", "[7001, 5600, 1401]"),
    disclosure(PLATFORM, BANK, "set_size", 1, "protocols.md: sizes", "15000"),
    disclosure(PLATFORM, BANK, "score_bands", 1401, "protocols.md: score bands"),
    disclosure(BANK, COORDINATOR, "aggregates", 5, "spec: disclose.aggregates_to_coordinator", METRICS),
    disclosure(BANK, PLATFORM, "aggregates", 5, "spec: disclose.aggregates_to_feature_holder", METRICS),
    disclosure(PLATFORM, BANK, "<i>novel</i>", 2, "a clause <of> its own"),
]


def attempt(step: str, number: int = 0, again: int = 0, outcome: str = "done") -> list[Event]:
    """Three messages each way, of 100, 101 and 102 bytes."""
    labels = {"job": JOB, "step": step, "round": number, "attempt": again}
    told = [Event(log, "step", {**labels, "state": "start"}) for log in (BANK, PLATFORM)]
    for index in range(3):
        for sender, receiver in ((BANK, PLATFORM), (PLATFORM, BANK)):
            said = {**labels, "type": "MaskedPoints", "seq": index, "length": 100 + index, "sha256": "ab" * 32, "items": 3}
            told.append(Event(sender, "message", {**said, "direction": "sent", "peer": receiver}))
            told.append(Event(receiver, "message", {**said, "direction": "received", "peer": sender}))
    code = {"code": "transport.closed"} if outcome == "failed" else {}
    return told + [Event(log, "step", {**labels, "state": outcome, **code}) for log in (BANK, PLATFORM)]


def story(by: str = HOSTILE) -> list[Event]:
    """One job with a failed attempt, every kind of line, and names that are markup."""
    told = [Event(log, "software", {"version": "0.1.0", "python": "3.11.7", "lock_sha256": "ab" * 32}) for log in KEYS]
    told += [Event(log, "policy", {"sha256": "cd" * 32, "minimum_intersection": 1000, "small_keys": 0}) for log in (BANK, PLATFORM)]
    told += [Event(log, "spec", {"job": JOB, "document": SPEC.canonical().decode()}) for log in KEYS]
    told.append(Event(COORDINATOR, "job", {"job": JOB, "state": "submitted", "code": ""}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_world, "JOB", JOB)
        sign = audit_world.approval_statement
        patch.setattr(audit_world, "approval_statement", lambda **fields: sign(**fields | {"by": by}))
        told += approvals(JOB)
    told.append(Event(BANK, "commitment", {"job": JOB, "what": "seed", "sha256": "5e" * 32}))
    labels = {"job": JOB, "step": "align", "attempt": 1}
    told.append(Event(BANK, "commitment", {**labels, "what": "dataset", "sha256": "da" * 32, "rows": 12000}))
    told += attempt("align", again=0, outcome="failed") + attempt("align", again=1) + DISCLOSED
    told += attempt("round", 1)
    told += [Event(log, "disclosures", {"job": JOB, "items": []}) for log in (BANK, PLATFORM)]
    told += [Event(log, "job", {"job": JOB, "state": "finished", "code": ""}) for log in KEYS]
    return told + [Event(log, "") for log in KEYS]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write(tmp_path_factory.mktemp("world"), story())


def every(folders: dict[str, Path]) -> list[Path]:
    return [folders[name] for name in (BANK, PLATFORM, COORDINATOR)]


@pytest.fixture(scope="module")
def page(world: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return make_page(every(world), policy=policy(tmp_path_factory.mktemp("policy")), made=MADE, made_by="0.1.0")


VOID = {"meta", "br", "rect"}


class Parsed(HTMLParser):
    """A page taken apart: every tag must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.style = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        self.words.append("" if tag in ("span", "code", "strong", "em", "a") else " ")
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> out of order"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def parsed(page: Page) -> Parsed:
    return Parsed(render(page))


# ---- the page by itself ----------------------------------------------------------------------------------------------------------


def test_it_fetches_and_runs_nothing(page: Page, parsed: Parsed) -> None:
    text = render(page)
    for _, attributes in parsed.tags:
        assert not {"src", "srcset", "data", "action", "style", "background", "poster"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("href", "#").startswith("#")
    assert not {tag for tag, _ in parsed.tags} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
        "use",
        "image",
    }
    assert not re.search(r"url\(|@import|@font-face", parsed.style)
    assert "http://" not in text
    assert "https://" not in text


def test_it_allows_itself_nothing_but_its_own_style(parsed: Parsed) -> None:
    (rule,) = [each["content"] for each in parsed.of("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(parsed.style.encode()).digest()).decode()
    assert rule == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert parsed.of("meta")[0] == {"charset": "utf-8"}


def test_what_logs_say_is_text_and_never_markup(page: Page, parsed: Parsed) -> None:
    text = render(page)
    assert "<script" not in text
    assert "<img" not in text
    assert text.count(html.escape("<script>alert(1)</script>", quote=False)) >= 4, "title, heading, approvals"
    assert HOSTILE in parsed.text
    assert "<b>late</b>" in parsed.text
    assert "“<i>novel</i>”" in parsed.text
    assert "a clause <of> its own" in parsed.text
    assert not {tag for tag, _ in parsed.tags} & {"b", "i"}


def test_no_text_turns_what_follows_around(tmp_path: Path) -> None:
    folders = write(tmp_path / "world", story(by="Ada \u202eknab eht fo\x07"))
    text = render(make_page(every(folders), policy=policy(tmp_path), made=MADE, made_by="0.1.0"))
    assert "Ada \\u202eknab eht fo\\x07" in text
    assert "\u202e" not in text


def test_it_can_be_read_by_everyone(parsed: Parsed) -> None:
    assert parsed.of("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels)), levels
    assert parsed.of("th")
    assert all(each.get("scope") in ("col", "row") for each in parsed.of("th"))
    assert all(each.get("aria-hidden") == "true" for each in parsed.of("svg")), "the table says the same in words"
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {each["href"][1:] for each in parsed.of("a")} <= set(ids)
    assert {a["aria-labelledby"] for _, a in parsed.tags if "aria-labelledby" in a} <= set(ids)


def test_it_has_a_form_for_paper(parsed: Parsed) -> None:
    assert "@page { size: A4" in parsed.style
    assert "@media print" in parsed.style


def test_colours_contrast(parsed: Parsed) -> None:
    """Ratios of WCAG 2.1 (1.4.3) for text on the grounds it stands on."""
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", parsed.style))

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def ratio(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    for ink in ("ink", "soft", "accent", "good", "warn", "bad"):
        assert ratio(colours[ink], "#ffffff") >= 4.5, ink
    for ink, ground in (("soft", "wash"), ("good", "good-wash"), ("warn", "warn-wash"), ("bad", "bad-wash"), ("ink", "warn-wash")):
        assert ratio(colours[ink], colours[ground]) >= 4.5, (ink, ground)


# ---- what it says ----------------------------------------------------------------------------------------------------------------


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
    page = make_page(every(write(tmp_path / "world", told)), policy=policy(tmp_path), made=MADE, made_by="0.1.0")
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
    again = make_page(every(world), policy=policy(tmp_path), made=MADE, made_by="0.1.0")
    assert render(again) == render(page)


# ---- whatever the verdict --------------------------------------------------------------------------------------------------------


def lawful(folders: dict[str, Path]) -> list[Path]:
    return every(write(folders[BANK].parent / "lawful", audit_world.events()))


def incomplete(folders: dict[str, Path]) -> list[Path]:
    return lawful(folders)[:1]


def unlawful(folders: dict[str, Path]) -> list[Path]:
    return every(folders)


def altered(folders: dict[str, Path]) -> list[Path]:
    log = folders[BANK] / LOG_FILE
    log.write_bytes(log.read_bytes().replace(b"MaskedPoints", b"OtherPointss", 1))
    return every(folders)


def badly_signed(folders: dict[str, Path]) -> list[Path]:
    path = folders[PLATFORM] / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes().replace(b"\n\n", b"\nmore\n\n", 1))
    return every(folders)


def cut(folders: dict[str, Path]) -> list[Path]:
    for name in folders:
        shutil.rmtree(folders[name] / "checkpoints")
        (folders[name] / CHECKPOINT_FILE).unlink()
    log = folders[BANK] / LOG_FILE
    log.write_bytes(log.read_bytes()[:3000] + b"\n{]\n")
    return every(folders)


def forged(folders: dict[str, Path]) -> list[Path]:
    told = audit_world.events()
    for event in told:
        if event.kind == "approval":
            event.fields["signature"] = "00" * 64
    return every(write(folders[BANK].parent / "forged", told))


def nothing(folders: dict[str, Path]) -> list[Path]:
    return [folders[BANK].parent]


VERDICTS: dict[str, tuple[Callable[[dict[str, Path]], list[Path]], int]] = {
    "lawful": (lawful, 0),
    "incomplete": (incomplete, 2),
    "unlawful": (unlawful, 1),
    "altered": (altered, 1),
    "badly signed": (badly_signed, 1),
    "forged": (forged, 1),
    "cut": (cut, 3),
    "nothing": (nothing, 3),
}


@pytest.mark.parametrize("verdict", VERDICTS)
def test_the_exit_code_is_that_of_verify_and_there_is_always_a_page(verdict: str, tmp_path: Path) -> None:
    make, status = VERDICTS[verdict]
    given = make(write(tmp_path / "world", story()))
    rules = ["--policy", str(policy(tmp_path))]
    logs = [str(path) for path in given]
    expected = run(cli, ["verify", *logs, *rules, "--json", str(tmp_path / "verdict.json")], usage_status=3)
    assert expected == status
    output, facts = tmp_path / "report.html", tmp_path / "report.json"
    assert run(cli, ["report", *logs, *rules, "--output", str(output), "--json", str(facts)], usage_status=3) == expected
    page, told = Parsed(output.read_text()), json.loads(facts.read_text())
    verified = json.loads((tmp_path / "verdict.json").read_text())
    assert told["exit_status"] == verified["exit_status"] == expected
    assert len(told["checks"]) == 10
    if "error" in verified:
        fault = verified["error"]
        assert {name: told["failure"][name] for name in fault} == fault
        assert page.text.index(" ".join(fault["message"].split())) < page.text.index("The same checks")
        assert " ".join(fault["remedy"].split()) in page.text
        assert told["checks"][fault["step"]]["word"] == "failed"
        assert "not reached" in {check["word"] for check in told["checks"]}
        sure = "The logs are what their owners signed" if fault["step"] > 3 else "Nothing below is confirmed"
        assert sure in page.text
        tag = "see the fault above" if fault["step"] > 3 else "not confirmed"
        assert page.text.count(tag) >= len(told["jobs"]) + len(told["logs"])
    else:
        assert told["failure"] is None
        assert [point["text"] for point in verified["open"]] == told["missing"]
        assert all(text in page.text for text in told["missing"])


def test_an_altered_log_is_named_and_nothing_is_confirmed(tmp_path: Path) -> None:
    page = make_page(altered(write(tmp_path / "world", story())), policy=policy(tmp_path), made=MADE, made_by="0.1.0")
    assert page.exit_status == 1
    assert page.confirmed == "nothing"
    assert page.failure is not None
    assert (page.failure.step, page.failure.log) == (3, BANK)
    assert {approval.signature for approval in page.jobs[0].approvals} == {"not confirmed"}
    assert all(log.signed == 0 for log in page.logs)


def test_no_log_at_all(tmp_path: Path) -> None:
    page = make_page([tmp_path], made=MADE, made_by="0.1.0")
    text = Parsed(render(page)).text
    assert (page.exit_status, page.jobs, page.logs) == (3, [], [])
    assert "No job could be read" in text
    assert "Unusable input" in text


def test_a_log_read_in_part_says_where(tmp_path: Path) -> None:
    page = make_page(cut(write(tmp_path / "world", story())), policy=policy(tmp_path), made=MADE, made_by="0.1.0")
    bank = next(log for log in page.logs if log.name == BANK)
    assert bank.stopped.startswith(f"entry {bank.entries} cannot be read")
    assert bank.stopped in Parsed(render(page)).text


def test_keys_that_the_logs_brought_themselves(world: dict[str, Path]) -> None:
    page = make_page(every(world), made=MADE, made_by="0.1.0")
    assert page.keys in ("self-asserted", "")
    if not page.failure:
        assert "The keys are the logs’ own word" in Parsed(render(page)).text


def test_a_log_that_is_written_to_meanwhile(world: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_later(path: Path, *, name: str, entries: int | None = None) -> Any:
        return read_log(path, name=name, entries=(entries or 1) - 1)

    monkeypatch.setattr("audit.report.read_log", read_later)
    honest = write(tmp_path / "world", audit_world.events())
    with pytest.raises(DataError, match=r"report\.log_changed"):
        make_page(every(honest), policy=policy(tmp_path), made=MADE, made_by="0.1.0")


def test_who_cosigned(tmp_path: Path) -> None:
    folders = write(tmp_path / "world", audit_world.events())
    path = folders[BANK] / CHECKPOINT_FILE
    text = parse_note(path.read_bytes()).text
    path.write_text(
        sign_note(text, KEYS[BANK]) + "".join(cosign(text, KEYS[n], time=1_700_000_000) for n in (PLATFORM, COORDINATOR))
    )
    page = make_page(every(folders), policy=policy(tmp_path), made=MADE, made_by="0.1.0")
    bank = next(log for log in page.logs if log.name == BANK)
    assert bank.witnesses == ["coordinator, 2023-11-14T22:13:20Z", "platform, 2023-11-14T22:13:20Z"]


def test_one_of_many_jobs(world: dict[str, Path], tmp_path: Path) -> None:
    for prefix, count in ((JOB[:12], 1), ("f" * 12, 0)):
        page = make_page(every(world), policy=policy(tmp_path), job=prefix, made=MADE, made_by="0.1.0")
        assert len(page.jobs) == count


def test_the_files_must_be_writable(world: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = [str(path) for path in every(world)]
    assert run(cli, ["report", *logs, "--output", str(tmp_path / "no" / "where.html")], usage_status=3) == 3
    assert "code: report.unwritable" in capsys.readouterr().err


def test_a_hostile_log_cannot_make_the_page_endless(tmp_path: Path) -> None:
    told = [Event(BANK, "job", {"job": f"{number:064x}", "state": "submitted", "code": "x" * 10_000}) for number in range(300)]
    job = {"job": "f" * 64, "step": "align"}
    told += [Event(BANK, "disclosure", {**job, "what": f"{n} {'y' * 9_000}", "to": PLATFORM, "count": 1}) for n in range(1_100)]
    told += [Event(BANK, "step", {**job, "attempt": n, "state": "start"}) for n in range(2_100)]
    told += [Event(BANK, "job", {"job": "no hash", "state": "finished", "code": ""}), Event(BANK, "")]
    folder = write(tmp_path / "world", told)[BANK]
    page = make_page([folder], policy=policy(tmp_path), made=MADE, made_by="0.1.0")
    assert len(page.jobs) + page.jobs_left_out == 301
    assert (len(page.jobs), page.jobs[-1].job) == (200, "f" * 64)
    assert (page.jobs[-1].kinds, page.jobs[-1].left_out, len(page.jobs[-1].steps)) == (1_000, 100, 2_000)
    assert len(render(page)) < 3 * 2**20


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
