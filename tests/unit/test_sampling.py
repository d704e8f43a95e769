"""Training on a sample: the public coin that draws it, and what it gives up, against scikit-learn and published figures."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from sklearn.linear_model import LogisticRegression

from audit.accuracy import Accuracy, accuracy_of, auc_standard_error
from audit.errors import UsageError
from audit.spec import JobSpec, Model, parse_spec
from audit.split import _smallest, holdout_rows, split_rows, split_sizes
from audit.wording import given_up, terms
from coordinator.views import as_json
from coordinator.watch import metrics_line, rows_line
from node.protocols.metrics import metrics
from protos import control_pb2
from tests.training import Training, toy
from tests.unit.test_split_and_spec import document


def job_of(number: int) -> str:
    return hashlib.sha256(b"job %d" % number).hexdigest()


# ---- the coin --------------------------------------------------------------------------------------------------------------------


def test_the_sample_is_the_documented_coin() -> None:
    job, rows, model = job_of(0), 900, Model(train_rows=100, evaluate_rows=30)
    stream = hashlib.shake_256(b"isthmus sample v1\x00" + job.encode()).digest(8 * rows)
    words = [int.from_bytes(stream[8 * i : 8 * i + 8]) for i in range(rows)]
    held_out = holdout_rows(job, rows, Decimal("0.2"))
    found = split_rows(job, rows, model)
    for mask, group, most in ((found.train, ~held_out, 100), (found.holdout, held_out, 30)):
        by_word = sorted((words[i], i) for i in np.flatnonzero(group))
        assert np.flatnonzero(mask).tolist() == sorted(i for _, i in by_word[:most])


@given(
    rows=st.integers(0, 400),
    holdout=st.sampled_from(["0.1", "0.5", "0.9"]),
    train=st.integers(0, 500),
    evaluate=st.integers(0, 500),
    number=st.integers(0, 50),
)
def test_samples_are_exact_parts_of_their_groups(rows: int, holdout: str, train: int, evaluate: int, number: int) -> None:
    job, model = job_of(number), Model(holdout=holdout, train_rows=train, evaluate_rows=evaluate)
    held_out = holdout_rows(job, rows, Decimal(holdout))
    found, sizes = split_rows(job, rows, model), split_sizes(job, rows, model)
    assert not (found.train & held_out).any()
    assert not (found.holdout & ~held_out).any()
    there = (int((~held_out).sum()), int(held_out.sum()))
    assert (sizes.train_available, sizes.holdout_available) == there
    wanted = tuple(min(most, has) if most else has for most, has in zip((train, evaluate), there, strict=True))
    assert (int(found.train.sum()), int(found.holdout.sum())) == (sizes.train, sizes.holdout) == wanted


def test_rows_held_out_do_not_depend_on_the_sample() -> None:
    whole, part = split_rows(job_of(1), 500, Model()), split_rows(job_of(1), 500, Model(train_rows=50))
    assert (whole.holdout == part.holdout).all()
    assert (whole.train == ~whole.holdout).all()


def test_equal_words_go_by_position() -> None:
    words = np.array([5, 3, 5, 5, 1, 5], dtype=">u8")
    group = np.array([True, True, True, False, True, True])
    assert np.flatnonzero(_smallest(words, group, 4)).tolist() == [0, 1, 2, 4]
    assert np.flatnonzero(_smallest(words, group, 3)).tolist() == [0, 1, 4]


def test_every_row_is_drawn_as_often_as_any_other_and_independently_of_its_neighbour() -> None:
    """Over jobs; a sample of 12 has a row of 60 in one fifth of them, and two given rows in 12 * 11 / (60 * 59)."""
    rows, most, jobs = 60, 12, 4000
    drawn = np.array([split_rows(job_of(number), rows, Model(holdout="0", train_rows=most)).train for number in range(jobs)])
    share = most / rows
    counts = drawn.sum(axis=0)
    # Of a fixed number out of ``rows`` cells, sum (count - mean)^2 / variance times (rows - 1) / rows has rows - 1 degrees.
    statistic = ((counts - jobs * share) ** 2).sum() / (jobs * share * (1 - share)) * (rows - 1) / rows
    assert chi2.ppf(1e-3, rows - 1) < statistic < chi2.ppf(1 - 1e-3, rows - 1)
    together = (drawn[:, :-1] & drawn[:, 1:]).mean()
    assert together == pytest.approx(most * (most - 1) / (rows * (rows - 1)), abs=4 * np.sqrt(0.0373 / (jobs * (rows - 1))))
    assert len({mask.tobytes() for mask in drawn}) == jobs, "another job, another sample"


# ---- the specification -----------------------------------------------------------------------------------------------------------


def test_a_job_without_a_sample_is_the_document_it_was_before() -> None:
    plain = JobSpec.model_validate(document())
    for model in ({}, {"train_rows": 0}, {"train_rows": None, "evaluate_rows": 0}):
        assert JobSpec.model_validate(document(model=model)).canonical() == plain.canonical()
    assert b"_rows" not in plain.canonical()
    sampled = JobSpec.model_validate(document(model={"train_rows": 5000}))
    assert parse_spec(sampled.canonical()) == sampled
    assert sampled.identity() != plain.identity() != JobSpec.model_validate(document(model={"train_rows": 5001})).identity()
    for other in (b"0", b"null"):
        with pytest.raises(UsageError) as caught:
            parse_spec(sampled.canonical().replace(b'"train_rows":5000', b'"train_rows":' + other))
        assert caught.value.code == "spec.not_canonical"


@pytest.mark.parametrize(
    "model",
    [{"train_rows": -1}, {"train_rows": 2**31 + 1}, {"train_rows": True}, {"train_rows": "5000"}, {"train_rows": 5000.0},
     {"evaluate_rows": -1}, {"evaluate_rows": 5000, "holdout": "0"}],
)  # fmt: skip
def test_what_is_no_number_of_rows_is_refused(model: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="rows"):
        JobSpec.model_validate(document(model=model))


def test_the_terms_say_so() -> None:
    plain, sampled = (dict(terms(JobSpec.model_validate(document(model=model)))) for model in ({}, {"train_rows": 5000}))
    assert plain["Customers to train on"] == "all others"
    assert sampled["Customers to train on"].startswith("at most 5,000 of the others, drawn by a public coin")


# ---- the sealed training ---------------------------------------------------------------------------------------------------------


def test_training_on_the_sample_is_pooled_regression_on_the_same_rows() -> None:
    left, right, label = toy(1200, (3, 3), seed=4)
    drawn = split_rows(job_of(2), 1200, Model(train_rows=400)).train
    training = Training(left[drawn], right[drawn], label[drawn], rounds=6, lookup_entries=256)
    weights, _ = training.train()
    x = np.hstack([left, right])[drawn] / 1024
    pooled = LogisticRegression(C=1000 / 400, tol=1e-10, max_iter=5000).fit(x, label[drawn])
    assert weights[1:] == pytest.approx(pooled.coef_[0], abs=0.02)
    assert weights[0] == pytest.approx(pooled.intercept_[0], abs=0.02)


# ---- what is given up ------------------------------------------------------------------------------------------------------------


def test_the_loss_and_the_weights_given_up_are_of_the_size_foretold() -> None:
    """Samples of 1,000 of 10,000 rows, drawn by the coin: the mean over 60 of them, against d/2 (1/K - 1/n) and sqrt(1 - K/n).

    Either mean has sixty times d degrees of freedom, so a relative standard deviation of 5 percent; the bound is three of these.
    """
    rng = np.random.default_rng(8)
    rows, most, repeats, columns = 10_000, 1_000, 60, 12
    x = np.hstack([np.ones((rows, 1)), rng.normal(size=(rows, columns - 1))])
    label = (rng.random(rows) < 1 / (1 + np.exp(-(x @ np.r_[-1.0, rng.normal(size=columns - 1) * 0.3])))).astype(int)

    def fit(part: Any) -> Any:
        fitted = LogisticRegression(C=np.inf, fit_intercept=False, solver="newton-cholesky", tol=1e-8)
        return fitted.fit(x[part], label[part]).coef_[0]

    def loss(weights: Any) -> float:
        z = x @ weights
        return float(np.mean(np.logaddexp(0, z) - label * z))

    best = fit(slice(None))
    p = 1 / (1 + np.exp(-(x @ best)))
    information = (x * (p * (1 - p))[:, None]).T @ x / rows * most  # of one sample
    excess, distance = [], []
    for number in range(repeats):
        weights = fit(split_rows(job_of(number), rows, Model(holdout="0", train_rows=most)).train)
        excess.append(loss(weights) - loss(best))
        distance.append((weights - best) @ information @ (weights - best) / columns)
    foretold = Accuracy(rows=most, available=rows, columns=columns)
    spread = np.sqrt(2 / (repeats * columns))
    assert np.mean(excess) / foretold.given_up == pytest.approx(1, abs=3 * spread)
    assert np.mean(distance) / foretold.shift**2 == pytest.approx(1, abs=3 * spread)


def test_figures_of_a_sample() -> None:
    found = Accuracy(rows=200_000, available=8_000_000, columns=40)
    assert found.excess == pytest.approx(1e-4)
    assert found.excess_of_all == pytest.approx(2.5e-6)
    assert found.given_up == pytest.approx(9.75e-5)
    assert found.error_ratio == pytest.approx(40**0.5)
    assert found.shift == pytest.approx(0.975**0.5)
    assert Accuracy.of(found.document()) == found
    assert "200,000 of 8,000,000 rows" in given_up(found)
    whole = Accuracy(rows=10, available=10, columns=2)
    assert (whole.given_up, whole.error_ratio, whole.shift) == (0, 1, 0)
    assert given_up(whole).startswith("Trained on all 10 rows")
    assert accuracy_of(rows=11, available=10, columns=2) is accuracy_of(rows=0, available=10, columns=2) is None


def test_the_coordinator_shows_what_is_given_up() -> None:
    """From the sizes that both nodes reported, and the public coin."""
    spec = JobSpec.model_validate(document(model={"train_rows": 1500, "evaluate_rows": 300}))
    job = spec.identity()
    sizes = split_sizes(job, 4000, spec.model)

    def view(shared: int) -> dict[str, Any]:
        rows = {"set_size": shared, "intersection": shared, "rows_train": sizes.train, "rows_holdout": sizes.holdout}
        steps = [
            control_pb2.StepView(step=step, state="done", reporters=["bank", "shop"], reports=[control_pb2.StepDone(**each)] * 2)
            for step, each in (("align", rows), ("prepare", {"columns": 6}))
        ]
        metrics = control_pb2.Metrics(auc=0.75, ks=0.4, log_loss=0.4, base_rate=0.2, rows=300)
        return as_json(control_pb2.JobView(job=job, spec=spec.canonical().decode(), state="finished", steps=steps, metrics=metrics))

    found = view(4000)
    assert found["accuracy"] == Accuracy(rows=1500, available=sizes.train_available, columns=12).document()
    assert rows_line(found) == "4,000 shared: 1,500 train, 300 held out, 2,200 not drawn"
    error = auc_standard_error(0.75, rows=300, base_rate=0.2)
    assert found["metrics"]["auc_standard_error"] == error
    assert f"AUC 0.7500 ± {error:.4f} " in metrics_line(found["metrics"])
    assert view(2**40)["accuracy"] is None, "no time is spent on what cannot be"


# ---- standard errors of the evaluation -------------------------------------------------------------------------------------------


def test_the_published_example_of_an_auc() -> None:
    """Hanley and McNeil's 51 abnormal and 58 normal images: area 0.893, standard error 0.032."""
    assert auc_standard_error(0.893, rows=109, base_rate=51 / 109) == pytest.approx(0.032, abs=0.0006)
    assert auc_standard_error(0.5, rows=10, base_rate=0.0) is None
    assert auc_standard_error(float("nan"), rows=10, base_rate=0.5) is None
    assert auc_standard_error(1.0, rows=10, base_rate=0.5) == 0


def test_standard_errors_of_bands_are_those_of_their_rows() -> None:
    """DeLong's placements and the log-loss's deviation, row by row."""
    rng = np.random.default_rng(3)
    label = (rng.random(300) < 0.3).astype(np.int8)
    bands = np.clip(rng.normal(8 + 3 * label, 4), 0, 15).astype(np.uint8)
    probabilities = np.linspace(0.05, 0.8, 16)
    found = metrics(bands, label, probabilities)
    ones, zeros = (bands[label == value].astype(int) for value in (1, 0))
    wins = np.sign(ones[:, None] - zeros[None, :]) / 2 + 0.5
    variance = wins.mean(axis=1).var(ddof=1) / len(ones) + wins.mean(axis=0).var(ddof=1) / len(zeros)
    p = probabilities[bands]
    losses = -np.where(label == 1, np.log(p), np.log(1 - p))
    assert found.errors is not None
    assert found.errors.auc == pytest.approx(variance**0.5, rel=1e-12)
    assert found.errors.log_loss == pytest.approx(losses.std(ddof=1) / 300**0.5, rel=1e-12)
    careful = auc_standard_error(found.auc, rows=found.rows, base_rate=found.base_rate)
    assert careful == pytest.approx(found.errors.auc, rel=0.15)


def test_one_row_of_a_class_has_no_standard_error() -> None:
    found = metrics(np.array([0, 1, 1]), np.array([1, 0, 0]), np.array([0.2, 0.5]))
    assert found.errors is not None
    assert found.errors.auc is None
