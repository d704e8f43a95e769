"""Lookup over the fake link: tables, what each side sees, a link that lies, misuse and storage."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from node.errors import DataError, IsthmusError, PeerError, UsageError
from node.limits import LIMITS
from node.protocols.lookup import IndexHolder, TableHolder, fetch_entries, serve_tables
from protos.peer_pb2 import LookupTables, OtColumns
from tests.lookups import SMALL, changed, example, holders, run_lookup, values
from tests.pair import run_pair
from tests.unit.test_ot import CHI_SQUARED_255, chi_squared

# ---- lookups ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 49, 50, 51, 101, 173])
def test_entries_arrive_over_several_batches(rows: int) -> None:
    tables, indices = example(rows)
    outcome = run_lookup(tables, indices)
    _, entries = outcome.results()
    assert entries.dtype == np.uint64
    assert np.array_equal(entries, tables[np.arange(rows), indices])
    assert len(outcome.left_sent) == len(outcome.right_sent) == -(-rows // 50)


def test_batches_respect_the_largest_message() -> None:
    tables, indices = example(90, 64)
    outcome = run_lookup(tables, indices, limits=replace(LIMITS, message_bytes=20_000))
    assert np.array_equal(outcome.results()[1], tables[np.arange(90), indices])
    assert len(outcome.left_sent) == 3
    assert max(len(payload) for _, payload in outcome.left_sent + outcome.right_sent) <= 20_000
    widest = max(len(p) for _, p in run_lookup(*example(90, 2, "u1"), limits=replace(LIMITS, message_bytes=500)).right_sent)
    assert widest <= 500


def test_index_holder_is_at_most_one_batch_ahead() -> None:
    tables, indices = example(400)
    table_holder, index_holder = holders()
    ahead = []

    class Counting:
        def __init__(self, inner: Any) -> None:
            self.inner, self.open = inner, 0

        def send(self, message: Any) -> None:
            self.open += 1
            ahead.append(self.open)
            self.inner.send(message)

        def recv(self, kind: Any) -> Any:
            message = self.inner.recv(kind)
            self.open -= 1
            return message

    common: dict[str, Any] = {"session": 1, "entries": 16, "width": 8, "message": LookupTables, "limits": SMALL}
    run_pair(
        lambda ch: serve_tables(ch, table_holder, rows=400, tables=lambda f, c: tables[f : f + c], **common),
        lambda ch: fetch_entries(Counting(ch), index_holder, indices=indices, **common),
    ).results()
    assert max(ahead) == 2
    assert ahead.count(2) == 7


def test_progress_counts_rows() -> None:
    tables, indices = example(120)
    table_holder, index_holder = holders()
    seen: dict[str, list[tuple[str, int, int]]] = {"left": [], "right": []}
    common: dict[str, Any] = {"session": 1, "entries": 16, "width": 8, "message": LookupTables, "limits": SMALL}
    run_pair(
        lambda ch: serve_tables(
            ch, table_holder, rows=120, tables=lambda f, c: tables[f : f + c], progress=lambda *a: seen["left"].append(a), **common
        ),
        lambda ch: fetch_entries(ch, index_holder, indices=indices, progress=lambda *a: seen["right"].append(a), **common),
    ).results()
    assert seen["left"] == seen["right"] == [("lookup", 50, 120), ("lookup", 100, 120), ("lookup", 120, 120)]


def test_same_inputs_give_the_same_bytes_and_sessions_differ() -> None:
    tables, indices = example(120)
    first, second = run_lookup(tables, indices), run_lookup(tables, indices)
    assert first.left_sent == second.left_sent
    assert first.right_sent == second.right_sent
    other = run_lookup(tables, indices, session=2)
    for kind, one, two in ((LookupTables, first.left_sent, other.left_sent), (OtColumns, first.right_sent, other.right_sent)):
        a, b = values(one, kind), values(two, kind)
        assert len(a) == len(b)
        blocks = {a[i : i + 8] for i in range(0, len(a), 8)} & {b[i : i + 8] for i in range(0, len(b), 8)}
        assert not blocks


# ---- what each side sees -----------------------------------------------------------------------------------------------------


def test_columns_are_uniform_whatever_the_indices() -> None:
    for index in (0, 15):
        outcome = run_lookup(np.zeros((2000, 16), dtype=np.uint8), np.full(2000, index))
        assert chi_squared(values(outcome.right_sent, OtColumns)) < CHI_SQUARED_255


def test_tables_on_the_wire_are_uniform_and_never_repeat() -> None:
    rows = 600
    outcome = run_lookup(np.zeros((rows, 64), dtype=np.uint64), np.full(rows, 5))
    wire = np.frombuffer(values(outcome.left_sent, LookupTables), dtype="<u8").reshape(rows, 64)
    assert len(np.unique(wire)) == wire.size
    for part in (wire, wire[:, 5], np.delete(wire, 5, axis=1), wire[:, 4]):
        assert chi_squared(np.ascontiguousarray(part).tobytes()) < CHI_SQUARED_255


def test_entries_not_chosen_stay_masked_for_the_index_holder() -> None:
    """The index holder strips every pad it can make from its keys; only its own entry comes out."""
    rows, width = 300, 8
    tables = np.zeros((rows, 16), dtype=np.uint64)
    indices = np.random.default_rng(3).integers(0, 16, rows)
    table_holder, index_holder = holders()
    outcome = run_lookup(tables, indices, pair=(table_holder, index_holder))
    wire = np.frombuffer(values(outcome.left_sent, LookupTables), dtype="<u8").reshape(rows, 16)
    stripped = []
    for shift in range(1, 16):

        class Replayed:
            """The recorded tables again, for an index holder that now asks for other entries with its old keys."""

            def __init__(self) -> None:
                self.queue = [payload for _, payload in outcome.left_sent]

            def send(self, message: Any) -> None:
                return None

            def recv(self, kind: Any) -> Any:
                message = kind()
                message.ParseFromString(self.queue.pop(0))
                return message

        again = IndexHolder(index_holder.keys)
        wrong = (indices + shift) % 16
        got = fetch_entries(
            Replayed(), again, session=1, indices=wrong, entries=16, width=width, message=LookupTables, limits=SMALL
        )
        assert not (got == 0).any()
        stripped.append(got)
    assert chi_squared(np.concatenate(stripped).tobytes()) < CHI_SQUARED_255
    assert not (wire == 0).any()


# ---- a link that lies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["tamper_left", "tamper_right"])
@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"first": 7}, "lookup.wrong_position"),
        ({"count": 49}, "lookup.wrong_count"),
        ({"values": bytes(10)}, "lookup.wrong_length"),
        ({"values": bytes(10**6)}, "lookup.wrong_length"),
    ],
)
def test_batches_of_another_form_are_refused(side: str, at: int, change: dict[str, Any], code: str) -> None:
    kind = LookupTables if side == "tamper_left" else OtColumns
    tamper: dict[str, Any] = {side: changed(kind, change, at)}
    with pytest.raises(PeerError) as caught:
        run_lookup(*example(170), **tamper).results()
    assert caught.value.code == code


@pytest.mark.parametrize("side", ["tamper_left", "tamper_right"])
def test_dropped_repeated_and_foreign_messages_are_refused(side: str) -> None:
    def repeat(index: int, kind: str, payload: bytes) -> list[tuple[str, bytes]]:
        return [(kind, payload)] * (2 if index == 1 else 1)

    def drop(index: int, kind: str, payload: bytes) -> list[tuple[str, bytes]]:
        return [] if index == 1 else [(kind, payload)]

    def foreign(index: int, kind: str, payload: bytes) -> list[tuple[str, bytes]]:
        return [("DotResults" if index == 1 else kind, payload)]

    # The table holder's second message is dropped: the third, which the index holder asked for one ahead, stands in its place.
    position, unexpected = "lookup.wrong_position", "protocol.unexpected_message"
    for tamper, code in ((repeat, position), (drop, position), (foreign, unexpected)):
        arguments: dict[str, Any] = {side: tamper}
        with pytest.raises(PeerError) as caught:
            run_lookup(*example(220), **arguments).results()
        assert caught.value.code == code


def test_parties_that_disagree_on_the_shape_stop() -> None:
    table_holder, index_holder = holders()
    common: dict[str, Any] = {"session": 1, "width": 8, "message": LookupTables}
    outcome = run_pair(
        lambda ch: serve_tables(ch, table_holder, rows=20, entries=32, tables=lambda f, c: np.zeros((c, 32), np.uint64), **common),
        lambda ch: fetch_entries(ch, index_holder, indices=np.zeros(20, int), entries=64, **common),
    )
    with pytest.raises(PeerError) as caught:
        outcome.results()
    assert caught.value.code == "lookup.wrong_length"


# ---- misuse, storage -----------------------------------------------------------------------------------------------------------


class Silent:
    """A channel that must not be used."""

    def send(self, message: Any) -> None:
        raise AssertionError("a message was sent")

    def recv(self, kind: Any) -> Any:
        raise AssertionError("a message was awaited")


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(IsthmusError) as caught:
        call()
    assert isinstance(caught.value, (UsageError, DataError))
    return caught.value.code


def test_misuse_is_refused_before_anything_is_sent() -> None:
    table_holder, index_holder = holders()
    common: dict[str, Any] = {"session": 1, "entries": 16, "width": 8, "message": LookupTables}

    def fetch(**change: Any) -> None:
        arguments: dict[str, Any] = common | {"indices": np.zeros(3, int)} | change
        fetch_entries(Silent(), index_holder, **arguments)

    def serve(**change: Any) -> None:
        arguments: dict[str, Any] = common | {"rows": 0, "tables": None} | change
        serve_tables(Silent(), table_holder, **arguments)

    assert refused(lambda: fetch(indices=np.array([3, 16]))) == "lookup.index_range"
    assert refused(lambda: fetch(indices=np.array([-1]))) == "lookup.index_range"
    assert refused(lambda: fetch(indices=np.zeros(3))) == "lookup.indices"
    assert refused(lambda: fetch(indices=np.zeros((3, 1), int))) == "lookup.indices"
    assert refused(lambda: fetch(entries=12)) == refused(lambda: serve(entries=12)) == "ot.entries"
    assert refused(lambda: fetch(width=3)) == refused(lambda: serve(width=16)) == "ot.width"
    assert refused(lambda: fetch(session=-1)) == refused(lambda: serve(session=2**32)) == "ot.session_range"
    assert refused(lambda: serve(rows=-1)) == "lookup.rows"
    assert refused(lambda: fetch(limits=replace(LIMITS, message_bytes=256))) == "lookup.batch"
    assert not index_holder.sessions
    assert not table_holder.sessions


def test_a_session_serves_once() -> None:
    pair = holders()
    tables, indices = example(10)
    run_lookup(tables, indices, pair=pair, session=4).results()
    for party in ("left_error", "right_error"):
        error = getattr(run_lookup(tables, indices, pair=pair, session=4, timeout=0.5), party)
        assert isinstance(error, UsageError)
        assert error.code == "ot.session_reused"
    run_lookup(tables, indices, pair=pair, session=5).results()
    stored = TableHolder.from_arrays(pair[0].to_arrays()), IndexHolder.from_arrays(pair[1].to_arrays())
    with pytest.raises(UsageError, match=r"ot\.session_reused"):
        run_lookup(tables, indices, pair=stored, session=5, timeout=0.5).results()
    assert stored[0].sessions == stored[1].sessions == {4, 5}


@pytest.mark.parametrize(
    "tables",
    [
        np.zeros((10, 16), np.uint32),
        np.zeros((10, 16), np.int64),
        np.zeros((10, 8), np.uint64),
        np.zeros((9, 16), np.uint64),
    ],
    ids=lambda t: f"{t.shape}-{t.dtype}",
)
def test_tables_of_another_form_are_refused(tables: np.ndarray) -> None:
    table_holder, index_holder = holders()
    common: dict[str, Any] = {"session": 1, "entries": 16, "width": 8, "message": LookupTables}
    outcome = run_pair(
        lambda ch: serve_tables(ch, table_holder, rows=10, tables=lambda first, count: tables, **common),
        lambda ch: fetch_entries(ch, index_holder, indices=np.zeros(10, int), **common),
    )
    assert isinstance(outcome.left_error, UsageError)
    assert outcome.left_error.code == "lookup.table_shape"


def test_holders_survive_storage() -> None:
    pair = holders()

    def stored(arrays: dict[str, Any]) -> dict[str, Any]:
        file = io.BytesIO()
        np.savez(file, **arrays)
        file.seek(0)
        with np.load(file, allow_pickle=False) as loaded:
            return dict(loaded)

    again = TableHolder.from_arrays(stored(pair[0].to_arrays())), IndexHolder.from_arrays(stored(pair[1].to_arrays()))
    tables, indices = example(70)
    before, after = run_lookup(tables, indices, pair=pair), run_lookup(tables, indices, pair=again)
    assert before.left_sent == after.left_sent
    assert before.right_sent == after.right_sent
    assert np.array_equal(after.results()[1], tables[np.arange(70), indices])


@pytest.mark.parametrize(("which", "name"), [(0, "choices"), (0, "keys"), (0, "sessions"), (1, "keys"), (1, "sessions")])
def test_damaged_storage_is_refused(which: int, name: str) -> None:
    holder = holders()[which]
    arrays = holder.to_arrays()
    for damage in (arrays[name].astype(np.int16), arrays[name].reshape(1, *arrays[name].shape), None):
        damaged = {key: value for key, value in arrays.items() if key != name} | ({} if damage is None else {name: damage})
        assert refused(partial(type(holder).from_arrays, damaged)) == "ot.stored_keys"
    if name == "choices":
        assert refused(lambda: type(holder).from_arrays(arrays | {name: arrays[name] + 1})) == "ot.stored_keys"


def test_holders_print_no_secret() -> None:
    assert [repr(holder) for holder in holders()] == ["TableHolder()", "IndexHolder()"]
    assert [f"{holder}" for holder in holders()] == ["TableHolder()", "IndexHolder()"]
