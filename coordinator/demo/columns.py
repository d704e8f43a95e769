"""Reading the demo's files and understanding their columns, without the node's code: an oracle must not share what it checks.

A CSV cell is text until a column is declared; a Parquet column keeps its type.  A number may be missing (an empty cell, or one of
``MISSING_TEXTS``), a category is its trimmed text, a label has two values of which one counts as 1.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from numpy.typing import NDArray

from audit.errors import DataError, UsageError

MISSING_TEXTS = ("", "na", "n/a", "null", "nan", "none")
RARE_ROWS = 10
"""Categories with fewer training rows than this are joined as ``other``: the rule by which a node encodes categories."""

Floats = NDArray[np.float64]


def source_of(path: Path) -> Literal["csv", "parquet"]:
    """What kind of file it is, by its ending.

    Raises:
        UsageError: ``demo.file_type``.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return "csv"
    if suffix in (".parquet", ".pq"):
        return "parquet"
    raise UsageError(
        "demo.file_type",
        f"{path.name} ends in {suffix or 'nothing'}; the demo reads .csv, .parquet and .pq.",
        remedy="Convert the file, or rename it when it is one of these.",
    )


def read_table(path: Path) -> pa.Table:
    """The whole file; every column of a CSV file as text.

    Raises:
        UsageError: ``demo.file_missing``, ``demo.file_type``.
        DataError: ``demo.file_unreadable``.
    """
    source = source_of(path)
    if not path.is_file():
        raise UsageError("demo.file_missing", f"There is no file {path}.", remedy="Check the path.")
    try:
        if source == "parquet":
            return pa_parquet.read_table(path)
        with pa_csv.open_csv(path) as reader:
            texts = {name: pa.string() for name in reader.schema.names}
        convert = pa_csv.ConvertOptions(column_types=texts, strings_can_be_null=False)
        return pa_csv.read_csv(path, parse_options=pa_csv.ParseOptions(newlines_in_values=True), convert_options=convert)
    except (pa.ArrowInvalid, OSError):
        # Arrow's own text may quote cells, so it is not shown.
        raise DataError(
            "demo.file_unreadable",
            f"{path.name} cannot be read as {source}.",
            remedy="Check that it is a whole file: UTF-8, a header line, the same number of cells in every line.",
        ) from None


def need_column(table: pa.Table, path: Path, column: str, option: str) -> None:
    """Raise unless the file has the column exactly once: ``demo.column_unknown`` (names the nearest), ``demo.column_twice``."""
    names = table.column_names
    if names.count(column) == 1:
        return
    if names.count(column) > 1:
        raise UsageError(
            "demo.column_twice",
            f"Column {column!r} stands {names.count(column)} times in the header of {path.name}.",
            remedy="Give each column its own name.",
        )
    folded = {name.casefold(): name for name in names}
    nearest = difflib.get_close_matches(column.casefold(), folded, n=1, cutoff=0.5)
    hint = f"Did you mean {folded[nearest[0]]!r}?" if nearest else "Its columns are: " + ", ".join(names[:40]) + "."
    raise UsageError("demo.column_unknown", f"{path.name} has no column {column!r} ({option}).", remedy=hint)


def texts(column: pa.ChunkedArray) -> list[str]:
    """Every cell as trimmed text; empty where there is none."""
    trimmed = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
    return [value or "" for value in trimmed.to_pylist()]


def numbers(column: pa.ChunkedArray) -> Floats:
    """Every cell as a number, NaN where missing or infinite; shape (rows,).

    Raises:
        pyarrow.ArrowInvalid: a cell is no number.
    """
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        trimmed = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
        gaps = pc.is_in(pc.utf8_lower(trimmed), value_set=pa.array(MISSING_TEXTS))
        column = pc.if_else(gaps, pa.scalar(None, pa.string()), trimmed)
        column = pc.replace_substring_regex(column, r"^\+([0-9.])", r"\1")
    values = np.array(pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
    values[~np.isfinite(values)] = np.nan
    return values


def _reads_as_number(cell: str | None) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True


def is_number(column: pa.ChunkedArray) -> bool:
    """Whether a column is meant to hold numbers.

    A text column is when most of its cells are numbers or empty: of the few that are not, the node then says what is wrong, by
    column and row.
    """
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return sum(_reads_as_number(cell) for cell in column.to_pylist()) * 2 > len(column)
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind))


def imputed(values: Floats, missing: str, train: NDArray[np.bool_]) -> Floats:
    """Missing numbers replaced by the mean or median of the training rows, or by the number that ``missing`` is."""
    gaps = np.isnan(values)
    if not gaps.any():
        return values
    if missing in ("mean", "median"):
        known = values[train & ~gaps]
        fill = float(np.mean(known) if missing == "mean" else np.median(known))
    else:
        fill = float(missing)
    return np.where(gaps, fill, values)


def indicator(cells: list[str], category: str, train: NDArray[np.bool_]) -> Floats:
    """1 where a row is of the category, levels that are rare among the training rows being ``other``; shape (rows,)."""
    counts: dict[str, int] = {}
    for cell, in_training in zip(cells, train.tolist(), strict=True):
        if in_training:
            counts[cell] = counts.get(cell, 0) + 1
    groups = {level: level if count >= RARE_ROWS else "other" for level, count in counts.items()}
    return np.array([groups.get(cell) == category for cell in cells], dtype=np.float64)


def label_of(column: pa.ChunkedArray, name: str, positive: str | None) -> NDArray[np.int8]:
    """The label as 0 and 1, shape (rows,): 1 for ``positive``, or where that is None for the value "1" or "true".

    Raises:
        DataError: ``demo.label_values`` (says how many values there are, never which), ``demo.label_positive``.
    """
    cells = texts(column)
    levels = sorted({_label_text(cell) for cell in cells})
    if len(levels) != 2 or "" in levels:
        empty = " and empty cells" if "" in levels else ""
        count = len(levels) - ("" in levels)
        raise DataError(
            "demo.label_values",
            f"The label column {name!r} must have exactly two values; it has {count}{empty}.",
            remedy="Name a two-valued column with --label, and leave out rows whose label is not known.",
        )
    wanted = {"1", "true"} if positive is None else {_label_text(positive)}
    found = [level for level in levels if level in wanted]
    if len(found) != 1:
        said = 'neither is "1" or "true"' if positive is None else "neither is the one that --positive names"
        raise DataError(
            "demo.label_positive",
            f"The label column {name!r} has two values, and {said}.",
            remedy="Say with --positive VALUE which of its values is to be predicted.",
        )
    return np.array([_label_text(cell) == found[0] for cell in cells], dtype=np.int8)


def _label_text(cell: str) -> str:
    folded = cell.strip().casefold()
    try:
        value = float(folded)
    except ValueError:
        return {"t": "true", "f": "false"}.get(folded, folded)
    return str(int(value)) if value.is_integer() else folded


def write_csv(path: Path, columns: dict[str, Any]) -> None:
    """Write columns of equal length as CSV, the header unquoted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pa_csv.write_csv(pa.table(columns), path, pa_csv.WriteOptions(quoting_style="needed", quoting_header="needed"))
