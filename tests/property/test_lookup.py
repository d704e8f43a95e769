"""Lookup against plain indexing, for every width and size of table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from node.limits import LIMITS
from node.protocols.lookup import fetch_entries, serve_tables
from protos.peer_pb2 import LookupTables
from tests.lookups import holders
from tests.pair import run_pair


@settings(max_examples=150, deadline=None)
@given(
    bits=st.integers(1, 8),
    width=st.sampled_from([1, 2, 4, 8]),
    rows=st.integers(0, 90),
    batch=st.integers(1, 100),
    session=st.integers(0, 2**32 - 1),
    index_type=st.sampled_from(["u1", "i2", "u4", "i8", "u8"]),
    order=st.sampled_from(["<", ">"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_entries_are_those_of_the_table(
    bits: int, width: int, rows: int, batch: int, session: int, index_type: str, order: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    entries = 1 << bits
    tables = rng.integers(0, 256, (rows, entries * width), dtype=np.uint8).view(f"{order}u{width}")
    # Words that repeat and words of one bit, so that a mask of too few bits would show.
    tables[rng.random(tables.shape) < 0.2] = 1 << (8 * width - 1)
    indices = rng.integers(0, entries, rows).astype(index_type)
    table_holder, index_holder = holders(seed)
    common: dict[str, Any] = {
        "session": session,
        "entries": entries,
        "width": width,
        "message": LookupTables,
        "limits": replace(LIMITS, lookup_batch=batch),
    }
    _, got = run_pair(
        lambda ch: serve_tables(ch, table_holder, rows=rows, tables=lambda f, c: tables[f : f + c], **common),
        lambda ch: fetch_entries(ch, index_holder, indices=indices, **common),
        timeout=20,
    ).results()
    assert got.dtype.itemsize == width
    assert got.tolist() == [int(tables[row, int(index)]) for row, index in enumerate(indices)]
