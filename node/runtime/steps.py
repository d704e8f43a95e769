"""What each step of a job calls, and what it reads and leaves in the job's folder.

    align      reads the data set                              leaves align.npz
    count      reads the data set; the job's only step         leaves count.json, where this node is told something
    prepare    reads the data set again, align                 leaves encoded.npz, columns.json, prepared.npz
    round t    reads encoded, prepared, rounds 1 .. t - 1      leaves round-<t>.npz
    finish     reads encoded, prepared, all rounds             leaves weights.npz, model.json
    evaluate   reads encoded, prepared, weights                leaves metrics.json, where this node learns them

A step returns its files; the runtime stores them when both nodes agree on what was said.  What it computes from, the data set and
the key of the job, it commits to before its first message.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit.accuracy import accuracy_of, auc_standard_error
from audit.split import split_sizes
from node.crypto.paillier_keys import generate_key
from node.data.commitment import SALT_BYTES, encoded_root, key_digest
from node.data.encoding import EncodedColumn, encode, model_columns
from node.data.load import Table
from node.errors import DataError, UsageError
from node.protocols import logistic, preparation, scoring
from node.protocols.channel import Channel
from node.protocols.metrics import Metrics, check_two_classes
from node.protocols.training import Prepared, RoundShares, TrainingPlan
from node.runtime.aligning import align_step, count_step, dataset_root_of
from node.runtime.context import Arrays, StepContext, StepResult
from node.runtime.disclosures import Facts
from node.runtime.files import JobFiles, split_from_arrays

ORDER = ("align", "prepare", "round", "finish", "evaluate")
"""The steps of a training; only ``round`` has rounds, from 1."""
ORDERS = {"train": ORDER, "count": ("count",)}
"""The steps of each kind of job."""


def run_step(step: str, ctx: StepContext, ch: Channel) -> StepResult:
    """Run one step over ``ch``.

    Raises:
        UsageError: ``job.unknown_step``, ``job.step_order``.  And what the step's protocol and data raise.
    """
    if step not in _STEPS:
        raise UsageError(
            "job.unknown_step", f"This node knows no step {step!r}.", remedy="Update the older of node and coordinator."
        )
    return _STEPS[step](ctx, ch)


# ---- prepare --------------------------------------------------------------------------------------------------------------------


def _plan(ctx: StepContext, rows: int) -> TrainingPlan:
    model = ctx.spec.model
    return TrainingPlan(
        role=ctx.role,
        job=ctx.job,
        l2=Fraction(model.l2),
        rounds=model.rounds,
        key_bits=model.key_bits,
        minimum_key_bits=ctx.minimum_key_bits,
        lookup_entries=model.lookup_entries_of(rows),
        rows=rows,
        key_kind=model.key_kind,
    )


def _prepare(ctx: StepContext, ch: Channel) -> StepResult:
    aligned = ctx.files.read_arrays("align.npz")
    split = split_from_arrays(aligned)
    used = split.train | split.holdout  # a row that was not drawn is as if it were not shared
    rows, held_out = aligned["rows"][used], split.holdout[used]
    table = ctx.load_rows()
    _check_unchanged(ctx, table, aligned)
    encoded = encode(table, rows=rows, holdout=held_out, features=ctx.features, config=ctx.dataset)
    # Masks are counted from the attempt that prepared them: a restart before it has cost none.
    arrays: dict[str, NDArray] = {"train": encoded.train, "holdout": encoded.holdout, "prepared_in": np.array([ctx.attempt])}
    label = label_holdout = None
    if table.label is not None:
        label, label_holdout = table.label[rows][~held_out], table.label[rows][held_out]
        arrays |= {"label": label, "label_holdout": label_holdout}
        if Decimal(ctx.spec.model.holdout) > 0:
            check_two_classes(label_holdout)  # now, rather than after the training
    del table  # the hours that follow need no row that is not trained on
    salt = ctx.drbg.stream("encoded salt").bytes(SALT_BYTES)
    ctx.commit("encoded", encoded_root(encoded, label, label_holdout, salt=salt), rows=len(rows), columns=len(encoded.columns))
    bits = ctx.spec.model.key_bits
    own = generate_key(bits, ctx.drbg.stream("paillier key"), kind=ctx.spec.model.key_kind)
    ctx.commit("paillier key", key_digest(own.public.n, own.public.h_s, bits=bits), bits=bits)
    prepared = preparation.prepare(
        ch,
        plan=_plan(ctx, len(encoded.train)),
        own=own,
        matrix=encoded.train,
        label=label,
        drbg=ctx.drbg,
        engine=ctx.engine,
        limits=ctx.limits,
        progress=ctx.progress,
    )
    columns = json.dumps([asdict(column) for column in encoded.columns]).encode()
    facts = Facts(columns=prepared.columns, base_rate=prepared.base_rate)
    return StepResult(facts, {"encoded.npz": arrays, "columns.json": columns, "prepared.npz": prepared.to_arrays()})


def _check_unchanged(ctx: StepContext, table: Table, aligned: Arrays) -> None:
    """The rows are those that this node committed to when it aligned: the same customers at the same places, the same values."""
    if dataset_root_of(ctx, table, aligned["salt"].tobytes()) != aligned["root"].tobytes().hex():
        raise DataError(
            "data.changed",
            f"The data set {ctx.dataset.name!r} changed after its customers were aligned.",
            remedy="Leave the data set as it is while a job runs (give it a snapshot or a view), and submit the job again.",
        )


def _read_columns(files: JobFiles) -> list[EncodedColumn]:
    try:
        documents = json.loads(files.read("columns.json"))
        return [EncodedColumn(**(document | {"members": tuple(document["members"])})) for document in documents]
    except (ValueError, TypeError, LookupError, RecursionError):
        raise DataError(
            "state.unreadable",
            f"The file {files.folder / 'columns.json'} is damaged.",
            remedy="Restore it from a backup, or submit the job again.",
        ) from None


# ---- rounds ---------------------------------------------------------------------------------------------------------------------


def _earlier(ctx: StepContext, count: int) -> list[RoundShares]:
    return [ctx.files.read_as(f"round-{number}.npz", RoundShares.from_arrays) for number in range(1, count + 1)]


def _round(ctx: StepContext, ch: Channel) -> StepResult:
    encoded = ctx.files.read_arrays("encoded.npz")
    shares = logistic.run_round(
        ch,
        plan=_plan(ctx, len(encoded["train"])),
        prepared=ctx.files.read_as("prepared.npz", Prepared.from_arrays),
        matrix=encoded["train"],
        label=encoded.get("label"),
        earlier=_earlier(ctx, ctx.round - 1),
        round=ctx.round,
        slot=ctx.round - 1 + ctx.attempt - int(encoded["prepared_in"][0]),
        coefficients=ctx.coefficients,
        lookup_range=ctx.lookup_range,
        drbg=ctx.drbg,
        limits=ctx.limits,
        engine=ctx.engine,
        progress=ctx.progress,
    )
    return StepResult(Facts(inner_products=shares.inner_products), {f"round-{ctx.round}.npz": shares.to_arrays()})


# ---- finish ---------------------------------------------------------------------------------------------------------------------


def _finish(ctx: StepContext, ch: Channel) -> StepResult:
    encoded = ctx.files.read_arrays("encoded.npz")
    prepared = ctx.files.read_as("prepared.npz", Prepared.from_arrays)
    rounds = len(ctx.coefficients)
    weights = logistic.finish(
        ch,
        plan=_plan(ctx, len(encoded["train"])),
        prepared=prepared,
        earlier=_earlier(ctx, rounds),
        coefficients=ctx.coefficients,
        limits=ctx.limits,
    )
    document = model_document(ctx, weights, base_rate=prepared.base_rate, rounds=rounds)
    document["accuracy"] = _accuracy(ctx, prepared, rows=len(encoded["train"]))
    data = json.dumps(document, indent=2, ensure_ascii=False).encode()
    return StepResult(Facts(), {"weights.npz": {"weights": weights}, "model.json": data})


def _accuracy(ctx: StepContext, prepared: Prepared, *, rows: int) -> dict[str, float] | None:
    """What the training can be expected to give up for the rows it left out: by sizes that both parties know."""
    shared = len(ctx.files.read_arrays("align.npz")["holdout"])
    available = split_sizes(ctx.job, shared, ctx.spec.model).train_available
    found = accuracy_of(rows=rows, available=available, columns=prepared.own_columns + prepared.peer_columns)
    return found.document() if found else None


def model_document(ctx: StepContext, weights: NDArray[np.float64], *, base_rate: str, rounds: int) -> dict[str, Any]:
    """This party's half of the model in original units.

    A row's part of the score is the intercept (label holder) plus the sum over columns of ``weight * (min(max(x, low), high) -
    centre)``.
    """
    intercept, own = (float(weights[0]), weights[1:]) if ctx.holds_label else (None, weights)
    return {
        "v": 1,
        "job": ctx.job,
        "party": ctx.me,
        "role": ctx.role,
        "intercept": intercept,
        "columns": model_columns(_read_columns(ctx.files), own),
        "base_rate": base_rate,
        "rounds": rounds,
    }


# ---- evaluate -------------------------------------------------------------------------------------------------------------------


def _evaluate(ctx: StepContext, ch: Channel) -> StepResult:
    encoded = ctx.files.read_arrays("encoded.npz")
    prepared = ctx.files.read_as("prepared.npz", Prepared.from_arrays)
    weights = ctx.files.read_arrays("weights.npz")["weights"]
    metrics = scoring.evaluate(
        ch,
        plan=_plan(ctx, len(encoded["train"])),
        prepared=prepared,
        matrix=encoded["holdout"],
        weights=weights,
        label=encoded.get("label_holdout"),
        bands=ctx.spec.model.bands,
        lookup_range=ctx.lookup_range,
        share_aggregates=ctx.spec.disclose.aggregates_to_feature_holder,
        drbg=ctx.drbg,
        limits=ctx.limits,
        progress=ctx.progress,
    )
    files: dict[str, bytes] = {"metrics.json": metrics_json(metrics)} if metrics is not None else {}
    return StepResult(Facts(metrics=metrics), files)


def metrics_json(metrics: Metrics) -> bytes:
    """The aggregates as this node keeps them, with standard errors: of its own rows, or of what it was told."""
    values: dict[str, Any] = {name: float(getattr(metrics, name)) for name in ("auc", "ks", "log_loss", "base_rate")}
    values |= {"rows": int(metrics.rows), "gains": [[int(part) for part in row] for row in metrics.gains]}
    errors = metrics.errors
    if errors is not None:
        values |= {"auc_standard_error": errors.auc, "log_loss_standard_error": errors.log_loss}
    else:
        told = auc_standard_error(metrics.auc, rows=metrics.rows, base_rate=metrics.base_rate)
        values |= {"auc_standard_error": told, "log_loss_standard_error": None}
    return json.dumps(values, indent=2).encode()


_STEPS: dict[str, Callable[[StepContext, Channel], StepResult]] = {
    "align": align_step,
    "count": count_step,
    "prepare": _prepare,
    "round": _round,
    "finish": _finish,
    "evaluate": _evaluate,
}


def store_result(files: JobFiles, result: StepResult) -> None:
    """Put a step's files on disk, each whole or not at all; the last one written is the one the next step needs."""
    for name, content in result.files.items():
        if isinstance(content, bytes):
            files.write(name, content)
        else:
            files.write_arrays(name, content)
