"""What a data set offers and what is wrong with it, for the people who run the node: nothing of this leaves the machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from node.config import DatasetConfig
from node.data.load import Table, load_table
from node.data.sources import describe_source
from node.errors import IsthmusError
from node.scratch import CHUNK_ROWS, Scratch


@dataclass(frozen=True)
class Problem:
    """One thing to know; ``grave`` when a job that touches it will be refused."""

    code: str
    message: str
    remedy: str
    grave: bool = True


@dataclass(frozen=True)
class KeyReport:
    """A key as ``isthmus-node datasets`` shows it: ``customers`` are those who can be found by it, None where it cannot be read."""

    column: str
    normalise: str
    customers: int | None


@dataclass
class DatasetReport:
    """A data set as ``isthmus-node datasets`` shows it."""

    name: str
    source: str
    identifier: str
    normalise: str
    columns: dict[str, str]
    rows: int | None = None
    customers: int | None = None
    duplicates: int | None = None
    keys: dict[str, KeyReport] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def readable(self) -> bool:
        """Whether its rows and identifiers could be read."""
        return self.rows is not None

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def examine(dataset: DatasetConfig, scratch: Scratch | None = None) -> DatasetReport:
    """Read the whole data set once; where that fails, each column by itself, so that every problem is listed at once.

    ``scratch`` takes rows that are too many for memory.
    """
    _try = partial(_tried, scratch=scratch)
    report = DatasetReport(
        name=dataset.name,
        source=describe_source(dataset),
        identifier=dataset.identifier,
        normalise=dataset.normalise,
        columns={name: column.kind for name, column in dataset.columns.items()},
    )
    declared, dataset = dataset, dataset.model_copy(update={"duplicates": "first"})
    features, labels = dataset.features, dataset.labels
    table = _try(dataset, report, features, labels[0] if len(labels) == 1 else None, keep_problem=False)
    if table is None:
        table = _try(dataset, report, [], None)
        if table is None:
            return report
        for name in features:
            single = _try(dataset, report, [name], None)
            if single is not None:
                _note_constant(report, single)
    else:
        _note_constant(report, table)
    if len(labels) != 1 or table.label is None:
        for name in labels:
            _try(dataset, report, [], name)
    report.rows, report.customers, report.duplicates = table.rows_read, len(table.identifiers), table.duplicates
    for name, key in dataset.keys.items():
        keyed = _try(dataset, report, [], None, keys=[name])
        customers = None if keyed is None else sum(map(bool, keyed.keys[0]))
        report.keys[name] = KeyReport(key.column, key.normalise, customers)
    if table.duplicates and declared.duplicates == "refuse":
        _try(declared, report, [], None)
    elif table.duplicates:
        report.problems.append(
            Problem(
                "data.duplicate_identifiers",
                f"{table.duplicates} rows repeat an identifier of an earlier row; the first row of each is kept.",
                "Leave one row per customer in the source if another row should count.",
                grave=False,
            )
        )
    if not dataset.columns:
        report.problems.append(
            Problem(
                "data.nothing_offered",
                "No column is offered.",
                "Declare columns under [dataset.columns] in node.toml.",
                grave=False,
            )
        )
    return report


def _tried(
    dataset: DatasetConfig,
    report: DatasetReport,
    features: list[str],
    label: str | None,
    *,
    keys: Sequence[str] = (),
    keep_problem: bool = True,
    scratch: Scratch | None,
) -> Table | None:
    try:
        return load_table(dataset, features=features, label=label, normalise=dataset.normalise, keys=keys, scratch=scratch)
    except IsthmusError as error:
        if keep_problem:
            report.problems.append(Problem(error.code, error.message, error.remedy))
        return None


def _note_constant(report: DatasetReport, table: Table) -> None:
    for name, values in table.columns.items():
        parts = [np.unique(values[first : first + CHUNK_ROWS]) for first in range(0, len(values), CHUNK_ROWS)]
        if len(parts) < 1 or len(np.unique(np.concatenate(parts))) < 2:
            report.problems.append(
                Problem(
                    "data.constant_column",
                    f"The column {name!r} has the same value in every row: a job that asks for it is refused.",
                    "Leave it out of [dataset.columns] in node.toml.",
                    grave=False,
                )
            )
