"""A data set of several chunks: loaded, committed to, kept, encoded and given back as one that fits into memory, at less memory."""

from __future__ import annotations

import csv
import io
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from node.config import ColumnConfig, DatasetConfig, KeyConfig
from node.data.commitment import dataset_root
from node.data.encoding import encode
from node.data.load import Table, load_table
from node.errors import DataError
from node.runtime.files import JobFiles, texts_to_arrays
from node.runtime.kept import read_table, table_name, write_table
from node.runtime.members import members_writer, write_csv
from node.runtime.spill import SpillingScratch
from node.scratch import CHUNK_ROWS, Numbers, Scratch, Texts

ROWS = 2 * CHUNK_ROWS + 4321
COLUMNS = {"x": ColumnConfig(kind="number"), "g": ColumnConfig(kind="category"), "y": ColumnConfig(kind="label")}
SALT = bytes(range(32))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> DatasetConfig:
    rng = np.random.default_rng(7)
    numbers = rng.permutation(10 * ROWS)[:ROWS]
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    columns = {
        "id": [f"Kunde-{number}" for number in numbers.tolist()],
        "mail": [f"m{number % 1000}@x.de" if number % 3 else "" for number in numbers.tolist()],
        "x": rng.standard_normal(ROWS),
        "g": [("a", "b", "ç")[number % 3] for number in numbers.tolist()],
        "y": (numbers % 2).astype(str).tolist(),
    }
    pq.write_table(pa.table(columns), path)
    keys = {"mail": KeyConfig(column="mail", normalise="email", missing="skip", duplicates="none")}
    return DatasetConfig(name="d", source="parquet", path=str(path), identifier="id", columns=COLUMNS, keys=keys)


def load(source: DatasetConfig, scratch: Scratch | None = None, **more: object) -> Table:
    return load_table(source, features=["x", "g"], label="y", normalise="casefold", scratch=scratch, **more)  # type: ignore[arg-type]


def plain(table: Table) -> Table:
    """The same as lists and arrays."""
    return replace(
        table,
        identifiers=list(table.identifiers),
        raw_identifiers=list(table.raw_identifiers),
        columns={name: np.asarray(column) for name, column in table.columns.items()},
        keys=[list(key) for key in table.keys],
        raw_keys=[list(key) for key in table.raw_keys],
    )


def test_all_that_is_made_of_it_is_the_same(source: DatasetConfig, tmp_path: Path) -> None:
    with SpillingScratch(tmp_path / "scratch", memory_bytes=2**20) as scratch:
        table = load(source, scratch)
        assert scratch.bytes_on_disk > 2**20
        assert isinstance(table.identifiers, Texts)
        assert isinstance(table.columns["x"], Numbers)
        whole = plain(table)
        file = pq.read_table(source.path).to_pydict()
        assert whole.raw_identifiers == file["id"]
        assert whole.identifiers == [name.lower() for name in file["id"]]
        assert whole.columns["x"].tolist() == file["x"]
        assert [table.levels["g"][code] for code in whole.columns["g"].tolist()] == file["g"]
        assert table.label is not None
        assert table.label.tolist() == [int(label) for label in file["y"]]
        roots = {dataset_root(one, ["x", "g"], COLUMNS, salt=SALT) for one in (table, whole)}
        assert len(roots) == 1
        rows = np.random.default_rng(8).permutation(ROWS)[: ROWS // 2]
        holdout = np.arange(len(rows)) % 5 == 0
        encoded, other = (encode(one, rows=rows, holdout=holdout, features=["x", "g"], config=source) for one in (table, whole))
        assert encoded.columns == other.columns
        assert encoded.train.tobytes() == other.train.tobytes()
        arrays, others = (texts_to_arrays(one.raw_identifiers, rows) for one in (table, whole))
        assert {name: value.tobytes() for name, value in arrays.items()} == {
            name: value.tobytes() for name, value in others.items()
        }
        files = JobFiles(tmp_path / "kept")
        write_table(files, 1, table, ["x", "g"], COLUMNS)
        write_table(files, 2, whole, ["x", "g"], COLUMNS)
        one, two = (files.folder / table_name(attempt) for attempt in (1, 2))
        assert one.samefile(two), "the same data set is kept twice"
        back, declared = read_table(files, 2, ["x", "g"], "casefold", (), scratch)
        assert declared == COLUMNS
        assert dataset_root(back, ["x", "g"], COLUMNS, salt=SALT) in roots
        assert back.identifiers == table.identifiers


def test_repeats_are_found_across_chunks(source: DatasetConfig, tmp_path: Path) -> None:
    file = pq.read_table(source.path)
    path = tmp_path / "twice.parquet"
    pq.write_table(pa.concat_tables([file, file.slice(3, 2)]), path)
    twice = source.model_copy(update={"path": str(path)})
    with pytest.raises(DataError) as caught:
        load(twice)
    assert caught.value.code == "data.duplicate_identifiers"
    assert f"row {ROWS + 1} " in caught.value.message
    table = load(twice.model_copy(update={"duplicates": "first"}))
    assert (len(table.identifiers), table.duplicates, len(table.columns["x"])) == (ROWS, 2, ROWS)
    assert dataset_root(table, ["x", "g"], COLUMNS, salt=SALT) == dataset_root(load(source), ["x", "g"], COLUMNS, salt=SALT)


def test_a_key_value_that_many_have_counts_for_none_of_them(source: DatasetConfig) -> None:
    table = load(source, keys=["mail"])
    mails = pq.read_table(source.path)["mail"].to_pylist()
    times = {mail: mails.count(mail) for mail in set(mails[:50])}
    assert max(times.values()) > 1
    found = list(table.keys[0])
    assert len(found) == ROWS
    assert all(not value for value, mail in zip(found[:50], mails[:50], strict=True) if times[mail] > 1)
    assert [bool(value) for value in table.raw_keys[0]] == [bool(value) for value in found]


def test_members_stream_to_csv_and_parquet(tmp_path: Path) -> None:
    count = CHUNK_ROWS + 3
    names = ['a,"b"', "é\n", *(f"c{number}" for number in range(count - 2))]
    train, holdout = np.arange(count) % 3 == 0, np.arange(count) % 3 == 1
    aligned = {"train": train, "holdout": holdout, **texts_to_arrays(names)}
    splits = [("train", "holdout", "unused")[place % 3] for place in range(count)]
    expected = [[name, str(place), split] for place, (name, split) in enumerate(zip(names, splits, strict=True))]
    text = io.BytesIO()
    write_csv(aligned, text)
    lines = list(csv.reader(io.StringIO(text.getvalue().decode(), newline="")))
    assert lines == [["identifier", "position", "split"], *expected]
    for name in ("m.parquet", "M.PARQUET"):
        with (tmp_path / name).open("wb") as file:
            members_writer(tmp_path / name)(aligned, file)
    table = pq.read_table(tmp_path / "m.parquet")
    assert table.column_names == ["identifier", "position", "split"]
    assert [list(map(str, row.values())) for row in table.to_pylist()] == expected
    empty = {"train": train[:0], "holdout": holdout[:0], **texts_to_arrays([])}
    with (tmp_path / "e.csv").open("wb") as file:
        members_writer(tmp_path / "e.csv")(empty, file)
    assert (tmp_path / "e.csv").read_text() == "identifier,position,split\n"
    with (tmp_path / "e.parquet").open("wb") as file:
        members_writer(tmp_path / "e.parquet")(empty, file)
    assert pq.read_table(tmp_path / "e.parquet").num_rows == 0


def test_loading_takes_less_memory_than_the_rows(source: DatasetConfig, tmp_path: Path) -> None:
    """Twenty-four columns of the chunks' rows would take 27 MB; with a scratch of 1 MB they may not."""
    path = tmp_path / "wide.parquet"
    rng = np.random.default_rng(9)
    names = [f"x{number}" for number in range(24)]
    ids = [f"id{number}" for number in range(ROWS)]
    pq.write_table(pa.table({"id": ids, **{name: rng.standard_normal(ROWS) for name in names}}), path, row_group_size=CHUNK_ROWS)
    del ids
    columns = {name: ColumnConfig(kind="number") for name in names}
    wide = DatasetConfig(name="w", source="parquet", path=str(path), identifier="id", columns=columns)
    held = {}
    for bound in (2**20, 2**30):
        with SpillingScratch(tmp_path / "scratch", memory_bytes=bound) as scratch:
            tracemalloc.start()
            table = load_table(wide, features=names, label=None, normalise="exact", scratch=scratch)
            held[bound] = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            assert len(table.columns["x23"]) == ROWS
    assert held[2**30] > 8 * 24 * ROWS
    assert held[2**20] < 8 * 24 * ROWS / 4
