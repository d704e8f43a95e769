"""Engines: order, bounds, errors, and the same bits from each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from audit.layout import KeyKind
from node.crypto import oprf
from node.crypto.curve import inverse_scalar
from node.crypto.drbg import Drbg, Stream
from node.crypto.paillier import Decryptor
from node.crypto.paillier_keys import SecretKey, generate_key
from node.engine import Engine, InlineEngine, PoolEngine, base, batches, filters, make_engine
from node.engine.base import cores, default_workers
from node.errors import DataError, PeerError, UsageError
from node.limits import LIMITS
from node.protocols.psi import Role, align
from tests.pair import MemoryChannel, Outcome, run_pair

pytestmark = pytest.mark.timed


def square(value: int) -> int:
    return value * value


def fail_on_three(value: int) -> int:
    if value == 3:
        raise PeerError("test.three", "It is three.", remedy="Take another.")
    return value


def end_process(value: int) -> int:
    os._exit(9)


def stream(purpose: str) -> Stream:
    return Drbg(b"\x09" * 32, job="test", step="engine").stream(purpose)


@lru_cache
def key(kind: KeyKind = "standard") -> SecretKey:
    return generate_key(512, stream("key"), kind=kind)


@pytest.fixture(scope="module")
def pool() -> Iterator[PoolEngine]:
    engine = PoolEngine(2)
    yield engine
    engine.close()


@pytest.fixture(params=["inline", "pool"])
def engine(request: pytest.FixtureRequest, pool: PoolEngine) -> Engine:
    return InlineEngine() if request.param == "inline" else pool


def test_results_come_in_order(engine: Engine) -> None:
    assert list(engine.map(square, range(40))) == [v * v for v in range(40)]
    assert list(engine.map(square, [])) == []


def test_few_items_are_in_flight(engine: Engine) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while True:  # endless: an engine that collected its items first would never return
            taken += 1
            yield taken

    results = engine.map(square, items())
    for k in range(1, 30):
        assert next(results) == k * k
        assert taken - k < 2 * engine.workers


def test_errors_of_a_function_reach_the_caller_whole(engine: Engine) -> None:
    results = engine.map(fail_on_three, range(6))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(PeerError) as caught:
        next(results)
    assert caught.value.code == "test.three"
    assert caught.value.remedy == "Take another."
    assert list(engine.map(square, [2])) == [4]


def test_a_worker_that_dies_is_an_error_and_the_next_call_has_new_ones() -> None:
    engine = PoolEngine(1)
    try:
        with pytest.raises(UsageError) as caught:
            list(engine.map(end_process, [1]))
        assert caught.value.code == "engine.worker_died"
        assert list(engine.map(square, [1, 2])) == [1, 4]
    finally:
        engine.close()


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_closing_does_not_wait_for_a_long_item_and_leaves_no_process() -> None:
    others = set(psutil.Process().children(recursive=True))
    engine = PoolEngine(2)
    results = engine.map(sleep, [0.0, *[60.0] * 6])
    assert next(results) == 0.0  # the others are at work now
    workers = set(psutil.Process().children(recursive=True)) - others
    started = time.monotonic()
    engine.close()
    assert time.monotonic() - started < 20
    with pytest.raises(UsageError):
        next(results)
    assert len(workers) >= 2
    assert not [w for w in workers if w.is_running() and "spawn_main" in " ".join(w.cmdline())]


def test_make_engine() -> None:
    assert isinstance(make_engine("inline", 7), InlineEngine)
    assert make_engine().workers == default_workers() == max(1, cores() - 1)
    made = make_engine("processes", 2)
    assert isinstance(made, PoolEngine)
    assert made.workers == 2
    made.close()
    for kind, workers, code in (("threads", 1, "kind"), ("processes", 0, "workers"), ("processes", 257, "workers")):
        with pytest.raises(UsageError) as caught:
            make_engine(kind, workers)
        assert caught.value.code == f"engine.{code}"


@pytest.mark.parametrize("kind", ["standard", "short-order"])
def test_encryption_and_decryption_are_the_same_bits(pool: PoolEngine, kind: KeyKind) -> None:
    plaintexts = [[1, 2, 3], [], [2**300], list(range(20))]
    inline = list(batches.encrypt(InlineEngine(), key(kind), plaintexts, stream("encrypt")))
    assert list(batches.encrypt(pool, key(kind), plaintexts, stream("encrypt"))) == inline
    pairs = [(batch, [5] * len(batch) if len(batch) != 1 else None) for batch in inline]
    hidden = list(batches.rerandomise(InlineEngine(), key(kind).public, pairs, stream("hide")))
    assert list(batches.rerandomise(pool, key(kind).public, pairs, stream("hide"))) == hidden
    expected = [[6, 7, 8], [], [2**300], list(range(5, 25))]
    for engine in (InlineEngine(), pool):
        assert list(batches.decrypt(engine, key(kind), hidden)) == expected


def test_products_are_the_same_bits(pool: PoolEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SHARD_ROWS", 20)
    matrix = np.random.default_rng(1).integers(0, 2**14, (70, 3))
    values = list(range(70))
    ciphertexts = next(iter(batches.encrypt(InlineEngine(), key(), [values], stream("vector"))))
    rows = [matrix[first : first + 12] for first in range(0, 70, 12)]
    pairs = [(ciphertexts[first : first + 12], matrix[first : first + 12]) for first in range(0, 70, 12)]
    columns, packed = [], []
    for engine in (InlineEngine(), pool):
        columns.append(batches.column_products(engine, key().public, pairs, columns=3, entry_bits=14, expected_rows=70))
        made = batches.row_products(engine, key().public, ciphertexts[:3], rows, entry_bits=14, shifts=[0, 100], expected_rows=70)
        packed.append([c for batch in made for c in batch])
    assert columns[0] == columns[1]
    assert packed[0] == packed[1]
    assert Decryptor(key()).decrypt(columns[0]) == (matrix.T @ np.array(values)).tolist()
    sums = (matrix @ np.array(values[:3])).tolist()
    assert Decryptor(key()).decrypt(packed[0]) == [a + (b << 100) for a, b in zip(sums[::2], sums[1::2], strict=True)]
    for engine in (InlineEngine(), pool):
        assert batches.column_products(engine, key().public, [], columns=2, entry_bits=14, expected_rows=0) == [1, 1]


def test_a_quota_bounds_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(base, "_QUOTA", quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda who: set(range(8)), raising=False)
    for text, expected in (("max 100000", 8), ("300000 100000", 3), ("50000 100000", 1), ("900000 100000", 8), ("", 8)):
        quota.write_text(text)
        assert cores() == expected
        assert default_workers() == max(1, expected - 1)


def aligned(engine: Engine, names: list[str]) -> Outcome:
    def half(role: Role) -> Callable[[MemoryChannel], Any]:
        drbg = Drbg(bytes([len(role)]) * 32, job="j", step="align")
        limits = replace(LIMITS, psi_batch=10)
        own = names if role == "label_holder" else [f"c{i}" for i in range(15, 60)]
        return lambda ch: align(ch, role=role, job="j", identifiers=own, minimum=1, drbg=drbg, limits=limits, engine=engine)

    return run_pair(half("label_holder"), half("feature_holder"))


def test_an_alignment_says_the_same_whatever_runs(pool: PoolEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "POINTS", 4)
    runs = [aligned(engine, [f"c{i}" for i in range(33)]) for engine in (InlineEngine(), pool)]
    assert runs[0].left_sent == runs[1].left_sent
    assert runs[0].right_sent == runs[1].right_sent
    for run in runs:
        left, right = run.results()
        assert sorted(left.rows) == list(range(15, 33))
        assert (left.rows - 15 == right.rows).all()


def test_an_identifier_that_is_no_text_ends_it_at_the_same_message(pool: PoolEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "POINTS", 4)
    runs = [aligned(engine, [*(f"c{i}" for i in range(40)), "\ud800"]) for engine in (InlineEngine(), pool)]
    for run in runs:
        assert isinstance(run.left_error, DataError)
    assert runs[0].left_sent == runs[1].left_sent


def test_dot_and_square_products_are_the_same_bits(pool: PoolEngine) -> None:
    ciphertexts = next(iter(batches.encrypt(InlineEngine(), key(), [list(range(1, 10))], stream("dots"))))
    matrix = np.arange(81).reshape(9, 9)
    matrix = matrix + matrix.T
    dots, squares = [], []
    for engine in (InlineEngine(), pool):
        dots.append(batches.dot_products(engine, key().public, [ciphertexts, ciphertexts[::-1]], list(range(9))))
        squares.append(batches.square_products(engine, key().public, ciphertexts, matrix, entry_bits=34, columns_at_once=5))
        assert batches.decrypt_all(engine, key(), ciphertexts * 3) == list(range(1, 10)) * 3
    assert dots[0] == dots[1]
    assert squares[0] == squares[1]
    vector = np.arange(1, 10)
    assert Decryptor(key()).decrypt(dots[0]) == [int(vector @ np.arange(9)), int(vector[::-1] @ np.arange(9))]
    assert Decryptor(key()).decrypt(squares[0]) == (matrix @ vector).tolist()


CHILD = """
import time
from node.crypto import oprf
from node.crypto.curve import inverse_scalar
from node.engine import filters
from node.engine import PoolEngine
if __name__ == "__main__":
    results = PoolEngine(1).map(time.sleep, [0, 60])
    print("first", next(results), flush=True)  # the worker has begun the second
    time.sleep(60)
"""


def test_busy_workers_do_not_outlive_a_killed_parent(tmp_path: object) -> None:
    script = os.path.join(str(tmp_path), "child.py")
    with open(script, "w") as file:
        file.write(CHILD)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "first None\n"
        workers = psutil.Process(parent.pid).children(recursive=True)
        assert workers
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 10
    while any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [w for w in workers if w.is_running() and w.status() != psutil.STATUS_ZOMBIE]


# ---- the curve operations of a published filter ---------------------------------------------------------------------------------


def test_curve_operations_are_the_same_on_every_engine(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "PIECE", 3)
    names, relation, scalar = [b"%d" % number for number in range(10)], "ab" * 32, b"k" * 32
    blind = b"b" * 32
    asked = filters.blind_all(engine, names, relation, blind)
    assert asked == oprf.blinded(names, relation, blind)
    answered = filters.multiply_all(engine, asked, scalar)
    values = filters.mask_all(engine, names, relation, scalar)
    assert values == oprf.masked(names, relation, scalar)
    assert filters.unblind_all(engine, answered, relation, inverse_scalar(blind)) == values
    with pytest.raises(PeerError) as caught:
        filters.multiply_all(engine, asked + bytes(32), scalar)
    assert caught.value.code == "psi.low_order_point"
