"""Alignment equals plain set intersection, whatever the identifiers, their number and the batches."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from node.crypto.drbg import Drbg
from node.limits import LIMITS
from node.protocols.alignment import Choice
from node.protocols.alignment import align as by_method
from node.protocols.psi import Alignment, Role, align
from tests.pair import MemoryChannel, run_pair

# Every Unicode text but halves of surrogate pairs; NUL, combining marks and the empty text among them.
identifiers = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(["", "\0", "a", "a\0", "é", "e\u0301", "İ", "ß", "\U0001f3e6", "\u200b", " a", "a" * 300]),
)


@st.composite
def two_sets(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Two lists without repeats, neither empty, in independent orders; overlap anything from none to all."""
    universe = draw(st.lists(identifiers, unique=True, min_size=2, max_size=24))
    places = draw(st.lists(st.sampled_from(["left", "right", "both"]), min_size=len(universe), max_size=len(universe)))
    left = [name for name, place in zip(universe, places, strict=True) if place != "right"] or universe[:1]
    right = [name for name, place in zip(universe, places, strict=True) if place != "left"] or universe[-1:]
    return draw(st.permutations(left)), draw(st.permutations(right))


@settings(max_examples=12, deadline=None)
@given(sets=two_sets(), seeds=st.tuples(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32)))
def test_alignment_by_oblivious_transfer_is_set_intersection(sets: tuple[list[str], list[str]], seeds: tuple[bytes, bytes]) -> None:
    left, right = sets

    def half(role: Role, own: list[str], seed: bytes, channel: MemoryChannel) -> Alignment:
        drbg, choices = Drbg(seed, job="job", step=role), list[Choice]()
        return by_method(
            channel, method="ot", choose=choices.append, role=role, job="job", identifiers=own, minimum=0, drbg=drbg, limits=LIMITS
        )

    mine, theirs = run_pair(
        lambda ch: half("label_holder", left, seeds[0], ch), lambda ch: half("feature_holder", right, seeds[1], ch)
    ).results()
    found = [left[i] for i in mine.rows]
    assert found == [right[i] for i in theirs.rows]
    assert set(found) == set(left) & set(right)
    assert len(found) == len(set(found))


@settings(max_examples=80, deadline=None)
@given(sets=two_sets(), seeds=st.tuples(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32)), data=st.data())
def test_alignment_is_set_intersection(sets: tuple[list[str], list[str]], seeds: tuple[bytes, bytes], data: st.DataObject) -> None:
    left, right = sets
    sizes = [data.draw(st.integers(1, 30), label="batch") for _ in range(2)]

    def half(role: Role, own: list[str], seed: bytes, batch: int, channel: MemoryChannel) -> Alignment:
        drbg = Drbg(seed, job="job", step=role)
        limits = replace(LIMITS, psi_batch=batch)
        return align(channel, role=role, job="job", identifiers=own, minimum=0, drbg=drbg, limits=limits)

    mine, theirs = run_pair(
        lambda ch: half("label_holder", left, seeds[0], sizes[0], ch),
        lambda ch: half("feature_holder", right, seeds[1], sizes[1], ch),
    ).results()
    found = [left[i] for i in mine.rows]
    assert found == [right[i] for i in theirs.rows]
    assert set(found) == set(left) & set(right)
    assert len(found) == len(set(found))
    assert (mine.own_size, mine.peer_size) == (len(left), len(right)) == (theirs.peer_size, theirs.own_size)
