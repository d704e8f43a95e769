"""A job told for the tests of the report, with every kind of line and names that are markup; and a page taken apart."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from audit.report import Page, make_page
from audit.spec import Disclose, JobSpec, Label, Party
from tests.unit import audit_world
from tests.unit.audit_world import BANK, COORDINATOR, KEYS, PLATFORM, Event, approvals

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


def every(folders: dict[str, Path]) -> list[Path]:
    return [folders[name] for name in (BANK, PLATFORM, COORDINATOR)]


def page_of(logs: list[Path], **options: Any) -> Page:
    """The report on these logs, made at a time that is always the same."""
    return make_page(logs, made=MADE, made_by="0.1.0", **options)


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
