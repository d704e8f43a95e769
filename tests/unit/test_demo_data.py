"""The demo's data: the generator, the built-in sets, and the checks of a user's own files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from audit.errors import IsthmusError
from coordinator.demo import generator
from coordinator.demo.columns import imputed, indicator, is_number, label_of, numbers, read_table
from coordinator.demo.datasets import UserFiles, open_user_files, write_breast_cancer, write_synthetic

BANK = "customer,limit,region,late\nA-1,100,north,0\na-2,250,south,1\nA-3,,north,0\n"
PLATFORM = "user,orders,spend\nb-9,1,10.5\na-1,2,20\nA-2,3,n/a\n"


def files(folder: Path, bank: str = BANK, platform: str = PLATFORM, **changes: object) -> UserFiles:
    (folder / "bank.csv").write_text(bank)
    (folder / "platform.csv").write_text(platform)
    given: dict[str, object] = {
        "bank": folder / "bank.csv",
        "bank_id": "customer",
        "platform": folder / "platform.csv",
        "platform_id": "user",
        "label": "late",
    }
    return UserFiles(**(given | changes))  # type: ignore[arg-type]


def refused(chosen: UserFiles, **changes: object) -> IsthmusError:
    with pytest.raises(IsthmusError) as caught:
        open_user_files(chosen, **({"label_holder": "bank", "normalise": "casefold", "minimum": None} | changes))  # type: ignore[arg-type]
    assert caught.value.remedy
    return caught.value


def test_synthetic_sizes_and_repeatability() -> None:
    one, two = generator.generate(), generator.generate()
    assert (len(one.bank.identifiers), len(one.platform.identifiers)) == (10_000, 12_000)
    bank, platform = ({i.casefold() for i in side.identifiers} for side in (one.bank, one.platform))
    assert len(bank) == 10_000
    assert len(platform) == 12_000
    assert len(bank & platform) == 5_000
    assert one.bank.identifiers == two.bank.identifiers
    for name, values in one.bank.columns.items():
        np.testing.assert_array_equal(values, two.bank.columns[name])
    # The two sides are in orders of their own: position must not give the join away.
    shared = [i for i in (x.casefold() for x in one.bank.identifiers) if i in platform]
    other = [i for i in one.platform.identifiers if i in bank]
    assert shared != other


def test_synthetic_model_needs_both_sides() -> None:
    drawn = generator.generate()
    rows = {identifier.casefold(): number for number, identifier in enumerate(drawn.bank.identifiers)}
    both = [(rows[i], number) for number, i in enumerate(drawn.platform.identifiers) if i in rows]
    bank = np.column_stack(list(drawn.bank.columns.values()))[[b for b, _ in both]]
    platform = np.column_stack(list(drawn.platform.columns.values()))[[p for _, p in both]]
    label = drawn.bank_label[[b for b, _ in both]]
    np.testing.assert_array_equal(label, drawn.platform_label[[p for _, p in both]])
    assert 0.15 <= label.mean() <= 0.25

    def area(matrix: np.ndarray) -> float:
        standard = np.clip((matrix - matrix.mean(0)) / matrix.std(0), -8, 8)
        model = LogisticRegression().fit(standard[:4000], label[:4000])
        return float(roc_auc_score(label[4000:], model.decision_function(standard[4000:])))

    joint, alone, other = area(np.hstack([bank, platform])), area(bank), area(platform)
    assert 0.75 <= joint <= 0.82
    assert joint - max(alone, other) > 0.015
    across = np.corrcoef(bank.T, platform.T)[: bank.shape[1], bank.shape[1] :]
    assert np.abs(across).max() > 0.15, "columns must be correlated across the parties"


@pytest.mark.parametrize("holder", ["bank", "platform"])
def test_synthetic_files_put_the_label_at_its_holder(tmp_path: Path, holder: str) -> None:
    data = write_synthetic(tmp_path, label_holder=holder, minimum=None, bank_rows=60, platform_rows=50, shared=20)  # type: ignore[arg-type]
    for name in ("bank", "platform"):
        table = read_table(data.side(name).path)  # type: ignore[arg-type]
        assert (generator.LABEL in table.column_names) == (name == holder)
        assert set(data.side(name).features) == set(table.column_names) - {data.side(name).identifier, generator.LABEL}  # type: ignore[arg-type]
        assert all(is_number(table[column]) for column in data.side(name).features)  # type: ignore[arg-type]


def test_breast_cancer_is_split_in_two_halves_of_all_rows(tmp_path: Path) -> None:
    data = write_breast_cancer(tmp_path, label_holder="platform", minimum=None)
    bank, platform = read_table(data.bank.path), read_table(data.platform.path)
    assert bank.num_rows == platform.num_rows == 569
    assert len(data.bank.features) == len(data.platform.features) == 15
    assert not set(data.bank.features) & set(data.platform.features)
    ours, theirs = bank["patient_id"].to_pylist(), platform["patient_id"].to_pylist()
    assert not set(ours) & set(theirs), "the two sides write identifiers differently"
    assert {i.casefold() for i in ours} == {i.casefold() for i in theirs}
    assert data.minimum == 500
    assert any("500" in note for note in data.notes)
    assert sum(int(v) for v in platform["malignant"].to_pylist()) == 212


def test_user_files_numbers_and_categories(tmp_path: Path) -> None:
    data = open_user_files(files(tmp_path), label_holder="bank", normalise="casefold", minimum=7)
    assert data.bank.numbers == ("limit",)
    assert data.bank.categories == ("region",)
    assert data.platform.features == ["orders", "spend"]
    assert (data.bank.label, data.platform.label, data.minimum) == ("late", None, 7)


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    pa_parquet.write_table(pa.table({"user": [7, 8], "spend": [1.5, 2.5], "kind": ["a", "b"]}), tmp_path / "p.parquet")
    chosen = files(tmp_path, platform=PLATFORM)
    data = open_user_files(
        UserFiles(**(chosen.__dict__ | {"platform": tmp_path / "p.parquet"})), label_holder="bank", normalise="exact", minimum=1
    )
    assert data.platform.source == "parquet"
    assert (data.platform.numbers, data.platform.categories) == (("spend",), ("kind",))


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"label": "lat"}, "demo.column_unknown", "'late'"),
        ({"bank_id": "custmer"}, "demo.column_unknown", "'customer'"),
        ({"platform_id": "USER"}, "demo.column_unknown", "'user'"),
        ({"platform_features": ("orderz",)}, "demo.column_unknown", "'orders'"),
        ({"label": "zzz"}, "demo.column_unknown", "limit"),
        ({"bank_features": ("late",)}, "demo.column_role", "--label"),
        ({"bank_features": ("customer",)}, "demo.column_role", "--bank-id"),
        ({"label": "customer"}, "demo.label_values", "--label"),
        ({"label": "region"}, "demo.label_positive", "--positive"),
    ],
)
def test_bad_columns_are_named(tmp_path: Path, changes: dict[str, object], code: str, said: str) -> None:
    error = refused(files(tmp_path, **changes))
    assert error.code == code
    assert said in error.message + error.remedy


def test_bad_files_are_named(tmp_path: Path) -> None:
    assert refused(files(tmp_path, bank=BANK.replace("A-3,,north,0", "A-3,,north,2"))).code == "demo.label_values"
    assert refused(files(tmp_path, bank=BANK.replace("A-3,,north,0", "A-3,,north,"))).code == "demo.label_values"
    assert refused(files(tmp_path, bank=BANK.replace("A-3,,north,0", "A-3,,north"))).code == "demo.file_unreadable"
    assert refused(files(tmp_path, bank="")).code == "demo.file_unreadable"
    assert refused(files(tmp_path, platform="user\na\n")).code == "demo.no_features"
    twice = files(tmp_path, platform="user,orders,orders\na,1,2\n", platform_features=("orders",))
    assert refused(twice).code == "demo.column_twice"
    assert refused(files(tmp_path, platform=PLATFORM.replace("orders", "late"))).code == "demo.label_twice"
    assert refused(files(tmp_path), label_holder="platform").code == "demo.label_other_side"
    gone = UserFiles(**(files(tmp_path).__dict__ | {"platform": tmp_path / "nowhere.csv"}))
    assert refused(gone).code == "demo.file_missing"
    (tmp_path / "notes.txt").write_text("x")
    assert refused(UserFiles(**(files(tmp_path).__dict__ | {"bank": tmp_path / "notes.txt"}))).code == "demo.file_type"


def test_errors_show_no_cell(tmp_path: Path) -> None:
    canary = "CANARY77"
    error = refused(files(tmp_path, bank=BANK.replace("A-3,,north,0", f"A-3,,north,{canary}")))
    assert canary not in str(error)
    error = refused(files(tmp_path, bank=BANK + f"{canary},1\n"))
    assert canary not in str(error)


def test_numbers_and_their_gaps() -> None:
    column = pa.chunked_array([["1", " 2.5 ", "+3", "", "NA", "inf", "-4e1"]])
    np.testing.assert_array_equal(numbers(column), [1, 2.5, 3, np.nan, np.nan, np.nan, -40])
    assert not is_number(pa.chunked_array([["1", "two"]]))
    train = np.array([True, True, True, False])
    values = np.array([1.0, np.nan, 5.0, 100.0])
    np.testing.assert_array_equal(imputed(values, "mean", train), [1, 3, 5, 100])
    np.testing.assert_array_equal(imputed(np.array([1.0, 2.0, 9.0, np.nan]), "median", train), [1, 2, 9, 2])
    np.testing.assert_array_equal(imputed(values, "-1", train), [1, -1, 5, 100])


def test_rare_categories_join_by_training_counts() -> None:
    cells = ["n"] * 12 + ["s"] * 11 + ["w"] * 9 + ["e"] * 3 + ["held"]
    train = np.array([True] * 35 + [False])
    assert indicator(cells, "s", train).sum() == 11
    assert indicator(cells, "other", train).sum() == 12
    assert indicator(cells, "other", train)[-1] == 0, "a level that training did not see is none of them"


def test_label_values() -> None:
    def of(*cells: str, positive: str | None = None) -> list[int]:
        return label_of(pa.chunked_array([list(cells)]), "y", positive).tolist()

    assert of("0", "1", "1.0") == [0, 1, 1]
    assert of("TRUE", "false") == [1, 0]
    assert of("good", "bad", positive="bad") == [0, 1]
