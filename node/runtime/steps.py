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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from audit.accuracy import accuracy_of, auc_standard_error
from audit.spec import JobSpec
from audit.split import split_rows, split_sizes
from node.config import ColumnConfig, DatasetConfig
from node.crypto.drbg import Drbg
from node.crypto.paillier import generate_key
from node.data.commitment import SALT_BYTES, dataset_root, encoded_root, key_digest
from node.data.encoding import EncodedColumn, encode, model_columns
from node.data.load import Table
from node.engine import Engine
from node.errors import DataError, PolicyError, UsageError
from node.limits import Limits
from node.protocols import joins, logistic, preparation, psi, psi_count, psi_filter, scoring
from node.protocols.alignment import Choice, align
from node.protocols.channel import Channel, Progress
from node.protocols.filter_state import Setting
from node.protocols.metrics import Metrics, check_two_classes
from node.protocols.psi_filter import Outcome
from node.protocols.training import Prepared, RoundShares, TrainingPlan
from node.runtime.disclosures import Facts
from node.runtime.files import JobFiles, split_from_arrays, texts_to_arrays
from node.runtime.relations import Relation

Role = Literal["label_holder", "feature_holder"]
Arrays = Mapping[str, NDArray]

ORDER = ("align", "prepare", "round", "finish", "evaluate")
"""The steps of a training; only ``round`` has rounds, from 1."""
ORDERS = {"train": ORDER, "count": ("count",)}
"""The steps of each kind of job."""


class Commit(Protocol):
    """Puts a commitment into the log."""

    def __call__(self, what: str, sha256: str, **sizes: int) -> None: ...


class Choose(Protocol):
    """Puts a choice that both sides make alike into the log."""

    def __call__(self, what: str, **chosen: str | int) -> None: ...


@dataclass(frozen=True)
class StepContext:
    """All a step needs besides the channel."""

    spec: JobSpec
    job: str
    me: str
    dataset: DatasetConfig
    files: JobFiles
    drbg: Drbg = field(repr=False)
    engine: Engine = field(repr=False)
    limits: Limits
    minimum_shared: int
    minimum_key_bits: int
    round: int
    attempt: int
    coefficients: Sequence[float]
    lookup_range: float
    progress: Progress
    commit: Commit
    choose: Choose
    load: Callable[[], Table]
    """Reads the data set: the source's rows or, in a replay, those kept."""
    keep: Callable[[Table], None]
    """Keeps the data set as it was loaded for the alignment, where the policy says so."""
    relation: Relation | None = None
    """What is kept from job to job where the job aligns by a published filter."""

    @property
    def role(self) -> Role:
        return "label_holder" if self.spec.label_holder.name == self.me else "feature_holder"

    @property
    def holds_label(self) -> bool:
        return self.role == "label_holder"

    @property
    def features(self) -> Sequence[str]:
        """Names of this node's features, in the order of the job."""
        return self.spec.party(self.me).features


@dataclass(frozen=True)
class StepResult:
    """What a step leaves: figures for the report, and files (bytes, or arrays for an ``.npz``)."""

    facts: Facts
    files: Mapping[str, bytes | Arrays] = field(repr=False)
    outcome: Outcome | None = field(repr=False, default=None)
    """Of an alignment by a published filter: what the relation keeps."""


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


# ---- align ----------------------------------------------------------------------------------------------------------------------


def _align(ctx: StepContext, ch: Channel) -> StepResult:
    table = ctx.load()
    salt = ctx.drbg.stream("dataset salt").bytes(SALT_BYTES)
    root = _dataset_root(ctx, table, salt)
    ctx.keep(table)
    ctx.commit("dataset", root, rows=len(table.identifiers))
    alignment, by_key, outcome = _shared(ctx, ch, table)
    rows = np.asarray(alignment.rows, dtype=np.int64)
    train, held_out = split_rows(ctx.job, len(rows), ctx.spec.model)
    raw = [table.raw_identifiers[row] for row in rows]
    facts = Facts(
        set_size=alignment.own_size,
        intersection=len(rows),
        rows_train=int(train.sum()),
        rows_holdout=int(held_out.sum()),
        by_key=by_key,
    )
    bound = {"salt": np.frombuffer(salt, dtype=np.uint8), "root": np.frombuffer(bytes.fromhex(root), dtype=np.uint8)}
    arrays = {"rows": rows, "train": train, "holdout": held_out, **bound, **texts_to_arrays(raw)}
    return StepResult(facts, {"align.npz": arrays}, outcome)


def _shared(
    ctx: StepContext, ch: Channel, table: Table
) -> tuple[psi.Alignment | joins.Join, Sequence[tuple[int, int]], Outcome | None]:
    """The shared customers; where the job names its keys, what each brought and found; what a published filter keeps."""

    def choose(chosen: Choice) -> None:
        ctx.choose("alignment", **chosen.fields())

    if ctx.relation is not None:
        outcome = _by_filter(ctx, ch, ctx.relation, table.identifiers)
        return outcome.alignment, (), outcome
    if not ctx.spec.align.keys:
        alignment = align(
            ch,
            method=ctx.spec.align_method,
            choose=choose,
            role=ctx.role,
            job=ctx.job,
            identifiers=table.identifiers,
            minimum=ctx.minimum_shared,
            drbg=ctx.drbg,
            limits=ctx.limits,
            engine=ctx.engine,
            progress=ctx.progress,
        )
        return alignment, (), None
    join = joins.join(
        ch,
        role=ctx.role,
        job=ctx.job,
        keys=[joins.Key(key.name, values) for key, values in zip(ctx.spec.align.keys, table.keys, strict=True)],
        minimum=ctx.minimum_shared,
        drbg=ctx.drbg,
        limits=ctx.limits,
        engine=ctx.engine,
        progress=ctx.progress,
    )
    return join, join.by_key, None


def _by_filter(ctx: StepContext, ch: Channel, relation: Relation, identifiers: Sequence[str]) -> Outcome:
    setting = Setting(
        relation=relation.identity,
        identifiers=identifiers,
        minimum=ctx.minimum_shared,
        drbg=ctx.drbg,
        engine=ctx.engine,
        limits=ctx.limits,
        terms=relation.terms,
        commit=ctx.commit,
        progress=ctx.progress,
    )
    if relation.publishes:
        return psi_filter.publish(ch, setting, state=relation.published, reserve=relation.reserve, save=relation.save)
    return psi_filter.query(ch, setting, state=relation.held)


# ---- count ----------------------------------------------------------------------------------------------------------------------


def _count(ctx: StepContext, ch: Channel) -> StepResult:
    spec, learns = ctx.spec, ctx.spec.learner == ctx.me
    minimum = spec.align.minimum
    if ctx.minimum_shared > minimum:  # the policy is another one than when the job was approved
        raise PolicyError(
            "policy.minimum_intersection",
            f"The job's align.minimum is {minimum}; policy limits.minimum_intersection is {ctx.minimum_shared}.",
            remedy="Submit the job with a minimum that both policies allow.",
        )
    table = ctx.load()
    salt = ctx.drbg.stream("dataset salt").bytes(SALT_BYTES)
    ctx.keep(table)
    ctx.commit("dataset", _dataset_root(ctx, table, salt), rows=len(table.identifiers))
    counted = psi_count.count(
        ch,
        role=ctx.role,
        learns=learns,
        job=ctx.job,
        identifiers=[value for value in table.keys[0] if value] if spec.align.keys else table.identifiers,
        minimum=minimum,
        told=lambda size: spec.count.told(size, minimum),
        tells=spec.count.tell_partner,
        drbg=ctx.drbg,
        limits=ctx.limits,
        engine=ctx.engine,
        progress=ctx.progress,
        key=spec.align.keys[0].name if spec.align.keys else "",
    )
    told = counted.told if learns else None
    facts = Facts(set_size=counted.own_size, intersection=(told or 0) if spec.count.tell_coordinator else 0, told=told)
    if counted.told is None:
        return StepResult(facts, {})
    known = {"customers": counted.size, "told": counted.told, "minimum": minimum, "step": spec.count.step}
    return StepResult(facts, {"count.json": json.dumps(known, indent=2).encode()})


def _dataset_root(ctx: StepContext, table: Table, salt: bytes) -> str:
    keys = [key.name for key in ctx.spec.align.keys]
    return dataset_root(table, ctx.features, declared_columns(ctx.spec, ctx.me, ctx.dataset), salt=salt, keys=keys)


def declared_columns(spec: JobSpec, me: str, dataset: DatasetConfig) -> dict[str, ColumnConfig]:
    """How the columns that a job asks of this node are declared, the label's among them where this node holds it."""
    label = spec.label_of(me)
    return {name: dataset.columns[name] for name in [*spec.party(me).features, *([] if label is None else [label])]}


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
    table = ctx.load()
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
    if _dataset_root(ctx, table, aligned["salt"].tobytes()) != aligned["root"].tobytes().hex():
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
    "align": _align,
    "count": _count,
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
