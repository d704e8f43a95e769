"""Features of aligned rows as the fixed-point matrix that training uses, and weights back in original units.

Everything that is estimated (centres, scales, imputed values, which levels are common, weights of evidence) is estimated on the
training rows alone, so held-out rows stay unseen.

- **number**: missing values imputed as declared, standardised.
- **category, one-hot**: levels with fewer than ``RARE_ROWS`` training rows join as ``other``; the most frequent level is the
  reference and has no column; a level that training did not see is all zeros, like the reference.
- **category, weight of evidence** (label holder only): the level's log-odds relative to the base rate, smoothed towards it by
  ``WOE_PRIOR_ROWS`` rows (the m-estimate of Micci-Barreca, SIGKDD Explorations 3(1), 2001, section 3); an unseen level counts 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import gmpy2
import numpy as np
from numpy.typing import NDArray

from node.config import ColumnConfig, DatasetConfig
from node.data.fixed_point import CLIP, centre_and_scale, to_fixed
from node.data.load import Table
from node.errors import DataError
from node.limits import LIMITS

RARE_ROWS = 10
"""Levels with fewer training rows than this are joined."""

WOE_PRIOR_ROWS = 20
"""Weight of the base rate in a level's smoothed rate, in rows."""

JOINED = "other"

Kind = Literal["number", "one-hot", "woe"]


@dataclass(frozen=True)
class EncodedColumn:
    """One column of the matrix.

    ``centre`` and ``scale`` are in units of the source (for one-hot: of a 0/1 indicator; for woe: of log-odds); ``clip`` in scales.
    ``category`` is the level of a one-hot column and ``members`` the levels it stands for when rare ones were joined;
    ``evidence`` is the levels' weights; ``imputed`` is what a missing number was replaced by.
    """

    name: str
    source: str
    kind: Kind
    centre: float = field(repr=False)
    scale: float = field(repr=False)
    clip: float = CLIP
    category: str | None = None
    members: tuple[str, ...] = field(default=(), repr=False)
    evidence: dict[str, float] = field(default_factory=dict, repr=False)
    imputed: float | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Encoded:
    """Fixed-point matrices of the training and held-out rows, (rows, columns), int32 in units of 2**-10, and their columns."""

    train: NDArray[np.int32] = field(repr=False)
    holdout: NDArray[np.int32] = field(repr=False)
    columns: list[EncodedColumn]


def encode(
    table: Table, *, rows: NDArray[np.int64], holdout: NDArray[np.bool_], features: Sequence[str], config: DatasetConfig
) -> Encoded:
    """Encode the named features of the aligned rows.

    Args:
        table: the loaded data set.
        rows: own row numbers in the common order, (n,).
        holdout: which of the aligned rows are held out, (n,).
        features: names of the features, in the order of the specification.
        config: how each column is declared.

    Returns:
        Columns in the order of ``features``; the one-hot columns of a category in order of their levels' names.

    Raises:
        DataError: ``data.constant_column``, ``data.nothing_to_impute``, ``data.out_of_range``, ``data.label_not_two_valued`` (on
            the training rows), ``data.woe_needs_label``, ``data.too_many_columns``, ``data.too_few_rows``.
    """
    train = ~holdout
    if not train.any():
        raise DataError(
            "data.too_few_rows",
            "No shared row is left to train on.",
            remedy="Hold out a smaller fraction or share more customers.",
        )
    label = None if table.label is None else table.label[rows][train]
    if label is not None and len(np.unique(label)) != 2:
        raise DataError(
            "data.label_not_two_valued",
            f"The label of the data set {config.name!r} has one value only on the shared training rows.",
            remedy="Share customers of both kinds.",
        )
    columns: list[EncodedColumn] = []
    parts: list[NDArray[np.int32]] = []
    for name in features:
        values, declared = table.columns[name][rows], config.columns[name]
        if declared.kind == "number":
            encoded = [_number(config.name, name, declared, values, train)]
        elif declared.encoding == "woe":
            encoded = [_weight_of_evidence(config.name, name, table.levels[name], values, train, label)]
        else:
            encoded = _one_hot(config.name, name, table.levels[name], values, train, room=LIMITS.columns - len(columns))
        if len(columns) + len(encoded) > LIMITS.columns:
            raise _too_many_columns(config.name, name)
        columns += [column for column, _ in encoded]
        parts += [fixed for _, fixed in encoded]
    matrix = np.column_stack(parts) if parts else np.zeros((len(rows), 0), dtype=np.int32)
    return Encoded(train=np.ascontiguousarray(matrix[train]), holdout=np.ascontiguousarray(matrix[holdout]), columns=columns)


def _standardised(
    dataset: str, source: str, kind: Kind, values: NDArray[np.float64], train: NDArray[np.bool_], *, name: str = "", **meaning: Any
) -> tuple[EncodedColumn, NDArray[np.int32]]:
    known = values[train]
    if known.min() == known.max():
        raise _constant(dataset, name or source)
    try:
        centre, scale = centre_and_scale(known)
    except OverflowError:
        centre, scale = math.inf, math.inf
    if not (math.isfinite(centre) and math.isfinite(scale) and math.isfinite(1 / scale if scale else math.inf)):
        raise DataError(
            "data.out_of_range",
            f"The values of the column {source!r} of the data set {dataset!r} are too large or too close together to standardise.",
            remedy="Scale the column in the source.",
        )
    with np.errstate(over="ignore"):
        fixed = to_fixed(values, centre, scale)
    return EncodedColumn(name=name or source, source=source, kind=kind, centre=centre, scale=scale, **meaning), fixed


def _too_many_columns(dataset: str, name: str) -> DataError:
    return DataError(
        "data.too_many_columns",
        f"The features of the data set {dataset!r} make more than {LIMITS.columns} columns, at {name!r}.",
        remedy="Leave out features, or group the levels of the category with many.",
    )


def _constant(dataset: str, name: str) -> DataError:
    return DataError(
        "data.constant_column",
        f"The column {name!r} of the data set {dataset!r} has the same value in every shared training row.",
        remedy="Leave it out of the job's features: it can tell nothing.",
    )


def _number(
    dataset: str, name: str, declared: ColumnConfig, values: NDArray[np.float64], train: NDArray[np.bool_]
) -> tuple[EncodedColumn, NDArray[np.int32]]:
    missing = np.isnan(values)
    imputed: float | None = None
    if declared.missing != "refuse":
        known = values[train & ~missing]
        if declared.missing in ("mean", "median"):
            if not len(known):
                raise DataError(
                    "data.nothing_to_impute",
                    f"The column {name!r} of the data set {dataset!r} is missing in every shared training row: it has "
                    f"no {declared.missing}.",
                    remedy="Leave it out of the job's features.",
                )
            imputed = _mean(known) if declared.missing == "mean" else float(np.median(known)) + 0.0  # of two zeros the unsigned one
        else:
            imputed = float(declared.missing)
        values = np.where(missing, imputed, values)
    return _standardised(dataset, name, "number", values, train, imputed=imputed)


def _mean(values: NDArray[np.float64]) -> float:
    try:
        return math.fsum(values.tolist()) / len(values)
    except OverflowError:
        return math.inf  # refused as out of range when standardised


def _one_hot(
    dataset: str, name: str, levels: list[str], codes: NDArray[np.int32], train: NDArray[np.bool_], *, room: int
) -> list[tuple[EncodedColumn, NDArray[np.int32]]]:
    counts = np.bincount(codes[train], minlength=len(levels))
    groups: dict[str, list[int]] = {}
    for code, count in enumerate(counts):
        if count:
            groups.setdefault(levels[code] if count >= RARE_ROWS else JOINED, []).append(code)
    if set(groups) == {JOINED} and len(groups[JOINED]) > 1:
        raise DataError(
            "data.constant_column",
            f"No level of the category {name!r} of the data set {dataset!r} has {RARE_ROWS} shared training rows: joined, they are "
            "one value.",
            remedy='Group its levels in the source or leave it out; a column of numbers is declared with kind = "number".',
        )
    if len(groups) < 2:
        raise _constant(dataset, name)
    if len(groups) - 1 > room:
        raise _too_many_columns(dataset, name)
    # The most frequent level; of equal ones the first by name, so that the order of the rows decides nothing.
    reference = min(groups, key=lambda group: (-int(counts[groups[group]].sum()), group))
    encoded = []
    for group in sorted(groups):
        if group == reference:
            continue
        members = tuple(sorted(levels[code] for code in groups[group]))
        indicator = np.isin(codes, groups[group]).astype(np.float64)
        encoded.append(
            _standardised(
                dataset,
                name,
                "one-hot",
                indicator,
                train,
                name=f"{name}={group}",
                category=group,
                members=members if members != (group,) else (),
            )
        )
    return encoded


def _weight_of_evidence(
    dataset: str, name: str, levels: list[str], codes: NDArray[np.int32], train: NDArray[np.bool_], label: NDArray[np.int8] | None
) -> tuple[EncodedColumn, NDArray[np.int32]]:
    if label is None:
        raise DataError(
            "data.woe_needs_label",
            f"The column {name!r} of the data set {dataset!r} is encoded by weight of evidence, which needs the label.",
            remedy='Set encoding = "one-hot" for it in node.toml: this node holds no label in this job.',
        )
    rows = np.bincount(codes[train], minlength=len(levels))
    positives = np.bincount(codes[train][label == 1], minlength=len(levels))
    base = Fraction(int(label.sum()), len(label))
    evidence = np.array([_evidence(int(n), int(ones), base) for n, ones in zip(rows, positives, strict=True)], dtype=np.float64)
    known = {level: float(evidence[code]) for code, level in enumerate(levels) if rows[code]}
    return _standardised(dataset, name, "woe", evidence[codes], train, evidence=known)


def _evidence(rows: int, positives: int, base: Fraction) -> float:
    """Log-odds of a level's smoothed rate less those of the base rate; 0 for a level that training did not see.

    Exact up to MPFR's logarithm, which rounds correctly: a processor's own may differ in the last bit, and what is encoded from it
    would be another integer on another machine.
    """
    if not rows:
        return 0.0
    rate = (positives + WOE_PRIOR_ROWS * base) / (rows + WOE_PRIOR_ROWS)
    ratio = (rate / (1 - rate)) / (base / (1 - base))
    with gmpy2.context(precision=96):
        return float(gmpy2.log(gmpy2.mpfr(gmpy2.mpq(ratio.numerator, ratio.denominator))))


def model_columns(columns: Sequence[EncodedColumn], weights: Sequence[float] | NDArray[np.float64]) -> list[dict[str, Any]]:
    """A party's part of the model in original units.

    Args:
        columns: of :class:`Encoded`.
        weights: on the standardised columns, same order, without the intercept.

    Returns:
        One JSON-ready object a column: ``name``, ``source``, ``kind``, ``weight`` per original unit, ``centre``, and ``low`` and
        ``high``, the clip bounds in original units.  A row's score is the sum of ``weight * (min(max(x, low), high) - centre)``,
        x being the number, the 0/1 indicator of ``category`` (of any of ``members`` where given) or the level's entry of
        ``evidence`` (0 when not there); a missing number counts as ``imputed``.

    Raises:
        DataError: ``data.weights_shape`` when there are not as many weights as columns.
    """
    if len(weights) != len(columns):
        raise DataError("data.weights_shape", f"There are {len(weights)} weights for {len(columns)} columns.")
    documents = []
    for column, weight in zip(columns, weights, strict=True):
        document: dict[str, Any] = {
            "name": column.name,
            "source": column.source,
            "kind": column.kind,
            "weight": float(weight) / column.scale,
            "centre": column.centre,
            "low": column.centre - column.clip * column.scale,
            "high": column.centre + column.clip * column.scale,
        }
        if column.category is not None:
            document["category"] = column.category
        if column.members:
            document["members"] = list(column.members)
        if column.evidence:
            document["evidence"] = dict(sorted(column.evidence.items()))
        if column.imputed is not None:
            document["imputed"] = column.imputed
        documents.append(document)
    return documents
