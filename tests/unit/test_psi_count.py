"""Counts and joins: what crosses, what the learner cannot tell, and everything a peer may do wrong."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from node.crypto.curve import Blinder, encode_to_u
from node.crypto.drbg import Drbg
from node.errors import DataError, PeerError, PolicyError
from node.limits import LIMITS
from node.protocols.joins import Key, join
from node.protocols.psi_count import Counted, count
from protos.peer_pb2 import IntersectionSize, MaskedPoints, PsiStart, SortedDoublyMasked
from tests.pair import Link, MemoryChannel, Outcome, run_pair

JOB = "cd" * 32
SMALL = replace(LIMITS, psi_batch=4)
LEFT, RIGHT = [f"c{i}" for i in range(30)], [f"c{i}" for i in range(19, 60)]
SHARED = 11
Tamper = Callable[[int, str, bytes], list[tuple[str, bytes]]]


def told(size: int) -> int:
    return 0 if size < 4 else size - size % 4


def half(learns: bool, own: Sequence[str], seed: int, *, tells: bool = True, minimum: int = 4, limits: Any = SMALL) -> Any:
    role: Any = "label_holder" if learns else "feature_holder"
    drbg = Drbg(bytes([seed]) * 32, job=JOB, step="count")
    given: dict[str, Any] = {"job": JOB, "identifiers": own, "minimum": minimum, "told": told, "tells": tells}
    return lambda ch: count(ch, role=role, learns=learns, drbg=drbg, limits=limits, **given)


def counting(*, tamper_learner: Tamper | None = None, tamper_teller: Tamper | None = None, **more: Any) -> Outcome:
    learner, teller = half(True, LEFT, 1, **more), half(False, RIGHT, 2, **more)
    return run_pair(learner, teller, tamper_left=tamper_learner, tamper_right=tamper_teller, timeout=5)


def of_kind(sent: list[tuple[str, bytes]], kind: Any) -> list[Any]:
    return [kind.FromString(payload) for name, payload in sent if name == kind.DESCRIPTOR.name]


def values(sent: list[tuple[str, bytes]], kind: Any, width: int) -> list[bytes]:
    joined = b"".join(message.values for message in of_kind(sent, kind))
    return [joined[start : start + width] for start in range(0, len(joined), width)]


def test_both_sides_know_what_they_may() -> None:
    learner, teller = counting().results()
    assert learner == Counted(30, 41, SHARED, 8)
    assert teller == Counted(41, 30, None, 8)
    learner, teller = counting(tells=False).results()
    assert (learner.told, teller.told) == (8, None)


def test_the_learner_gets_its_list_in_an_order_that_says_nothing() -> None:
    """What comes back is the set of its own doubly-masked values, ascending: the place of none of its customers is in it."""
    outcome = counting()
    returned = values(outcome.right_sent, SortedDoublyMasked, 16)
    assert returned == sorted(returned)
    scalars = [Blinder.draw(Drbg(bytes([seed]) * 32, job=JOB, step="count").stream("count.scalar")) for seed in (1, 2)]
    tag = b"isthmus-v1-" + JOB.encode() + b"-count-with-curve25519_XMD:SHA-512_ELL2_NU_"
    doubled = {name: scalars[1].blind(scalars[0].blind(encode_to_u([name.encode()], tag)))[:16] for name in LEFT}
    assert set(returned) == set(doubled.values())
    # Neither side's list goes out in the order of its customers.
    for sent, names, scalar in ((outcome.left_sent, LEFT, scalars[0]), (outcome.right_sent, RIGHT, scalars[1])):
        masked = [scalar.blind(encode_to_u([name.encode()], tag)) for name in names]
        found = values(sent, MaskedPoints, 32)
        assert set(found) == set(masked)
        assert found != masked


def test_the_teller_gets_nothing_of_its_own_list_back() -> None:
    outcome = counting()
    assert [name for name, _ in outcome.left_sent if name not in ("MaskedPoints", "PsiStart")] == ["IntersectionSize"]
    assert of_kind(outcome.left_sent, IntersectionSize)[0].size == 8
    assert not of_kind(counting(tells=False).left_sent, IntersectionSize)


def test_a_link_that_holds_one_message_is_enough() -> None:
    links = Link(frames=queue.Queue(maxsize=1)), Link(frames=queue.Queue(maxsize=1))
    results: dict[bool, Counted] = {}
    channels = {True: MemoryChannel(links[0], links[1], 10), False: MemoryChannel(links[1], links[0], 10)}
    sides = {True: half(True, LEFT, 1), False: half(False, RIGHT, 2, limits=replace(LIMITS, psi_batch=7))}
    threads = [threading.Thread(target=lambda s=s: results.update({s: sides[s](channels[s])}), daemon=True) for s in sides]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (results[True].size, results[False].told) == (SHARED, 8)


@pytest.mark.parametrize("small", ["learner", "teller"])
def test_a_set_smaller_than_the_minimum_is_asked_nothing(small: str) -> None:
    """One customer alone would ask whether just this one is shared."""
    left, right = (LEFT[-3:], RIGHT) if small == "learner" else (LEFT, RIGHT[:3])
    outcome = run_pair(half(True, left, 1), half(False, right, 2))
    assert {type(error) for error in (outcome.left_error, outcome.right_error)} == {PolicyError}
    assert {name for name, _ in outcome.left_sent + outcome.right_sent} == {"PsiStart"}


def rewritten(kind: Any, change: Callable[[Any], Any], which: int = 0) -> Tamper:
    seen = 0

    def tamper(index: int, name: str, payload: bytes) -> list[tuple[str, bytes]]:
        nonlocal seen
        if name == kind.DESCRIPTOR.name:
            seen += 1
            if seen == which + 1:
                message = kind.FromString(payload)
                change(message)
                return [(name, message.SerializeToString())]
        return [(name, payload)]

    return tamper


def _swap(message: SortedDoublyMasked) -> None:
    message.values = message.values[16:32] + message.values[:16] + message.values[32:]


def _repeat(message: SortedDoublyMasked) -> None:
    message.values = message.values[:16] + message.values[:16] + message.values[32:]


def _put(**fields: Any) -> Callable[[Any], None]:
    def change(message: Any) -> None:
        for name, value in fields.items():
            setattr(message, name, value)

    return change


RETURNED = {
    "not ascending": (_swap, "psi.not_sorted"),
    "a value twice": (_repeat, "psi.not_sorted"),
    "elsewhere": (_put(first=3), "psi.wrong_position"),
    "nothing": (_put(count=0, values=b""), "psi.less_than_declared"),
    "more than was sent": (_put(count=31, values=bytes(31 * 16)), "psi.more_than_declared"),
    "cut": (_put(values=bytes(63)), "psi.wrong_length"),
}


@pytest.mark.parametrize("name", RETURNED)
def test_what_comes_back_is_checked(name: str) -> None:
    change, code = RETURNED[name]
    outcome = counting(tamper_teller=rewritten(SortedDoublyMasked, change))
    assert isinstance(outcome.left_error, PeerError)
    assert outcome.left_error.code == code


def test_a_list_that_starts_below_the_one_before_is_refused() -> None:
    outcome = counting(tamper_teller=rewritten(SortedDoublyMasked, _put(values=bytes(64)), which=1))
    assert isinstance(outcome.left_error, PeerError)
    assert outcome.left_error.code == "psi.not_sorted"


def test_too_many_values_at_once_are_refused() -> None:
    few = replace(SMALL, message_bytes=128)  # eight values
    outcome = run_pair(half(True, LEFT, 1, limits=few), half(False, RIGHT, 2, limits=replace(SMALL, psi_batch=30)))
    assert isinstance(outcome.left_error, PeerError)
    assert outcome.left_error.code == "psi.batch_size"


@pytest.mark.parametrize("size", [3, 9, 32, 4096])
def test_a_number_that_may_not_be_told_is_refused(size: int) -> None:
    """Below the minimum, not rounded, more than the smaller set."""
    outcome = counting(tamper_learner=rewritten(IntersectionSize, _put(size=size)))
    assert isinstance(outcome.right_error, PeerError)
    assert outcome.right_error.code == "psi.impossible_size"


@pytest.mark.parametrize("side", ["learner", "teller"])
def test_a_point_that_is_sent_twice_is_refused(side: str) -> None:
    def twice(message: Any) -> None:
        message.values = message.values[:32] + message.values[:32] + message.values[64:]

    tamper = rewritten(MaskedPoints, twice)
    outcome = counting(**{f"tamper_{side}": tamper})
    error = outcome.right_error if side == "learner" else outcome.left_error
    assert isinstance(error, PeerError)
    assert error.code == "psi.repeated_element"


# ---- joins ----------------------------------------------------------------------------------------------------------------------


def joining(left: list[list[str]], right: list[list[str]], *, minimum: int = 0, **more: Any) -> Outcome:
    def one(role: Any, columns: list[list[str]], seed: bytes) -> Any:
        keys = [Key(name, column) for name, column in zip(("phone", "email"), columns, strict=False)]
        drbg = Drbg(seed * 32, job=JOB, step="align")
        return lambda ch: join(ch, role=role, job=JOB, keys=keys, minimum=minimum, drbg=drbg, limits=SMALL)

    return run_pair(one("label_holder", left, b"l"), one("feature_holder", right, b"f"), **more)


def test_a_customer_whose_keys_are_two_others_is_the_one_of_the_first_key() -> None:
    """A's telephone is P's and her e-mail Q's; B's e-mail is P's: A is P, and neither B nor Q is anyone."""
    mine, theirs = joining([["1", "2"], ["q", "p"]], [["1", "9", ""], ["p", "x", "q"]]).results()
    assert list(zip(mine.rows.tolist(), theirs.rows.tolist(), strict=True)) == [(0, 0)]
    assert mine.by_key == ((2, 1), (1, 0))
    assert theirs.by_key == ((2, 1), (2, 0)), "P is no longer looked for by e-mail, and Q found nobody"


def test_the_minimum_counts_what_all_keys_found() -> None:
    columns = [["1", "2", ""], ["", "", "c"]]
    mine, _ = joining(columns, columns, minimum=3).results()
    assert len(mine.rows) == 3
    outcome = joining(columns, columns, minimum=4)
    assert isinstance(outcome.left_error, PolicyError)
    assert len(of_kind(outcome.left_sent, MaskedPoints)) == 1, "the second key's sets are too small: nothing masked follows"


def test_a_key_that_nobody_has_finds_nobody() -> None:
    mine, theirs = joining([["", ""], ["a", "b"]], [["1", "2"], ["b", ""]]).results()
    assert (mine.rows.tolist(), theirs.rows.tolist()) == ([1], [0])
    assert [start.elements for start in of_kind(joining([["", ""], ["", ""]], [["", ""], ["", ""]]).left_sent, PsiStart)] == [0, 0]


def test_keys_of_different_length_are_refused() -> None:
    with pytest.raises(DataError) as caught:
        join(
            None, role="label_holder", job=JOB, keys=[Key("a", ["1"]), Key("b", [])], minimum=0, drbg=None, limits=SMALL,  # type: ignore[arg-type]
        )  # fmt: skip
    assert caught.value.code == "psi.key_lengths"


def test_keys_show_no_values() -> None:
    assert "secret" not in repr(Key("phone", ["secret"]))
