"""The steps ``align`` and ``count``: the data set is loaded and committed to, then compared with the peer's customers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from audit.spec import JobSpec
from audit.split import split_rows
from node.config import ColumnConfig, DatasetConfig
from node.data.commitment import SALT_BYTES, dataset_root
from node.data.load import Table
from node.errors import PolicyError
from node.protocols import joins, psi, psi_count, psi_filter
from node.protocols.alignment import Choice, align
from node.protocols.channel import Channel
from node.protocols.filter_state import Setting
from node.protocols.psi_filter import Outcome
from node.runtime.context import StepContext, StepResult
from node.runtime.disclosures import Facts
from node.runtime.files import texts_to_arrays
from node.runtime.relations import Relation
from node.scratch import CHUNK_ROWS, Scratch, TextsBuilder


def align_step(ctx: StepContext, ch: Channel) -> StepResult:
    """Load, commit, find the shared customers, and split them into those to train on and those held out."""
    table = ctx.load_rows()
    salt = ctx.drbg.stream("dataset salt").bytes(SALT_BYTES)
    root = dataset_root_of(ctx, table, salt)
    ctx.keep(table)
    ctx.commit("dataset", root, rows=len(table.identifiers))
    table = replace(table, columns={}, label=None)  # the rest of the step needs none, and they may fill the scratch's memory
    alignment, by_key, outcome = _shared(ctx, ch, table)
    rows = np.asarray(alignment.rows, dtype=np.int64)
    train, held_out = split_rows(ctx.job, len(rows), ctx.spec.model)
    facts = Facts(
        set_size=alignment.own_size,
        intersection=len(rows),
        rows_train=int(train.sum()),
        rows_holdout=int(held_out.sum()),
        by_key=by_key,
    )
    bound = {"salt": np.frombuffer(salt, dtype=np.uint8), "root": np.frombuffer(bytes.fromhex(root), dtype=np.uint8)}
    arrays = {"rows": rows, "train": train, "holdout": held_out, **bound, **texts_to_arrays(table.raw_identifiers, rows)}
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
            scratch=ctx.scratch,
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
        scratch=ctx.scratch,
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


def count_step(ctx: StepContext, ch: Channel) -> StepResult:
    """Load, commit, and count the shared customers as far as the job says.

    Raises:
        PolicyError: ``policy.minimum_intersection``.  And what the protocol and the data raise.
    """
    spec, learns = ctx.spec, ctx.spec.learner == ctx.me
    minimum = spec.align.minimum
    if ctx.minimum_shared > minimum:  # the policy is another one than when the job was approved
        raise PolicyError(
            "policy.minimum_intersection",
            f"The job's align.minimum is {minimum}; policy limits.minimum_intersection is {ctx.minimum_shared}.",
            remedy="Submit the job with a minimum that both policies allow.",
        )
    table = ctx.load_rows()
    salt = ctx.drbg.stream("dataset salt").bytes(SALT_BYTES)
    ctx.keep(table)
    ctx.commit("dataset", dataset_root_of(ctx, table, salt), rows=len(table.identifiers))
    counted = psi_count.count(
        ch,
        role=ctx.role,
        learns=learns,
        job=ctx.job,
        identifiers=_present(table.keys[0], ctx.scratch) if spec.align.keys else table.identifiers,
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


def _present(values: Sequence[str], scratch: Scratch) -> Sequence[str]:
    """The values that are not empty."""
    built = TextsBuilder(scratch)
    for first in range(0, len(values), CHUNK_ROWS):
        built.extend([value for value in values[first : first + CHUNK_ROWS] if value])
    return built.result()


def dataset_root_of(ctx: StepContext, table: Table, salt: bytes) -> str:
    """The commitment to the rows as loaded, with their keys where the job names some."""
    keys = [key.name for key in ctx.spec.align.keys]
    return dataset_root(table, ctx.features, declared_columns(ctx.spec, ctx.me, ctx.dataset), salt=salt, keys=keys)


def declared_columns(spec: JobSpec, me: str, dataset: DatasetConfig) -> dict[str, ColumnConfig]:
    """How the columns that a job asks of this node are declared, the label's among them where this node holds it."""
    label = spec.label_of(me)
    return {name: dataset.columns[name] for name in [*spec.party(me).features, *([] if label is None else [label])]}
