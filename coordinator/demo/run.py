"""The demo from start to end: three processes, one job, the check of its logs and of its result."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from rich.console import Console

from audit import console as manners
from audit.checkpoint import parse_note
from audit.errors import VerificationError
from audit.record import CHECKPOINT_FILE
from coordinator.client import OperatorClient, connect
from coordinator.config import load_config
from coordinator.demo import report
from coordinator.demo.datasets import PARTIES, DemoData, PartyName
from coordinator.demo.parties import Layout, job_document, lay_out
from coordinator.demo.pooled import compare, join, require_sklearn
from coordinator.demo.processes import (
    STOP,
    CommandError,
    Supervisor,
    accepts_connections,
    run_command,
    work_folder,
)
from coordinator.jobs import ENDED
from coordinator.views import as_json
from coordinator.watch import follow

START_SECONDS = 60.0
MEMBERS = "members.csv"
PIPED_WIDTH = 110
KEEP_REMEDY = "With --keep DIR the logs and what each process said stay in DIR."
POLL_SECONDS = 0.25
COSIGN_SECONDS = 10.0
KEY_BITS_IN_EARNEST = 3072


@dataclass(frozen=True)
class Options:
    """What the command line asks for, besides the data.  ``l2`` and ``holdout`` are decimal texts, as a job has them."""

    key_bits: int
    rounds: int
    l2: str
    holdout: str
    train_rows: int
    workers: int = 1
    small_keys: bool = False
    json_file: Path | None = None
    keep: Path | None = None


def run_demo(prepare: Callable[[Path], DemoData], options: Options) -> dict[str, Any]:
    """Run the demo and return its result (see :func:`_result` for the keys).

    Args:
        prepare: writes or names the data, given the folder for it.
        options: see :class:`Options`.

    Raises:
        IsthmusError: what any of the commands it runs said; ``demo.job_failed``, ``demo.audit_failed``, and those of the modules
            it calls.
    """
    require_sklearn()
    started = time.monotonic()
    console = manners.console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    with STOP.on_signals(), _folder(options.keep) as folder:
        data = prepare(folder / "data")
        _announce(console, data, options)
        console.print("making keys, configuration and partner files; starting a coordinator and two nodes")
        layout = lay_out(folder, data, rounds=options.rounds, workers=options.workers, small_keys=options.small_keys)
        if not data.built_in:
            _check_data(layout)
        with Supervisor(folder) as servers:
            _start(servers, layout)
            job = _submit(layout, data, options)
            _approve(servers, layout, job)
            view = _follow(servers, layout, job, console)
            documents = _collect(layout, job)
            _await_cosignatures(layout)
            peaks = _memory(servers, report.steps_by_name(view))
        result = _result(view, data, layout, documents, options)
        audit = _verify(layout)
        result |= {"audit": audit, "peak_rss_bytes": peaks, "total_seconds": time.monotonic() - started}
        if options.json_file is not None:
            report.write_json(options.json_file, result)
        report.show(console, data, result)
        if options.keep is not None:
            console.print(f"kept in {folder}")
    if audit["exit_status"] != 0:
        raise VerificationError(
            "demo.audit_failed",
            f"The logs did not verify: {audit['result']}.",
            remedy="Keep the folder with --keep DIR and run isthmus-audit verify on it.",
        )
    return result


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        yield work_folder(keep)
        return
    with tempfile.TemporaryDirectory(prefix="isthmus-demo-") as temporary:
        yield Path(temporary)


def _announce(console: Console, data: DemoData, options: Options) -> None:
    console.print(data.title)
    for note in data.notes:
        console.print(f"  note: {note}")
    if options.key_bits < KEY_BITS_IN_EARNEST:
        console.print(f"  note: keys of {options.key_bits} bits; a job in earnest uses {KEY_BITS_IN_EARNEST} (--key-bits).")


def _check_data(layout: Layout) -> None:
    """Let both nodes look at their data before anything is started: their findings name column and row."""
    for party, found in layout.run_each(PARTIES, lambda party: ("datasets",), accept=(0, 1)).items():
        for dataset in found.get("datasets", []):
            for problem in dataset.get("problems", []):
                if problem.get("grave"):
                    hint = " In the demo: --missing mean." if problem["code"] == "data.missing_value" else ""
                    raise CommandError(problem["code"], f"{party}: {problem['message']}", remedy=problem.get("remedy", "") + hint)


def _start(servers: Supervisor, layout: Layout) -> None:
    """Start the three processes and wait until both nodes are attached."""
    servers.start("coordinator", "isthmus-coordinator", "--config", str(layout.config("coordinator")), "serve", cwd=layout.folder)
    servers.wait_until(lambda: accepts_connections(layout.coordinator_port), "The coordinator's start", timeout=START_SECONDS)
    for party in PARTIES:
        servers.start(party, "isthmus-node", "--config", str(layout.config(party)), "serve", "--grace", "0", cwd=layout.folder)
    servers.wait_until(lambda: accepts_connections(layout.platform_port), "The platform node's start", timeout=START_SECONDS)


def _submit(layout: Layout, data: DemoData, options: Options) -> str:
    path = layout.home("coordinator") / "job.toml"
    document = job_document(
        data,
        rounds=options.rounds,
        l2=options.l2,
        holdout=options.holdout,
        key_bits=options.key_bits,
        train_rows=options.train_rows,
    )
    path.write_text(tomli_w.dumps(document), encoding="utf-8")
    return str(layout.run("coordinator", "submit", str(path))["job"])


def _approve(servers: Supervisor, layout: Layout, job: str) -> None:
    """Approve on both nodes once each has said that the job reached it."""
    for party in PARTIES:
        said = servers.servers[party].said
        servers.wait_until(lambda said=said: job[:12] in said(), f"The {party} node's being offered the job", timeout=START_SECONDS)  # type: ignore[misc]
    layout.run_each(PARTIES, lambda party: ("approve", job[:12], "--by", "the demo"))


def _follow(servers: Supervisor, layout: Layout, job: str, console: Console) -> Mapping[str, Any]:
    """Show progress until the job has ended; its last view.

    Raises:
        CommandError: the code that the job failed with, and what the nodes said.
    """
    with connect(load_config(layout.config("coordinator"))) as coordinator:
        view = follow(_views(servers, coordinator, job), console, as_json=False)
    if view is not None and view["state"] == "finished":
        return view
    raise _job_failed(servers, view or {"state": "failed"})


def _views(servers: Supervisor, coordinator: OperatorClient, job: str) -> Iterator[Mapping[str, Any]]:
    """The job as it changes, until it has ended, while all three processes live."""
    state = ""
    while state not in ENDED:
        servers.check()
        view = as_json(coordinator.show(job))
        state = view["state"]
        yield view
        servers.sample_memory()
        time.sleep(POLL_SECONDS)


def _job_failed(servers: Supervisor, view: Mapping[str, Any]) -> CommandError:
    """The coordinator knows the code alone; the node where it happened has printed the message and the remedy."""
    code = str(view.get("code") or "demo.job_failed")
    where = f" in the step {view['step']}" if view.get("step") else ""
    told = [
        (name, line)
        for name, server in servers.servers.items()
        for line in re.findall(rf"failed: (.+) \[{re.escape(code)}\]", server.said())
    ]
    # The node that was only told the code says so; the other one knows why.
    for name, line in sorted(told, key=lambda item: "ended the exchange with the code" in item[1]):
        return CommandError(code, f"The job {view['state']}{where}: {name}: {line}", remedy=KEEP_REMEDY)
    return CommandError(code, f"The job {view['state']}{where}.", remedy=KEEP_REMEDY)


def _collect(layout: Layout, job: str) -> dict[PartyName, dict[str, Any]]:
    """Both model documents; the lists of shared customers are written beside them."""
    layout.run_each(PARTIES, lambda party: ("model", job[:12], "--output", "model.json", "--members", MEMBERS))
    return {party: json.loads((layout.home(party) / "model.json").read_text(encoding="utf-8")) for party in PARTIES}


def _await_cosignatures(layout: Layout) -> None:
    """Let the last checkpoints reach their witnesses before everything stops; the auditor's verdict tells if they did not."""
    deadline = time.monotonic() + COSIGN_SECONDS
    names = (*PARTIES, "coordinator")
    while time.monotonic() < deadline:
        notes = [parse_note((layout.log(name) / CHECKPOINT_FILE).read_bytes()) for name in names]
        if all(len(note.signatures) == len(names) for note in notes):
            return
        time.sleep(POLL_SECONDS)


def _memory(servers: Supervisor, steps: Mapping[str, Any]) -> dict[str, int]:
    servers.sample_memory()
    return {name: max(server.peak_rss, int(steps["peak_rss"].get(name, 0))) for name, server in servers.servers.items()}


def _verify(layout: Layout) -> dict[str, Any]:
    """The auditor's verdict over the three logs, under the keys of the partner files that the demo exchanged."""
    verdict = layout.folder / "audit.json"
    names = (*PARTIES, "coordinator")
    partners = [argument for name in names for argument in ("--partner", str(layout.partner_file(name)))]
    logs = [str(layout.log(name)) for name in names]
    run_command("isthmus-audit", "verify", *logs, *partners, "--json", str(verdict), cwd=layout.folder, accept=(0, 1, 2, 3))
    found: dict[str, Any] = json.loads(verdict.read_text(encoding="utf-8"))
    return found


def _disclosures(layout: Layout, job: str) -> list[dict[str, Any]]:
    """The receipts that both nodes wrote into their logs at the end of the job."""
    found = []
    for party in PARTIES:
        with (layout.log(party) / "log.jsonl").open(encoding="utf-8") as log:
            for line in log:
                entry = json.loads(line)
                if entry["kind"] == "disclosures" and entry["job"] == job:
                    found += [{"by": party, **item} for item in entry["items"]]
    return found


def _result(
    view: Mapping[str, Any], data: DemoData, layout: Layout, documents: Mapping[PartyName, Mapping[str, Any]], options: Options
) -> dict[str, Any]:
    """Everything but memory, time and verdict; the keys are those that the README names."""
    job = str(view["job"])
    joined = join(data, {party: layout.home(party) / MEMBERS for party in PARTIES})
    steps = report.steps_by_name(view)
    metrics = view.get("metrics") or {}
    return {
        "job": job,
        "dataset": data.title,
        "label_holder": data.label_holder,
        "key_bits": options.key_bits,
        "l2": float(options.l2),
        "holdout": float(options.holdout),
        "workers": options.workers,
        **report.sizes(view),
        "rounds": len(steps["rounds"]),
        "round_details": steps["rounds"],
        "converged": bool(view.get("converged")),
        "base_rate": float(view["base_rate"]) if view.get("base_rate") else None,
        "accuracy": view.get("accuracy"),
        "auc": metrics.get("auc"),
        "auc_standard_error": metrics.get("auc_standard_error"),
        "ks": metrics.get("ks"),
        "log_loss": metrics.get("log_loss"),
        "gains": [{key: int(row.get(key) or 0) for key in ("decile", "rows", "positives")} for row in metrics.get("gains", [])],
        **compare(data, joined, documents, l2=float(options.l2)),
        "seconds": steps["seconds"],
        "bytes": steps["bytes"],
        "disclosures": _disclosures(layout, job),
        "versions": report.versions(),
    }
