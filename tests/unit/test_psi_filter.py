"""Alignment against a published filter: results against plain sets, what a later job costs, and what a peer may do wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.layout import filter_prefix_bits
from node.crypto.curve import Blinder, encode_to_u, inverse_scalar
from node.crypto.drbg import Drbg
from node.crypto.oprf import domain_tag, hashed, key_commitment
from node.engine import InlineEngine
from node.errors import DataError, IsthmusError, PeerError, PolicyError
from node.limits import LIMITS, Limits
from node.protocols.filter_state import Held, Published, Setting, Terms
from node.protocols.psi_filter import Outcome, common_order, publish, query
from protos import peer_pb2 as pb
from tests.pair import Outcome as Pair
from tests.pair import run_pair

RELATION = "cd" * 32
SMALL = replace(LIMITS, psi_batch=4, message_bytes=256)
DAYS = Terms(reuse_days=30, filter_days=30)
Tamper = Callable[[int, str, bytes], list[tuple[str, bytes]]]


@dataclass
class Side:
    """One party from job to job."""

    seed: int
    terms: Terms = DAYS
    state: Any = field(default=None)
    committed: list[tuple[str, str, dict[str, int]]] = field(default_factory=list)
    reserved: list[int] = field(default_factory=list)
    saved: list[Published] = field(default_factory=list)

    def setting(self, identifiers: Sequence[str], job: int, limits: Limits, minimum: int) -> Setting:
        self.committed.clear()
        return Setting(
            relation=RELATION,
            identifiers=identifiers,
            minimum=minimum,
            drbg=Drbg(bytes([self.seed]) * 32, job=f"{job:064x}", step="align"),
            engine=InlineEngine(),
            limits=limits,
            terms=self.terms,
            commit=lambda what, sha256, **sizes: self.committed.append((what, sha256, sizes)),
        )


@dataclass
class Parties:
    """A publisher and a querier that run job after job."""

    publisher: Side = field(default_factory=lambda: Side(1))
    querier: Side = field(default_factory=lambda: Side(2))
    jobs: int = 0

    def run(self, large: Sequence[str], small: Sequence[str], *, limits: Limits = SMALL, minimum: int = 1, **tamper: Any) -> Pair:
        self.jobs += 1
        left, right = (
            side.setting(names, self.jobs, limits, minimum) for side, names in ((self.publisher, large), (self.querier, small))
        )
        pair = run_pair(
            lambda ch: publish(
                ch,
                left,
                state=self.publisher.state,
                reserve=self.publisher.reserved.append,
                save=self.publisher.saved.append,
            ),
            lambda ch: query(ch, right, state=self.querier.state),
            timeout=20,
            **tamper,
        )
        for side, outcome in ((self.publisher, pair.left), (self.querier, pair.right)):
            if isinstance(outcome, Outcome):
                side.state = outcome.state
        return pair

    def shared(self, large: Sequence[str], small: Sequence[str], **more: Any) -> Pair:
        """Run a job and hold its result against the plain sets."""
        pair = self.run(large, small, **more)
        mine, theirs = (outcome.alignment for outcome in pair.results())
        rows = [large[i] for i in mine.rows]
        assert rows == [small[i] for i in theirs.rows]
        assert sorted(rows) == sorted(set(large) & set(small))
        assert self.publisher.committed == self.querier.committed
        return pair


def names(first: int, last: int) -> list[str]:
    return [f"customer-{i}" for i in range(first, last)]


def items(sent: list[tuple[str, bytes]], kind: str) -> int:
    return sum(getattr(pb, kind).FromString(payload).count for name, payload in sent if name == kind)


def size(sent: list[tuple[str, bytes]]) -> int:
    return sum(len(payload) for _, payload in sent)


# ---- the inverse -----------------------------------------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32))
def test_the_inverse_scalar_undoes_a_multiplication(scalar: bytes) -> None:
    point = encode_to_u([b"anyone"], domain_tag(RELATION))
    assert Blinder(inverse_scalar(scalar)).blind(Blinder(scalar).blind(point)) == point
    assert inverse_scalar(scalar)[0] & 7 == 0
    assert inverse_scalar(scalar)[31] & 0xC0 == 0x40


# ---- results ---------------------------------------------------------------------------------------------------------


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(st.tuples(st.sets(st.integers(0, 30), min_size=1), st.sets(st.integers(0, 30), min_size=1)), min_size=1, max_size=4)
)
def test_job_after_job_finds_the_plain_intersection(days: list[tuple[set[int], set[int]]]) -> None:
    parties = Parties()
    for large, small in days:
        both = large | {99}, small | {99}
        parties.shared(*([f"{number}" for number in side] for side in both))


def test_a_later_job_costs_what_is_new_alone() -> None:
    parties = Parties()
    large, small = names(0, 60), names(50, 70)
    first = parties.shared(large, small)
    assert items(first.right_sent, "BlindedPoints") == 20
    assert items(first.left_sent, "FilterRemainders") == 60
    assert items(first.left_sent, "FilterIndex") == 60 + 2 ** filter_prefix_bits(60)
    second = parties.shared(large, small)
    assert size(second.left_sent) < 150
    assert not items(second.right_sent, "BlindedPoints")
    # Two customers leave the large side, three come; one comes to the small side, two leave.
    third = parties.shared([*large[2:], *names(80, 83)], [*small[2:], "customer-80"])
    counts = {
        kind: items(third.left_sent, kind) for kind in ("FilterRemainders", "FilterRemoved", "FilterAdded", "EvaluatedPoints")
    }
    assert counts == {"FilterRemainders": 0, "FilterRemoved": 2, "FilterAdded": 3, "EvaluatedPoints": 1}
    assert parties.publisher.reserved == [20, 0, 1]
    versions = [pb.FilterState.FromString(pair.left_sent[2][1]).version for pair in (first, second, third)]
    assert versions == [1, 1, 2]


def test_the_order_of_rows_is_new_in_each_job_and_hangs_on_both_sides() -> None:
    parties = Parties()
    large, small = names(0, 60), names(40, 80)
    orders = [[large[i] for i in parties.shared(large, small).left.alignment.rows] for _ in range(3)]
    assert len({tuple(order) for order in orders}) == 3
    values = parties.publisher.state.values
    ways = {tuple(common_order(values, shares)) for shares in (bytes(64), bytes(63) + b"1", b"1" + bytes(63))}
    assert len(ways) == 3


def test_the_value_compared_is_the_keyed_function_of_the_identifier() -> None:
    parties = Parties()
    parties.shared(names(0, 9), names(5, 12))
    state, held = parties.publisher.state, parties.querier.state
    point = encode_to_u([b"customer-5"], domain_tag(RELATION))
    value = hashed(Blinder(state.scalar).blind(point), RELATION)
    assert value in {one.tobytes() for one in state.values}
    assert value in {one.tobytes() for one in held.values}
    assert held.key == key_commitment(state.scalar)
    assert not set(map(bytes, held.tags)) & set(map(bytes, state.tags))


def test_state_survives_its_file() -> None:
    parties = Parties()
    parties.shared(names(0, 40), names(30, 45))
    parties.publisher.state = Published.from_arrays(parties.publisher.state.to_arrays())
    parties.querier.state = Held.from_arrays(parties.querier.state.to_arrays())
    assert not items(parties.shared(names(0, 41), names(30, 45)).left_sent, "FilterRemainders")


@pytest.mark.parametrize("terms", [(replace(DAYS, reuse_days=0), DAYS), (DAYS, replace(DAYS, reuse_days=0)), (Terms(), Terms())])
def test_where_one_policy_allows_no_reuse_each_job_starts_afresh(terms: tuple[Terms, Terms]) -> None:
    parties = Parties(Side(1, terms[0]), Side(2, terms[1]))
    keys = set()
    for _ in range(2):
        pair = parties.shared(names(0, 9), names(5, 12))
        keys.add(pb.FilterState.FromString(pair.left_sent[2][1]).key)
        assert items(pair.right_sent, "BlindedPoints") == 7
        assert parties.publisher.state is parties.querier.state is None
    assert len(keys) == 2


@pytest.mark.parametrize("old", ["publisher", "querier"])
def test_a_key_that_has_served_its_days_is_not_used_again(old: str) -> None:
    parties = Parties()
    before = pb.FilterState.FromString(parties.shared(names(0, 9), names(5, 12)).left_sent[2][1])
    getattr(parties, old).terms = replace(DAYS, key_age=30)
    after = parties.shared(names(0, 9), names(5, 12))
    told = pb.FilterState.FromString(after.left_sent[2][1])
    assert told.key != before.key
    assert (told.version, told.base, items(after.right_sent, "BlindedPoints")) == (1, 0, 7)


def test_an_old_filter_is_published_as_a_whole_under_its_key_again() -> None:
    parties = Parties()
    parties.shared(names(0, 9), names(5, 12))
    parties.publisher.terms = replace(DAYS, filter_age=30)
    pair = parties.shared(names(0, 9), names(5, 12))
    told = pb.FilterState.FromString(pair.left_sent[2][1])
    assert (told.version, told.base, items(pair.right_sent, "BlindedPoints")) == (2, 0, 0)


def test_a_querier_that_lost_its_state_or_a_version_is_sent_the_whole() -> None:
    parties = Parties()
    parties.shared(names(0, 40), names(30, 45))
    old = parties.querier.state
    parties.shared(names(0, 41), names(30, 45))
    for state, queries in ((old, 0), (None, 15)):
        parties.querier.state = state
        pair = parties.shared(names(0, 41), names(30, 45))
        assert items(pair.left_sent, "FilterRemainders") == 41
        assert items(pair.right_sent, "BlindedPoints") == queries


def test_a_publisher_that_lost_a_version_does_not_give_its_number_again() -> None:
    parties = Parties()
    parties.shared(names(0, 40), names(30, 45))
    before = parties.publisher.state
    parties.shared(names(0, 41), names(30, 45))
    parties.publisher.state = before
    told = pb.FilterState.FromString(parties.shared(names(0, 42), names(30, 45)).left_sent[2][1])
    assert (told.version, told.base) == (3, 0)


# ---- what is refused ---------------------------------------------------------------------------------------------------


def test_too_many_queries_end_the_job_before_one_is_answered() -> None:
    parties = Parties()

    def refuse(count: int) -> None:
        raise PolicyError("policy.filter_queries", f"{count} are too many.")

    parties.publisher.reserved = type("Bound", (), {"append": staticmethod(refuse)})()  # type: ignore[assignment]
    pair = parties.run(names(0, 9), names(5, 12))
    assert isinstance(pair.left_error, PolicyError)
    assert not items(pair.left_sent, "EvaluatedPoints")
    assert not items(pair.left_sent, "FilterRemainders")


def test_too_few_shared_customers_end_the_job_before_the_querier_names_any() -> None:
    pair = Parties().run(names(0, 9), names(7, 12), minimum=3)
    assert isinstance(pair.right_error, PolicyError)
    assert "SharedCount" not in [kind for kind, _ in pair.right_sent]


def test_what_was_masked_once_is_not_lost_with_the_attempt() -> None:
    parties = Parties()
    assert isinstance(parties.run(names(0, 40), names(30, 45), minimum=11).right_error, PolicyError)
    assert parties.publisher.state is None
    (parties.publisher.state,) = parties.publisher.saved
    pair = parties.shared(names(0, 41), names(30, 45))
    told = pb.FilterState.FromString(pair.left_sent[2][1])
    assert (told.version, told.base, told.key) == (2, 0, key_commitment(parties.publisher.state.scalar))
    assert len(parties.publisher.saved) == 1


def test_own_identifiers_must_be_distinct_texts() -> None:
    for bad, code in (
        (["a", "b", "a"], "psi.duplicate_identifier"),
        (["a", "\ud800"], "psi.identifier_not_text"),
        ([], "psi.empty_set"),
    ):
        for pair in (Parties().run(bad, ["a", "b"]), Parties().run(["a", "b"], bad)):
            errors = [error for error in (pair.left_error, pair.right_error) if isinstance(error, DataError)]
            assert [error.code for error in errors] == [code]


def altered(kind: str, change: Callable[[Any], None], at: int = 0) -> Tamper:
    seen = 0

    def tamper(index: int, name: str, payload: bytes) -> list[tuple[str, bytes]]:
        nonlocal seen
        if name == kind:
            seen += 1
            if seen == at + 1:
                message = getattr(pb, kind).FromString(payload)
                change(message)
                return [(name, message.SerializeToString(deterministic=True))]
        return [(name, payload)]

    return tamper


def put(**fields: Any) -> Callable[[Any], None]:
    def change(message: Any) -> None:
        for name, value in fields.items():
            setattr(message, name, value(getattr(message, name)) if callable(value) else value)

    return change


def flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


FROM_PUBLISHER = [
    ("PsiStart", put(elements=0), "psi.empty_set"),
    ("PsiStart", put(elements=2**40), "psi.too_many_elements"),
    ("PsiStart", put(elements=61), "psi.filter_state"),
    ("CommonOrder", put(share=b"short"), "psi.wrong_length"),
    ("FilterState", put(key=b"short"), "psi.filter_state"),
    ("FilterState", put(version=0), "psi.filter_state"),
    ("FilterState", put(prefix_bits=7), "psi.filter_state"),
    ("FilterState", put(prefix_bits=200), "psi.filter_state"),
    ("FilterState", put(base=1), "psi.filter_state"),
    ("FilterState", put(added=2**63), "psi.filter_state"),
    ("FilterState", put(digest=flip), "psi.filter_digest"),
    ("FilterIndex", put(first=8), "psi.wrong_position"),
    ("FilterIndex", put(values=lambda data: data[:-1]), "psi.wrong_length"),
    ("FilterIndex", put(values=flip), "psi.filter_malformed"),
    ("FilterRemainders", put(count=0), "psi.less_than_declared"),
    ("FilterRemainders", put(count=10**6), "psi.more_than_declared"),
    ("FilterRemainders", put(count=lambda count: count - 1), "psi.wrong_length"),
    ("FilterRemainders", put(values=flip), "psi.filter_digest"),
    ("EvaluatedPoints", put(count=3, values=lambda data: data[:96]), "psi.less_than_declared"),
    ("EvaluatedPoints", put(values=lambda data: bytes(32) + data[32:]), "psi.low_order_point"),
    ("EvaluatedPoints", put(values=lambda data: b"\xff" * 32 + data[32:]), "psi.non_canonical_point"),
    ("EvaluatedPoints", put(values=lambda data: data[:32] * 4), "psi.repeated_element"),
]


@pytest.mark.parametrize(("kind", "change", "code"), FROM_PUBLISHER)
def test_what_a_publisher_may_not_say(kind: str, change: Callable[[Any], None], code: str) -> None:
    large, small = names(0, 32), names(20, 40)
    pair = Parties().run(large, small, tamper_left=altered(kind, change))
    if kind == "PsiStart" and code == "psi.filter_state":
        pair = Parties().run(large, small, tamper_left=altered(kind, put(elements=33)))
    assert isinstance(pair.right_error, PeerError)
    assert pair.right_error.code == code


FROM_QUERIER = [
    ("FilterAsk", put(key=b"x"), "psi.filter_request"),
    ("FilterAsk", put(version=2**31), "psi.filter_request"),
    ("FilterQueries", put(elements=21), "psi.more_than_declared"),
    ("BlindedPoints", put(first=1), "psi.wrong_position"),
    ("BlindedPoints", put(values=lambda data: bytes(32) + data[32:]), "psi.low_order_point"),
    ("BlindedPoints", put(values=lambda data: b"\xff" * 32 + data[32:]), "psi.non_canonical_point"),
    ("SharedCount", put(elements=21), "psi.more_than_declared"),
    ("SharedValues", put(values=lambda data: data[16:32] + data[:16] + data[32:]), "psi.filter_values"),
    ("SharedValues", put(values=lambda data: data[:16] + data[:16] + data[32:]), "psi.filter_values"),
]


@pytest.mark.parametrize(("kind", "change", "code"), FROM_QUERIER)
def test_what_a_querier_may_not_say(kind: str, change: Callable[[Any], None], code: str) -> None:
    pair = Parties().run(names(0, 32), names(20, 40), tamper_right=altered(kind, change))
    assert isinstance(pair.left_error, PeerError)
    assert pair.left_error.code == code


FROM_LATER_PUBLISHER = [
    ("FilterState", put(version=lambda v: v + 1), "psi.filter_state"),
    ("FilterState", put(removed=2**63, added=2**63), "psi.filter_state"),
    ("FilterState", put(digest=flip), "psi.filter_digest"),
    ("FilterRemoved", put(values=flip), "psi.filter_malformed"),
    ("FilterRemoved", put(values=lambda data: data[12:] + data[:12]), "psi.filter_malformed"),
    ("FilterAdded", put(values=lambda data: data[:11] + b"\xff" + data[12:]), "psi.filter_malformed"),
    ("FilterAdded", put(values=flip), "psi.filter_digest"),
]


@pytest.mark.parametrize(("kind", "change", "code"), FROM_LATER_PUBLISHER)
def test_what_a_publisher_may_not_say_of_changes(kind: str, change: Callable[[Any], None], code: str) -> None:
    parties = Parties()
    parties.shared(names(0, 32), names(20, 40))
    pair = parties.run([*names(2, 32), "new"], names(20, 40), tamper_left=altered(kind, change))
    assert isinstance(pair.right_error, PeerError)
    assert pair.right_error.code == code


def test_a_value_that_is_only_the_filters_is_removed_by_the_publisher() -> None:
    """The filter's 61 bits say yes where the 16 bytes do not: the second comparison decides."""
    parties = Parties()
    parties.shared(names(0, 32), names(20, 40))
    held: Held = parties.querier.state
    values = held.values.copy()
    raw = values.view(np.uint8).reshape(-1, 16)
    found = [i for i, value in enumerate(held.values) if value.tobytes() in {v.tobytes() for v in parties.publisher.state.values}]
    raw[found[0], 15] ^= 1  # beyond the bits that the filter has
    parties.querier.state = replace(held, values=values)
    mine, theirs = (outcome.alignment for outcome in parties.run(names(0, 32), names(20, 40)).results())
    assert len(mine.rows) == len(theirs.rows) == 11
    assert [names(0, 32)[i] for i in mine.rows] == [names(20, 40)[i] for i in theirs.rows]


def test_secrets_do_not_print() -> None:
    parties = Parties()
    parties.shared(names(0, 9), names(5, 12))
    for state, secret in (
        (parties.publisher.state, parties.publisher.state.scalar),
        (parties.querier.state, parties.querier.state.tag_key),
    ):
        assert secret.hex() not in repr(state)
        assert repr(secret) not in repr(state)


def test_errors_are_of_this_project() -> None:
    with pytest.raises(IsthmusError):
        inverse_scalar(b"short")
