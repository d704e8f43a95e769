"""Loading a table: types, missing values, duplicates, labels; each bad input by its code, column and row, never by its value."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from node.config import DatasetConfig
from node.data.load import Table, load_table
from node.data.report import examine
from node.errors import DataError

COLUMNS = {"amount": {"kind": "number"}, "region": {"kind": "category"}, "default": {"kind": "label"}}


def declare(path: Path, columns: dict[str, Any] | None = None, **changes: Any) -> DatasetConfig:
    document: dict[str, Any] = {
        "name": "cards",
        "source": "csv",
        "path": str(path),
        "identifier": "id",
        "columns": columns or COLUMNS,
    }
    return DatasetConfig.model_validate(document | changes)


def csv(folder: Path, text: str, columns: dict[str, Any] | None = None, **changes: Any) -> DatasetConfig:
    path = folder / "cards.csv"
    path.write_text(text)
    return declare(path, columns, **changes)


def load(dataset: DatasetConfig, features: list[str] | None = None, label: str | None = "default") -> Table:
    return load_table(
        dataset, features=dataset.features if features is None else features, label=label, normalise=dataset.normalise
    )


GOOD = "id,unused,amount,region,default\n007,secret,1.5,north,1\nB2,secret, -2e3 ,south,0\nb3,secret,+3,north,1\n"


def test_columns_arrive_as_declared(tmp_path: Path) -> None:
    table = load(csv(tmp_path, GOOD))
    assert table.identifiers == ["007", "b2", "b3"]
    assert table.raw_identifiers == ["007", "B2", "b3"]
    assert table.columns["amount"].dtype == np.float64
    assert table.columns["amount"].tolist() == [1.5, -2000.0, 3.0]
    assert [table.levels["region"][code] for code in table.columns["region"]] == ["north", "south", "north"]
    assert table.label is not None
    assert (table.label.dtype, table.label.tolist()) == (np.int8, [1, 0, 1])
    assert (table.rows_read, table.duplicates) == (3, 0)
    assert set(table.columns) == {"amount", "region"}


def test_representation_shows_no_data(tmp_path: Path) -> None:
    shown = repr(load(csv(tmp_path, GOOD.replace("1.5", "424242"))))
    for value in ("007", "424242", "north"):
        assert value not in shown


def test_bom_quotes_line_breaks_and_other_delimiter(tmp_path: Path) -> None:
    text = '\ufeff"id";"amount";region;default\r\n"a";1;"north;\neast";1\r\nb;2;south;0\r\n'
    table = load(csv(tmp_path, text, delimiter=";"))
    assert table.identifiers == ["a", "b"]
    assert table.levels["region"] == ["north;\neast", "south"]


def test_first_row_of_duplicates_is_kept(tmp_path: Path) -> None:
    text = "id,amount,region,default\nA,1,n,1\na ,2,s,0\nb,3,s,0\nB,4,n,1\n"
    table = load(csv(tmp_path, text, duplicates="first"))
    assert table.identifiers == ["a", "b"]
    assert table.columns["amount"].tolist() == [1.0, 3.0]
    assert table.label is not None
    assert table.label.tolist() == [1, 0]
    assert (table.duplicates, table.rows_read) == (2, 4)


def test_duplicates_across_batches(tmp_path: Path) -> None:
    path = tmp_path / "cards.parquet"
    rows = 70_000  # more than one batch
    numbers = np.arange(rows)
    pq.write_table(pa.table({"id": numbers % 60_000, "amount": numbers.astype(float), "default": numbers % 2}), path)
    table = load(declare(path, source="parquet", duplicates="first"), features=["amount"])
    assert (len(table.identifiers), table.duplicates) == (60_000, 10_000)
    assert np.array_equal(table.columns["amount"], np.arange(60_000.0))


@pytest.mark.parametrize(
    ("one", "zero"),
    [("1", "0"), ("1.0", "0.0"), ("true", "false"), ("TRUE", "FALSE"), (" 1", "0 "), ("t", "f"), ("1", "-1"), ("1", "2")],
)
def test_label_writings(one: str, zero: str, tmp_path: Path) -> None:
    table = load(csv(tmp_path, f"id,default\na,{one}\nb,{zero}\nc,{one}\n"), features=[])
    assert table.label is not None
    assert table.label.tolist() == [1, 0, 1]


def test_declared_positive(tmp_path: Path) -> None:
    columns = {"default": {"kind": "label", "positive": "Bad"}}
    table = load(csv(tmp_path, "id,default\na,bad\nb,good\n", columns), features=[])
    assert table.label is not None
    assert table.label.tolist() == [1, 0]


HEADER = "id,amount,region,default\n"
BAD = {
    "empty identifier": (HEADER + "a,1,n,1\n,2,s,0\n", "data.empty_identifier", "row 2"),
    "blank identifier": (HEADER + "a,1,n,1\n  ,2,s,0\n", "data.empty_identifier", "row 2"),
    "same identifier": (HEADER + "SECRET,1,n,1\nb,2,s,0\nsecret ,2,s,0\n", "data.duplicate_identifiers", "row 3"),
    "first of several": (HEADER + "SECRET,1,n,1\nSECRET,2,s,0\n,2,s,0\n", "data.duplicate_identifiers", "row 2"),
    "another first of several": (HEADER + "a,1,n,1\n,2,s,0\na,2,s,0\n", "data.empty_identifier", "row 2"),
    "not a number": (HEADER + "a,1,n,1\nb,2,n,0\nc,SECRET,s,0\n", "data.not_a_number", "row 3"),
    "decimal comma": (HEADER + 'a,1,n,1\nb,"2,5",s,0\n', "data.not_a_number", "row 2"),
    "empty number": (HEADER + "a,1,n,1\nb,,s,0\n", "data.missing_value", "row 2"),
    "NaN": (HEADER + "a,NaN,n,1\nb,2,s,0\n", "data.missing_value", "row 1"),
    "NA": (HEADER + "a,NA,n,1\nb,2,s,0\n", "data.missing_value", "row 1"),
    "infinity": (HEADER + "a,1,n,1\nb,-inf,s,0\n", "data.missing_value", "row 2"),
    "empty category": (HEADER + "a,1,,1\nb,2,s,0\n", "data.missing_value", "row 1"),
    "empty label": (HEADER + "a,1,n,1\nb,2,s,\n", "data.missing_value", "row 2"),
    "three labels": (HEADER + "a,1,n,1\nb,2,s,0\nc,3,s,SECRET\n", "data.label_not_two_valued", "3 different values"),
    "one label": (HEADER + "a,1,n,1\nb,2,s,1\n", "data.label_not_two_valued", "1 different values"),
    "unknown positive": (HEADER + "a,1,n,SECRET\nb,2,s,no\n", "data.label_positive_unknown", "default"),
    "missing column": ("id,amont,region,default\na,1,n,1\n", "data.missing_column", "Did you mean 'amont'"),
    "missing identifier column": ("ID,amount,region,default\na,1,n,1\n", "data.missing_column", "Did you mean 'ID'"),
    "column twice": ("id,amount,amount,region,default\na,1,1,n,1\n", "data.duplicate_column", "'amount'"),
    "long row": (HEADER + "a,1,n,1\nb,SECRET,s,0,0\n", "data.malformed_row", "Row 2"),
    "short row": (HEADER + "a,1,n,1\nb,SECRET\n", "data.malformed_row", "Row 2"),
    "header alone": (HEADER, "data.no_rows", "no rows"),
    "empty file": ("", "data.no_rows", "is empty"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_input(case: str, tmp_path: Path) -> None:
    text, code, named = BAD[case]
    with pytest.raises(DataError) as caught:
        load(csv(tmp_path, text))
    error = caught.value
    assert error.code == code
    assert named in error.message
    assert error.remedy
    assert "cards" in error.message
    assert "SECRET" not in str(error)
    assert error.__suppress_context__ or error.__context__ is None


@pytest.mark.parametrize(("delimiter", "written"), [(";", '";"'), ("\t", r'"\t"')])
def test_another_delimiter_than_declared_is_named(tmp_path: Path, delimiter: str, written: str) -> None:
    text = GOOD.replace(",", delimiter)
    with pytest.raises(DataError) as caught:
        load(csv(tmp_path, text))
    assert caught.value.code == "data.missing_column"
    assert f"delimiter = {written}" in caught.value.remedy


def test_bad_row_far_into_the_file(tmp_path: Path) -> None:
    rows = [f"c{i},{i},n,{i % 2}" for i in range(300_000)]
    rows[271_828] = "c,SECRET,n,1"
    with pytest.raises(DataError, match="row 271829"):
        load(csv(tmp_path, HEADER + "\n".join(rows) + "\n"))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for source in ("csv", "parquet"):
        with pytest.raises(DataError) as caught:
            load(declare(tmp_path / "absent", source=source))
        assert caught.value.code == "data.missing_file"
        with pytest.raises(DataError) as caught:
            load(declare(tmp_path, source=source))
        assert caught.value.code == "data.unreadable"


def test_not_utf8_and_not_parquet(tmp_path: Path) -> None:
    path = tmp_path / "cards.csv"
    path.write_bytes(HEADER.encode() + b"a,1,S\xc3O,1\nb,2,s,0\n")
    with pytest.raises(DataError) as caught:
        load(declare(path))
    assert caught.value.code == "data.not_utf8"
    with pytest.raises(DataError) as caught:
        load(declare(path, source="parquet"))
    assert caught.value.code == "data.unreadable"


def test_declared_imputation_leaves_gaps_for_later(tmp_path: Path) -> None:
    columns = COLUMNS | {"amount": {"kind": "number", "missing": "mean"}, "region": {"kind": "category", "missing": "unknown"}}
    table = load(csv(tmp_path, HEADER + "a,,n,1\nb,inf,,0\nc,3,s,0\n", columns))
    assert np.isnan(table.columns["amount"]).tolist() == [True, True, False]
    assert [table.levels["region"][code] for code in table.columns["region"]] == ["n", "unknown", "s"]


def test_refused_identifier_names_row_and_rule(tmp_path: Path) -> None:
    dataset = csv(tmp_path, HEADER + "a@b,1,n,1\nSECRET,2,s,0\n", normalise="email")
    with pytest.raises(DataError, match="row 2") as caught:
        load(dataset)
    assert caught.value.code == "data.unfit_identifier"
    assert "SECRET" not in str(caught.value)


def test_too_many_rows(tmp_path: Path) -> None:
    dataset = csv(tmp_path, GOOD)
    with pytest.raises(DataError) as caught:
        load_table(dataset, features=[], label=None, normalise="casefold", most_rows=2)
    assert caught.value.code == "data.too_many_rows"


def test_undeclared_column_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(csv(tmp_path, GOOD), features=["unused"])
    assert caught.value.code == "data.missing_column"


def parquet(folder: Path, columns: dict[str, Any]) -> DatasetConfig:
    path = folder / "cards.parquet"
    pq.write_table(pa.table(columns), path)
    return declare(path, source="parquet")


def test_parquet_types(tmp_path: Path) -> None:
    dataset = parquet(
        tmp_path,
        {
            "id": pa.array(["01", "02", "03"]).dictionary_encode(),
            "amount": pa.array([Decimal("1.50"), Decimal("2.25"), Decimal("3.00")]),
            "region": pa.array([1, 2, 1]),
            "default": pa.array([True, False, True]),
        },
    )
    table = load(dataset)
    assert table.identifiers == ["01", "02", "03"]
    assert table.columns["amount"].tolist() == [1.5, 2.25, 3.0]
    assert table.levels["region"] == ["1", "2"]
    assert table.label is not None
    assert table.label.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("column", "values", "code"),
    [
        ("id", pa.array([1.0, 2.0]), "data.identifier_type"),
        ("id", pa.array(["a", None]), "data.empty_identifier"),
        ("amount", pa.array([1.0, None]), "data.missing_value"),
        ("amount", pa.array([float("nan"), 1.0]), "data.missing_value"),
        ("amount", pa.array([1, 2], pa.timestamp("s")), "data.not_a_number"),
        ("amount", pa.array([None, None]), "data.missing_value"),
        ("region", pa.array([["a"], ["b"]]), "data.column_type"),
        ("default", pa.array([0.0, None]), "data.missing_value"),
    ],
)
def test_bad_parquet(column: str, values: pa.Array, code: str, tmp_path: Path) -> None:
    columns = {"id": pa.array(["a", "b"]), "amount": pa.array([1, 2]), "region": pa.array(["n", "s"]), "default": pa.array([0, 1])}
    with pytest.raises(DataError) as caught:
        load(parquet(tmp_path, columns | {column: values}))
    assert caught.value.code == code


def test_report_lists_every_problem_at_once(tmp_path: Path) -> None:
    columns = COLUMNS | {"other": {"kind": "number"}, "same": {"kind": "number"}}
    text = "id,amount,region,default,same\na,x,n,1,5\na,2,,0,5\nb,3,s,2,5\n"
    report = examine(csv(tmp_path, text, columns))
    assert (report.rows, report.customers, report.duplicates) == (3, 2, 1)
    assert {problem.code: problem.grave for problem in report.problems} == {
        "data.not_a_number": True,
        "data.missing_value": True,
        "data.missing_column": True,
        "data.label_not_two_valued": True,
        "data.constant_column": False,
        "data.duplicate_identifiers": True,
    }


def test_report_of_a_good_and_of_an_absent_source(tmp_path: Path) -> None:
    assert examine(csv(tmp_path, GOOD)).problems == []
    report = examine(declare(tmp_path / "absent.csv"))
    assert not report.readable
    assert [problem.code for problem in report.problems] == ["data.missing_file"]
