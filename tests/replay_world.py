"""Two nodes in this process that run real jobs over gRPC and TLS, and the replay of either's folder; the test directs the steps.

Both data sets have numbers, a category of several levels and customers of their own; the label depends on both sides' columns.
"""

from __future__ import annotations

import csv
import math
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audit.errors import PeerError
from audit.identity import Identity
from audit.replay import open_premises, replay_node
from audit.replay_results import AttemptResult, Replay
from audit.spec import JobSpec
from coordinator.optimizer import first_range, plan_next
from node.config import NodeConfig
from node.runtime.kept import FOLDER
from protos import control_pb2
from tests.nodes import POLICY, TestNode, free_port, identities, node, spec_of, write_node

SHARED = 300
"""More than one batch of ciphertexts."""
LEVELS = ("north", "south", "east", "west")
KEEP = '[retention]\nkeep = "always"\n'
PARTIES = ("bank", "platform")
ROUNDS = 2
BY_OT = {"minimum": 50, "method": "ot"}


def _write(path: Path, heading: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([heading, *rows])


def write_data(folder: Path, label_holder: str, count: int) -> None:
    """``cards.csv`` at the bank and ``shop.csv`` at the platform; the label ``y`` stands at the label holder's."""
    rng = random.Random(5)
    shared = [f"C{i:05d}" for i in range(count)]
    latent = {name: [rng.gauss(0, 1) for _ in range(4)] for name in shared}

    def side(owns: int, prefix: str, label: bool) -> list[list[Any]]:
        rows = []
        for name in [*shared, *(f"{prefix}{i}" for i in range(owns))]:
            a, b, c, d = latent.get(name) or [rng.gauss(0, 1) for _ in range(4)]
            own = (a, b) if prefix == "B" else (c, d)
            level = LEVELS[min(3, int(4 / (1 + math.exp(-own[1]))))]
            row: list[Any] = [name, f"{own[0]:.4f}", f"{100 + 10 * own[1]:.4f}", level]
            if label:
                row.append(int(rng.random() < 1 / (1 + math.exp(0.6 - a - 0.8 * c))))
            rows.append(row)
        rng.shuffle(rows)
        return rows

    _write(
        folder / "bank" / "cards.csv",
        ["id", "a", "b", "g", *(["y"] * (label_holder == "bank"))],
        side(20, "B", label_holder == "bank"),
    )
    _write(
        folder / "platform" / "shop.csv",
        ["id", "c", "d", "h", *(["y"] * (label_holder == "platform"))],
        side(30, "P", label_holder == "platform"),
    )


def _dataset(name: str, columns: tuple[str, str, str], *, label: bool) -> str:
    text = f'[[dataset]]\nname = "{name}"\nsource = "csv"\npath = "{name}.csv"\nidentifier = "id"\n'
    for number in columns[:2]:
        text += f'[dataset.columns.{number}]\nkind = "number"\n'
    text += f'[dataset.columns.{columns[2]}]\nkind = "category"\nencoding = "{"woe" if label else "one-hot"}"\n'
    return text + ('[dataset.columns.y]\nkind = "label"\n' if label else "")


@dataclass
class World:
    """Both nodes' folders, keys and configurations; ``running`` holds the nodes while they run."""

    folder: Path
    label_holder: str
    known: dict[str, Identity]
    configs: dict[str, NodeConfig]
    addresses: dict[str, str]
    running: dict[str, TestNode] = field(default_factory=dict)

    def home(self, name: str) -> Path:
        return self.folder / name

    def spec(self, **changes: Any) -> JobSpec:
        bank = {"name": "bank", "role": "bank", "dataset": "cards", "features": ["a", "b", "g"]}
        platform = {"name": "platform", "role": "platform", "dataset": "shop", "features": ["c", "d", "h"]}
        first, second = (bank, platform) if self.label_holder == "bank" else (platform, bank)
        return spec_of(**({"label_holder": first, "feature_holder": second} | changes))

    @contextmanager
    def nodes(self, **options: Any) -> Iterator[World]:
        """Both nodes, running."""
        with ExitStack() as stack:
            for name in PARTIES:
                self.running[name] = stack.enter_context(node(self.configs[name], self.known, self.addresses, **options))
            yield self
        self.running = {}

    @property
    def both(self) -> list[TestNode]:
        return [self.running[name] for name in PARTIES]

    # -- what the coordinator says
    def approve(self, spec: JobSpec) -> str:
        job = spec.identity()
        for one in self.both:
            one.heard.reports.clear()
            one.jobs.handle(control_pb2.Directive(offer=control_pb2.Offer(job=job, spec=spec.canonical().decode())))
            one.store.request(job, decision="approve", by="Ana")
            one.jobs.poll()
        decisions = [one.heard.of("decision")[0] for one in self.both]
        for one in self.both:
            one.jobs.handle(control_pb2.Directive(approvals=control_pb2.Approvals(job=job, decisions=decisions)))
        return job

    def step(self, **start: Any) -> list[Any]:
        """Run one attempt on both nodes; their reports of it, done or failed."""
        for one in self.both:
            one.heard.reports.clear()
            one.jobs.handle(control_pb2.Directive(step_start=control_pb2.StepStart(**start)))
        reports = [one.heard.wait(1)[0] for one in self.both]
        return [getattr(report, str(report.WhichOneof("body"))) for report in reports]

    def done(self, **start: Any) -> list[Any]:
        reports = self.step(**start)
        assert all(isinstance(report, control_pb2.StepDone) for report in reports), (reports, [n.heard.lines for n in self.both])
        return reports

    def end(self, job: str, outcome: str, code: str = "") -> None:
        for one in self.both:
            one.jobs.handle(control_pb2.Directive(job_end=control_pb2.JobEnd(job=job, outcome=outcome, code=code)))
            assert one.store.job(job).state == outcome

    def run_job(self, spec: JobSpec, *, may_fail: bool = False, before: Callable[[dict[str, Any]], int] = lambda start: 0) -> str:
        """A whole job as the coordinator would direct it; ended as failed where a step fails, if it may.

        Args:
            before: told of each step with its numbers, may run attempts of its own; returns the lowest attempt to use.
        """
        job, attempt = self.approve(spec), 0

        def run(step: str, **fields: Any) -> Any:
            nonlocal attempt
            start = {"job": job, "step": step, **fields}
            attempt = max(attempt, before(start))
            reports = self.step(**start, attempt=attempt)
            if any(isinstance(report, control_pb2.StepFailed) for report in reports):
                raise StepsEnded(step, [getattr(report, "code", "") for report in reports])
            return reports[0]

        try:
            run("align")
            rate = float(run("prepare").base_rate)
            products: list[tuple[float, ...]] = []
            coefficients: list[tuple[float, ...]] = []
            current, reach = (), first_range(rate)
            for number in range(1, ROUNDS + 1):
                report = run("round", round=number, coefficients=current, lookup_range=reach)
                products.append(tuple(report.inner_products))
                coefficients.append(current)
                plan = plan_next(products, coefficients, base_rate=rate, rounds=ROUNDS, tolerance=1e-9)
                current, reach = plan.coefficients, plan.lookup_range
            run("finish", coefficients=current, lookup_range=reach)
            run("evaluate", coefficients=current, lookup_range=reach)
        except (StepsEnded, PeerError) as ended:  # the optimizer, too, refuses what cannot be
            if not may_fail:
                raise AssertionError(f"{ended}: {[one.heard.lines for one in self.both]}") from None
            self.end(job, "failed", "test.step_failed")
        else:
            self.end(job, "finished")
        return job

    # -- the auditor
    def replay(self, name: str, *, job: str | None = None, workers: int | None = None, folder: Path | None = None) -> Replay:
        return replay(folder or self.home(name), job=job, workers=workers)


class StepsEnded(Exception):
    """A step failed at one of the nodes or both."""


def replay(folder: Path, *, job: str | None = None, workers: int | None = None) -> Replay:
    premises = open_premises(folder, workers=workers)
    try:
        return replay_node(premises, prefix=job, on_result=lambda *_: None)
    finally:
        premises.close()


def differing(found: Replay) -> list[AttemptResult]:
    return [result for job in found.jobs for result in job.results if result.verdict == "differs"]


def make_world(folder: Path, *, label_holder: str = "bank", retention: str = KEEP, shared: int = SHARED, extra: str = "") -> World:
    """Lay both nodes out; the bank can be dialled.  ``extra`` goes to the end of both node.toml."""
    known = identities(folder)
    write_data(folder, label_holder, shared)
    port = free_port()
    configs = {}
    for name, dataset, columns in (("bank", "cards", ("a", "b", "g")), ("platform", "shop", ("c", "d", "h"))):
        text = _dataset(dataset, columns, label=label_holder == name) + extra
        configs[name] = write_node(folder / name, name, text, port=port if name == "bank" else 0)
        configs[name].policy_path.write_text(POLICY + retention)
    return World(folder, label_holder, known, configs, {"bank": f"127.0.0.1:{port}"})


def finished_world(folder: Path, *, label_holder: str) -> World:
    """One finished job; each party holds the label once, with a weight-of-evidence column, each way of matching once."""
    world = make_world(folder, label_holder=label_holder)
    with world.nodes():
        world.run_job(world.spec(**({"align": BY_OT} if label_holder == "platform" else {})))
    return world


def copy_of(world: World, folder: Path) -> Path:
    """A copy of both nodes' folders, to be spoilt."""
    for name in PARTIES:
        shutil.copytree(world.home(name), folder / name)
    return folder


def kept(folder: Path) -> Path:
    """What the node of this folder keeps of its first job for a replay."""
    return next((folder / "state" / "jobs").iterdir()) / FOLDER
