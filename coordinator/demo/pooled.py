"""What nobody could compute in earnest: the demo holds both files, so it checks the sealed model against the open one.

*Exact* figures score every shared row with the two model documents, by the formula they state.  *Pooled* figures are
scikit-learn's own logistic regression on the joined rows: the same split and columns, standardised and clipped anew from the raw
values, so that nothing of the node's own encoding is taken on trust.  ``C = 1 / (l2 n)`` makes its objective, mean log-loss + (l2
/ 2) |w|^2 with a free intercept, the one the nodes minimise (protocols.md, section 5).
"""

from __future__ import annotations

import csv
import importlib.util
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from audit.errors import UsageError, VerificationError
from coordinator.demo.columns import imputed, indicator, label_of, numbers, read_table, texts
from coordinator.demo.datasets import PARTIES, DemoData, PartyName

CLIP = 8.0
"""Standardised values are clipped to this many standard deviations (protocols.md, section 5)."""

Floats = NDArray[np.float64]


def require_sklearn() -> None:
    """Raise ``demo.no_scikit_learn`` (a UsageError) when scikit-learn is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise UsageError(
            "demo.no_scikit_learn",
            "The demo compares with scikit-learn, which is not installed.",
            remedy="Install the project with its demo extra: pip install '.[demo]'.",
        )


@dataclass(frozen=True)
class Joined:
    """The shared customers in aligned order: each side's own row numbers (shape (n,)), which the model was fitted on, which are
    held out, and the label (0 or 1)."""

    rows: dict[PartyName, NDArray[np.int64]]
    train: NDArray[np.bool_]
    holdout: NDArray[np.bool_]
    label: NDArray[np.int8]
    tables: dict[PartyName, pa.Table]

    def column(self, party: PartyName, name: str) -> pa.ChunkedArray:
        """One side's column over the shared rows."""
        return self.tables[party][name].take(pa.array(self.rows[party]))


def join(data: DemoData, members: Mapping[PartyName, Path]) -> Joined:
    """Join both files by the two nodes' lists of shared customers.

    Raises:
        VerificationError: ``demo.members_differ`` when the nodes disagree on who is shared, on the order or on the split;
            ``demo.member_unknown`` when a list names somebody who is not in the file.
    """
    tables = {party: read_table(data.side(party).path) for party in PARTIES}
    lists = {party: _read_members(members[party]) for party in PARTIES}
    folded = {party: [(_folded(row[0], data.normalise), row[1]) for row in lists[party]] for party in PARTIES}
    if folded["bank"] != folded["platform"]:
        raise VerificationError(
            "demo.members_differ",
            f"The bank's list of shared customers ({len(lists['bank'])}) and the platform's ({len(lists['platform'])}) differ.",
            remedy="This is a fault of isthmus: keep the folder with --keep DIR and report it.",
        )
    rows = {}
    for party in PARTIES:
        where: dict[str, int] = {}
        for number, identifier in enumerate(_identifiers(tables[party], data.side(party).identifier)):
            where.setdefault(identifier, number)
        missing = sum(1 for identifier, _ in lists[party] if identifier not in where)
        if missing:
            raise VerificationError(
                "demo.member_unknown",
                f"The {party}'s list of shared customers names {missing} that are not in {data.side(party).path.name}.",
                remedy="Do not change the files while the demo runs.",
            )
        rows[party] = np.array([where[identifier] for identifier, _ in lists[party]], dtype=np.int64)
    label_side = data.side(data.label_holder)
    every = label_of(tables[data.label_holder][label_side.label], str(label_side.label), data.positive)
    label = every[rows[data.label_holder]]
    train, holdout = (np.array([split == name for _, split in lists["bank"]], dtype=bool) for name in ("train", "holdout"))
    return Joined(rows, train, holdout, label, tables)


def _identifiers(table: pa.Table, column: str) -> list[str]:
    return [str(value) for value in table[column].cast(pa.string()).to_pylist()]


def _read_members(path: Path) -> list[tuple[str, str]]:
    """(identifier, split) in order of position."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["position"]))
    return [(row["identifier"], row["split"]) for row in rows]


def _folded(identifier: str, rule: str) -> str:
    """Enough of the normalisation to compare two raw identifiers (of telephone numbers the last eight digits)."""
    text = unicodedata.normalize("NFKC", identifier).strip()
    if rule == "exact":
        return text
    if rule == "digits" or rule.startswith("phone-e164"):
        digits = "".join(c for c in text if c.isdecimal())
        return digits if rule == "digits" else digits[-8:]
    return text.casefold()


def joint_scores(data: DemoData, joined: Joined, models: Mapping[PartyName, Mapping[str, Any]]) -> Floats:
    """Each shared row's log-odds from both model documents; shape (n,)."""
    scores = np.zeros(len(joined.label))
    for party in PARTIES:
        model = models[party]
        scores += float(model["intercept"] or 0.0)
        for column in model["columns"]:
            values = _raw(data, joined, party, column["source"], column["kind"], column.get("category"))
            scores += column["weight"] * (np.clip(values, column["low"], column["high"]) - column["centre"])
    return scores


def _raw(data: DemoData, joined: Joined, party: PartyName, source: str, kind: str, category: str | None) -> Floats:
    """A column of the model over the shared rows in original units: the number, or 1 where the row is of the category."""
    column = joined.column(party, source)
    if kind == "number":
        return imputed(numbers(column), data.missing, joined.train)
    if kind == "one-hot" and category is not None:
        return indicator(texts(column), category, joined.train)
    raise UsageError(
        "demo.column_kind", f"The demo cannot score a column of kind {kind!r} ({source}).", remedy="Declare it number or category."
    )


def standardised(data: DemoData, joined: Joined, party: PartyName, columns: Sequence[Mapping[str, Any]]) -> Floats:
    """A side's model columns over the shared rows, standardised on the training rows and clipped; shape (n, columns)."""
    train = joined.train
    out = np.empty((len(train), len(columns)))
    for number, column in enumerate(columns):
        values = _raw(data, joined, party, column["source"], column["kind"], column.get("category"))
        scale = values[train].std()
        out[:, number] = np.clip((values - values[train].mean()) / (scale if scale > 0 else 1.0), -CLIP, CLIP)
    return out


def compare(data: DemoData, joined: Joined, models: Mapping[PartyName, Mapping[str, Any]], *, l2: float) -> dict[str, float | None]:
    """The exact, the pooled and the label holder's own figures; None where rows are missing to compute one.

    Keys: ``auc_exact``, ``log_loss_exact``, ``auc_pooled``, ``log_loss_pooled``, ``auc_label_holder_alone`` on held-out rows;
    ``auc_train_exact``, ``log_loss_train_exact``, ``auc_train_pooled``, ``log_loss_train_pooled``,
    ``auc_train_label_holder_alone`` on training rows; ``log_loss_train_difference`` and ``auc_train_difference`` (exact minus
    pooled).
    """
    exact = joint_scores(data, joined, models)
    own = {party: standardised(data, joined, party, models[party]["columns"]) for party in PARTIES}
    pooled = _fitted_scores(np.hstack([own["bank"], own["platform"]]), joined, l2)
    alone = _fitted_scores(own[data.label_holder], joined, l2)
    found: dict[str, float | None] = {}
    for suffix, rows in (("", joined.holdout), ("_train", joined.train)):
        label = joined.label[rows]
        found[f"auc{suffix}_exact"] = auc(label, exact[rows])
        found[f"log_loss{suffix}_exact"] = log_loss(label, exact[rows])
        found[f"auc{suffix}_pooled"] = auc(label, pooled[rows])
        found[f"log_loss{suffix}_pooled"] = log_loss(label, pooled[rows])
        found[f"auc{suffix}_label_holder_alone"] = auc(label, alone[rows])
    for what in ("auc", "log_loss"):
        one, other = found[f"{what}_train_exact"], found[f"{what}_train_pooled"]
        found[f"{what}_train_difference"] = None if one is None or other is None else one - other
    return found


def _fitted_scores(matrix: Floats, joined: Joined, l2: float) -> Floats:
    """scikit-learn's log-odds of every row, fitted on the training rows to its optimum."""
    from sklearn.linear_model import LogisticRegression

    train = joined.train
    strength = 1.0 / (l2 * int(train.sum())) if l2 > 0 else np.inf
    model = LogisticRegression(C=strength, solver="lbfgs", tol=1e-9, max_iter=20_000)
    model.fit(matrix[train], joined.label[train])
    return np.asarray(model.decision_function(matrix), dtype=np.float64)


def auc(label: NDArray[np.int8], scores: Floats) -> float | None:
    """Area under the ROC curve, ties counted half; None when a class is missing."""
    if len(set(label.tolist())) < 2:
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(label, scores))


def log_loss(label: NDArray[np.int8], scores: Floats) -> float | None:
    """Mean of log(1 + exp(-s z)), s being +1 for positives and -1 for the others; None without rows."""
    if len(label) == 0:
        return None
    return float(np.mean(np.logaddexp(0.0, np.where(label == 1, -scores, scores))))
