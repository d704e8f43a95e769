"""Metrics from bands against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score, roc_curve

from node.errors import DataError
from node.protocols.metrics import metrics
from node.protocols.scoring import band_edges, band_probabilities


@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = (rng.random(700) < 0.25).astype(np.int8)
    bands = np.clip(rng.normal(10 + 3 * label, 4), 0, 19).astype(np.uint8)
    probabilities = np.linspace(0.02, 0.9, 20)
    result = metrics(bands, label, probabilities)
    false, true, _ = roc_curve(label, bands)
    assert result.auc == pytest.approx(roc_auc_score(label, bands), abs=1e-12)
    assert result.ks == pytest.approx(np.max(true - false), abs=1e-12)
    assert result.log_loss == pytest.approx(log_loss(label, probabilities[bands]), abs=1e-12)
    assert result.base_rate == label.mean()
    assert sum(rows for _, rows, _ in result.gains) == 700
    assert sum(positives for _, _, positives in result.gains) == label.sum()
    first = np.sort(bands)[::-1][:70]
    assert result.gains[0][1] == len(first)
    assert result.gains[0][2] > result.gains[-1][2]


def test_one_class_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        metrics(np.zeros(5, dtype=np.uint8), np.ones(5, dtype=np.int8), np.array([0.5]))
    assert caught.value.code == "scoring.one_class"


def test_bands_are_narrow_around_the_base_rate() -> None:
    edges = band_edges("0.22", 16.0, 40)
    probabilities = band_probabilities(edges)
    assert len(edges) == 41
    assert len(probabilities) == 40
    plain = np.log(0.22 / 0.78) + 4 * np.sinh(3 * np.linspace(-1, 1, 41)) / np.sinh(3)
    assert edges / 2**34 == pytest.approx(plain, abs=1e-9)
    assert probabilities == pytest.approx(1 / (1 + np.exp(-(plain[:-1] + plain[1:]) / 2)), abs=1e-9)
