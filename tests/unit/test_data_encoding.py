"""Encoding against plain float arithmetic and scikit-learn; the model document scores raw values as the matrix does."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from node.config import DatasetConfig
from node.data.encoding import WOE_PRIOR_ROWS, Encoded, encode, model_columns
from node.data.fixed_point import CLIP, centre_and_scale, to_fixed
from node.data.load import Table
from node.errors import DataError


def config(**columns: Any) -> DatasetConfig:
    return DatasetConfig.model_validate({"name": "cards", "source": "csv", "path": "x", "identifier": "id", "columns": columns})


def table(columns: dict[str, list[float] | list[str]], label: list[int] | None = None) -> Table:
    arrays: dict[str, NDArray] = {}
    levels: dict[str, list[str]] = {}
    rows = 0
    for name, values in columns.items():
        rows = len(values)
        if isinstance(values[0], str):
            levels[name] = list(dict.fromkeys(map(str, values)))
            arrays[name] = np.array([levels[name].index(str(value)) for value in values], dtype=np.int32)
        else:
            arrays[name] = np.array(values, dtype=np.float64)
    ids = [f"c{i}" for i in range(rows)]
    labels = None if label is None else np.array(label, dtype=np.int8)
    return Table(identifiers=ids, raw_identifiers=ids, columns=arrays, label=labels, duplicates=0, rows_read=rows, levels=levels)


def encode_all(data: Table, declared: DatasetConfig, holdout: list[int] | None = None) -> Encoded:
    rows = len(data.identifiers)
    mask = np.zeros(rows, dtype=bool)
    mask[holdout or []] = True
    return encode(data, rows=np.arange(rows), holdout=mask, features=list(declared.columns), config=declared)


NUMBER = {"kind": "number"}


def test_numbers_are_those_of_a_standard_scaler() -> None:
    generator = np.random.default_rng(7)
    values = generator.lognormal(3, 2, size=(500, 3))
    data = table({f"x{j}": values[:, j].tolist() for j in range(3)})
    order = generator.permutation(500)[:400]
    mask = np.arange(400) % 4 == 0
    encoded = encode(data, rows=order, holdout=mask, features=["x2", "x0"], config=config(x0=NUMBER, x1=NUMBER, x2=NUMBER))
    chosen = values[order][:, [2, 0]]
    scaler = StandardScaler().fit(chosen[~mask])
    for got, rows in ((encoded.train, chosen[~mask]), (encoded.holdout, chosen[mask])):
        expected = np.clip(scaler.transform(rows), -8191 / 1024, 8191 / 1024) * 1024
        assert got.dtype == np.int32
        assert np.abs(got - expected).max() <= 0.5 + 1e-6
    assert encoded.train.max() == 8191  # the tail is clipped
    assert [column.name for column in encoded.columns] == ["x2", "x0"]


def test_order_of_rows_changes_no_bit() -> None:
    values = np.random.default_rng(1).lognormal(0, 5, 10_001)
    shuffled = np.random.default_rng(2).permutation(values)
    assert centre_and_scale(values) == centre_and_scale(shuffled)


@given(
    st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
)
def test_fixed_point_against_plain_arithmetic(values: list[float], centre: float, scale: float) -> None:
    fixed = to_fixed(np.array(values), centre, scale)
    for value, got in zip(values, fixed.tolist(), strict=True):
        exact = min(max((value - centre) / scale, -8191 / 1024), 8191 / 1024) * 1024
        assert got == round(exact)
        assert abs(got) <= 8191


def score(document: dict[str, Any], raw: float | str) -> float:
    """A row's part of the score by the model document alone."""
    if document["kind"] == "one-hot":
        x = float(raw in document.get("members", [document["category"]]))
    elif document["kind"] == "woe":
        x = document["evidence"].get(raw, 0.0)
    else:
        x = float(document["imputed"] if math.isnan(float(raw)) else raw)
    return document["weight"] * (min(max(x, document["low"]), document["high"]) - document["centre"])


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_model_document_scores_raw_values_as_the_matrix(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows = 300
    amount = generator.lognormal(0, 3, rows)
    amount[generator.random(rows) < 0.1] = np.nan
    region = generator.choice(["a", "b", "c", "rare1", "rare2"], rows, p=[0.5, 0.3, 0.16, 0.02, 0.02]).tolist()
    label = (generator.random(rows) < 0.3).astype(int)
    label[:2] = 0, 1
    declared = config(
        amount={"kind": "number", "missing": "median"},
        region={"kind": "category"},
        woe={"kind": "category", "encoding": "woe"},
    )
    data = table({"amount": amount.tolist(), "region": region, "woe": region}, label.tolist())
    encoded = encode_all(data, declared, list(range(200, 300)))
    weights = generator.normal(size=len(encoded.columns))
    documents = json.loads(json.dumps(model_columns(encoded.columns, weights)))
    raws = {"amount": amount, "region": region, "woe": region}
    for matrix, first in ((encoded.train, 0), (encoded.holdout, 200)):
        expected = matrix @ weights / 1024
        got = [sum(score(d, raws[d["source"]][first + i]) for d in documents) for i in range(len(matrix))]
        # Each entry was rounded by at most half a unit.
        assert np.abs(expected - got).max() <= np.abs(weights).sum() * 0.5 / 1024 + 1e-9


def test_clip_bounds_are_those_of_the_encoding() -> None:
    encoded = encode_all(table({"x": [0.0] * 200 + [1000.0]}), config(x=NUMBER))
    (document,) = model_columns(encoded.columns, [2.0])
    column = encoded.columns[0]
    assert CLIP == column.clip == 8191 / 1024
    assert encoded.train.max() == 8191
    assert document["high"] == column.centre + 8191 / 1024 * column.scale < 1000
    assert document["low"] == column.centre - 8191 / 1024 * column.scale
    assert document["weight"] == 2.0 / column.scale


@pytest.mark.parametrize(("missing", "expected"), [("mean", 14 / 3), ("median", 3.0), ("0", 0.0), ("-1.5", -1.5)])
def test_imputation_looks_at_training_rows_alone(missing: str, expected: float) -> None:
    data = table({"x": [1.0, 3.0, 10.0, math.nan, 1e6, math.nan]})
    encoded = encode_all(data, config(x={"kind": "number", "missing": missing}), [4, 5])
    assert encoded.columns[0].imputed == pytest.approx(expected)
    assert encoded.train[3, 0] == encoded.holdout[1, 0]
    assert model_columns(encoded.columns, [1.0])[0]["imputed"] == encoded.columns[0].imputed


def test_one_hot_levels() -> None:
    region = ["south"] * 30 + ["north"] * 40 + ["east"] * 30 + ["x"] * 9 + ["y"] * 2 + ["new"]
    encoded = encode_all(table({"region": region}), config(region={"kind": "category"}), [len(region) - 1])
    # north is the reference, x and y joined, new unseen in training.
    assert [column.name for column in encoded.columns] == ["region=east", "region=other", "region=south"]
    assert encoded.columns[1].members == ("x", "y")
    indicator = encoded.train > 0
    assert indicator.sum(axis=0).tolist() == [30, 11, 30]
    reference = encoded.train[30]
    assert (reference < 0).all()
    assert encoded.holdout[0].tolist() == reference.tolist()


def test_reference_of_equally_frequent_levels_is_the_first_by_name() -> None:
    for order in (["b", "a"], ["a", "b"]):
        encoded = encode_all(table({"r": order * 20}), config(r={"kind": "category"}))
        assert [column.name for column in encoded.columns] == ["r=b"]


def test_weight_of_evidence_by_its_formula() -> None:
    region = ["a"] * 60 + ["b"] * 40 + ["c"]
    label = [1] * 30 + [0] * 30 + [1] * 4 + [0] * 36 + [1]
    encoded = encode_all(table({"r": region}, label), config(r={"kind": "category", "encoding": "woe"}), [100])
    base = 34 / 100

    def logit(p: float) -> float:
        return math.log(p / (1 - p))

    smoothed = {
        "a": (30 + WOE_PRIOR_ROWS * base) / (60 + WOE_PRIOR_ROWS),
        "b": (4 + WOE_PRIOR_ROWS * base) / (40 + WOE_PRIOR_ROWS),
    }
    expected = {level: logit(rate) - logit(base) for level, rate in smoothed.items()}
    (column,) = encoded.columns
    assert column.evidence == pytest.approx(expected)
    assert encoded.holdout[0, 0] == round((0.0 - column.centre) / column.scale * 1024)


BAD: dict[str, tuple[Table, DatasetConfig, str]] = {
    "constant": (table({"x": [5.0] * 4 + [6.0]}), config(x=NUMBER), "data.constant_column"),
    "constant category": (table({"x": ["a"] * 4 + ["b"]}), config(x={"kind": "category"}), "data.constant_column"),
    "all levels rare": (table({"x": ["a", "b", "a", "b", "c"]}), config(x={"kind": "category"}), "data.constant_column"),
    "nothing known": (
        table({"x": [math.nan] * 4 + [6.0]}),
        config(x={"kind": "number", "missing": "mean"}),
        "data.nothing_to_impute",
    ),
    "all imputed": (table({"x": [math.nan] * 4 + [6.0]}), config(x={"kind": "number", "missing": "0"}), "data.constant_column"),
    "huge": (table({"x": [1e308, 1.5e308, -1e308, 1e308, 0.0]}), config(x=NUMBER), "data.out_of_range"),
    "tiny": (table({"x": [0.0, 5e-324, 0.0, 0.0, 0.0]}), config(x=NUMBER), "data.out_of_range"),
    "no label": (table({"x": ["a", "b"] * 2 + ["a"]}), config(x={"kind": "category", "encoding": "woe"}), "data.woe_needs_label"),
    "one label": (table({"x": [1.0, 2.0, 3.0, 4.0, 5.0]}, [0, 0, 0, 0, 1]), config(x=NUMBER), "data.label_not_two_valued"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_refused(case: str) -> None:
    data, declared, code = BAD[case]
    with pytest.raises(DataError) as caught:
        encode_all(data, declared, [4])
    assert caught.value.code == code
    assert caught.value.remedy


def test_no_training_row() -> None:
    with pytest.raises(DataError) as caught:
        encode_all(table({"x": [1.0, 2.0]}), config(x=NUMBER), [0, 1])
    assert caught.value.code == "data.too_few_rows"


def test_too_many_columns() -> None:
    levels = [f"l{i}" for i in range(4_098) for _ in range(10)]
    with pytest.raises(DataError) as caught:
        encode_all(table({"x": levels}), config(x={"kind": "category"}))
    assert caught.value.code == "data.too_many_columns"


def test_weights_must_fit() -> None:
    encoded = encode_all(table({"x": [1.0, 2.0]}), config(x=NUMBER))
    with pytest.raises(DataError):
        model_columns(encoded.columns, [1.0, 2.0])


def test_representation_shows_no_data() -> None:
    encoded = encode_all(table({"x": [1.0, 123456.0, 7.0]}), config(x=NUMBER))
    for number in (*encoded.train.ravel().tolist(), encoded.columns[0].centre, encoded.columns[0].scale):
        assert str(number) not in repr(encoded)
