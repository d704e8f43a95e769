"""The synthetic customers of the demo: a bank's card customers and a platform's shoppers, with one true model over both.

How a person comes about:

1. Three traits, independent standard normal: *affluence*, *strain* (how tight money is) and *activity* (how much is bought online).
2. Every column is a plausible function of the traits and of its own noise: counts are Poisson, amounts log-normal (skewed, as real
   ones are), shares lie in [0, 1].  Both sides' columns see the same traits, so columns are correlated across the parties.
3. The chance of default within twelve months is logistic in a few *transformed, standardised* columns of both sides
   (``_TRUE_MODEL``), with an intercept that gives ``BASE_RATE``; the label is one coin of that chance.

The bank knows 10,000 persons and the platform 12,000; 5,000 are both.  Nothing here is drawn from any real person.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEED = 20240229
BANK_ROWS = 10_000
PLATFORM_ROWS = 12_000
SHARED_ROWS = 5_000
BASE_RATE = 0.20

BANK_ID = "customer_id"
PLATFORM_ID = "user_id"
LABEL = "default_12m"

_TRUE_MODEL: dict[str, float] = {
    # bank
    "utilisation": 0.27,
    "late_payments_12m": 0.26,
    "tenure_months": -0.22,
    "income_monthly": -0.12,
    "cash_advances_6m": 0.14,
    "savings": -0.10,
    # platform
    "declined_payments_90d": 0.34,
    "instalment_share": 0.26,
    "night_orders_share": 0.22,
    "account_age_months": -0.30,
    "spend_90d": -0.20,
    "address_changes_24m": 0.26,
}
"""Log-odds per standard deviation of the transformed column."""

_LOGGED = frozenset({"income_monthly", "savings", "spend_90d"})
"""Columns that act through log(1 + x): a thousand more matters less to someone who has many."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SyntheticParty:
    """One side's file: ``identifiers`` as this side writes them, ``columns`` by name (each of shape (rows,)), in file order."""

    identifiers: list[str]
    columns: dict[str, Floats]


@dataclass(frozen=True)
class Synthetic:
    """Both sides' files and the label of the bank's and of the platform's rows (int8, 0 or 1), aligned with their own rows."""

    bank: SyntheticParty
    platform: SyntheticParty
    bank_label: NDArray[np.int8]
    platform_label: NDArray[np.int8]
    shared: int


def generate(
    *, bank_rows: int = BANK_ROWS, platform_rows: int = PLATFORM_ROWS, shared: int = SHARED_ROWS, seed: int = SEED
) -> Synthetic:
    """Draw the persons and deal them to the two sides, each in an order of its own.

    Args:
        bank_rows, platform_rows: rows of each side.
        shared: persons known to both, at most the smaller of the two.
        seed: of ``numpy.random.default_rng``; the same seed gives the same files on every machine with the same numpy.
    """
    rng = np.random.default_rng(seed)
    people = bank_rows + platform_rows - shared
    columns = _columns(rng, people)
    label = _label(rng, columns)
    # Identifiers are drawn from a wider range so that they say nothing about who is shared.
    numbers = rng.choice(10 * people, size=people, replace=False)
    bank = rng.permutation(bank_rows)
    platform = rng.permutation(np.arange(bank_rows - shared, people))
    return Synthetic(
        bank=SyntheticParty([f"CUST-{n:07d}" for n in numbers[bank]], {name: columns[name][bank] for name in BANK_COLUMNS}),
        platform=SyntheticParty(
            [f"cust-{n:07d}" for n in numbers[platform]], {name: columns[name][platform] for name in PLATFORM_COLUMNS}
        ),
        bank_label=label[bank],
        platform_label=label[platform],
        shared=shared,
    )


def _columns(rng: np.random.Generator, people: int) -> dict[str, Floats]:
    affluence, strain, activity = rng.standard_normal((3, people))

    def noise() -> Floats:
        return rng.standard_normal(people)

    def counts(log_mean: Floats) -> Floats:
        return rng.poisson(np.exp(np.clip(log_mean, -8.0, 5.0))).astype(np.float64)

    drawn: dict[str, Floats] = {}
    for table in (BANK_COLUMNS, PLATFORM_COLUMNS):
        for name, draw in table.items():
            drawn[name] = draw(affluence, strain, activity, noise, counts)
    return drawn


def _whole(values: Floats) -> Floats:
    return np.asarray(np.round(values), dtype=np.float64)


def _share(logit: Floats) -> Floats:
    """A share in (0, 1), in steps of 0.001."""
    return np.asarray(np.round(1.0 / (1.0 + np.exp(-logit)), 3), dtype=np.float64)


def _money(log_amount: Floats) -> Floats:
    """A log-normal amount, in cents."""
    return np.asarray(np.round(np.exp(log_amount), 2), dtype=np.float64)


Draw = Callable[[Floats, Floats, Floats, Callable[[], Floats], Callable[[Floats], Floats]], Floats]

BANK_COLUMNS: dict[str, Draw] = {
    "age": lambda a, s, t, noise, count: _whole(np.clip(44 + 6 * a - 4 * t + 12 * noise(), 18, 90)),
    "income_monthly": lambda a, s, t, noise, count: _money(7.8 + 0.45 * a - 0.10 * s + 0.30 * noise()),
    "tenure_months": lambda a, s, t, noise, count: _whole(np.exp(np.clip(3.9 + 0.20 * a - 0.15 * s + 0.7 * noise(), 0, 6.2))),
    "credit_limit": lambda a, s, t, noise, count: 100 * _whole(np.exp(3.6 + 0.5 * a - 0.2 * s + 0.4 * noise())),
    "utilisation": lambda a, s, t, noise, count: _share(-0.6 + 0.8 * s - 0.3 * a + 0.9 * noise()),
    "balance": lambda a, s, t, noise, count: _money(6.6 + 0.3 * a + 0.5 * s + 0.7 * noise()),
    "savings": lambda a, s, t, noise, count: _money(7.2 + 0.9 * a - 0.6 * s + 1.1 * noise()),
    "late_payments_12m": lambda a, s, t, noise, count: count(-1.3 + 0.7 * s + 0.4 * noise()),
    "cash_advances_6m": lambda a, s, t, noise, count: count(-1.0 + 0.5 * s + 0.5 * noise()),
    "card_payments_30d": lambda a, s, t, noise, count: count(2.7 + 0.2 * a + 0.3 * t + 0.3 * noise()),
    "products_held": lambda a, s, t, noise, count: 1 + count(0.3 + 0.3 * a + 0.2 * noise()),
    "salary_account": lambda a, s, t, noise, count: (0.4 + 0.3 * a + noise() > 0).astype(np.float64),
}
"""The bank's columns: how each is drawn from affluence, strain, activity and its own noise."""

PLATFORM_COLUMNS: dict[str, Draw] = {
    "account_age_months": lambda a, s, t, noise, count: _whole(np.clip(40 + 8 * t - 4 * s + 18 * noise(), 1, 160)),
    "orders_90d": lambda a, s, t, noise, count: count(1.4 + 0.6 * t + 0.3 * noise()),
    "spend_90d": lambda a, s, t, noise, count: _money(5.2 + 0.5 * t + 0.4 * a - 0.1 * s + 0.6 * noise()),
    "basket_median": lambda a, s, t, noise, count: _money(3.6 + 0.3 * a + 0.4 * noise()),
    "returns_share": lambda a, s, t, noise, count: _share(-2.2 + 0.2 * s + 0.6 * noise()),
    "declined_payments_90d": lambda a, s, t, noise, count: count(-1.2 + 0.6 * s + 0.2 * t + 0.6 * noise()),
    "instalment_share": lambda a, s, t, noise, count: _share(-1.4 + 0.6 * s - 0.2 * a + 0.9 * noise()),
    "night_orders_share": lambda a, s, t, noise, count: _share(-1.8 + 0.3 * s + 0.7 * noise()),
    "address_changes_24m": lambda a, s, t, noise, count: count(-1.1 + 0.2 * s + 0.6 * noise()),
    "gift_orders_share": lambda a, s, t, noise, count: _share(-2.5 + 0.2 * a + 0.6 * noise()),
}
"""The platform's columns, likewise."""


def _label(rng: np.random.Generator, columns: dict[str, Floats]) -> NDArray[np.int8]:
    logit = np.zeros(len(next(iter(columns.values()))))
    for name, weight in _TRUE_MODEL.items():
        values = np.log1p(columns[name]) if name in _LOGGED else columns[name]
        logit += weight * (values - values.mean()) / values.std()
    intercept = _intercept_for(logit, BASE_RATE)
    return (rng.random(len(logit)) < 1.0 / (1.0 + np.exp(-(logit + intercept)))).astype(np.int8)


def _intercept_for(logit: Floats, rate: float) -> float:
    """The intercept at which the mean chance is ``rate``, by bisection (the mean chance grows with the intercept)."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        if float(np.mean(1.0 / (1.0 + np.exp(-(logit + middle))))) < rate:
            low = middle
        else:
            high = middle
    return (low + high) / 2
