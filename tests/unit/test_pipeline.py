"""Batches sent ahead of what is received: a fixed order, bounded links, the same messages."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from node.crypto.drbg import Drbg
from node.crypto.paillier_keys import generate_key
from node.engine import Engine, InlineEngine, PoolEngine
from node.limits import LIMITS
from node.protocols.batches import ahead
from node.protocols.channel import silent
from node.protocols.masked_product import JobKeys, exchange_column_products, exchange_row_products
from node.protocols.scales import column_layout, score_layout
from tests.pair import MemoryChannel, run_pair

ROWS, COLUMNS = 480, 3
KEYS = [generate_key(512, Drbg(bytes([i]) * 32, job="j", step="k").stream("key")) for i in (1, 2)]


@pytest.mark.parametrize(
    ("steps", "distance", "said"),
    [(4, 2, "s0 s1 r0 s2 r1 s3 r2 r3"), (2, 8, "s0 s1 r0 r1"), (3, 1, "s0 r0 s1 r1 s2 r2"), (0, 2, "")],
)
def test_the_order(steps: int, distance: int, said: str) -> None:
    order: list[str] = []
    received = ahead(steps, distance, lambda k: order.append(f"s{k}"), lambda k: order.append(f"r{k}") or k)  # type: ignore[func-returns-value]
    assert list(received) == list(range(steps))
    assert " ".join(order) == said


@pytest.mark.parametrize("distance", [1, 2, 5])
def test_a_link_that_holds_as_many_messages_cannot_deadlock(distance: int) -> None:
    """Both sides at once, over links that block when full; one that holds fewer does deadlock: the bound is met."""

    def run(room: int) -> int:
        links = queue.Queue[int](room), queue.Queue[int](room)
        through: list[int] = []

        def side(i: int) -> None:
            try:
                for got in ahead(40, distance, lambda k: links[i].put(k, timeout=0.2), lambda k: links[1 - i].get(timeout=0.4)):
                    through.append(got)
            except (queue.Full, queue.Empty):
                return

        threads = [threading.Thread(target=side, args=(i,)) for i in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(through)

    assert run(distance) == 80
    if distance > 1:
        assert run(distance - 1) < 80


def test_a_session_holds_what_is_sent_ahead() -> None:
    largest = LIMITS.ciphertext_batch * LIMITS.key_bits_max // 4 + 64
    assert LIMITS.batches_ahead * largest < LIMITS.window_bytes
    assert LIMITS.batches_ahead * -(-largest // LIMITS.chunk_bytes) < LIMITS.window_frames


class Noting(MemoryChannel):
    """Also writes down what happens in which order."""

    def __init__(self, under: MemoryChannel, order: list[tuple[str, str]]) -> None:
        super().__init__(under.out, under.into, under.timeout)
        self.order = order

    def send(self, message: Any) -> None:
        self.order.append(("sent", message.DESCRIPTOR.name))
        super().send(message)

    def recv(self, kind: Any) -> Any:
        received = super().recv(kind)
        self.order.append(("received", kind.DESCRIPTOR.name))
        return received


def exchange(engine: Engine, batches_ahead: int) -> tuple[list[list[tuple[str, str]]], list[Any], list[Any]]:
    """Column and row products of both sides: the order of events, every message sent, the results."""
    limits = replace(LIMITS, ciphertext_batch=2, batches_ahead=batches_ahead)
    columns = column_layout(plaintext_bits=510, rows=ROWS, slots=1)
    scores = score_layout(plaintext_bits=510, columns=COLUMNS, slots=1, ring_bits=40)
    orders: list[list[tuple[str, str]]] = [[], []]

    def half(side: int) -> Callable[[MemoryChannel], Any]:
        random = np.random.default_rng(side)
        common: dict[str, Any] = {
            "keys": JobKeys.of(KEYS[side], KEYS[1 - side].public),
            "matrix": random.integers(-8191, 8191, (ROWS, COLUMNS), dtype=np.int32),
            "drbg": Drbg(bytes([side]) * 32, job="j", step="p"),
            "engine": engine,
            "limits": limits,
            "progress": silent,
        }
        masks = random.integers(0, 2**63, (1, ROWS), dtype=np.uint64)

        def run(ch: MemoryChannel) -> Any:
            noting = Noting(ch, orders[side])
            first = exchange_column_products(noting, masks=masks, peer_columns=COLUMNS, layout=columns, **common)
            second = exchange_row_products(noting, masks=[[1, 2, 3]], layout=scores, peer_layout=scores, **common)
            return first, [part.tolist() for part in second]

        return run

    outcome = run_pair(half(0), half(1))
    return orders, [outcome.left_sent, outcome.right_sent], list(outcome.results())


def test_the_messages_do_not_depend_on_how_far_ahead_or_on_workers() -> None:
    pool = PoolEngine(2)
    try:
        (order, sent, results), (_, lockstep, same), (pooled, by_pool, too) = (
            exchange(InlineEngine(), 4),
            exchange(InlineEngine(), 1),
            exchange(pool, 4),
        )
    finally:
        pool.close()
    assert sent == lockstep == by_pool
    assert results == same == too
    assert order == pooled, "what is sent and received when depends on nothing but the protocol"
    for side in order:
        for kind in ("ColumnMasks", "RowProducts"):
            events = [what for what, name in side if name == kind]
            assert events[:6] == ["sent"] * 4 + ["received", "sent"]
            unread = [events[:place].count("sent") - events[:place].count("received") for place in range(len(events))]
            assert max(unread) == 4
