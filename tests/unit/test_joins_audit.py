"""The table of the protocol against real messages of joins and counts, whole and cut off anywhere."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from audit.disclosed_values import told_size, told_text
from audit.figures import JobView, NodeView, shapes_of
from audit.history import Attempt, AttemptKey, Directive, JobRecord, MessageRecord
from audit.plain import plain_message
from audit.protocol import Figures, Phase, Single, legal_messages
from audit.sequence import Unlawful, check_sequence
from audit.spec import JobSpec
from node.crypto.drbg import Drbg
from node.limits import LIMITS
from node.protocols.joins import Key, join
from node.protocols.psi_count import count
from node.runtime.disclosures import Facts, of_step
from node.runtime.journal import items_of, serialised
from protos import peer_pb2
from tests.pair import run_pair
from tests.unit.test_joins_rules import KEYS, a_count, keyed, specification

Event = tuple[str, str, bytes, int]


class Noted:
    """A channel that notes what its side sees, in order."""

    def __init__(self, channel: Any, events: list[Event]) -> None:
        self.channel, self.events = channel, events

    def send(self, message: Any) -> None:
        self.events.append(("sent", *serialised(message), items_of(message)))
        self.channel.send(message)

    def recv(self, kind: Any) -> Any:
        message = self.channel.recv(kind)
        self.events.append(("received", *serialised(message), items_of(message)))
        return message


def seen(half: Any) -> list[list[Event]]:
    """What both sides of a protocol see."""
    events: list[list[Event]] = [[], []]
    run_pair(lambda ch: half(0, Noted(ch, events[0])), lambda ch: half(1, Noted(ch, events[1]))).results()
    return events


def view_of(spec: JobSpec, name: str, step: str, events: list[Event], *, done: bool = False) -> tuple[JobView, NodeView, Attempt]:
    attempt = Attempt(AttemptKey(step, 0, 0), 0, 0, 0, 0, was_done=done, peer=spec.peer_of(name).name)
    for way, kind, payload, items in events:
        direction = attempt.direction(way)
        direction.add(MessageRecord(kind, direction.count, len(payload), hashlib.sha256(payload).hexdigest(), items))
    record = JobRecord(spec.identity(), spec, attempts={attempt.key: attempt})
    node = NodeView(SimpleNamespace(name=name), record)  # type: ignore[arg-type]
    return JobView(spec.identity(), spec, {name: node}, None), node, attempt


def check(spec: JobSpec, name: str, step: str, events: list[Event], *, done: bool = False) -> None:
    view, node, attempt = view_of(spec, name, step, events, done=done)
    for sender, way in ((name, "sent"), (spec.peer_of(name).name, "received")):
        figures = view.figures(node, attempt, sender)
        parts = legal_messages(step, figures, round=0, directive=Directive())
        check_sequence(parts, shapes_of(node.ledger, view.job, attempt, way), complete=done)


A, B, C, D, E = "abcde"
SIDES: dict[str, tuple[list[list[str]], list[list[str]]]] = {
    "some of each": ([[A, B, C, "", D], ["", "x", "y", "z", "v"]], [[A, C, E, "", ""], ["w", "y", "", "z", "x"]]),
    "nobody left for the second key": ([[A, B], ["x", "y"]], [[B, A], ["x", "y"]]),
    "one side never had the first": ([["", "", ""], ["x", "y", "z"]], [[A, B, C], ["z", "", "x"]]),
    "only one is left": ([[A, B, C], ["", "", "x"]], [[A, B], ["", ""]]),
    "nobody at all": ([["", ""], ["", ""]], [[""], [""]]),
}


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_join_is_lawful_wherever_it_is_cut(name: str, batch: int) -> None:
    spec, sides = specification(keyed), SIDES[name]

    def half(side: int, ch: Any) -> Any:
        keys = [Key(key["name"], column) for key, column in zip(KEYS, sides[side], strict=True)]
        role: Any = ("label_holder", "feature_holder")[side]
        drbg, limits = Drbg(bytes([side]) * 32, job="job", step="align"), replace(LIMITS, psi_batch=batch)
        return join(ch, role=role, job="job", keys=keys, minimum=0, drbg=drbg, limits=limits)

    for party, events in zip(("bank", "platform"), seen(half), strict=True):
        check(spec, party, "align", events, done=True)
        for cut in range(len(events)):
            check(spec, party, "align", events[:cut])
        view, _, attempt = view_of(spec, party, "align", events, done=True)
        sets = sides[party == "platform"]
        assert view.sizes_by_key(attempt.key, party)[0] == sum(map(bool, sets[0]))
        starts = [payload for way, kind, payload, _ in events if (way, kind) == ("sent", "PsiStart")]
        figures = view.figures(view.nodes[party], attempt, party)
        assert [plain_message("PsiStart", figures, Directive(), step="align", number=n) for n in range(2)] == starts
        if len(events) > 4:  # an answer that is missing is missed, and what comes after the end is too much
            with pytest.raises(Unlawful):
                check(spec, party, "align", [event for event in events if event[1] != "DoublyMasked"], done=True)
            with pytest.raises(Unlawful):
                check(spec, party, "align", [*events, events[-1]], done=True)


@pytest.mark.parametrize("tells", [True, False])
def test_a_count_is_lawful_wherever_it_is_cut(tells: bool) -> None:
    spec = a_count(align={"minimum": 2}, count={"step": 2, "tell_partner": tells})
    sides = [f"c{i}" for i in range(7)], [f"c{i}" for i in range(3, 14)]

    def half(side: int, ch: Any) -> Any:
        role: Any = ("label_holder", "feature_holder")[side]
        drbg, limits = Drbg(bytes([side]) * 32, job="job", step="count"), replace(LIMITS, psi_batch=3)
        given: dict[str, Any] = {"job": "job", "identifiers": sides[side], "minimum": 2, "tells": tells}
        return count(ch, role=role, learns=not side, told=lambda n: n - n % 2, drbg=drbg, limits=limits, **given)

    for party, events in zip(("bank", "platform"), seen(half), strict=True):
        check(spec, party, "count", events, done=True)
        for cut in range(len(events)):
            check(spec, party, "count", events[:cut])
            if cut:
                with pytest.raises(Unlawful):
                    check(spec, party, "count", events[:cut], done=True)
        if tells:  # the same messages where the job does not let the learner tell
            with pytest.raises(Unlawful):
                check(a_count(count={"tell_partner": False}), party, "count", events, done=True)


def test_a_counts_messages_have_protobufs_lengths() -> None:
    known = Figures(holds_label=True, key_bits=3072, rounds=8, own_set=300, peer_set=70_000, learns=True, tells=True, told=12_300)
    *_, said = legal_messages("count", known, round=0, directive=Directive())
    message = peer_pb2.IntersectionSize(size=12_300)
    assert said == Single("IntersectionSize", message.ByteSize(), message.ByteSize())
    assert plain_message("IntersectionSize", known, Directive(), step="count") == message.SerializeToString()
    below = replace(known, told=0)
    assert plain_message("IntersectionSize", below, Directive(), step="count") == b""
    *_, returned = legal_messages("count", replace(known, learns=False), round=0, directive=Directive())
    assert isinstance(returned, Phase)
    assert (returned.type, returned.items) == ("SortedDoublyMasked", 70_000)


def crossed(step: str, spec: JobSpec, me: str, sent: dict[str, int], facts: Facts | None) -> list[tuple[str, str, int, str]]:
    return [(d.what, d.to, d.count, d.value) for d in of_step(step, spec=spec, me=me, sent=sent, facts=facts)]


def test_the_rows_of_a_count_and_of_a_join() -> None:
    learner, teller = {"PsiStart": 1, "MaskedPoints": 5, "IntersectionSize": 1}, {"PsiStart": 1, "SortedDoublyMasked": 5}
    facts = Facts(set_size=5000, intersection=1200, told=1200)
    sizes = [("set_size", "platform", 1, "5000"), ("set_size", "coordinator", 1, "5000")]
    told = [("rounded_size", "platform", 1, "1200"), ("rounded_size", "coordinator", 1, "1200")]
    assert crossed("count", a_count(), "bank", learner, facts) == sizes + told
    below = crossed("count", a_count(), "bank", learner, replace(facts, told=0))
    assert [row[3] for row in below] == ["5000", "5000", "below 1000", "below 1000"]
    quiet = a_count(count={"tell_partner": False, "tell_coordinator": False})
    assert crossed("count", quiet, "bank", {"PsiStart": 1, "MaskedPoints": 5}, facts) == sizes
    assert crossed("count", a_count(), "platform", teller, Facts(set_size=9000)) == [
        ("set_size", "bank", 1, "9000"), ("set_size", "coordinator", 1, "9000"), ("intersection_size", "bank", 1, ""),
    ]  # fmt: skip
    # What a failed attempt had sent: the learner may have counted already.
    assert [row[:2] for row in crossed("count", a_count(), "platform", teller, None)] == [
        ("set_size", "bank"), ("intersection_size", "bank"),
    ]  # fmt: skip
    assert crossed("count", a_count(), "bank", {}, None) == []
    joined = specification(keyed)
    facts = Facts(set_size=90, intersection=60, rows_train=60, by_key=((50, 40), (40, 20)))
    rows = crossed("align", joined, "bank", {"PsiStart": 2, "DoublyMasked": 80}, facts)
    assert ("by_key", "platform", 2, "[[50, 40], [40, 20]]") in rows
    assert ("by_key", "platform", 1, "") in crossed("align", joined, "bank", {"PsiStart": 1}, None)
    assert not [row for row in crossed("align", specification(), "bank", {"PsiStart": 1}, facts) if row[0] == "by_key"]


@pytest.mark.parametrize("size", [0, 1, 1200])
def test_what_was_told_has_one_text(size: int) -> None:
    assert told_size(told_text(size, 1000)) == size


@pytest.mark.parametrize("text", ["0", "", "below", "below x", "12.5", "-3", "ten"])
def test_another_text_tells_nothing(text: str) -> None:
    assert told_size(text) is None
