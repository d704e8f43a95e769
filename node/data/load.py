"""From a data set to a table: identifiers normalised and unique, numbers as float64, categories as codes.

Rows stream in from :mod:`node.data.sources`; what stays is one number per row and column, in chunks that go to the step's
scratch (:mod:`node.scratch`).  Rows are named by their place in the source, counted from 1 without a header; a data value stands
in no error and no representation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from node.config import ColumnConfig, DatasetConfig
from node.data.identifiers import Unfit, normaliser, unfit_identifier
from node.data.keys import KeyColumn
from node.data.seen import Seen
from node.data.sources import read_batches
from node.errors import DataError
from node.limits import LIMITS
from node.scratch import Column, NumbersBuilder, Scratch, TextsBuilder

MISSING_NUMBER_TEXTS = ("", "na", "n/a", "null", "nan", "none")
"""Texts that count as a missing number, white space and case aside.  A category or a label is missing only when empty."""

_POSITIVE_DEFAULTS = ("1", "true")


@dataclass(frozen=True)
class Table:
    """The rows of one data set, one of each identifier.

    Attributes:
        identifiers: normalised, unique, (rows,).
        raw_identifiers: as the source has them, same order.
        columns: by name, (rows,): float64 with NaN where missing (only where an imputation is declared) for a number; int32 codes
            into ``levels[name]`` for a category.
        levels: by name of a category, its levels in order of appearance.
        label: int8 of 0 and 1, (rows,), or None.
        duplicates: rows left out because an earlier row has the same identifier (only where ``duplicates = "first"`` is declared).
        rows_read: rows of the source.
        keys: of each key that the job names, the normalised value of every row, each value once; empty where the row has none
            that counts.
        raw_keys: the same as the source has them.

    Of many rows, texts and columns are those of :mod:`node.scratch`: read them by slices or by arrays of row numbers.
    """

    identifiers: Sequence[str] = field(repr=False)
    raw_identifiers: Sequence[str] = field(repr=False)
    columns: dict[str, Column] = field(repr=False)
    label: NDArray[np.int8] | None = field(repr=False)
    duplicates: int
    rows_read: int
    levels: dict[str, list[str]] = field(repr=False, default_factory=dict)
    keys: list[Sequence[str]] = field(repr=False, default_factory=list)
    raw_keys: list[Sequence[str]] = field(repr=False, default_factory=list)


def load_table(
    dataset: DatasetConfig,
    *,
    features: Sequence[str],
    label: str | None,
    normalise: str,
    keys: Sequence[str] = (),
    most_rows: int = LIMITS.psi_elements,
    scratch: Scratch | None = None,
) -> Table:
    """Read the identifier, the keys, the named features and the label of a data set.

    Args:
        dataset: the data set; each feature and the label are among its declared columns.
        features: names of columns of kind ``number`` or ``category``.
        label: name of a column of kind ``label``, or None on the feature holder.
        normalise: the identifier rule, see :mod:`node.data.identifiers`.
        keys: names of the data set's keys that customers are to be found by.
        most_rows: bound on the rows read.
        scratch: where rows go that are too many for memory; None: nowhere.

    Raises:
        DataError: ``data.empty_identifier``, ``data.unfit_identifier``, ``data.identifier_type``, ``data.not_a_number``,
            ``data.missing_value``, ``data.label_not_two_valued``, ``data.label_positive_unknown``, ``data.no_rows``,
            ``data.duplicate_identifiers``,
            ``data.too_many_rows``, ``data.missing_column`` (also for a column that is not declared), and those of
            :func:`node.data.sources.read_batches`.
    """
    wanted = list(features) + ([label] if label is not None else [])
    readers = {name: _reader(dataset, name, scratch) for name in wanted}
    identifiers = _Identifiers(dataset, normaliser(normalise), scratch)
    joins = [KeyColumn(dataset.name, name, dataset.keys[name], scratch) for name in keys]
    columns_read = list(dict.fromkeys([dataset.identifier, *(join.config.column for join in joins), *wanted]))
    place = {name: position for position, name in enumerate(columns_read)}
    for batch in read_batches(dataset, columns_read):
        first_row = identifiers.rows_read + 1
        if identifiers.rows_read + batch.num_rows > most_rows:
            raise DataError(
                "data.too_many_rows",
                f"The data set {dataset.name!r} has more than {most_rows} rows.",
                remedy="Select fewer customers.",
            )
        keep = identifiers.add(_identifier_texts(dataset, dataset.identifier, batch.column(0)))
        for join in joins:
            join.add(_identifier_texts(dataset, join.config.column, batch.column(place[join.config.column])), first_row, keep)
        for name in wanted:
            readers[name].add(batch.column(place[name]), first_row, keep)
    if not identifiers.rows_read:
        raise DataError(
            "data.no_rows",
            f"The data set {dataset.name!r} has no rows.",
            remedy="Check the file or the query.",
        )
    columns = {name: readers[name].result() for name in features}
    labels = np.asarray(readers[label].result()) if label is not None else None
    levels = {name: reader.levels for name in features if isinstance(reader := readers[name], _Category)}
    return Table(
        identifiers=identifiers.kept.result(),
        raw_identifiers=identifiers.raw.result(),
        columns=columns,
        label=labels,
        duplicates=identifiers.rows_read - len(identifiers.kept),
        rows_read=identifiers.rows_read,
        levels=levels,
        keys=[join.result() for join in joins],
        raw_keys=[join.raw for join in joins],
    )


class _Identifiers:
    """Collects identifiers, one row of each."""

    def __init__(self, dataset: DatasetConfig, normalise: Callable[[str], str], scratch: Scratch | None) -> None:
        self.dataset, self.normalise = dataset, normalise
        self.kept, self.raw = TextsBuilder(scratch), TextsBuilder(scratch)
        self.rows_read = 0
        self._seen = Seen()

    def add(self, texts: list[str | None]) -> NDArray[np.bool_]:
        """Take a batch; returns which of its rows are kept."""
        normalised, wrong = self._normalised(texts)
        keep = self._seen.add(normalised, self.rows_read + np.arange(len(normalised))) < 0
        if self.dataset.duplicates == "refuse" and not keep.all():
            row = self.rows_read + int(np.argmin(keep)) + 1
            raise DataError(
                "data.duplicate_identifiers",
                f"The identifier column {self.dataset.identifier!r} of the data set {self.dataset.name!r} repeats in row "
                f"{row} an identifier of an earlier row.",
                remedy='Leave one row per customer in the source, or declare duplicates = "first" for the data set in '
                "node.toml to keep the first row of each.",
            )
        if wrong is not None:
            raise wrong
        self.rows_read += len(texts)
        self.kept.extend([text for text, first in zip(normalised, keep.tolist(), strict=True) if first])
        self.raw.extend([text for text, first in zip(texts, keep.tolist(), strict=True) if first and text])
        return keep

    def _normalised(self, texts: list[str | None]) -> tuple[list[str], DataError | None]:
        """The normalised texts up to the first that is none, and what is wrong with that."""
        found: list[str] = []
        for row, text in enumerate(texts, self.rows_read + 1):
            try:
                normalised = self.normalise(text) if text else ""
            except Unfit as error:
                return found, unfit_identifier(self.dataset.name, self.dataset.identifier, row, str(error))
            if not text or not normalised or text.isspace():
                return found, DataError(
                    "data.empty_identifier",
                    f"The identifier column {self.dataset.identifier!r} of the data set {self.dataset.name!r} is empty in row "
                    f"{row}.",
                    remedy="Fill it in or leave the row out of the source.",
                )
            found.append(normalised)
        return found, None


def _identifier_texts(dataset: DatasetConfig, name: str, column: pa.Array) -> list[str | None]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise DataError(
            "data.identifier_type",
            f"The identifier column {name!r} of the data set {dataset.name!r} has the type {kind}, not text or integer.",
            remedy="Write it as text: a decimal or floating-point column does not keep identifiers as they were.",
        )
    return column.cast(pa.string()).to_pylist()


class _Number:
    """Collects a column of numbers."""

    def __init__(self, dataset: DatasetConfig, name: str, config: ColumnConfig, scratch: Scratch | None) -> None:
        self.dataset, self.name, self.config = dataset, name, config
        self.parts = NumbersBuilder(np.float64, scratch)

    def add(self, column: pa.Array, first_row: int, keep: NDArray[np.bool_]) -> None:
        values = self._floats(column, first_row)
        unusable = ~np.isfinite(values)
        if unusable.any():
            if self.config.missing == "refuse":
                raise _missing(
                    self.dataset, self.name, first_row + int(np.argmax(unusable)), "is missing, NaN or infinite", number=True
                )
            values[unusable] = np.nan
        self.parts.append(values[keep])

    def _floats(self, column: pa.Array, first_row: int) -> NDArray[np.float64]:
        kind = column.type
        if pa.types.is_dictionary(kind):
            column = column.dictionary_decode()
            kind = column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            column = self._parsed(column.cast(pa.string()), first_row)
        elif pa.types.is_null(kind):
            column = column.cast(pa.float64())
        elif pa.types.is_boolean(kind):
            column = column.cast(pa.int8())
        elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            raise DataError(
                "data.not_a_number",
                f"The column {self.name!r} of the data set {self.dataset.name!r} is declared a number and has the "
                f"type {kind} (row {first_row}).",
                remedy='Declare it with kind = "category", or convert it in the source.',
            )
        floats = column.cast(pa.float64(), safe=False)
        return np.array(
            floats.to_numpy(zero_copy_only=False), dtype=np.float64
        )  # a copy: nulls become NaN, the rest may be written to

    def _parsed(self, texts: pa.Array, first_row: int) -> pa.Array:
        trimmed = pc.utf8_trim_whitespace(texts)
        missing = pc.is_in(pc.utf8_lower(trimmed), value_set=pa.array(MISSING_NUMBER_TEXTS))
        candidates = pc.if_else(missing, pa.scalar(None, pa.string()), trimmed)
        candidates = pc.replace_substring_regex(candidates, r"^\+([0-9.])", r"\1")
        try:
            return candidates.cast(pa.float64())
        except pa.ArrowInvalid:
            row = first_row + _first_unparsable(candidates)
        raise DataError(
            "data.not_a_number",
            f"The column {self.name!r} of the data set {self.dataset.name!r} holds something that is not a number in row {row}.",
            remedy='Correct the row (a decimal point, no thousands separators), or declare the column with kind = "category".',
        )

    def result(self) -> Column:
        return self.parts.result()


def _first_unparsable(texts: pa.Array) -> int:
    """Position of the first text that is no number, by halving: a few casts instead of one per row."""
    low, high = 0, len(texts)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            texts.slice(low, middle - low).cast(pa.float64())
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low


class _Category:
    """Collects a column of categories as codes into its levels."""

    def __init__(self, dataset: DatasetConfig, name: str, config: ColumnConfig, scratch: Scratch | None) -> None:
        self.dataset, self.name, self.config = dataset, name, config
        self.parts = NumbersBuilder(np.int32, scratch)
        self._codes: dict[str, int] = {}

    @property
    def levels(self) -> list[str]:
        return list(self._codes)

    def add(self, column: pa.Array, first_row: int, keep: NDArray[np.bool_]) -> None:
        self.parts.append(self._coded(column, first_row)[keep])

    def _coded(self, column: pa.Array, first_row: int) -> NDArray[np.int32]:
        texts = _as_texts(self.dataset, self.name, column)
        empty = pc.fill_null(pc.equal(texts, ""), True)
        if pc.any(empty).as_py():
            if self.config.missing == "refuse":
                row = first_row + int(np.argmax(empty.to_numpy(zero_copy_only=False)))
                raise _missing(self.dataset, self.name, row, "is empty", number=False)
            texts = pc.if_else(empty, self.config.missing, texts)
        encoded = texts.dictionary_encode()
        translate = np.array(
            [self._codes.setdefault(level, len(self._codes)) for level in encoded.dictionary.to_pylist()], dtype=np.int32
        )
        if len(self._codes) > LIMITS.columns:
            raise DataError(
                "data.too_many_levels",
                f"The category {self.name!r} of the data set {self.dataset.name!r} has more than {LIMITS.columns} levels.",
                remedy="Group its levels in the source, or leave the column out.",
            )
        return translate[encoded.indices.to_numpy(zero_copy_only=False)] if len(texts) else np.zeros(0, dtype=np.int32)

    def result(self) -> Column:
        return self.parts.result()


class _Label(_Category):
    """Collects the label; its two levels become 0 and 1 at the end."""

    def result(self) -> NDArray[np.int8]:
        codes, levels = np.asarray(super().result()), [_label_text(level) for level in self.levels]
        distinct = sorted(set(levels))
        if len(distinct) != 2:
            raise DataError(
                "data.label_not_two_valued",
                f"The label {self.name!r} of the data set {self.dataset.name!r} has {len(distinct)} different values, not two.",
                remedy="Choose a label with two values, or select the rows where it is known.",
            )
        wanted = (_label_text(self.config.positive),) if self.config.positive is not None else _POSITIVE_DEFAULTS
        positive = [level for level in distinct if level in wanted]
        if len(positive) != 1:
            said = "the declared positive value" if self.config.positive is not None else '"1" or "true"'
            raise DataError(
                "data.label_positive_unknown",
                f"No value of the label {self.name!r} of the data set {self.dataset.name!r} is {said}.",
                remedy='Declare which of its two values counts as 1: positive = "..." in [dataset.columns] of node.toml.',
            )
        return np.array([level == positive[0] for level in levels], dtype=np.int8)[codes]


def _label_text(text: str) -> str:
    """``1``, ``1.0`` and ``TRUE`` as one way of writing each."""
    folded = text.strip().casefold()
    try:
        number = float(folded)
    except ValueError:
        return {"t": "true", "f": "false"}.get(folded, folded)
    return str(int(number)) if number.is_integer() else folded


def _as_texts(dataset: DatasetConfig, name: str, column: pa.Array) -> pa.Array:
    """A column as trimmed text; whole numbers that a file keeps as floating point without their fraction."""
    try:
        return pc.utf8_trim_whitespace(column.cast(pa.string()))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(
            "data.column_type",
            f"The column {name!r} of the data set {dataset.name!r} has the type {column.type}, which is neither text nor number.",
            remedy="Convert it in the source.",
        ) from None


def _reader(dataset: DatasetConfig, name: str, scratch: Scratch | None) -> _Number | _Category:
    config = dataset.columns.get(name)
    if config is None:
        raise DataError(
            "data.missing_column",
            f"The column {name!r} is not declared for the data set {dataset.name!r}.",
            remedy="Declare it under [dataset.columns] in node.toml.",
        )
    kinds: dict[str, type[_Number] | type[_Category]] = {"number": _Number, "category": _Category, "label": _Label}
    return kinds[config.kind](dataset, name, config, scratch)


def _missing(dataset: DatasetConfig, name: str, row: int, what: str, *, number: bool) -> DataError:
    how = 'missing = "mean", "median" or a number in quotes' if number else "missing = the level it counts as"
    label = dataset.columns[name].kind == "label"
    return DataError(
        "data.missing_value",
        f"The column {name!r} of the data set {dataset.name!r} {what} in row {row}.",
        remedy="Fill it in or leave the row out of the source" + ("." if label else f", or declare {how} for it in node.toml."),
    )
