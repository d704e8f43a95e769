"""Joins by several keys and counts equal plain dictionaries and sets, whatever is missing, shared or crossed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from node.crypto.drbg import Drbg
from node.limits import LIMITS
from node.protocols.joins import Join, Key, join
from node.protocols.psi_count import Counted, count
from tests.pair import run_pair
from tests.property.test_psi import two_sets

# Few values, so that customers of one side meet several of the other's; the empty text is a missing one.
VALUES = ("", "a", "b", "c", "ß", "é", "e\u0301", "\U0001f3e6", "\0")
NAMES = ("phone", "email", "document")
Customers = list[tuple[str, ...]]


@st.composite
def customers(draw: st.DrawFn, keys: int) -> Customers:
    """Customers with a value or none under each key; no value twice under one."""
    found = draw(st.lists(st.tuples(*[st.sampled_from(VALUES)] * keys), min_size=1, max_size=9))
    seen: list[set[str]] = [set() for _ in range(keys)]
    cleaned = []
    for one in found:
        values = tuple("" if value in seen[place] else value for place, value in enumerate(one))
        for place, value in enumerate(values):
            seen[place] |= {value} - {""}
        cleaned.append(values)
    return cleaned


def plainly(left: Customers, right: Customers, keys: int) -> list[set[tuple[int, int]]]:
    """Key by key, over lists: who is whom."""
    found, gone = [], (set[int](), set[int]())
    for place in range(keys):
        pairs = {
            (i, j)
            for i, mine in enumerate(left)
            for j, theirs in enumerate(right)
            if i not in gone[0] and j not in gone[1] and mine[place] and mine[place] == theirs[place]
        }
        gone[0].update(i for i, _ in pairs)
        gone[1].update(j for _, j in pairs)
        found.append(pairs)
    return found


@settings(max_examples=60, deadline=None)
@given(data=st.data(), keys=st.integers(1, 3), batch=st.integers(1, 6))
def test_a_join_is_what_lists_give_key_by_key(data: st.DataObject, keys: int, batch: int) -> None:
    left, right = (data.draw(customers(keys), label=side) for side in ("left", "right"))

    def half(role: Any, own: Customers, seed: bytes) -> Any:
        columns = [Key(name, [one[place] for one in own]) for place, name in enumerate(NAMES[:keys])]
        limits = replace(LIMITS, psi_batch=batch)
        drbg = Drbg(seed * 32, job="job", step="align")
        return lambda ch: join(ch, role=role, job="job", keys=columns, minimum=0, drbg=drbg, limits=limits)

    outcome = run_pair(half("label_holder", left, b"l"), half("feature_holder", right, b"f"))
    mine, theirs = outcome.results()
    wanted = plainly(left, right, keys)
    assert _by_round(mine, theirs) == wanted
    rows = [*mine.rows.tolist()]
    assert len(set(rows)) == len(rows), "nobody twice"
    assert [size for size, _ in mine.by_key] == _brought(left, [{i for i, _ in pairs} for pairs in wanted])
    assert [size for size, _ in theirs.by_key] == _brought(right, [{j for _, j in pairs} for pairs in wanted])
    assert (mine.own_size, mine.peer_size) == (theirs.peer_size, theirs.own_size)
    _no_value_is_seen_twice(outcome.left_sent)


def _by_round(mine: Join, theirs: Join) -> list[set[tuple[int, int]]]:
    pairs, found, first = list(zip(mine.rows.tolist(), theirs.rows.tolist(), strict=True)), [], 0
    assert [size for _, size in mine.by_key] == [size for _, size in theirs.by_key]
    for _, size in mine.by_key:
        found.append(set(pairs[first : first + size]))
        first += size
    return found


def _brought(own: Customers, matched: list[set[int]]) -> list[int]:
    """Of each key, customers that have it and were not found before."""
    gone = [set[int]().union(*matched[:place]) for place in range(len(matched))]
    return [sum(bool(one[place]) and i not in gone[place] for i, one in enumerate(own)) for place in range(len(matched))]


def _no_value_is_seen_twice(sent: list[tuple[str, bytes]]) -> None:
    """A value that stands under two keys does not look the same: no masked point is sent twice."""
    from protos.peer_pb2 import MaskedPoints

    points = [
        values[start : start + 32]
        for kind, payload in sent
        if kind == "MaskedPoints"
        for values in [MaskedPoints.FromString(payload).values]
        for start in range(0, len(values), 32)
    ]
    assert len(set(points)) == len(points)


@settings(max_examples=60, deadline=None)
@given(sets=two_sets(), batch=st.integers(1, 6), step=st.integers(1, 4), tells=st.booleans(), swap=st.booleans())
def test_a_count_is_the_size_of_the_intersection(
    sets: tuple[list[str], list[str]], batch: int, step: int, tells: bool, swap: bool
) -> None:
    minimum = step

    def told(size: int) -> int:
        return 0 if size < minimum else size // step * step

    def half(role: Any, learns: bool, own: list[str]) -> Any:
        limits, drbg = replace(LIMITS, psi_batch=batch), Drbg(role.encode().ljust(32, b"."), job="job", step="count")
        given: dict[str, Any] = {"job": "job", "identifiers": own, "minimum": minimum, "told": told, "tells": tells}
        return lambda ch: count(ch, role=role, learns=learns, drbg=drbg, limits=limits, **given)

    outcome = run_pair(half("label_holder", not swap, sets[0]), half("feature_holder", swap, sets[1]))
    size, sizes = len(set(sets[0]) & set(sets[1])), [len(own) for own in sets]
    if min(sizes) < minimum:
        codes = {getattr(error, "code", "") for error in (outcome.left_error, outcome.right_error)}
        assert codes == {"psi.too_few_shared"}
        assert {kind for kind, _ in outcome.left_sent + outcome.right_sent} == {"PsiStart"}, "nothing masked left"
        return
    sides = outcome.results()
    learner, teller = sides[::-1] if swap else sides
    own, other = sizes[::-1] if swap else sizes
    assert learner == Counted(own, other, size if size >= minimum else None, told(size))
    assert teller == Counted(other, own, None, told(size) if tells else None)
