"""Customers of any number and any width for the benchmarks, written as two Parquet files row group by row group.

Every person has ``TRAITS`` independent standard normal traits.  A column is a mixture of the traits and of noise of its own, in
one of four shapes that take turns: a rounded normal, a log-normal amount, a count, a share; so columns are correlated within a side
and across both.  The label, at the bank, is one coin of a chance that is logistic in the traits, with ``BASE_RATE`` in the mean.

Kept in memory is one row of traits a person (32 bytes) and the order of each file (8 bytes); columns exist for one row group at a
time.  The same arguments give the same files with the same numpy.  Nothing here is drawn from any real person.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from coordinator.demo.datasets import PARTIES, DemoData, Side

SEED = 20250131
TRAITS = 8
BASE_RATE = 0.2
OTHERS = 3
"""Each side has one further customer, whom the other does not know, for so many shared ones."""
GROUP_ROWS = 65_536
SPREAD = 1.2
"""Standard deviation of the true log-odds."""
IDENTIFIER = {"bank": ("customer_id", "CUST-"), "platform": ("user_id", "cust-")}
LABEL = "default_12m"

Floats = NDArray[np.float32]


def write_people(folder: Path, *, shared: int, columns: tuple[int, int], minimum: int = 1000, seed: int = SEED) -> DemoData:
    """Write ``bank.parquet`` and ``platform.parquet``.

    Args:
        folder: an existing folder.
        shared: customers that both sides know.
        columns: features of the bank and of the platform.
        minimum: what job and policies name as the smallest intersection.
    """
    rng = np.random.default_rng(seed)
    own = -(-shared // OTHERS)
    people = shared + 2 * own
    traits = rng.standard_normal((people, TRAITS), dtype=np.float32)
    label = _label(rng, traits)
    # Identifiers are drawn from a wider range so that they say nothing about who is shared.
    numbers = rng.permutation(4 * people)[:people]
    members = {"bank": np.arange(shared + own), "platform": np.arange(own, people)}
    sides = {}
    for name, count in zip(PARTIES, columns, strict=True):
        order = rng.permutation(members[name])
        features = [f"{name}_{i:03d}" for i in range(count)]
        path = folder / f"{name}.parquet"
        _write(path, rng, name, order, features, traits, numbers, label if name == "bank" else None)
        sides[name] = Side(
            name=name,
            path=path,
            source="parquet",
            identifier=IDENTIFIER[name][0],
            numbers=tuple(features),
            label=LABEL if name == "bank" else None,
        )
    return DemoData(
        title=f"generated: {shared:,} shared customers of {shared + own:,} on each side, {sum(columns)} columns",
        bank=sides["bank"],
        platform=sides["platform"],
        label_holder="bank",
        normalise="casefold",
        minimum=min(minimum, shared),
        built_in=True,
    )


def _write(
    path: Path,
    rng: np.random.Generator,
    name: str,
    order: NDArray[np.int64],
    columns: list[str],
    traits: Floats,
    numbers: NDArray[np.int64],
    label: NDArray[np.int8] | None,
) -> None:
    identifier, prefix = IDENTIFIER[name]
    loadings = rng.standard_normal((TRAITS, len(columns))).astype(np.float32)
    loadings *= 0.7 / np.linalg.norm(loadings, axis=0)
    fields = [(identifier, pa.string()), *((column, pa.float64()) for column in columns)]
    fields += [(LABEL, pa.int8())] if label is not None else []
    with pq.ParquetWriter(path, pa.schema(fields)) as file:
        for first in range(0, len(order), GROUP_ROWS):
            rows = order[first : first + GROUP_ROWS]
            digits = pc.utf8_lpad(pa.array(numbers[rows]).cast(pa.string()), width=9, padding="0")
            arrays = [pc.binary_join_element_wise(pa.scalar(prefix), digits, pa.scalar(""))]
            arrays += [pa.array(values) for values in _values(rng, traits[rows], loadings)]
            if label is not None:
                arrays.append(pa.array(label[rows]))
            file.write_table(pa.table(arrays, schema=file.schema))


def _values(rng: np.random.Generator, traits: Floats, loadings: Floats) -> Iterator[NDArray[np.float64]]:
    """The columns of some rows, one after the other: each standard normal before it takes its shape."""
    mixed = traits @ loadings
    for number in range(loadings.shape[1]):
        normal: NDArray[np.float64] = mixed[:, number].astype(np.float64) + 0.714 * rng.standard_normal(len(mixed))
        shape = number % 4
        if shape == 0:
            yield np.round(normal, 3)
        elif shape == 1:
            yield np.round(np.exp(6.0 + 0.6 * normal), 2)
        elif shape == 2:
            yield rng.poisson(np.exp(0.3 + 0.6 * np.clip(normal, -6.0, 6.0))).astype(np.float64)
        else:
            yield np.asarray(np.round(1.0 / (1.0 + np.exp(0.8 - normal)), 3), dtype=np.float64)


def _label(rng: np.random.Generator, traits: Floats) -> NDArray[np.int8]:
    weights = rng.standard_normal(TRAITS)
    logit = traits @ (SPREAD * weights / np.linalg.norm(weights)).astype(np.float32)
    low, high = -30.0, 30.0
    for _ in range(40):  # the mean chance grows with the intercept
        middle = (low + high) / 2
        if float(np.mean(1.0 / (1.0 + np.exp(-(logit + middle))))) < BASE_RATE:
            low = middle
        else:
            high = middle
    return (rng.random(len(traits)) < 1.0 / (1.0 + np.exp(-(logit + low)))).astype(np.int8)
