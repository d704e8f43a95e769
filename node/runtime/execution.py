"""One attempt of one step, in a thread of its own: connect, run, agree, store, report; in this order.

attempt put down as used  ->  stream to the peer  ->  protocol over the journal  ->  receipts agree
  ->  files on disk  ->  log and checkpoint  ->  StepDone
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from audit.spec import JobSpec
from node.crypto.drbg import Stream
from node.data.load import Table, load_table
from node.errors import IsthmusError, VerificationError
from node.runtime import steps
from node.runtime.aligning import declared_columns
from node.runtime.context import Bounds, Numbers, StepContext, step_context
from node.runtime.disclosures import DISCLOSURE_SALTS, Disclosure, Facts, item_salt, of_step
from node.runtime.journal import JournalChannel, StepLabels
from node.runtime.kept import InboundWriter, inbound_name, kept_files, write_table
from node.runtime.relations import keep_for_replay, open_relation
from node.runtime.seeds import Seed, open_seed
from node.runtime.spill import SpillingScratch
from node.transport.channel import Wire
from node.transport.errors import INTERNAL
from node.transport.outage import OnWait, Outage
from operations.logs import Line, fault
from protos import control_pb2

if TYPE_CHECKING:
    from node.runtime.parts import NodeParts

_log = logging.getLogger("isthmus.node.steps")


class StepLink(Wire, Protocol):
    """What an attempt needs of its stream (``node.transport.channel.GrpcChannel``)."""

    def abort(self, code: str) -> None:
        """Give up and tell the peer the code."""

    def cancel(self, error: IsthmusError) -> None:
        """From another thread: make the next message raise ``error``."""

    def close(self) -> None:
        """End the stream."""


Connect = Callable[[StepLabels, JobSpec, threading.Event, OnWait], StepLink]
"""Opens the session of one attempt with the peer, or waits for the peer to open it; gives up when the event is set, and says while
the step waits for the link."""
WAITING = "waiting for the peer"
"""The phase that a step reports meanwhile: seconds waited, of seconds that the policy allows."""


def peak_rss_bytes() -> int:
    """The largest resident size this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Execution:
    """One attempt of one step.

    Args:
        start: the coordinator's directive, for coefficients and the lookup range.
    """

    def __init__(
        self,
        parts: NodeParts,
        labels: StepLabels,
        spec: JobSpec,
        start: control_pb2.StepStart,
        *,
        report: Callable[[control_pb2.Report], None],
        progress: Callable[..., None],
        notify: Callable[[str], None],
    ) -> None:
        self.labels = labels
        self._parts, self._spec, self._start = parts, spec, start
        self._report, self._progress, self._notify = report, progress, notify
        self._me = parts.identity.name
        self._peer = spec.peer_of(self._me).name
        self._stop = threading.Event()
        self._cancelled: IsthmusError | None = None
        self._link: StepLink | None = None
        self._journal: JournalChannel | None = None
        self._kept: InboundWriter | None = None
        self._scratch = SpillingScratch(parts.config.scratch_folder, memory_bytes=parts.limits.scratch_bytes)
        self._salts: Stream | None = None
        self._disclosed = False
        self._phase: tuple[str, int, int] | None = None
        self._waiting = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._body, name=f"{labels.step}-{labels.job[:8]}", daemon=True)
        self._after: Execution | None = None

    @property
    def peer(self) -> str:
        """The other node's name."""
        return self._peer

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._thread.is_alive()

    def start(self, *, after: Execution | None) -> None:
        """Begin, once ``after``, the job's attempt before, has been given up."""
        if after is not None and after.alive:
            after.cancel(IsthmusError("job.superseded", "The coordinator started another attempt."))
            self._after = after
        self._thread.start()

    def cancel(self, error: IsthmusError) -> None:
        """Give the attempt up; the protocol notices at its next message."""
        with self._lock:
            self._cancelled = self._cancelled or error
            link = self._link
        self._stop.set()
        if link is not None:
            link.cancel(error)

    def join(self, seconds: float) -> None:
        """Wait for the end."""
        self._thread.join(seconds)

    def _check_cancelled(self) -> None:
        """Between two messages a step may compute for long: it is also asked here whether it was given up."""
        if self._cancelled is not None:
            raise self._cancelled

    # -- in the thread
    def _body(self) -> None:
        if self._after is not None:
            self._after.join(3600.0)
            self._after = None
        began = False
        try:
            self._parts.store.begin_step(**self.labels.fields(), now=self._parts.now())
            began = True
            self._run()
        except IsthmusError as error:
            cause = self._cancelled or error
            self._notify(Line(f"{self._name()} failed: {cause}", code=cause.code, peer=self._peer, **self.labels.fields()))
            self._fail(cause.code, began)
        except Exception as error:  # noqa: BLE001 - the last resort of this thread
            # The operator gets the trace, everybody else one code.
            _log.exception("%s ended with a fault of isthmus (%s)", self._name(), type(error).__name__)
            self._fail(self._cancelled.code if self._cancelled else INTERNAL, began)  # given up, what it ran on was closed
        finally:
            self._scratch.close()
            if self._cancelled is not None:
                self._cancelled = self._cancelled.with_traceback(None)  # its frames hold the step's rows

    def _name(self) -> str:
        labels = self.labels
        return f"job {labels.job[:12]} {labels.step}{f' {labels.round}' if labels.round else ''} (attempt {labels.attempt})"

    def _run(self) -> None:
        parts, labels, started = self._parts, self.labels, time.monotonic()
        parts.store.move(labels.job, "running", now=parts.now())
        parts.log.append(
            "step",
            **labels.fields(),
            state="start",
            coefficients=[repr(c) for c in self._start.coefficients],
            lookup_range=repr(self._start.lookup_range),
        )
        parts.observer.step_started(labels)
        seed = open_seed(parts.store.files(labels.job), job=labels.job, identity=parts.identity)
        self._pin_directive()
        journal = self._connect()
        context = self._context(seed)
        self._salts = context.drbg.stream(DISCLOSURE_SALTS)
        result = steps.run_step(labels.step, context, journal)
        digest = journal.exchange_receipts(key=parts.identity.log_key, peer_key=parts.partners[self._peer].log_key)
        if self._link is not None:
            self._link.close()
        self._close_kept()
        steps.store_result(parts.store.files(labels.job), result)
        if context.relation is not None and result.outcome is not None:
            context.relation.keep(result.outcome)
        self._disclose(result.facts)
        seconds = time.monotonic() - started
        parts.log.append(
            "step",
            **labels.fields(),
            state="done",
            transcript_sha256=digest.hex(),
            seconds=f"{seconds:.3f}",
            bytes_sent=journal.bytes_sent,
            bytes_received=journal.bytes_received,
        )
        parts.log.checkpoint()
        done = self._step_done(result.facts, journal, digest, seconds)
        parts.store.end_step(**labels.fields(), state="done", now=parts.now(), report=done.SerializeToString())
        parts.observer.step_done(labels, seconds=seconds, sent=journal.bytes_sent, received=journal.bytes_received)
        self._report(control_pb2.Report(step_done=done))

    def _pin_directive(self) -> None:
        """A step that is tried again runs on the same numbers: other coefficients would disclose other sums than the job's.

        The evaluation runs on those of the finish: another range would tell more bits of the feature holder's scores.
        """
        step = "finish" if self.labels.step == "evaluate" else self.labels.step
        name = f"directive-{step}-{self.labels.round}.json"
        data = json.dumps([list(self._start.coefficients), self._start.lookup_range]).encode()
        files = self._parts.store.files(self.labels.job)
        if not files.has(name):
            files.write(name, data)
        elif files.read(name) != data:
            raise VerificationError(
                "job.directive_changed",
                f"The coordinator started {self.labels.step}, round {self.labels.round}, with other numbers than before.",
                remedy="Nothing was sent; ask the coordinator's operators what happened.",
            )

    def _connect(self) -> JournalChannel:
        link = self._parts.connect(self.labels, self._spec, self._stop, self._on_wait)
        with self._lock:
            self._link, cancelled = link, self._cancelled
        if cancelled is not None:
            raise cancelled
        if self._parts.policy.retention.keeps:
            folder = kept_files(self._parts.store.files(self.labels.job)).folder
            self._kept = InboundWriter(folder / inbound_name(self.labels.step, self.labels.round, self.labels.attempt))
        self._journal = JournalChannel(
            link,
            log=self._parts.log,
            labels=self.labels,
            me=self._me,
            peer=self._peer,
            parties=(self._spec.label_holder.name, self._spec.feature_holder.name),
            keep=self._kept.add if self._kept else None,
        )
        return self._journal

    def _on_wait(self, outage: Outage | None) -> None:
        """Say that the step waits for its peer: to the coordinator again and again, to the operator once; then that it goes on."""
        if outage is not None:
            done, total = int(outage.seconds), int(outage.patience)
            self._progress(**self.labels.fields(), phase=WAITING, done=done, total=total)
            if not self._waiting:
                self._notify(
                    f"{self._name()} waits for {self._peer}: the link is down [{outage.cause}]; it is given up after"
                    f" {total} seconds (policy links.patience)"
                )
            self._waiting = True
        elif self._waiting:
            self._waiting = False
            phase, done, total = self._phase or (self.labels.step, 0, 0)
            self._progress(**self.labels.fields(), phase=phase, done=done, total=total)
            self._notify(f"{self._name()} goes on: the link to {self._peer} is back")

    def _context(self, seed: Seed) -> StepContext:
        parts, labels, spec = self._parts, self.labels, self._spec
        dataset = parts.config.dataset_named(spec.party(self._me).dataset)
        label, keys = spec.label_of(self._me), [key.name for key in spec.align.keys]
        # Where the job names its keys, the identifier only parts the own rows from each other.
        rule = dataset.normalise if keys else spec.align.normalise
        features = spec.party(self._me).features

        def progress(phase: str, done: int, total: int) -> None:
            self._check_cancelled()
            self._phase = (phase, done, total)
            self._progress(**labels.fields(), phase=phase, done=done, total=total)

        def commit(what: str, sha256: str, **sizes: int) -> None:
            fields: dict[str, Any] = labels.fields() | sizes
            parts.log.append("commitment", **fields, what=what, sha256=sha256)

        def choose(what: str, **chosen: str | int) -> None:
            fields: dict[str, Any] = labels.fields() | chosen
            parts.log.append("choice", **fields, what=what)

        def keep(table: Table) -> None:
            if parts.policy.retention.keeps:
                declared = declared_columns(spec, self._me, dataset)
                write_table(kept_files(parts.store.files(labels.job)), labels.attempt, table, features, declared)

        relation = None
        if labels.step == "align" and spec.publisher is not None:
            relation = open_relation(
                parts.store, parts.policy, spec, me=self._me, job=labels.job, attempt=labels.attempt, now=parts.clock()
            )
            if parts.policy.retention.keeps:
                keep_for_replay(kept_files(parts.store.files(labels.job)), labels.attempt, relation)

        return step_context(
            labels,
            spec=spec,
            me=self._me,
            dataset=dataset,
            files=parts.store.files(labels.job),
            seed=seed.value,
            engine=parts.engine,
            bounds=Bounds.of(parts.policy, parts.config),
            numbers=Numbers(self._start.coefficients, self._start.lookup_range),
            commit=commit,
            choose=choose,
            load=lambda: load_table(dataset, features=features, label=label, normalise=rule, keys=keys, scratch=self._scratch),
            keep=keep,
            scratch=self._scratch,
            limits=parts.limits,
            progress=progress,
            relation=relation,
        )

    def _close_kept(self) -> None:
        if self._kept is not None:
            self._kept.close()

    def _disclose(self, facts: Facts | None) -> None:
        if self._disclosed:
            return
        self._disclosed = True
        sent = self._journal.items_sent if self._journal else {}
        items: list[Disclosure] = of_step(self.labels.step, spec=self._spec, me=self._me, sent=sent, facts=facts)
        for item in items:
            self._parts.log.append("disclosure", **self.labels.fields(), **item.fields(), salt=item_salt(self._salts))
        self._parts.store.add_disclosures(**self.labels.fields(), items=items)

    def _step_done(self, facts: Facts, journal: JournalChannel, digest: bytes, seconds: float) -> control_pb2.StepDone:
        done = control_pb2.StepDone(
            **self.labels.fields(),
            transcript_sha256=digest.hex(),
            seconds=seconds,
            bytes_sent=journal.bytes_sent,
            bytes_received=journal.bytes_received,
            peak_rss_bytes=peak_rss_bytes(),
            set_size=facts.set_size,
            intersection=facts.intersection,
            rows_train=facts.rows_train,
            rows_holdout=facts.rows_holdout,
            columns=facts.columns,
            base_rate=facts.base_rate,
            inner_products=facts.inner_products,
        )
        holds_label = self._spec.label_holder.name == self._me
        if facts.metrics is not None and holds_label and self._spec.disclose.aggregates_to_coordinator:
            metrics = facts.metrics
            gains = [control_pb2.GainsRow(decile=row[0], rows=row[1], positives=row[2]) for row in metrics.gains]
            done.metrics.CopyFrom(
                control_pb2.Metrics(
                    auc=metrics.auc,
                    ks=metrics.ks,
                    log_loss=metrics.log_loss,
                    base_rate=metrics.base_rate,
                    rows=metrics.rows,
                    gains=gains,
                )
            )
        return done

    def _fail(self, code: str, began: bool) -> None:
        """Tell the peer and the coordinator the code alone, and write it down; what cannot be written is printed."""
        parts, labels = self._parts, self.labels
        sent, received = (self._journal.bytes_sent, self._journal.bytes_received) if self._journal else (0, 0)
        parts.observer.step_failed(labels, code, sent=sent, received=received)
        if self._link is not None:
            self._link.abort(code)
        try:
            self._close_kept()
        except IsthmusError as error:
            # The replay will miss it, and say so; the failure itself is logged all the same.
            self._notify(fault(error, job=labels.job))
        try:
            if began:
                self._disclose(None)
            parts.log.append("step", **labels.fields(), state="failed", code=code)
            parts.log.checkpoint()
            if began:
                parts.store.end_step(**labels.fields(), state="failed", now=parts.now(), code=code)
        except IsthmusError as error:
            self._notify(fault(error, job=labels.job))
        except Exception:  # noqa: BLE001 - a broken database must not keep the failure from the coordinator
            _log.exception("%s: the failure could not be written down", self._name())
        self._report(control_pb2.Report(step_failed=control_pb2.StepFailed(**labels.fields(), code=code)))
