"""The demo's oracle: joining by the members' lists, scoring by model documents, scikit-learn on pooled rows."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from audit.errors import VerificationError
from coordinator.demo.columns import numbers, read_table
from coordinator.demo.datasets import DemoData, write_synthetic
from coordinator.demo.pooled import Joined, auc, compare, join, joint_scores, log_loss, standardised


@pytest.fixture
def data(tmp_path: Path) -> DemoData:
    return write_synthetic(tmp_path, label_holder="bank", minimum=10, bank_rows=900, platform_rows=800, shared=600)


def members(data: DemoData, folder: Path) -> dict[str, Path]:
    """Both nodes' lists as `isthmus-node model --members` writes them, in an order of their own."""
    bank = {i.casefold(): i for i in read_table(data.bank.path)[data.bank.identifier].to_pylist()}
    platform = {i.casefold(): i for i in read_table(data.platform.path)[data.platform.identifier].to_pylist()}
    shared = sorted(set(bank) & set(platform), key=lambda i: i[::-1])
    paths = {}
    for name, raw in (("bank", bank), ("platform", platform)):
        paths[name] = folder / f"{name}.members.csv"
        with paths[name].open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["identifier", "position", "split"])
            for position, identifier in enumerate(shared):
                writer.writerow([raw[identifier], position, "holdout" if position % 5 == 0 else "train"])
    return paths


def document(joined: Joined, data: DemoData, party: str, weights: np.ndarray, intercept: float | None) -> dict[str, Any]:
    """A model document whose weights act on standardised columns as given."""
    columns = []
    for name, weight in zip(data.side(party).features, weights, strict=True):  # type: ignore[arg-type]
        values = numbers(joined.column(party, name))  # type: ignore[arg-type]
        centre, scale = float(values[joined.train].mean()), float(values[joined.train].std())
        columns.append(
            {
                "name": name,
                "source": name,
                "kind": "number",
                "weight": weight / scale,
                "centre": centre,
                "low": centre - 8 * scale,
                "high": centre + 8 * scale,
            }
        )
    return {"intercept": intercept, "columns": columns}


def test_join_follows_the_lists(data: DemoData, tmp_path: Path) -> None:
    joined = join(data, members(data, tmp_path))
    assert len(joined.label) == 600
    assert joined.holdout.sum() == 120
    ours = [i.casefold() for i in joined.column("bank", data.bank.identifier).to_pylist()]
    theirs = joined.column("platform", data.platform.identifier).to_pylist()
    assert ours == theirs
    assert ours == sorted(ours, key=lambda i: i[::-1])


def test_lists_that_differ_are_refused(data: DemoData, tmp_path: Path) -> None:
    paths = members(data, tmp_path)
    lines = paths["bank"].read_text().splitlines()
    for changed in (
        [*lines[:-1]],
        [lines[0], lines[2].replace(",1,", ",0,"), lines[1].replace(",0,", ",1,"), *lines[3:]],
        [*lines[:-1], lines[-1].replace("train", "holdout")],
    ):
        paths["bank"].write_text("\n".join(changed) + "\n")
        with pytest.raises(VerificationError) as caught:
            join(data, paths)
        assert caught.value.code == "demo.members_differ"
    for path in paths.values():
        path.write_text("identifier,position,split\nnobody,0,train\n")
    with pytest.raises(VerificationError) as caught:
        join(data, paths)
    assert caught.value.code == "demo.member_unknown"


def test_scores_follow_the_documents_formula(data: DemoData, tmp_path: Path) -> None:
    joined = join(data, members(data, tmp_path))
    rng = np.random.default_rng(5)
    weights = {party: rng.normal(size=len(data.side(party).features)) for party in ("bank", "platform")}  # type: ignore[arg-type]
    models = {
        "bank": document(joined, data, "bank", weights["bank"], -1.25),
        "platform": document(joined, data, "platform", weights["platform"], None),
    }
    expected = np.full(len(joined.label), -1.25)
    for party in ("bank", "platform"):
        expected += standardised(data, joined, party, models[party]["columns"]) @ weights[party]  # type: ignore[arg-type]
    np.testing.assert_allclose(joint_scores(data, joined, models), expected, atol=1e-9)  # type: ignore[arg-type]


def test_pooled_is_the_optimum_of_the_stated_objective(data: DemoData, tmp_path: Path) -> None:
    """Mean log-loss + (l2/2)|w|^2 with a free intercept, minimised here by another optimiser."""
    l2 = 0.01
    joined = join(data, members(data, tmp_path))
    empty = {p: document(joined, data, p, np.zeros(len(data.side(p).features)), 0.0) for p in ("bank", "platform")}  # type: ignore[arg-type]
    found = compare(data, joined, empty, l2=l2)  # type: ignore[arg-type]
    matrix = np.hstack([standardised(data, joined, p, empty[p]["columns"]) for p in ("bank", "platform")])  # type: ignore[arg-type]
    train, signs = joined.train, np.where(joined.label == 1, 1.0, -1.0)

    def objective(w: np.ndarray) -> float:
        z = matrix[train] @ w[1:] + w[0]
        return float(np.mean(np.logaddexp(0, -signs[train] * z)) + l2 / 2 * w[1:] @ w[1:])

    tight = {"maxiter": 5000, "ftol": 1e-14, "gtol": 1e-9}
    best = minimize(objective, np.zeros(matrix.shape[1] + 1), method="L-BFGS-B", options=tight)
    scores = matrix @ best.x[1:] + best.x[0]
    assert found["log_loss_train_pooled"] == pytest.approx(log_loss(joined.label[train], scores[train]), abs=2e-6)
    assert found["auc_train_pooled"] == pytest.approx(auc(joined.label[train], scores[train]), abs=2e-4)
    assert found["auc_pooled"] == pytest.approx(auc(joined.label[~train], scores[~train]), abs=2e-3)
    # An empty model says nothing.
    assert found["auc_exact"] == 0.5
    assert found["log_loss_train_exact"] == pytest.approx(np.log(2))


def test_missing_rows_or_classes_give_none() -> None:
    assert auc(np.array([1, 1], dtype=np.int8), np.array([0.1, 0.2])) is None
    assert log_loss(np.zeros(0, dtype=np.int8), np.zeros(0)) is None
    assert log_loss(np.array([1], dtype=np.int8), np.array([0.0])) == pytest.approx(np.log(2))
