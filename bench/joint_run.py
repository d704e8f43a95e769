"""One job of the three real programs on this machine, measured: two ``isthmus-node serve`` and one ``isthmus-coordinator serve``.

What comes from where:

- seconds of a step, bytes of its messages, peak memory: what the nodes reported (``isthmus-coordinator show``);
- bytes between nodes and coordinator: counted on the wire (:mod:`bench.tap`), TLS included;
- processor seconds and peak memory of each process: the operating system's, sampled while the job runs; what was used since the
  last look is put down to the step that the job is then at, so up to one pause between looks falls to the wrong side of its border;
- the model's quality: both model documents on the open rows, beside scikit-learn's optimum on the same rows and objective.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import rfc8785
import tomli_w

from audit.verify import verify_logs
from bench.tap import Tap
from coordinator.client import OperatorClient, connect
from coordinator.config import load_config
from coordinator.demo.datasets import PARTIES, DemoData
from coordinator.demo.parties import DATASET, Layout, job_document, lay_out
from coordinator.demo.pooled import compare, join
from coordinator.demo.processes import STOP, Supervisor, accepts_connections
from coordinator.demo.report import sizes, steps_by_name
from coordinator.jobs import ENDED
from coordinator.submit import build_spec
from coordinator.views import as_json

NAMES = ("coordinator", *PARTIES)
START_SECONDS = 120.0
PAUSE_SECONDS = (0.2, 2.0)
"""Between two looks at the job: a hundredth of the time that the job has run, within these bounds."""
TOLD_SECONDS = 30.0
"""A step that goes on is reported so often."""
COSIGN_SECONDS = 15.0
MEMORY_MAX = 2 * 10**9
"""No process may need more, whatever the rows."""

Told = Callable[[str], None]
Metered = dict[str, dict[str, float]]
Peaks = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Job:
    """What is asked of the three programs.

    Attributes:
        cores: all processes run on so many of this machine's.
        compare: whether scikit-learn fits the same rows afterwards.
        train_rows, evaluate_rows: so many of the shared rows by the public coin; 0: all.
        until: for a trial, the step after whose end the job is cancelled; then the figures have no model in them.
    """

    bits: int
    cores: int
    rounds: int
    l2: str
    holdout: str
    tolerance: str
    small_keys: bool = False
    compare: bool = True
    train_rows: int = 0
    evaluate_rows: int = 0
    until: str | None = None


@dataclass
class Meter:
    """Processor seconds and peak memory of the three processes, by looking at them again and again."""

    pids: Mapping[str, int]
    by_step: Metered = field(default_factory=lambda: {name: defaultdict(float) for name in NAMES})
    peaks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))
    _last: dict[str, float] = field(default_factory=dict)

    def look(self, step: str) -> None:
        """Put what was used since the last look down to ``step``."""
        for name, pid in self.pids.items():
            self.peaks[name] = max(self.peaks[name], high_water(pid))
            with contextlib.suppress(psutil.Error):
                times = psutil.Process(pid).cpu_times()
                used = times.user + times.system + times.children_user + times.children_system
                self.by_step[name][step] += used - self._last.get(name, 0.0)
                self._last[name] = used


def high_water(pid: int) -> int:
    """The largest resident size that a process has had, in bytes, without its children (these nodes have none that work)."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def run_job(folder: Path, data: DemoData, job: Job, told: Told) -> dict[str, Any]:
    """Start the three programs, run the job to its end, stop them, and return the figures.

    Args:
        folder: an empty folder for keys, configuration, state and logs of the three parties.
        told: hears one line whenever something happens.

    Raises:
        SystemExit: the job did not finish; with its code and where what was said lies.
        IsthmusError: a program ended, or could not be set up.
    """
    layout = lay_out(folder, data, rounds=job.rounds, workers=1, small_keys=job.small_keys)
    for party in PARTIES:
        _approve_by_rule(layout, party)
    with _tapped(layout) as taps, pinned(job.cores), Supervisor(folder) as servers:
        _start(servers, layout)
        meter = Meter({name: servers.servers[name].process.pid for name in NAMES})
        with connect(load_config(layout.config("coordinator"))) as operator:
            begun = time.monotonic()
            name = _submit(layout, operator, data, job)
            view = _follow(servers, operator, name, job.until, meter, told)
            seconds = time.monotonic() - begun
        told(f"{view['state']} after {seconds:,.1f} s")
        figures = _figures(view, meter, taps, seconds)
        if job.until is not None:
            return figures
        _await_cosignatures(layout)
        members = "members.csv" if job.compare else "members.parquet"
        files = {party: (layout.home(party) / "model.json", layout.home(party) / members) for party in PARTIES}
        layout.run_each(PARTIES, lambda party: ("model", name, "--output", str(files[party][0]), "--members", str(files[party][1])))
    figures["disk_bytes"] = {party: _folder_bytes(layout.home(party) / "state") for party in NAMES}
    logs, partners = [layout.log(party) for party in NAMES], [layout.partner_file(party) for party in NAMES]
    figures["verify_exit_status"] = verify_logs(logs, partners=partners).exit_status
    if job.compare:
        told("comparing with scikit-learn on the joined rows")
        models = {party: json.loads(model.read_text(encoding="utf-8")) for party, (model, _) in files.items()}
        joined = join(data, {party: members for party, (_, members) in files.items()})
        figures["quality"] = compare(data, joined, models, l2=float(job.l2))
    return figures


@contextlib.contextmanager
def pinned(cores: int) -> Iterator[None]:
    """Whatever this thread starts meanwhile, and the thread itself, runs on ``cores`` cores.

    Raises:
        SystemExit: there are fewer, or this system cannot pin.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise SystemExit("error: this system cannot keep processes on some cores (sched_setaffinity); run on Linux.")
    usable = sorted(os.sched_getaffinity(0))
    if cores > len(usable):
        raise SystemExit(f"error: {cores} cores were asked for and {len(usable)} are usable; choose with --cores.")
    os.sched_setaffinity(0, usable[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)


def _approve_by_rule(layout: Layout, party: str) -> None:
    path = layout.home(party) / "policy.toml"
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    other = next(name for name in PARTIES if name != party)
    rule = {"name": "benchmark", "partner": other, "dataset": DATASET, "coordinator": "coordinator"}
    path.write_text(tomli_w.dumps(document | {"auto_approve": [rule]}), encoding="utf-8")


@contextlib.contextmanager
def _tapped(layout: Layout) -> Iterator[dict[str, Tap]]:
    """A counting proxy between each node and the coordinator; an address is no part of what a fingerprint covers."""
    taps: dict[str, Tap] = {party: Tap(layout.coordinator_port) for party in PARTIES}
    try:
        for party, tap in taps.items():
            path = layout.home(party) / "partners" / "coordinator.partner.json"
            path.write_bytes(rfc8785.dumps(json.loads(path.read_bytes()) | {"address": tap.address}))
        yield taps
    finally:
        for tap in taps.values():
            tap.close()


def _start(servers: Supervisor, layout: Layout) -> None:
    for name in NAMES:
        command, more = ("isthmus-coordinator", ()) if name == "coordinator" else ("isthmus-node", ("--grace", "0"))
        servers.start(name, command, "--config", str(layout.config(name)), "serve", *more, cwd=layout.folder)
    for port in (layout.coordinator_port, layout.platform_port):
        servers.wait_until(lambda port=port: accepts_connections(port), "The start of the programs", timeout=START_SECONDS)  # type: ignore[misc]


def _submit(layout: Layout, operator: OperatorClient, data: DemoData, job: Job) -> str:
    document = job_document(data, rounds=job.rounds, l2=job.l2, holdout=job.holdout, key_bits=job.bits)
    document["model"] |= {"tolerance": job.tolerance, "train_rows": job.train_rows, "evaluate_rows": job.evaluate_rows}
    spec = build_spec(document, coordinator="coordinator", partners=load_config(layout.config("coordinator")).partners())
    return operator.submit(spec.canonical())


def _follow(
    servers: Supervisor, operator: OperatorClient, name: str, until: str | None, meter: Meter, told: Told
) -> dict[str, Any]:
    """Look at the job until it has ended, or until the step ``until`` has; its last view."""
    begun = said = time.monotonic()
    ended_steps = 0
    meter.look("start")
    while True:
        servers.check()
        view = as_json(operator.show(name))
        meter.look(view["step"] or "start")
        now = time.monotonic()
        ended = [step for step in view["steps"] if step["state"] != "running"]
        for step in ended[ended_steps:]:
            told(f"{step['step']} {step['round'] or ''} {step['state']}: {step['seconds']:,.1f} s")
            said = now
        ended_steps = len(ended)
        if view["state"] in ENDED or any(step["step"] == until and step["state"] == "done" for step in ended):
            break
        if now - said > TOLD_SECONDS:
            parts = [f"{p['party']} {p['phase']} {p['done']:,} of {p['total']:,}" for p in view["parties"] if p["phase"]]
            told(f"{view['step']} goes on, {now - begun:,.0f} s: {'; '.join(parts)}")
            said = now
        STOP.raise_if_asked()
        time.sleep(min(max((now - begun) / 100, PAUSE_SECONDS[0]), PAUSE_SECONDS[1]))
    if view["state"] != "finished" and (until is None or view["state"] in ENDED):
        words = "\n".join(f"--- {server.name}\n{server.said()[-2000:]}" for server in servers.servers.values())
        raise SystemExit(f"error: the job {view['state']} in {view['step']} [{view['code']}]\n{words}")
    return view


def _figures(view: Mapping[str, Any], meter: Meter, taps: Mapping[str, Tap], seconds: float) -> dict[str, Any]:
    steps = steps_by_name(view)
    by_step = {name: {step: round(used, 3) for step, used in used_by.items()} for name, used_by in meter.by_step.items()}
    by_end: Peaks = {party: {} for party in PARTIES}
    for step in view["steps"]:
        for report in step["reports"]:
            by_end[report["party"]][step["step"]] = int(report["peak_rss_bytes"])
    peaks = {name: max(peak, int(steps["peak_rss"].get(name, 0))) for name, peak in meter.peaks.items()}
    return {
        **sizes(view),
        "rounds_done": len(steps["rounds"]),
        "converged": bool(view["converged"]),
        "round_details": steps["rounds"],
        "attempts": int(view["attempt"]),
        "seconds": steps["seconds"],
        "seconds_steps": sum(steps["seconds"].values()),
        "seconds_job": seconds,
        "bytes": steps["bytes"],
        "bytes_to_coordinator": {party: tap.sent for party, tap in taps.items()},
        "bytes_from_coordinator": {party: tap.received for party, tap in taps.items()},
        "cpu_seconds": {name: round(sum(used.values()), 3) for name, used in by_step.items()},
        "cpu_seconds_by_step": by_step,
        "peak_rss_bytes": peaks,
        "peak_rss_bytes_until_step": by_end,
        "memory_kept": max(peaks.values()) < MEMORY_MAX,
        "auc": (view["metrics"] or {}).get("auc"),
        "log_loss_by_bands": (view["metrics"] or {}).get("log_loss"),
    }


def _await_cosignatures(layout: Layout) -> None:
    """The last checkpoints reach their witnesses before everything stops; the verdict tells if they did not."""
    deadline = time.monotonic() + COSIGN_SECONDS
    while time.monotonic() < deadline:
        notes = [(layout.log(name) / "checkpoint").read_bytes() for name in NAMES]
        if all(note.count("— ".encode()) == len(NAMES) for note in notes):
            return
        time.sleep(0.25)


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
