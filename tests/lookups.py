"""Lookups over the fake link, as tests run them: holders from a trusted dealer, example tables, and what was on the wire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from node.limits import LIMITS, Limits
from node.protocols.lookup import IndexHolder, TableHolder, fetch_entries, serve_tables
from protos.peer_pb2 import LookupTables
from tests.pair import Outcome, run_pair

SMALL = replace(LIMITS, lookup_batch=50)


def holders(seed: int = 1) -> tuple[TableHolder, IndexHolder]:
    """Base transfers as a trusted dealer would make them."""
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 256, (2, 128, 16), dtype=np.uint8)
    choices = rng.integers(0, 2, 128, dtype=np.uint8)
    return TableHolder(choices, keys[choices, np.arange(128)].copy()), IndexHolder(keys)


def run_lookup(
    tables: np.ndarray,
    indices: np.ndarray,
    *,
    pair: tuple[TableHolder, IndexHolder] | None = None,
    session: int = 1,
    limits: Limits = SMALL,
    message: Any = LookupTables,
    timeout: float = 20,
    **tamper: Any,
) -> Outcome:
    table_holder, index_holder = pair or holders()
    rows, entries = tables.shape
    common: dict[str, Any] = {"session": session, "entries": entries, "width": tables.dtype.itemsize, "message": message}
    common["limits"] = limits
    return run_pair(
        lambda ch: serve_tables(ch, table_holder, rows=rows, tables=lambda first, count: tables[first : first + count], **common),
        lambda ch: fetch_entries(ch, index_holder, indices=indices, **common),
        timeout=timeout,
        **tamper,
    )


def example(rows: int, entries: int = 16, dtype: str = "u8", seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    tables = rng.integers(0, np.iinfo(dtype).max, (rows, entries), dtype=dtype, endpoint=True)
    return tables, rng.integers(0, entries, rows)


def values(sent: list[tuple[str, bytes]], kind: type[Any]) -> bytes:
    """The ``values`` of all messages of a kind, one after the other."""
    parts = []
    for name, payload in sent:
        if name == kind.DESCRIPTOR.name:
            message = kind()
            message.ParseFromString(payload)
            parts.append(message.values)
    return b"".join(parts)


def changed(kind: type[Any], change: dict[str, Any], at: int = 0) -> Callable[[int, str, bytes], list[tuple[str, bytes]]]:
    """A link on which message ``at`` of one side arrives with other fields."""

    def tamper(index: int, name: str, payload: bytes) -> list[tuple[str, bytes]]:
        if index != at:
            return [(name, payload)]
        message = kind()
        message.ParseFromString(payload)
        for field, value in change.items():
            setattr(message, field, value)
        return [(name, message.SerializeToString())]

    return tamper
