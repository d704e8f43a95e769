"""The node's side of a replay: its own step functions, run in a scratch folder over the audit's wire.

Found by ``isthmus-audit replay`` through the entry point group ``isthmus.replay``.  From the node's folder come the keys (to open
the sealed seed), the log, and what was kept: seed, data set, received messages.  Everything else, alignment, encoded rows,
preparation, rounds, is computed again and lives in the scratch folder until the job is through.  Nothing in the node's folder is
written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from audit.entries import Json
from audit.errors import DataError, IsthmusError, UsageError
from audit.identity import Identity
from audit.record import LOG_FILE
from audit.replay_record import AttemptName, RecordedAttempt, RecordedJob
from audit.replay_wire import ReplayDiffers, ReplayMissing, ReplayWire
from audit.spec import JobSpec, parse_spec
from node.config import DatasetConfig, NodeConfig, load_config
from node.crypto.drbg import Stream
from node.data.load import Table
from node.engine import Engine, make_engine
from node.identity import own_identity
from node.policy import load_policy
from node.runtime import steps
from node.runtime.context import Bounds, Numbers, StepContext, StepResult, step_context
from node.runtime.disclosures import DISCLOSURE_SALTS, item_salt, of_step
from node.runtime.engines import engine_of
from node.runtime.files import JobFiles
from node.runtime.journal import StepLabels, items_of, serialised
from node.runtime.kept import inbound_name, kept_files, read_inbound, read_table, table_name
from node.runtime.relations import Relation, kept_relation
from node.runtime.seeds import SEED_FILE, Seed, open_seed
from node.runtime.spill import SpillingScratch
from node.runtime.store import is_served
from node.scratch import Scratch
from node.transport.channel import parse

M = TypeVar("M", bound=Message)


class ReplayChannel:
    """The ``Channel`` of a replayed step: serialises as the journal does, and ends at the audit's wire."""

    def __init__(self, wire: ReplayWire) -> None:
        self._wire = wire

    def send(self, message: Message) -> None:
        """Hold a message against the log."""
        kind, payload = serialised(message)
        self._wire.send_payload(kind, payload, items=items_of(message))

    def recv(self, kind: type[M]) -> M:
        """The next message received in the live run."""
        return parse(kind, self._wire.recv_payload(kind.DESCRIPTOR.name))


def open_node(folder: Path, *, workers: int | None) -> NodePremises:
    """Open a node's folder (the one with ``node.toml``) for a replay.

    Raises:
        UsageError: those of the configuration and the keys, ``replay.no_folder``.
    """
    path = folder / "node.toml"
    if not path.is_file():
        raise UsageError(
            "replay.no_folder",
            f"{folder} is no node's folder: it has no node.toml.",
            remedy="Name the folder that `isthmus-node init` made, or a copy of it with its keys and state.",
        )
    config = load_config(path)
    engine = engine_of(config) if workers is None else make_engine("inline" if workers == 1 else "processes", workers)
    return NodePremises(config, own_identity(config), engine, Bounds.of(load_policy(config.policy_path), config))


class NodePremises:
    """See :class:`audit.replay.Premises`."""

    def __init__(self, config: NodeConfig, identity: Identity, engine: Engine, bounds: Bounds) -> None:
        self._config, self._identity, self._engine, self._bounds = config, identity, engine, bounds
        self.name = config.name
        self.log_path = config.state_folder / "log" / LOG_FILE
        self.served = is_served(config.state_folder)

    @contextlib.contextmanager
    def job(self, job: RecordedJob) -> Iterator[NodeJob]:
        """One job, with a scratch folder that is gone at the end: what is computed there is secret."""
        spec = _specification(job)
        files = JobFiles(self._config.state_folder / "jobs" / job.job)
        with tempfile.TemporaryDirectory(prefix="isthmus-replay-") as scratch:
            yield NodeJob(
                job=job.job,
                spec=spec,
                me=self.name,
                identity=self._identity,
                engine=self._engine,
                bounds=self._bounds,
                files=files,
                scratch=JobFiles(Path(scratch), os.urandom(32)),  # what a crash leaves opens nowhere
            )

    def close(self) -> None:
        """Stop the workers."""
        self._engine.close()


def _specification(job: RecordedJob) -> JobSpec:
    if not job.document:
        raise ReplayMissing("The log does not hold the job's specification.")
    data = job.document.encode()
    if hashlib.sha256(data).hexdigest() != job.job:
        raise ReplayDiffers("The specification in the log is not the job's: it has another hash.", type="spec")
    return parse_spec(data)


@dataclass
class NodeJob:
    """See :class:`audit.replay.JobPremises`."""

    job: str
    spec: JobSpec
    me: str
    identity: Identity
    engine: Engine = field(repr=False)
    bounds: Bounds
    files: JobFiles
    scratch: JobFiles
    aligned_in: int = 0
    """The attempt of ``align`` whose data set the later steps read."""

    def seed_commitment(self) -> str:
        """See :class:`audit.replay.JobPremises`."""
        return self._seed().commitment

    def _seed(self) -> Seed:
        if not self.files.has(SEED_FILE):
            raise ReplayMissing("The job's seed was not kept: without it nothing can be reproduced.")
        try:
            return open_seed(self.files, job=self.job, identity=self.identity)
        except DataError as error:
            raise ReplayMissing(error.message) from None

    def inbound(self, name: AttemptName) -> Iterator[bytes]:
        """See :class:`audit.replay.JobPremises`."""
        path = kept_files(self.files).folder / inbound_name(*name)
        if not path.is_file():
            return iter(())  # missed only if something was received
        return _unreadable_is_missing(read_inbound(path))

    def run(self, attempt: RecordedAttempt, wire: ReplayWire) -> StepOutcome:
        """See :class:`audit.replay.JobPremises`."""
        with SpillingScratch(self.scratch.folder) as spill:
            return self._run(attempt, wire, spill)

    def _run(self, attempt: RecordedAttempt, wire: ReplayWire, spill: Scratch) -> StepOutcome:
        name = attempt.name
        labels = StepLabels(self.job, name.step, name.round, name.attempt)
        load_from = name.attempt if name.step in ("align", "count") else self.aligned_in
        dataset, table = self._dataset(), None
        if name.step in ("align", "count", "prepare"):
            table, dataset = self._kept_table(load_from, spill)

        def load() -> Table:
            if table is None:
                raise ReplayMissing("The data set was not kept.")
            return table

        context = step_context(
            labels,
            spec=self.spec,
            me=self.me,
            dataset=dataset,
            files=self.scratch,
            seed=self._seed().value,
            engine=self.engine,
            bounds=_bounds_of(attempt.policy, self.bounds),
            numbers=Numbers(attempt.coefficients, attempt.lookup_range),
            commit=wire.commit,
            choose=wire.choose,
            load=load,
            keep=lambda _: None,
            scratch=spill,
            relation=self._relation(name),
        )
        salts = context.drbg.stream(DISCLOSURE_SALTS)
        result = _run_here(name.step, context, ReplayChannel(wire))
        return StepOutcome(self, name, result, wire, salts)

    def _relation(self, name: AttemptName) -> Relation | None:
        """What was kept of a published filter before the attempt."""
        if name.step != "align" or self.spec.publisher is None:
            return None
        try:
            relation = kept_relation(kept_files(self.files), name.attempt, self.spec, me=self.me, state_key=self.identity.state_key)
        except DataError as error:
            raise ReplayMissing(error.message) from None
        if relation is None:
            raise ReplayMissing("What this node held of the published filter before the attempt was not kept.")
        return relation

    def _dataset(self, columns: Mapping[str, Any] | None = None) -> DatasetConfig:
        """A declaration of the data set whose source is never read."""
        named = self.spec.party(self.me).dataset
        return DatasetConfig(name=named, source="csv", path="kept", identifier="identifier", columns=dict(columns or {}))

    def _kept_table(self, attempt: int, spill: Scratch) -> tuple[Table, DatasetConfig]:
        kept = kept_files(self.files)
        if not kept.has(table_name(attempt)):
            raise ReplayMissing("The data set as it was aligned was not kept.")
        keys = [key.normalise for key in self.spec.align.keys]
        rule = "exact" if keys else self.spec.align.normalise  # with keys, nobody is found by the identifier
        try:
            table, declared = read_table(kept, attempt, self.spec.party(self.me).features, rule, keys, spill)
        except DataError as error:
            raise ReplayMissing(error.message) from None
        return table, self._dataset(declared)


@dataclass
class StepOutcome:
    """See :class:`audit.replay.Outcome`."""

    job: NodeJob
    name: AttemptName
    result: StepResult = field(repr=False)
    wire: ReplayWire
    salts: Stream = field(repr=False)

    def disclosures(self) -> Sequence[Mapping[str, Json]]:
        """See :class:`audit.replay.Outcome`."""
        items = of_step(self.name.step, spec=self.job.spec, me=self.job.me, sent=self.wire.items_sent, facts=self.result.facts)
        return [item.fields() | {"salt": item_salt(self.salts)} for item in items]

    def keep(self) -> None:
        """See :class:`audit.replay.Outcome`."""
        try:
            steps.store_result(self.job.scratch, self.result)
        except DataError as error:
            raise ReplayMissing(error.message) from None  # this machine's disk
        if self.name.step == "align":
            self.job.aligned_in = self.name.attempt


def _run_here(step: str, context: StepContext, ch: ReplayChannel) -> StepResult:
    """Run a step; that this machine's engine or disk fails says nothing of what was recorded."""
    try:
        return steps.run_step(step, context, ch)
    except IsthmusError as error:
        if error.code.startswith("engine.") or error.code == "state.scratch":
            raise ReplayMissing(f"{error.message} {error.remedy}") from None
        raise


def _unreadable_is_missing(payloads: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from payloads
    except DataError as error:
        raise ReplayMissing(error.message) from None


def _bounds_of(entry: Mapping[str, Json], now: Bounds) -> Bounds:
    """The policy as it was when the attempt began; where the log does not say, as it is now."""
    values = [entry.get(name) for name in ("minimum_intersection", "key_bits_min", "small_keys")]
    if not all(isinstance(value, int) for value in values):
        return now
    minimum, bits, small = (int(str(value)) for value in values)
    return Bounds(minimum, bits, bool(small))
