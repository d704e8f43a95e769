"""Rows beyond memory: chunks read as lists and arrays do, and a scratch file shows nothing, breaks loudly and leaves nothing."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import DataError
from node.runtime import spill
from node.runtime.spill import SpillingScratch
from node.scratch import MemoryScratch, Numbers, NumbersBuilder, Texts, TextsBuilder, packed, picked, pieces_of

CHUNK = 4
texts_of = st.lists(st.text(st.characters(exclude_categories=()), max_size=6), max_size=30)  # halves of surrogate pairs, too


def built(texts: list[str], cut: int = 3) -> object:
    builder = TextsBuilder(MemoryScratch(), chunk=CHUNK)
    for first in range(0, len(texts), cut):
        builder.extend(texts[first : first + cut])
        assert len(builder) == min(len(texts), first + cut)
    return builder.result()


@given(texts_of, st.integers(1, 11), st.data())
def test_texts_in_chunks_read_like_a_list(texts: list[str], cut: int, data: st.DataObject) -> None:
    found = built(texts, cut)
    assert isinstance(found, Texts) == (len(texts) > CHUNK)
    assert list(found) == texts  # type: ignore[call-overload]
    assert found == texts
    assert found != [*texts, ""]
    first, stop = data.draw(st.integers(-35, 35)), data.draw(st.integers(-35, 35))
    step = data.draw(st.sampled_from([None, 1, 2, -1]))
    assert found[first:stop:step] == texts[first:stop:step]  # type: ignore[index]
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=12)) if texts else []
    array = np.array(rows, dtype=np.int64)
    assert picked(found, array) == [texts[row] for row in rows]  # type: ignore[arg-type]
    for chosen, expected in ((array, [texts[row] for row in rows]), (None, texts)):
        values, ends = packed(found, chosen)  # type: ignore[arg-type]
        encoded = [text.encode("utf-8", "surrogatepass") for text in expected]
        assert values.tobytes() == b"".join(encoded)
        assert ends.tolist() == np.cumsum([len(item) for item in encoded]).tolist()
    bounds = [(first, min(first + 5, len(rows))) for first in range(0, len(rows), 5)]
    parts = pieces_of(found, array, bounds, chunk=3)  # type: ignore[arg-type]
    assert [text for part in parts for text in part] == [texts[row] for row in rows]


def test_texts_outside_their_range_are_refused() -> None:
    found = built(list("abcdefgh"))
    assert isinstance(found, Texts)
    assert (found[-1], found[-8]) == ("h", "a")
    for place in (8, -9):
        with pytest.raises(IndexError):
            found[place]
    assert "a" not in repr(found).replace("Texts", "").replace("texts", "")


@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=30), st.integers(1, 11), st.data())
def test_numbers_in_chunks_read_like_an_array(values: list[int], cut: int, data: st.DataObject) -> None:
    builder = NumbersBuilder(np.int32, MemoryScratch(), chunk=CHUNK)
    array = np.array(values, dtype=np.int32)
    for first in range(0, len(values), cut):
        builder.append(array[first : first + cut])
    found = builder.result()
    assert isinstance(found, Numbers) == (len(values) > CHUNK)
    assert len(found) == len(values)
    assert np.asarray(found).dtype == np.int32
    assert np.array_equal(np.asarray(found), array)
    first, stop = data.draw(st.integers(-35, 35)), data.draw(st.integers(-35, 35))
    step = data.draw(st.sampled_from([None, 1, 3, -2]))
    assert np.array_equal(found[first:stop:step], array[first:stop:step])
    assert [found[place] for place in range(-len(values), len(values))] == [*values, *values]
    with pytest.raises(IndexError):
        found[len(values)]
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))), dtype=bool)
    assert np.array_equal(found[chosen], array[chosen])
    for wrong in (-len(values) - 1, len(values)):
        with pytest.raises(IndexError):
            found[np.array([wrong])]
    rows = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=12)) if values else []
    assert np.array_equal(found[np.array(rows, dtype=np.int64)], array[rows] if rows else array[:0])


def test_what_passes_the_bound_goes_to_a_file_that_shows_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    with SpillingScratch(folder, memory_bytes=100) as scratch:
        small = scratch.put(b"s" * 60)
        assert not folder.exists()
        pieces = [scratch.put(bytes([65 + number]) * 1000) for number in range(5)]
        assert [piece.read() for piece in pieces] == [bytes([65 + number]) * 1000 for number in range(5)]
        assert small.read() == b"s" * 60
        assert scratch.bytes_on_disk >= 5000
        assert list(folder.iterdir()) == [], "the file has a name"
        assert folder.stat().st_mode & 0o077 == 0
        handle = scratch._file.fileno()  # type: ignore[union-attr]
        held = os.pread(handle, 10**6, 0)
        assert all(bytes([65 + number]) * 8 not in held for number in range(5))
        assert "A" not in repr(pieces[0]).replace("Piece", "")
    with pytest.raises(DataError) as caught:
        pieces[0].read()
    assert caught.value.code == "state.scratch"
    with pytest.raises(DataError):
        scratch.put(b"x" * 200)


def test_memory_comes_back_with_the_last_reference(tmp_path: Path) -> None:
    with SpillingScratch(tmp_path, memory_bytes=100) as scratch:
        for _ in range(50):
            piece = scratch.put(b"x" * 80)
            del piece  # no cycle holds it, so it goes at once
        assert scratch.bytes_on_disk == 0


def test_a_changed_or_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SpillingScratch(tmp_path, memory_bytes=0) as scratch:
        piece = scratch.put(b"y" * 100)
        os.pwrite(scratch._file.fileno(), b"\0", 50)  # type: ignore[union-attr]
        with pytest.raises(DataError) as caught:
            piece.read()
        assert caught.value.code == "state.scratch"

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(spill.os, "pwrite", full)
        with pytest.raises(DataError, match="No space left on device") as caught:
            scratch.put(b"z")
        assert caught.value.code == "state.scratch"
        assert str(tmp_path) in caught.value.message


def test_the_same_bytes_look_different_each_time(tmp_path: Path) -> None:
    with SpillingScratch(tmp_path, memory_bytes=0) as scratch:
        scratch.put(b"y" * 100)
        scratch.put(b"y" * 100)
        held = os.pread(scratch._file.fileno(), 1000, 0)  # type: ignore[union-attr]
    assert held[:100] != held[len(held) // 2 :][:100]
