"""The same bytes on every machine: no function whose last bit depends on the processor decides anything that is sent."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy._core._multiarray_umath import __cpu_dispatch__ as DISPATCHED

from node.data.encoding import _evidence, encode

ROOT = Path(__file__).resolve().parents[2]
EXACT = {"fsum", "sqrt", "frexp", "isfinite", "inf", "isqrt", "comb"}
"""Of ``math``: exactly rounded, or no arithmetic at all."""
ROUNDED_ANYHOW = {
    *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "power", "float_power", "cbrt", "sin", "cos", "tan", "sinh", "cosh"),
    *("tanh", "arctan", "hypot", "logaddexp", "mean", "std", "var", "average", "nanmean", "einsum", "linalg", "polyfit", "interp"),
    *("corrcoef", "cov", "percentile", "quantile", "fft", "random"),
}
"""Of numpy: results differ between its own code paths, or follow the order of a sum."""
ALLOWED = {("node/crypto/products.py", "mean")}
"""Chooses which of two ways to the same product is shorter."""


def calls(path: Path) -> set[tuple[str, str]]:
    """(module, attribute) of every use of ``math`` and ``np`` in a file, and of methods named as numpy's sums."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if owner in ("math", "np") or node.attr in ("mean", "std", "var"):
                found.add((owner if owner in ("math", "np") else "np", node.attr))
    return found


@pytest.mark.parametrize("part", ["protocols", "crypto", "data", "engine"])
def test_no_inexact_function_is_used(part: str) -> None:
    used = 0
    for path in sorted((ROOT / "node" / part).glob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for module, function in calls(path):
            used += 1
            if module == "math":
                assert function in EXACT, f"{name} uses math.{function}"
            else:
                assert function not in ROUNDED_ANYHOW or (name, function) in ALLOWED, f"{name} uses {function} of numpy"
    assert used or part == "engine", "the search finds what there is"


EVIDENCE = """
import hashlib, numpy as np
from tests.unit.test_determinism import evidence, plain_logarithms
print(hashlib.sha256(evidence()).hexdigest(), hashlib.sha256(plain_logarithms()).hexdigest())
"""


def evidence() -> bytes:
    """Encoded weights of evidence of 600 levels: the floats of the model, and the integers that are trained on."""
    from node.config import ColumnConfig, DatasetConfig
    from node.data.load import Table

    rng = np.random.Generator(np.random.PCG64(3))
    codes = rng.integers(0, 600, 20_000).astype(np.int32)
    label = (rng.integers(0, 1000, 20_000) < 150 + codes).astype(np.int8)
    identifiers = [str(i) for i in range(20_000)]
    table = Table(
        identifiers=identifiers,
        raw_identifiers=identifiers,
        columns={"g": codes},
        levels={"g": [f"level {i}" for i in range(600)]},
        label=label,
        duplicates=0,
        rows_read=20_000,
    )
    config = DatasetConfig(
        name="d", source="csv", path="d.csv", identifier="id", columns={"g": ColumnConfig(kind="category", encoding="woe")}
    )
    encoded = encode(table, rows=np.arange(20_000), holdout=np.zeros(20_000, dtype=bool), features=["g"], config=config)
    (column,) = encoded.columns
    return encoded.train.tobytes() + np.array([column.centre, column.scale, *column.evidence.values()]).tobytes()


def plain_logarithms() -> bytes:
    """numpy's own logarithms, which the encoding used to take."""
    share = np.arange(1, 5001) / 5003
    return np.log(share / (1 - share)).tobytes()


def hashes(**environment: str) -> list[str]:
    command = [sys.executable, "-W", "ignore", "-c", EVIDENCE]
    return subprocess.check_output(command, cwd=ROOT, env=os.environ | environment, text=True).split()


def test_weights_of_evidence_are_the_same_without_vector_instructions() -> None:
    here, there = hashes(), hashes(NPY_DISABLE_CPU_FEATURES=" ".join(DISPATCHED), OPENBLAS_CORETYPE="Prescott")
    assert here[0] == there[0]
    if here[1] == there[1]:
        pytest.skip("on this processor numpy's own logarithms do not differ either, so the comparison says little")


def test_weights_of_evidence_against_decimals() -> None:
    """An oracle of 50 decimal digits."""
    from decimal import Decimal, getcontext
    from fractions import Fraction

    getcontext().prec = 50
    cases = ((7, 3, Fraction(1, 5)), (5000, 0, Fraction(3, 1000)), (1, 1, Fraction(999, 1000)), (20, 4, Fraction(1, 5)))
    for rows, positives, base in cases:
        rate = (positives + 20 * base) / (rows + 20)
        ratio = (rate / (1 - rate)) / (base / (1 - base))
        expected = (Decimal(ratio.numerator) / Decimal(ratio.denominator)).ln()
        assert _evidence(rows, positives, base) == float(expected)
    assert _evidence(0, 0, Fraction(1, 2)) == 0.0
