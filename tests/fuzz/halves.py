"""Each half of each protocol against a peer whose messages come from a fuzzer.

An honest run is recorded once.  Then one half runs alone: a byte of the input decides for every message it asks for whether the
recorded one comes, one with changed fields, or raw bytes.  So a change may come at any place of a protocol, not only at its door.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from google.protobuf.message import Message

from node.crypto.drbg import Drbg
from node.crypto.paillier_keys import generate_key
from node.engine import InlineEngine
from node.errors import TransportError
from node.limits import LIMITS
from node.protocols import joins, logistic, psi, psi_count, psi_filter, scoring
from node.protocols.alignment import Choice, align
from node.protocols.filter_state import Setting, Terms
from node.protocols.lookup import IndexHolder, TableHolder, fetch_entries, serve_tables
from node.protocols.training import Prepared
from node.transport.channel import parse
from protos.peer_pb2 import LookupTables
from tests.fuzz.messages import changed, mutate
from tests.fuzz.reader import Reader
from tests.pair import Outcome, run_pair
from tests.training import ROLES, Training, toy

ROWS, COLUMNS, ROUNDS, BANDS = 8, (2, 1), 2, 8
SMALL = replace(LIMITS, message_bytes=2**18)
_NAMES = {"label_holder": [f"c{i}" for i in range(6)], "feature_holder": [f"c{i}" for i in range(2, 9)]}
Half = Callable[[str, Any], Any]


class HostileChannel:
    """A ``Channel`` whose other end is a recording and a fuzzer."""

    def __init__(self, recorded: list[tuple[str, bytes]], data: bytes) -> None:
        self._recorded, self._reader = list(recorded), Reader(data)

    def send(self, message: Message) -> None:
        message.SerializeToString(deterministic=True)

    def recv(self, kind: Any) -> Any:
        name, payload = self._recorded.pop(0) if self._recorded else ("", b"")
        way = self._reader.byte()
        if name != kind.DESCRIPTOR.name:
            payload = b""
            if not self._reader.left:
                raise TransportError("transport.closed", "The recording is at its end.")
        if way >= 240:
            return parse(kind, changed(payload, self._reader))
        message = kind.FromString(payload)
        if way >= 128:
            mutate(message, self._reader)
        return parse(kind, message.SerializeToString(deterministic=True))


@dataclass(frozen=True)
class Recorded:
    """What each side sent in an honest run."""

    half: Half
    sent: dict[str, list[tuple[str, bytes]]]

    def run(self, role: str, data: bytes) -> Any:
        """The half of ``role`` against a hostile peer."""
        peer = ROLES[1 - ROLES.index(role)]
        return self.half(role, HostileChannel(self.sent[peer], data))


def record(half: Half) -> Recorded:
    outcome: Outcome = run_pair(lambda ch: half(ROLES[0], ch), lambda ch: half(ROLES[1], ch))
    outcome.results()
    return Recorded(half, {ROLES[0]: outcome.left_sent, ROLES[1]: outcome.right_sent})


# ---- the halves -----------------------------------------------------------------------------------------------------------------


@functools.cache
def aligning() -> Recorded:
    """``align`` with six and seven customers, batches of four."""

    def half(role: str, ch: Any) -> Any:
        drbg = Drbg(role.encode().ljust(32, b"."), job="job", step="align")
        limits = replace(SMALL, psi_batch=4, psi_elements=1000)
        return psi.align(ch, role=role, job="job", identifiers=_NAMES[role], minimum=1, drbg=drbg, limits=limits)  # type: ignore[arg-type]

    return record(half)


@functools.cache
def aligning_by_ot() -> Recorded:
    """The same by oblivious transfer."""

    def half(role: str, ch: Any) -> Any:
        drbg, chosen = Drbg(role.encode().ljust(32, b"."), job="job", step="align"), list[Choice]()
        limits = replace(SMALL, psi_elements=1000)
        names = _NAMES[role]
        return align(
            ch,
            method="ot",
            choose=chosen.append,
            role=role,
            job="job",
            identifiers=names,
            minimum=1,
            drbg=drbg,
            limits=limits,  # type: ignore[arg-type]
        )

    return record(half)


@functools.cache
def joining() -> Recorded:
    """``join`` by two keys, of which some customers lack either."""

    def half(role: str, ch: Any) -> Any:
        names = _NAMES[role]
        keys = [
            joins.Key("phone", [name if place % 3 else "" for place, name in enumerate(names)]),
            joins.Key("email", [name if place % 2 else "" for place, name in enumerate(names)]),
        ]
        drbg = Drbg(role.encode().ljust(32, b"."), job="job", step="align")
        limits = replace(SMALL, psi_batch=4, psi_elements=1000)
        return joins.join(ch, role=role, job="job", keys=keys, minimum=1, drbg=drbg, limits=limits)  # type: ignore[arg-type]

    return record(half)


@functools.cache
def counting() -> Recorded:
    """``count`` with six and seven customers; the label holder learns the number and tells it."""

    def half(role: str, ch: Any) -> Any:
        drbg = Drbg(role.encode().ljust(32, b"."), job="job", step="count")
        return psi_count.count(
            ch,
            role=role,  # type: ignore[arg-type]
            learns=role == "label_holder",
            job="job",
            identifiers=_NAMES[role],
            minimum=2,
            told=lambda size: 0 if size < 2 else size - size % 2,
            tells=True,
            drbg=drbg,
            limits=replace(SMALL, psi_batch=4, psi_elements=1000),
        )

    return record(half)


_LATER = {"label_holder": [f"c{i}" for i in range(1, 7)], "feature_holder": [f"c{i}" for i in range(2, 10)]}


def _by_filter(role: str, ch: Any, names: dict[str, list[str]], state: Any, job: str) -> psi_filter.Outcome:
    setting = Setting(
        relation="ab" * 32,
        identifiers=names[role],
        minimum=1,
        drbg=Drbg(role.encode().ljust(32, b"."), job=job, step="align"),
        engine=InlineEngine(),
        limits=replace(SMALL, psi_batch=4, psi_elements=1000),
        terms=Terms(reuse_days=9, filter_days=9),
        commit=lambda what, sha256, **sizes: None,
    )
    if role == "label_holder":
        return psi_filter.query(ch, setting, state=state)
    return psi_filter.publish(ch, setting, state=state, reserve=lambda count: None)


@functools.cache
def filtering() -> Recorded:
    """A first alignment by a published filter; the label holder asks."""
    return record(lambda role, ch: _by_filter(role, ch, _NAMES, None, "job"))


@functools.cache
def filtering_again() -> Recorded:
    """The next alignment by it, of other customers on both sides."""
    states: dict[str, Any] = {}

    def keep(role: str, ch: Any) -> None:
        states[role] = _by_filter(role, ch, _NAMES, None, "job").state

    record(keep)
    return record(lambda role, ch: _by_filter(role, ch, _LATER, states[role], "next"))


@dataclass
class Trained:
    """An honest training, so that each step can be run again from what came before it."""

    training: Training
    prepared: list[dict[str, Any]]
    earlier: list[Any]
    keys: dict[str, Any]

    def fresh(self, role: str) -> Prepared:
        """What ``prepare`` left, with no lookup session used yet."""
        return Prepared.from_arrays(self.prepared[ROLES.index(role)])


@functools.cache
def trained() -> Trained:
    left, right, label = toy(ROWS, COLUMNS, seed=3)
    label = label.copy()
    label[:2] = (0, 1)
    training = Training(left, right, label, rounds=ROUNDS)
    training.prepare().results()
    arrays = [prepared.to_arrays() for prepared in training.prepared]
    training.round(1, (), 8.0).results()
    keys = {role: generate_key(512, training.drbg(role, "prepare").stream("paillier key")) for role in ROLES}
    return Trained(training, arrays, [list(side) for side in training.earlier], keys)


@functools.cache
def preparing() -> Recorded:
    """``prepare`` with eight rows at 512 bits."""
    made = trained()

    def half(role: str, ch: Any) -> Any:
        one = made.training
        drbg = one.drbg(role, "prepare")
        return logistic.prepare(ch, **one.halves(role), own=made.keys[role], drbg=drbg, engine=one.engine, limits=SMALL)

    return record(half)


@functools.cache
def rounding(number: int) -> Recorded:
    """``run_round`` of the first or the second round."""
    made = trained()

    def half(role: str, ch: Any) -> Any:
        one, side = made.training, ROLES.index(role)
        earlier = made.earlier[side][: number - 1]
        coefficients = (0.5,) * (number - 1)
        return logistic.run_round(
            ch,
            **one.halves(role),
            prepared=made.fresh(role),
            earlier=earlier,
            round=number,
            slot=number - 1,
            coefficients=coefficients,
            lookup_range=8.0,
            drbg=one.drbg(role, "round", number),
            limits=SMALL,
        )

    return record(half)


@functools.cache
def finishing() -> Recorded:
    """``finish`` after one round."""
    made = trained()

    def half(role: str, ch: Any) -> Any:
        earlier = made.earlier[ROLES.index(role)]
        plan, prepared = made.training.plan(role), made.fresh(role)
        return logistic.finish(ch, plan=plan, prepared=prepared, earlier=earlier, coefficients=(0.5,), limits=SMALL)

    return record(half)


@functools.cache
def evaluating() -> Recorded:
    """``evaluate`` on the training rows, aggregates shared."""
    made = trained()

    def half(role: str, ch: Any) -> Any:
        one = made.training
        given = one.halves(role)
        weights = np.full(given["matrix"].shape[1] + (role == "label_holder"), 0.25)
        return scoring.evaluate(
            ch,
            plan=given["plan"],
            prepared=made.fresh(role),
            matrix=with_intercept(given["matrix"]) if role == "label_holder" else given["matrix"],
            weights=weights,
            label=given["label"],
            bands=BANDS,
            lookup_range=8.0,
            share_aggregates=True,
            drbg=one.drbg(role, "evaluate"),
            limits=SMALL,
        )

    return record(half)


def with_intercept(matrix: Any) -> Any:
    return np.concatenate([np.full((len(matrix), 1), 1024, dtype=np.int32), matrix], axis=1)


@functools.cache
def looking_up() -> Recorded:
    """One lookup of ten rows in tables of sixteen entries."""
    arrays = [Prepared.from_arrays(found).lookup.to_arrays() for found in trained().prepared]
    tables = np.arange(160, dtype=np.uint16).reshape(10, 16)

    def half(role: str, ch: Any) -> Any:
        common: dict[str, Any] = {"session": 3, "entries": 16, "width": 2, "message": LookupTables, "limits": SMALL}
        if role == "label_holder":
            holder = TableHolder.from_arrays(arrays[0])
            return serve_tables(ch, holder, rows=10, tables=lambda f, c: tables[f : f + c], **common)
        return fetch_entries(ch, IndexHolder.from_arrays(arrays[1]), indices=np.arange(10), **common)

    return record(half)
