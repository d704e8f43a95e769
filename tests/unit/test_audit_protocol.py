"""The tables of the legal run, the lengths of messages against protobuf itself, folding, and the quick canonical check."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import SimpleNamespace

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import history, lawful
from audit.entries import parse_entry
from audit.errors import DataError
from audit.history import AttemptKey, Directive, Runs, Shape
from audit.ledger import LogRejected
from audit.orders import COORDINATOR_ORDER, NEXT_STEPS, NODE_ORDER, ORDER, ORDERS, follows, masks_left
from audit.protocol import LEGAL_MESSAGES, Figures, FilterFigures, Part, Phase, Single, Turns, legal_messages
from audit.sequence import Unlawful, check_sequence
from node.crypto.ot import TableShape
from node.runtime import steps
from node.transport.channel import MESSAGE_TYPES
from protos import peer_pb2

# ---- orders ---------------------------------------------------------------------------------------------------------------------

NODE_PAIRS = {
    ("new", "spec"), ("offered", "spec"), ("offered", "seed"), ("offered", "rejects"), ("offered", "job"), ("seeded", "seed"),
    ("seeded", "approves"), ("seeded", "rejects"), ("seeded", "job"), ("approved", "other approves"), ("approved", "job"),
    ("approved", "seed"), ("approved", "approves"), ("approved", "rejects"), ("agreed", "other approves"),
    ("agreed", "start"), ("agreed", "failed"), ("agreed", "disclosures"), ("agreed", "job"), ("step", "commitment"),
    ("step", "choice"), ("step", "disclosure"), ("step", "done"), ("step", "failed"), ("rejected", "job"),
    ("closing", "disclosures"), ("closing", "job"), ("ended", "disclosures"), ("ended", "job"),
}  # fmt: skip
COORDINATOR_PAIRS = {
    ("new", "spec"), ("offered", "spec"),
    ("offered", "submitted"), ("submitted", "approves"), ("submitted", "rejects"), ("submitted", "approved"),
    ("submitted", "directive"), ("submitted", "disclosures"), ("approved", "directive"), ("approved", "disclosures"),
    ("running", "running"), ("running", "directive"), ("running", "report"), ("running", "disclosure"),
    ("running", "disclosures"), ("closing", "disclosures"), ("closing", "job"),
}  # fmt: skip
EVENTS = {event for pair in (NODE_PAIRS, COORDINATOR_PAIRS) for _, event in pair} | {"other rejects", "approval", "log key"}


@pytest.mark.parametrize(("table", "legal"), [(NODE_ORDER, NODE_PAIRS), (COORDINATOR_ORDER, COORDINATOR_PAIRS)])
def test_every_other_pair_is_illegal(table: Mapping[str, Mapping[str, str]], legal: set[tuple[str, str]]) -> None:
    pairs = {(state, event) for state in table for event in EVENTS if event in table[state]}
    assert pairs == legal
    assert sum(len(following) for following in table.values()) == len(legal)
    assert {state for following in table.values() for state in following.values()} <= set(table)


def test_every_other_pair_of_steps_is_illegal() -> None:
    places = [("", 0), *((step, number) for step in ORDER for number in ((1, 2, 3) if step == "round" else (0,)))]
    legal = {
        (("", 0), ("align", 0)),
        (("align", 0), ("prepare", 0)),
        (("prepare", 0), ("round", 1)),
        (("round", 1), ("round", 2)),
        (("round", 2), ("round", 3)),
        *((("round", t), ("finish", 0)) for t in (1, 2, 3)),
        (("finish", 0), ("evaluate", 0)),
    }
    found = {(before, after) for before in places for after in places if after[0] and follows(*after, after=before)}
    assert found == legal


def test_a_count_has_one_step() -> None:
    places = [("", 0), *((step, 1 if step == "round" else 0) for step in LEGAL_MESSAGES)]
    found = {(before, after) for before in places for after in places if after[0] and follows(*after, after=before, kind="count")}
    assert found == {(("", 0), ("count", 0))}
    assert not follows("count", 0, after=("", 0))


def test_masks_are_counted_from_the_attempt_that_prepared_them() -> None:
    """The protocol's own count: one mask a round and one to spare."""
    from node.protocols.scales import SPARE_SLOTS

    for rounds, prepared, number in ((2, 0, 1), (2, 3, 2), (8, 1, 8)):
        slots = rounds + SPARE_SLOTS
        for attempt in range(prepared, prepared + 12):
            assert masks_left(number, attempt, prepared=prepared, rounds=rounds) == (number - 1 + attempt - prepared < slots)
    assert tuple(ORDER) == steps.ORDER
    assert dict(ORDERS) == steps.ORDERS
    assert set(LEGAL_MESSAGES) == {step for steps_of_kind in ORDERS.values() for step in steps_of_kind}
    assert set(NEXT_STEPS) == {"", *LEGAL_MESSAGES}


# ---- lengths: protobuf's own serialisation is the oracle ------------------------------------------------------------------------


def figures(**changes: object) -> Figures:
    known: dict[str, object] = {
        "holds_label": True, "key_bits": 3072, "rounds": 8, "entries": 128, "own_set": 70_000, "peer_set": 300, "rows": 20_000,
        "held_out": 5_000, "own_columns": 13, "peer_columns": 10, "base_rate": "0.22", "shares_aggregates": True,
    }  # fmt: skip
    return Figures(**(known | changes))  # type: ignore[arg-type]


def phases() -> Iterator[Phase]:
    seen = set()
    for step in LEGAL_MESSAGES:
        for number in (1, 2) if step == "round" else (0,):
            for holds_label in (True, False):
                directive = Directive(("1.0",), "8.0")
                parts = legal_messages(step, figures(holds_label=holds_label), round=number, directive=directive)
                if step == "align":
                    sizes = {"own_set": 300, "peer_set": 70_000} if holds_label else {}
                    known = figures(holds_label=holds_label, method="ot", **sizes)
                    parts += legal_messages(step, known, round=0, directive=directive)
                filtered = figures(publishes=holds_label, filter=FilterFigures(True, 1, 1, 1, 1))
                more = legal_messages(step, filtered, round=number, directive=directive) if step == "align" else ()
                for part in (*parts, *more):
                    for phase in (part.first, part.second) if isinstance(part, Turns) else (part,):
                        if isinstance(phase, Phase) and phase.type not in seen:
                            seen.add(phase.type)
                            yield phase


@pytest.mark.parametrize("phase", list(phases()), ids=lambda phase: phase.type)
def test_lengths_are_protobufs(phase: Phase) -> None:
    for position in (0, 1, 127, 128, 16_383, 16_384, 2_097_152, 200_000_000):
        for count in (1, 2, 127, 128, 300):
            values = phase.lanes * -(-count * phase.bits // 8) if phase.lanes > 1 else -(-count * phase.bits // 8)
            message = getattr(peer_pb2, phase.type)(first=position * phase.stride, count=count, values=bytes(values))
            assert phase.length(position, count) == len(message.SerializeToString()), (position, count)


def test_every_message_type_has_its_place() -> None:
    """All types of the peer protocol but the receipt stand in the table, and nothing else does."""
    singles = {
        "PsiStart",
        "CommonOrder",
        "FilterAsk",
        "FilterState",
        "FilterQueries",
        "SharedCount",
        "PaillierKey",
        "JobFigures",
        "DirectiveEcho",
        "Aggregates",
        "IntersectionSize",
    }
    assert {phase.type for phase in phases()} | singles == MESSAGE_TYPES - {"StepReceipt"}


def test_a_phase_that_may_be_empty_may_be_left_out() -> None:
    parts = (
        Phase("FilterIndex", None, 1, optional=True),
        Phase("FilterAdded", None, 96, optional=True),
        Single("SharedCount", 2, 2),
    )
    end, added = (Shape("SharedCount", 1, 2), 1), (Shape("FilterAdded", 2, 2 + 2 + 24), 1)
    for said in ([end], [added, end]):
        check_sequence(parts, said, complete=True)
    check_sequence(parts[:2], [], complete=True)
    with pytest.raises(Unlawful):
        check_sequence(parts, [end, added], complete=True)
    with pytest.raises(Unlawful):
        check_sequence((Phase("FilterAdded", None, 96), parts[2]), [end], complete=True)


def single(step: str, kind: str, directive: Directive = Directive(), **changes: object) -> Single:  # noqa: B008
    parts: tuple[Part, ...] = legal_messages(step, figures(**changes), round=1, directive=directive)
    return next(part for part in parts if isinstance(part, Single) and part.type == kind)


@pytest.mark.parametrize("size", [1, 127, 128, 20_000, 200_000_000])
def test_single_messages_have_protobufs_lengths(size: int) -> None:
    start = len(peer_pb2.PsiStart(elements=size).SerializeToString())
    assert single("align", "PsiStart", own_set=size) == Single("PsiStart", start, start)
    for bits in (512, 2048, 3072, 8192):
        key = len(peer_pb2.PaillierKey(bits=bits, modulus=bytes(bits // 8), h_s=bytes(bits // 4)).SerializeToString())
        assert single("prepare", "PaillierKey", key_bits=bits) == Single("PaillierKey", key, key)
    for rate in ("0.5", "0.22", "0.0000012"):
        said = len(peer_pb2.JobFigures(rows=size, columns=13, base_rate=rate).SerializeToString())
        assert single("prepare", "JobFigures", rows=size, base_rate=rate) == Single("JobFigures", said, said)
        unknown = single("prepare", "JobFigures", rows=size, base_rate=None, own_columns=None)
        assert unknown.shortest <= said <= unknown.longest
    said = len(peer_pb2.JobFigures(rows=size, columns=13).SerializeToString())
    assert single("prepare", "JobFigures", rows=size, holds_label=False) == Single("JobFigures", said, said)
    for loss in ("0.123456", "1234.123456"):
        aggregates = peer_pb2.Aggregates(auc="0.812345", ks="0.400000", log_loss=loss, base_rate="0.220000", rows=size)
        part = single("evaluate", "Aggregates", held_out=size)
        assert part.shortest <= len(aggregates.SerializeToString()) <= part.longest == part.shortest + 3


@pytest.mark.parametrize("count", [0, 1, 15, 16, 64])
@pytest.mark.parametrize("lookup_range", [0.0, 0.0625, 16.0])
def test_a_directives_echo_has_protobufs_length(count: int, lookup_range: float) -> None:
    said = Directive(("0.5",) * count, repr(lookup_range))
    for step, echo in (
        ("round", peer_pb2.DirectiveEcho(coefficients=[0.5] * count, lookup_range=lookup_range)),
        ("finish", peer_pb2.DirectiveEcho(coefficients=[0.5] * count)),
        ("evaluate", peer_pb2.DirectiveEcho(lookup_range=lookup_range)),
    ):
        length = len(echo.SerializeToString())
        assert single(step, "DirectiveEcho", said) == Single("DirectiveEcho", length, length)


@pytest.mark.parametrize("entries", [32, 64, 128, 256])
@pytest.mark.parametrize("count", [1, 3, 8, 4096])
def test_lookup_messages_are_those_of_the_transfer(entries: int, count: int) -> None:
    shape = TableShape(entries, 8)
    for holds_label, kind, size in (
        (True, "LookupTables", count * shape.table_bytes),
        (False, "OtColumns", 128 * shape.column_bytes(count)),
    ):
        parts = legal_messages(
            "round", figures(holds_label=holds_label, entries=entries), round=2, directive=Directive(("1.0",), "8.0")
        )
        phase = next(part for part in parts if isinstance(part, Phase) and part.type == kind)
        message = getattr(peer_pb2, kind)(first=9, count=count, values=bytes(size))
        assert phase.length(9, count) == len(message.SerializeToString())


# ---- sequences ------------------------------------------------------------------------------------------------------------------


def points(own: int | None, peer: int | None) -> tuple[Part, ...]:
    return (Turns(Phase("MaskedPoints", own, 256), Phase("DoublyMasked", peer, 128)),)


def run(parts: tuple[Part, ...], told: str, *, complete: bool = True) -> None:
    """``told``: M and D for a message of one item of each kind."""
    places = {"M": 0, "D": 0}
    shapes = []
    for letter in told:
        phase = Phase("MaskedPoints", None, 256) if letter == "M" else Phase("DoublyMasked", None, 128)
        shapes.append((Shape(phase.type, 1, phase.length(places[letter], 1)), 1))
        places[letter] += 1
    check_sequence(parts, shapes, complete=complete)


@pytest.mark.parametrize(("own", "peer", "told"), [(2, 2, "MDMD"), (3, 1, "MDMM"), (1, 3, "MDDD"), (1, 1, "MD")])
def test_two_lists_take_turns(own: int, peer: int, told: str) -> None:
    run(points(own, peer), told)
    for end in range(len(told)):
        run(points(own, peer), told[:end], complete=False)
        run(points(None, None), told[:end], complete=False)
        with pytest.raises(Unlawful, match="missing or incomplete"):
            run(points(own, peer), told[:end])


@pytest.mark.parametrize("told", ["D", "MM", "MDD", "MDMDM", "MDMDD", "DM"])
def test_two_lists_out_of_turn(told: str) -> None:
    with pytest.raises(Unlawful):
        run(points(2, 2), told, complete=False)


@pytest.mark.parametrize("told", ["D", "MM", "MDDMD", "MDMMD"])
def test_two_lists_of_unknown_length_out_of_turn(told: str) -> None:
    with pytest.raises(Unlawful):
        run(points(None, None), told, complete=False)


@given(st.lists(st.sampled_from("abc"), max_size=60))
def test_folding_loses_nothing(letters: list[str]) -> None:
    runs = Runs()
    shapes = [Shape(letter, 1, 1) for letter in letters]
    for shape in shapes:
        runs.add(shape)
    assert [shape for shape, times in runs for _ in range(times)] == shapes


def test_folding_is_short_for_what_takes_turns() -> None:
    runs = Runs()
    for _ in range(100_000):
        runs.add(("MaskedPoints", 5, 100))
        runs.add(("DoublyMasked", 5, 50))
    assert len(runs._runs) <= 2
    assert runs.folded


def test_folding_ends_where_it_does_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "RUNS_MAX", 100)
    runs = Runs()
    for length in range(1000):
        runs.add(("MaskedPoints", 1, length))
    assert not runs.folded
    assert list(runs) == []


# ---- the quick canonical check: the reference implementation is the oracle ------------------------------------------------------

FRAME = {"v": 1, "log": "bank", "seq": 0, "prev": "", "time": "t", "kind": "k", "job": "", "step": "", "attempt": 0, "round": 0}
TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def judged(data: bytes) -> bool:
    """What the reference says: the bytes are the canonical form of what they say."""
    try:
        document = json.loads(data)
        return rfc8785.dumps(document) == data and not any(isinstance(v, float) for v in _leaves(document))
    except (ValueError, rfc8785.CanonicalizationError):
        return False


def _leaves(value: object) -> Iterator[object]:
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _leaves(inner)
    yield value


def accepted(data: bytes) -> bool:
    try:
        parse_entry(data)
    except DataError:
        return False
    return True


@settings(max_examples=300)
@given(st.dictionaries(TEXT.filter(lambda name: name not in FRAME), VALUES, max_size=4), st.booleans(), st.booleans())
def test_the_quick_check_is_the_references(own: dict[str, object], ascii_only: bool, ordered: bool) -> None:
    entry = FRAME | own
    canonical = rfc8785.dumps(entry)
    assert accepted(canonical)
    assert parse_entry(canonical) == entry
    other = json.dumps(entry, ensure_ascii=ascii_only, sort_keys=ordered, separators=(",", ":")).encode()
    assert accepted(other) == judged(other)


MESSAGE = FRAME | {
    "kind": "message", "job": "ab" * 32, "step": "align", "direction": "sent", "peer": "platform", "prev": "cd" * 32,
    "type": "MaskedPoints", "number": 7, "length": 100, "items": 3, "sha256": "ef" * 32, "time": "2025-01-01T00:00:00.000000Z",
}  # fmt: skip


@settings(max_examples=300)
@given(
    st.integers(0, 500),
    st.sampled_from([b"", b" ", b"0", b"9", b"-", b'"', b"\\", b"\n", b"\xff", b"e1", b".0"]),
    st.integers(0, 2),
)
def test_no_change_of_a_message_entry_slips_past(at: int, put: bytes, cut: int) -> None:
    """The quick way through message entries takes what the reference takes, and reads the same."""
    whole = rfc8785.dumps(MESSAGE)
    assert parse_entry(whole) == MESSAGE
    data = whole[:at] + put + whole[at + cut :]
    if accepted(data):
        assert judged(data)
        assert parse_entry(data) == json.loads(data)


@pytest.mark.parametrize("number", ["007", "-0", "1e3", "1.0", "9007199254740992", "99999999999999999999", "+1"])
def test_numbers_of_a_message_entry_have_one_form(number: str) -> None:
    data = rfc8785.dumps(MESSAGE).replace(b'"items":3', f'"items":{number}'.encode())
    assert not accepted(data)


PREPARE_AGAIN = [
    # round begun last, whether this log has it done, attempt of the second preparation, whether that is lawful (7 masks, 6 rounds)
    (4, False, 3, False),  # round 4 would find the seventh
    (4, False, 4, True),
    (4, True, 3, True),  # round 5 was started again while this node was away, and found none
    (4, True, 2, False),
    (6, True, 1, True),
    (1, True, 5, False),
    (1, True, 6, True),
]


@pytest.mark.parametrize(("number", "done", "attempt", "legal"), PREPARE_AGAIN)
def test_a_second_preparation_is_lawful_where_no_mask_is_left(number: int, done: bool, attempt: int, legal: bool) -> None:
    view = SimpleNamespace(spec=SimpleNamespace(kind="train", model=SimpleNamespace(rounds=6)), short="job")
    order = lawful._Order(view, lambda text: None)  # type: ignore[arg-type]
    steps = lawful._Steps()
    numbers = Directive()
    for key in (AttemptKey("align", 0, 0), AttemptKey("prepare", 0, 0), *(AttemptKey("round", t, 0) for t in range(1, number + 1))):
        steps.enter(key, numbers)
    steps.done = done
    again = AttemptKey("prepare", 0, attempt)
    if not legal:
        with pytest.raises(LogRejected) as caught:
            order._check_next(steps, "bank", 9, again, numbers)
        assert caught.value.code == "audit.step_order"
        return
    order._check_next(steps, "bank", 9, again, numbers)
    steps.enter(again, numbers)
    steps.done = True
    order._check_next(steps, "bank", 10, AttemptKey("round", number, attempt), numbers)
    for other in (number + 1, number + 2):
        key = AttemptKey("round", other, attempt)
        if done and other == number + 1:
            order._check_next(steps, "bank", 10, key, numbers)
        else:
            with pytest.raises(LogRejected):
                order._check_next(steps, "bank", 10, key, numbers)
