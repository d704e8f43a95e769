"""Corners of the sealed training: no penalty, odd shapes, extreme directives, and bytes that no honest peer sends."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from node.errors import IsthmusError, PeerError, UsageError
from node.limits import LIMITS
from node.protocols import logistic
from node.protocols.metrics import metrics
from node.protocols.preparation import round_base_rate
from node.protocols.residuals import sigmoid_table
from node.protocols.scales import (
    ENTRY_BITS,
    RESIDUAL_BITS,
    STATISTICAL_BITS,
    column_layout,
    log2_ceil,
    preconditioner_layout,
    score_bits,
    score_layout,
)
from node.protocols.scoring import band_edges, band_probabilities, evaluate
from node.protocols.training import Prepared, parse_base_rate
from protos import peer_pb2 as pb
from tests.pair import Outcome, run_pair
from tests.training import ROLES, Training, toy


def excess_loss(training: Training, weights: NDArray[np.float64]) -> float:
    """Mean log-loss above that of scikit-learn's model with the same penalty."""
    x, y = np.concatenate([training.left, training.right], axis=1) / 1024, training.label
    strength = 1 / (float(training.l2) * len(y)) if training.l2 > 1e-12 else 1e12
    oracle = LogisticRegression(C=strength, tol=1e-9, max_iter=3000).fit(x, y)

    def loss(z: NDArray[np.float64]) -> float:
        return float(np.mean(np.logaddexp(0, z) - y * z))

    return loss(x @ weights[1:] + weights[0]) - loss(oracle.decision_function(x))


# ---- trainings at the edge -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("l2", [Fraction(0), Fraction(1, 10**24), Fraction(10**6)])
def test_no_penalty_and_extreme_ones_train(l2: Fraction) -> None:
    """Without a penalty the penalty's shares are zero on both sides: cutting them would give 2**148, not 0."""
    training = Training(*toy(400, (2, 3)), rounds=5, l2=l2)
    weights, _ = training.train(tolerance=1e-7)
    assert abs(excess_loss(training, weights)) < 1e-3


@pytest.mark.parametrize(("rows", "columns"), [(257, (1, 1)), (255, (1, 4)), (256, (4, 1))])
def test_odd_shapes_train(rows: int, columns: tuple[int, int]) -> None:
    """One column a side, and a last batch of one row."""
    training = Training(*toy(rows, columns, seed=3), rounds=6)
    weights, _ = training.train()
    assert abs(excess_loss(training, weights)) < 1e-3


def test_constant_and_repeated_columns_train() -> None:
    left, right, label = toy(400, (2, 3))
    left = np.concatenate([left, np.zeros_like(left[:, :1])], axis=1)
    right = np.concatenate([right, right[:, :1]], axis=1)
    training = Training(left, right, label, rounds=6)
    weights, _ = training.train()
    assert abs(excess_loss(training, weights)) < 1e-3
    assert weights[3] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("value", [0, 1])
def test_a_single_row_of_one_class_trains(value: int) -> None:
    left, right, label = toy(400, (2, 3))
    label = np.full(400, 1 - value, dtype=np.int8)
    label[7] = value
    training = Training(left, right, label, rounds=5)
    weights, _ = training.train()
    assert abs(excess_loss(training, weights)) < 2e-3


@pytest.mark.parametrize("key_bits", [512, 2048, 3072])
@pytest.mark.parametrize("columns", [1, 300, 4097])
@pytest.mark.parametrize("rounds", [1, 8, 64])
def test_layouts_fit_the_plaintext(key_bits: int, columns: int, rounds: int) -> None:
    bits = key_bits - 2
    ring = score_bits(plaintext_bits=bits, columns=columns, slots=rounds)
    for size in (1, columns):
        for layout, entry, terms in (
            (column_layout(plaintext_bits=bits, rows=2**27, slots=rounds + 1), ENTRY_BITS, 2**27),
            (preconditioner_layout(plaintext_bits=bits, columns=size, slots=rounds + 1), 34, size),
            (score_layout(plaintext_bits=bits, columns=size, slots=rounds, ring_bits=ring), ENTRY_BITS, size),
        ):
            assert layout.hiding_bits(layout.group) < bits
            assert layout.hiding_bits(layout.group) == layout.group * layout.rows * layout.slot_bits + STATISTICAL_BITS
            masked = RESIDUAL_BITS if terms == 2**27 else layout.ring_bits
            assert layout.slot_bits >= masked + entry + log2_ceil(terms)


# ---- directives and disclosed figures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", range(-4, 17))
@pytest.mark.parametrize("entries", [32, 64, 256])
def test_residuals_stay_residuals_at_every_range(exponent: int, entries: int) -> None:
    """The share r hides e = table - y only while |e| <= 1."""
    table = sigmoid_table(2.0**exponent, entries)
    assert table.min() >= 0
    assert table.max() <= 1 << 16


@pytest.mark.parametrize(("rows", "expected"), [(5 * 10**6, "0.0000002"), (3 * 10**7, "0.0000001")])
def test_the_rarest_label_has_a_base_rate_that_the_peer_accepts(rows: int, expected: str) -> None:
    label = np.zeros(rows, dtype=np.int8)
    label[0] = 1
    assert round_base_rate(label) == expected
    parse_base_rate(expected)


def test_the_log_loss_does_not_depend_on_the_processor() -> None:
    """Correctly rounded: it may be sent to the feature holder."""
    edges = band_edges("0.22", 16.0, 40)
    probabilities = band_probabilities(edges)
    z = (edges[:-1] + edges[1:]) / 2**35
    assert probabilities == pytest.approx(1 / (1 + np.exp(-z)), rel=1e-14)
    bands, label = np.arange(40, dtype=np.uint8), (np.arange(40) % 2).astype(np.int8)
    plain = -np.mean(np.where(label == 1, np.log(probabilities), np.log1p(-probabilities)))
    assert metrics(bands, label, probabilities).log_loss == pytest.approx(plain, rel=1e-14)


# ---- bytes of a hostile peer ---------------------------------------------------------------------------------------------------


class Finished:
    """A small training that has ended; each of its steps can be run again under tampering."""

    def __init__(self) -> None:
        self.training = Training(*toy(30, (2, 2), seed=3), rounds=2)
        self.training.prepare().results()
        self.training.round(1, (), 2.0).results()
        self.training.round(2, (0.7,), 8.0).results()
        self.weights = self.finish().results()

    def prepare(self, **tamper: Any) -> Outcome:
        training = self.training
        return Training(training.left, training.right, training.label, rounds=2).prepare(**tamper)

    def round(self, **tamper: Any) -> Outcome:
        def half(side: int, ch: Any) -> Any:
            role = ROLES[side]
            return logistic.run_round(
                ch,
                **self.training.halves(role),
                prepared=Prepared.from_arrays(self.training.prepared[side].to_arrays()),
                earlier=self.training.earlier[side][:1],
                round=2,
                slot=2,
                coefficients=(0.7,),
                lookup_range=8.0,
                drbg=self.training.drbg(role, "round", 2, 1),
                limits=LIMITS,
            )

        return run_pair(lambda ch: half(0, ch), lambda ch: half(1, ch), **tamper)

    def finish(self, coefficients: tuple[float, ...] = (0.7, 0.2), **tamper: Any) -> Outcome:
        def half(side: int, ch: Any) -> Any:
            return logistic.finish(
                ch,
                plan=self.training.plan(ROLES[side]),
                prepared=self.training.prepared[side],
                earlier=self.training.earlier[side][: len(coefficients)],
                coefficients=coefficients,
                limits=LIMITS,
            )

        return run_pair(lambda ch: half(0, ch), lambda ch: half(1, ch), **tamper)

    def evaluate(self, ranges: tuple[float, float] = (16.0, 16.0), **tamper: Any) -> Outcome:
        def half(side: int, ch: Any) -> Any:
            training = self.training
            return evaluate(
                ch,
                plan=training.plan(ROLES[side]),
                prepared=training.prepared[side],
                matrix=(training.left, training.right)[side],
                weights=self.weights[side],
                label=training.label if side == 0 else None,
                bands=40,
                lookup_range=ranges[side],
                share_aggregates=True,
                drbg=training.drbg(ROLES[side], "evaluate"),
                limits=LIMITS,
            )

        return run_pair(lambda ch: half(0, ch), lambda ch: half(1, ch), **tamper)


@pytest.fixture(scope="module")
def finished() -> Finished:
    return Finished()


def test_the_end_needs_a_step(finished: Finished) -> None:
    """Weights before any step are public, so their shares are not uniform and could not be cut."""
    outcome = finished.finish(())
    assert isinstance(outcome.left_error, UsageError)
    assert outcome.left_error.code == "training.bad_directive"


def test_weights_out_of_range_are_refused(finished: Finished) -> None:
    def other(index: int, kind: str, payload: bytes) -> list[tuple[str, bytes]]:
        if kind == "WeightShares":
            message = pb.WeightShares.FromString(payload)
            message.values = bytes(byte ^ 0x55 for byte in message.values)
            payload = message.SerializeToString()
        return [(kind, payload)]

    outcome = finished.finish(tamper_left=other, timeout=5)
    assert isinstance(outcome.right_error, PeerError)
    assert outcome.right_error.code == "training.weight_range"


def test_an_evaluation_with_different_ranges_is_noticed(finished: Finished) -> None:
    outcome = finished.evaluate((16.0, 32.0), timeout=5)
    for error in (outcome.left_error, outcome.right_error):
        assert isinstance(error, PeerError)
        assert error.code == "training.directives_differ"


@pytest.mark.parametrize("lookup_range", [0.0, -16.0, 17.0, float("nan"), float("inf"), 2.0**17, 2.0**-5])
def test_an_evaluation_refuses_an_unreasonable_range(finished: Finished, lookup_range: float) -> None:
    outcome = finished.evaluate((lookup_range, lookup_range), timeout=5)
    assert isinstance(outcome.left_error, UsageError)
    assert outcome.left_error.code == "training.bad_directive"


def _changes(kind: str, payload: bytes, rng: random.Random) -> list[bytes]:
    """What a hostile peer may send instead of a message."""
    message = getattr(pb, kind).FromString(payload)
    found = []

    def changed(**fields: Any) -> None:
        other = getattr(pb, kind).FromString(payload)
        for name, value in fields.items():
            if isinstance(value, list):
                del getattr(other, name)[:]
                getattr(other, name).extend(value)
            else:
                setattr(other, name, value)
        found.append(other.SerializeToString())

    if kind == "PaillierKey":
        for size in (0, len(message.modulus)):
            changed(modulus=b"\xff" * size)
        changed(h_s=bytes(len(message.h_s)))
        changed(bits=0, modulus=b"", h_s=b"")
        changed(modulus=rng.randbytes(len(message.modulus)))
    elif kind == "JobFigures":
        for text in ("", "0.\u0663", "0.5\n", "nan", "0." + "0" * 7 + "1"):
            changed(base_rate=text)
        for columns in (0, 1, 4096, 2**32 - 1):
            changed(columns=columns)
        changed(rows=2**64 - 1)
    elif kind == "DirectiveEcho":
        for number in (float("nan"), float("inf"), 1e308):
            changed(coefficients=[number], lookup_range=number)
        changed(coefficients=[0.7] * 1000)
    elif kind == "Aggregates":
        for text in ("nan", "9999.000000", "\u0663.000000", "", "1e400"):
            changed(auc=text, log_loss=text)
        changed(rows=2**64 - 1)
    else:
        size = len(message.values)
        for values in (rng.randbytes(size), b"\xff" * size, bytes(size), b"", message.values[:-1]):
            changed(values=values)
        changed(count=2**32 - 1)
        changed(count=0, values=b"")
        changed(first=2**64 - 1)
    return found


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("step", ["prepare", "round", "finish", "evaluate"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_hostile_bytes_end_in_an_error_of_ours_or_in_none(finished: Finished, step: str, side: str) -> None:
    run: Callable[..., Outcome] = getattr(finished, step)
    rng = random.Random(f"{step} {side}")
    honest = run()
    honest.results()
    last = {kind: index for index, (kind, _) in enumerate(getattr(honest, f"{side}_sent"))}
    for kind, index in last.items():
        for payload in _changes(kind, getattr(honest, f"{side}_sent")[index][1], rng):

            def tamper(at: int, name: str, sent: bytes, index: int = index, payload: bytes = payload) -> list[tuple[str, bytes]]:
                return [(name, payload if at == index else sent)]

            outcome = run(**{f"tamper_{side}": tamper}, timeout=5)
            for error in (outcome.left_error, outcome.right_error):
                assert error is None or isinstance(error, IsthmusError), (kind, payload[:40], repr(error))
