"""What the demo trains on: files it writes itself, or the user's own; checked as far as possible before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from audit.errors import UsageError
from coordinator.demo import generator
from coordinator.demo.columns import is_number, label_of, need_column, read_table, source_of, write_csv

PartyName = Literal["bank", "platform"]
PARTIES: tuple[PartyName, PartyName] = ("bank", "platform")

BREAST_CANCER_MINIMUM = 500
"""569 rows are below the usual minimum of 1,000 shared customers; the demo's own policy asks for this one by name."""


@dataclass(frozen=True)
class Side:
    """One party's file: where it is and what its columns are (``label`` is None at the feature holder)."""

    name: PartyName
    path: Path
    source: Literal["csv", "parquet"]
    identifier: str
    numbers: tuple[str, ...]
    categories: tuple[str, ...] = ()
    label: str | None = None

    @property
    def features(self) -> list[str]:
        """Every column that goes into the model, numbers first."""
        return [*self.numbers, *self.categories]


@dataclass(frozen=True)
class DemoData:
    """Both files, and the options that follow from them."""

    title: str
    bank: Side
    platform: Side
    label_holder: PartyName
    normalise: str
    minimum: int
    missing: str = "refuse"
    positive: str | None = None
    built_in: bool = False
    notes: tuple[str, ...] = field(default=())

    def side(self, name: PartyName) -> Side:
        """The side called ``name``."""
        return self.bank if name == "bank" else self.platform

    @property
    def feature_holder(self) -> PartyName:
        """The side that does not hold the label."""
        return "platform" if self.label_holder == "bank" else "bank"


@dataclass(frozen=True)
class UserFiles:
    """The user's own files as named on the command line; ``*_features`` empty means every other column."""

    bank: Path
    bank_id: str
    platform: Path
    platform_id: str
    label: str
    bank_features: tuple[str, ...] = ()
    platform_features: tuple[str, ...] = ()
    positive: str | None = None


def write_synthetic(
    folder: Path,
    *,
    label_holder: PartyName,
    minimum: int | None,
    bank_rows: int = generator.BANK_ROWS,
    platform_rows: int = generator.PLATFORM_ROWS,
    shared: int = generator.SHARED_ROWS,
) -> DemoData:
    """Write the generator's persons as two CSV files into ``folder``."""
    persons = generator.generate(bank_rows=bank_rows, platform_rows=platform_rows, shared=shared)
    label = {"bank": persons.bank_label, "platform": persons.platform_label}[label_holder]
    sides = {}
    for name, party, identifier in (
        ("bank", persons.bank, generator.BANK_ID),
        ("platform", persons.platform, generator.PLATFORM_ID),
    ):
        columns: dict[str, Any] = {identifier: party.identifiers, **party.columns}
        if name == label_holder:
            columns[generator.LABEL] = label
        sides[name] = _write_side(folder, name, columns, identifier, generator.LABEL if name == label_holder else None)
    return DemoData(
        title=f"synthetic: {bank_rows:,} card customers, {platform_rows:,} shoppers, {shared:,} of them both",
        bank=sides["bank"],
        platform=sides["platform"],
        label_holder=label_holder,
        normalise="casefold",
        minimum=1000 if minimum is None else minimum,
        built_in=True,
    )


def write_breast_cancer(folder: Path, *, label_holder: PartyName, minimum: int | None) -> DemoData:
    """Write scikit-learn's breast cancer data as two CSV files: all 569 rows on both sides, 15 columns each, rows in different
    orders.

    Raises:
        UsageError: ``demo.no_scikit_learn``.
    """
    from coordinator.demo.pooled import require_sklearn

    require_sklearn()
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in bunch.feature_names]
    # 1 means malignant here: the event that is predicted.
    malignant = (1 - bunch.target).astype(np.int8)
    rng = np.random.default_rng(generator.SEED)
    sides = {}
    for position, name in enumerate(PARTIES):
        order = rng.permutation(len(malignant))
        identifier = "patient_id"
        text = "Case-{:04d}" if name == "bank" else "CASE-{:04d}"
        columns: dict[str, Any] = {identifier: [text.format(i) for i in order]}
        # Columns come as mean, standard error and worst of ten measurements; every second one goes to the same side.
        for column in range(position, len(names), 2):
            columns[names[column]] = bunch.data[order, column]
        if name == label_holder:
            columns["malignant"] = malignant[order]
        sides[name] = _write_side(folder, name, columns, identifier, "malignant" if name == label_holder else None)
    lowered = BREAST_CANCER_MINIMUM if minimum is None else minimum
    return DemoData(
        title="breast-cancer: scikit-learn's 569 cases, 15 columns on each side",
        bank=sides["bank"],
        platform=sides["platform"],
        label_holder=label_holder,
        normalise="casefold",
        minimum=lowered,
        built_in=True,
        notes=(f"569 rows: both demo policies lower the intersection minimum from 1,000 to {lowered:,}.",),
    )


def _write_side(folder: Path, name: str, columns: dict[str, Any], identifier: str, label: str | None) -> Side:
    path = folder / f"{name}.csv"
    write_csv(path, columns)
    numbers = tuple(c for c in columns if c not in (identifier, label))
    return Side(_party(name), path, "csv", identifier, numbers, (), label)


def _party(name: str) -> PartyName:
    return "bank" if name == "bank" else "platform"


def open_user_files(
    files: UserFiles, *, label_holder: PartyName, normalise: str, minimum: int | None, missing: str = "refuse"
) -> DemoData:
    """Check the user's files and columns.

    Raises:
        UsageError: ``demo.file_missing``, ``demo.file_type``, ``demo.column_unknown`` (names the nearest), ``demo.column_role``,
            ``demo.column_twice``, ``demo.label_other_side``, ``demo.label_twice``, ``demo.no_features``.
        DataError: ``demo.file_unreadable``, ``demo.label_values``, ``demo.label_positive``.
    """
    tables = {"bank": read_table(files.bank), "platform": read_table(files.platform)}
    paths = {"bank": files.bank, "platform": files.platform}
    other = "platform" if label_holder == "bank" else "bank"
    if files.label not in tables[label_holder].column_names and files.label in tables[other].column_names:
        raise UsageError(
            "demo.label_other_side",
            f"The label column {files.label!r} is in the {other}'s file {paths[other].name}, not in the {label_holder}'s.",
            remedy=f"Use --label-holder {other}, or give the {label_holder}'s file that has the label.",
        )
    need_column(tables[label_holder], paths[label_holder], files.label, "--label")
    label_of(tables[label_holder][files.label], files.label, files.positive)
    sides = {}
    for name, identifier, wanted in (
        ("bank", files.bank_id, files.bank_features),
        ("platform", files.platform_id, files.platform_features),
    ):
        sides[name] = _user_side(
            name, tables[name], paths[name], identifier, files.label if name == label_holder else None, wanted, files.label
        )
    return DemoData(
        title=f"{files.bank.name} and {files.platform.name}",
        bank=sides["bank"],
        platform=sides["platform"],
        label_holder=label_holder,
        normalise=normalise,
        minimum=1000 if minimum is None else minimum,
        missing=missing,
        positive=files.positive,
    )


def _user_side(
    name: str, table: pa.Table, path: Path, identifier: str, label: str | None, wanted: Sequence[str], label_name: str
) -> Side:
    need_column(table, path, identifier, f"--{name}-id")
    for column in wanted:
        need_column(table, path, column, f"--{name}-features")
    for taken, option in ((identifier, f"--{name}-id"), (label, "--label")):
        if taken in wanted:
            raise UsageError(
                "demo.column_role",
                f"Column {taken!r} of {path.name} is named both by {option} and by --{name}-features.",
                remedy="Leave it out of the features.",
            )
    if identifier == label:
        raise UsageError(
            "demo.column_role",
            f"Column {identifier!r} of {path.name} is named both as the identifier and as the label.",
            remedy="Name two different columns.",
        )
    if label is None and label_name in table.column_names and not wanted:
        raise UsageError(
            "demo.label_twice",
            f"The {name}'s file {path.name} also has a column {label_name!r}: as a feature it would give the answer away.",
            remedy=f"Remove it from the file, or name the columns to use with --{name}-features.",
        )
    features = list(wanted) or [c for c in table.column_names if c not in (identifier, label)]
    if not features:
        raise UsageError(
            "demo.no_features",
            f"The {name}'s file {path.name} has no column besides the identifier{' and the label' if label else ''}.",
            remedy="Give a file with at least one feature column.",
        )
    numbers = tuple(c for c in features if is_number(table[c]))
    categories = tuple(c for c in features if c not in numbers)
    return Side(_party(name), path.resolve(), source_of(path), identifier, numbers, categories, label)
