"""The whole job at many sizes, by the three real programs, with what each step, direction and process cost.

    python -m bench.scale                                          the whole matrix, up to a million rows: hours
    python -m bench.scale --quick                                  10,000 rows, 2048 bits, two cores
    python -m bench.scale --job generated --rows 100000 --features 24 --bits 2048 --bits 3072 --cores 2
    python -m bench.scale --job breast-cancer --job card-default [--data FOLDER]

Jobs:

- ``generated``: rows that :mod:`bench.people` makes; ``--rows`` are the shared customers, half of ``--features`` on each side.
- ``breast-cancer``: scikit-learn's 569 rows, 15 columns on each side, all trained on, at scikit-learn's own penalty (C = 1).
- ``sampled``: 10,000,000 generated shared customers, of whom 30,000 are trained on and 10,000 evaluated by the public coin: what
  loading, committing to and aligning so many costs, and in how much memory.  Not among the default jobs; without phe beside it.
- ``card-default``: 18,000 shared customers of 24,000, 9 and 12 columns; from the two files of ``--data`` (``uci_default_bank.csv``,
  ``uci_default_platform.csv``) or else generated in that shape.

All rounds are run (the tolerance is out of reach), so that equal jobs do equal work.  ``--cores 1`` keeps all on one core.
Beside each job, on the same cores, one pass of naive Paillier through phe (:mod:`bench.naive`), half of it before and half after.
Each run is appended to ``bench/results/scale.json`` when it ends; ``--missing`` leaves out what that file has already.
"""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from bench.common import machine
from bench.joint_run import MEMORY_MAX, Job, pinned, run_job
from bench.naive import NaivePass, ratios
from bench.page_format import cores_text
from bench.people import write_people
from coordinator.demo.datasets import DemoData, UserFiles, open_user_files, write_breast_cancer
from coordinator.demo.processes import STOP
from coordinator.demo.report import versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "scale.json"
SIZES = ((10_000, 24), (100_000, 24), (1_000_000, 24), (30_000, 24), (30_000, 100), (30_000, 300))
"""Rows and features of the matrix."""
CARD_FILES = ("uci_default_bank.csv", "uci_default_platform.csv")
JOBS = ("generated", "breast-cancer", "card-default")
SAMPLED = "sampled"
SAMPLED_SIZE = (10_000_000, 24)
SAMPLE_ROWS, SAMPLE_EVALUATED = 30_000, 10_000
NEVER = "0.000000000000001"
DISK_ROW_BYTES = 10_000
"""What a row that is trained on leaves on disk in eight rounds, at most: mainly the messages that both nodes keep for a replay."""
DISK_SHARED_BYTES = 2_000
"""What any other shared row takes on disk, at most: source, scratch, alignment and data set of both sides."""
KEYS = ("job", "rows", "features", "bits", "cores", "rounds", "holdout")
"""What makes two runs the same one; the page takes the later."""


@dataclass(frozen=True)
class Case:
    """One run: see the module's own words for ``job``."""

    job: str
    rows: int
    features: int
    bits: int
    cores: int
    rounds: int
    holdout: str
    l2: str

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.job}: {self.rows:,} rows, {self.features} features, {self.bits} bits, {cores_text(self.cores)}"


def cases(
    jobs: tuple[str, ...],
    sizes: tuple[tuple[int, int], ...],
    bits: tuple[int, ...],
    cores: tuple[int, ...],
    rounds: int,
    holdout: str,
) -> Iterator[Case]:
    """All that was chosen, small ones first, so that an interrupted matrix has most of them."""
    found = []
    for job in jobs:
        # The penalty of scikit-learn's C = 1 on 569 rows, which the published figures are about.
        fixed = {"breast-cancer": (569, 30), "card-default": (18_000, 21), SAMPLED: SAMPLED_SIZE}
        shapes = (fixed[job],) if job in fixed else sizes
        job_holdout, l2 = ("0", "0.001757469244") if job == "breast-cancer" else (holdout, "0.0001")
        for rows, features in shapes:
            found += [Case(job, rows, features, size, count, rounds, job_holdout, l2) for size in bits for count in cores]
    return iter(sorted(found, key=lambda case: case.rows * (case.features + 30) * case.bits**2 / case.cores))


def write_data(case: Case, folder: Path, data: Path | None) -> DemoData:
    """The two files of a case."""
    folder.mkdir()
    if case.job == "breast-cancer":
        return write_breast_cancer(folder, label_holder="bank", minimum=None)
    if case.job == "card-default" and data is not None:
        bank, platform = (data / name for name in CARD_FILES)
        files = UserFiles(bank=bank, bank_id="customer_id", platform=platform, platform_id="user_id", label="default")
        return open_user_files(files, label_holder="bank", normalise="casefold", minimum=None)
    columns = (9, 12) if case.job == "card-default" else (-(-case.features // 2), case.features // 2)
    return write_people(folder, shared=case.rows, columns=columns)


def run_case(
    case: Case,
    folder: Path,
    *,
    data: Path | None = None,
    naive_seconds: float = 20.0,
    small_keys: bool = False,
    until: str | None = None,
    told: Any = print,
) -> dict[str, Any]:
    """Generate, run, compare; the record that goes into the results.

    Args:
        folder: an empty folder.
        naive_seconds: processor seconds for the naive pass; 0 leaves it out.
        until: for a trial, the last step to run.
    """
    free = shutil.disk_usage(folder).free
    trained, sampled = (SAMPLE_ROWS, True) if case.job == SAMPLED else (case.rows, False)
    if free < case.rows * DISK_SHARED_BYTES + trained * DISK_ROW_BYTES * max(1.0, case.rounds / 8):
        raise SystemExit(f"error: {folder} has {free / 1e9:.0f} GB free, too little for {case.rows:,} rows; name another --folder.")
    began = time.monotonic()
    record: dict[str, Any] = {**asdict(case), "data": "file" if case.job == "card-default" and data else "generated"}
    if case.job == "breast-cancer":
        record["data"] = "scikit-learn"
    record |= {"date": datetime.date.today().isoformat(), "machine": machine(), "versions": versions(), "commit": commit()}
    offered = write_data(case, folder / "data", data)
    told(f"data written: {time.monotonic() - began:.1f} s")
    record["generating_seconds"] = time.monotonic() - began
    naive = None
    if naive_seconds > 0 and until is None and not sampled:
        with pinned(case.cores):
            naive = NaivePass(case.bits, case.rows - round(case.rows * float(case.holdout)), case.features)
            naive.measure(naive_seconds / 2)
    (folder / "parties").mkdir()
    asked = Job(case.bits, case.cores, case.rounds, case.l2, case.holdout, NEVER, small_keys, until=until)
    if sampled:
        asked = replace(asked, compare=False, train_rows=SAMPLE_ROWS, evaluate_rows=SAMPLE_EVALUATED)
    record |= run_job(folder / "parties", offered, asked, told)
    if naive is not None:
        naive.rows = record["rows_train"]  # which rows are held out follows from the job's hash: not exactly the share asked for
        with pinned(case.cores):
            naive.measure(naive_seconds / 2)
        record["naive"] = naive.data() | {"ratios": _ratios(record, naive.data()["cpu_seconds"])}
    return record


def _ratios(record: dict[str, Any], naive: float) -> dict[str, float]:
    nodes = [record["cpu_seconds_by_step"][party] for party in ("bank", "platform")]
    prepare, rounds = (sum(used.get(step, 0.0) for used in nodes) for step in ("prepare", "round"))
    return ratios(naive, prepare, rounds, record["rounds_done"])


def commit() -> str | None:
    """The commit that ran, with a mark when files were changed; None outside a repository."""
    try:
        named = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", ":!bench/results", ":!docs"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return named.stdout.strip() + (", changed" if changed.stdout.strip() else "")


def read_runs(path: Path) -> list[dict[str, Any]]:
    """The runs that a results file has; none where there is no file."""
    runs: list[dict[str, Any]] = json.loads(path.read_text())["runs"] if path.exists() else []
    return runs


def append(path: Path, record: dict[str, Any]) -> None:
    """Put one run into the file; it appears whole or not at all, and what was there stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps({"benchmark": "scale", "runs": [*read_runs(path), record]}, indent=1, allow_nan=False) + "\n")
    partial.replace(path)


def identity(record: dict[str, Any]) -> tuple[Any, ...]:
    """See :data:`KEYS`."""
    return tuple(record.get(key) for key in KEYS)


def show(console: Console, record: dict[str, Any]) -> None:
    """One run for people."""
    table = Table(box=box.SIMPLE_HEAD, title=Case(**{k: record[k] for k in Case.__dataclass_fields__}).title, title_justify="left")
    for heading in ("step", "seconds", "bank to platform, MB", "platform to bank, MB", "bank CPU s", "platform CPU s"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for step, seconds in record["seconds"].items():
        sent = record["bytes"][step]
        used = [record["cpu_seconds_by_step"][party].get(step, 0.0) for party in ("bank", "platform")]
        table.add_row(
            step,
            f"{seconds:,.1f}",
            *(f"{sent[way] / 1e6:,.2f}" for way in ("bank_to_platform", "platform_to_bank")),
            *(f"{value:,.1f}" for value in used),
        )
    console.print(table)
    peaks = ", ".join(f"{name} {peak / 1e6:,.0f} MB" for name, peak in record["peak_rss_bytes"].items())
    console.print(f"all steps {record['seconds_steps']:,.1f} s; peak memory {peaks}")
    console.print(f"to the coordinator: {sum(record['bytes_to_coordinator'].values()) / 1e3:,.0f} kB", style="dim")
    if (excess := (record.get("quality") or {}).get("log_loss_train_difference")) is not None:
        console.print(f"log-loss on training rows {record['quality']['log_loss_train_exact']:.6f}, {excess:+.1e} over scikit-learn")
    if "naive" in record:
        told = ", ".join(f"{name.replace('_', ' ')} {value:,.1f}" for name, value in record["naive"]["ratios"].items())
        console.print(f"a naive pass: {record['naive']['cpu_seconds']:,.0f} CPU s; times ours: {told}")
    if not record["memory_kept"]:
        console.print(f"a process needed more than {MEMORY_MAX / 1e9:.0f} GB", style="bold red")


HELP = "\n\n".join(f"\b\n{paragraph}" for paragraph in (__doc__ or "").strip().split("\n\n"))


@click.command(help=HELP)
@click.option(
    "--job",
    "jobs",
    multiple=True,
    type=click.Choice((*JOBS, SAMPLED)),
    help="Repeatable.  [default: all but sampled; with --rows or --features: generated]",
)
@click.option("--rows", multiple=True, type=click.IntRange(100, 10**9), help="Shared customers; repeatable, with --features.")
@click.option("--features", multiple=True, type=click.IntRange(2, 2048), help="Of both sides together; repeatable.  [default: 24]")
@click.option("--bits", multiple=True, type=int, default=(2048, 3072), show_default=True, help="Of the Paillier modulus.")
@click.option("--cores", multiple=True, type=click.IntRange(1), default=(1, 2), show_default=True)
@click.option("--rounds", type=click.IntRange(1, 64), default=8, show_default=True)
@click.option("--holdout", default="0.2", show_default=True, help="Share of rows held out (breast-cancer: none).")
@click.option("--quick", is_flag=True, help="10,000 rows of 24 features at 2048 bits on two cores.")
@click.option("--missing", is_flag=True, help="Leave out what the results have already.")
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder with the two card files.")
@click.option("--naive-seconds", default=20.0, show_default=True, help="Processor seconds for phe; 0: none.")
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where temporary files go.")
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), default=RESULTS, help="Where runs are appended.")
@click.option("--until", type=click.Choice(("align", "prepare")), help="A trial: end after this step; nothing is appended.")
@click.option("--list", "only_list", is_flag=True, help="Print what would run, and end.")
@click.option("--unsafe-small-keys", is_flag=True, help="Allow keys under 2048 bits: for a trial of the benchmark itself.")
def main(
    jobs: tuple[str, ...],
    rows: tuple[int, ...],
    features: tuple[int, ...],
    bits: tuple[int, ...],
    cores: tuple[int, ...],
    rounds: int,
    holdout: str,
    quick: bool,
    missing: bool,
    data: Path | None,
    naive_seconds: float,
    folder: Path | None,
    path: Path,
    until: str | None,
    only_list: bool,
    unsafe_small_keys: bool,
) -> None:
    """Run what was chosen, one after the other."""
    sizes = tuple(size for size in SIZES if not features or size[1] in features)
    if rows:
        sizes = tuple((count, width) for count in rows for width in features or (24,))
    jobs = jobs or (("generated",) if rows or features else JOBS)
    if quick:
        jobs, sizes, bits, cores = ("generated",), ((10_000, 24),), (2048,), (2,)
    chosen = list(cases(jobs, sizes, bits, cores, rounds, holdout))
    if missing:
        there = {identity(record) for record in read_runs(path)}
        chosen = [case for case in chosen if identity(asdict(case)) not in there]
    console = Console()
    for number, case in enumerate(chosen, 1):
        console.print(f"[{number}/{len(chosen)}] {case.title}", style="bold", markup=False)
        if only_list:
            continue
        began = time.monotonic()

        def told(line: str, began: float = began) -> None:
            console.print(f"  {time.monotonic() - began:8,.1f} s  {line}", style="dim", markup=False, highlight=False)

        with STOP.on_signals(), tempfile.TemporaryDirectory(prefix="isthmus-scale-", dir=folder) as scratch:
            record = run_case(
                case, Path(scratch), data=data, naive_seconds=naive_seconds, small_keys=unsafe_small_keys, until=until, told=told
            )
        if until is None:
            append(path, record)
        show(console, record)
    if until is None and not only_list:
        console.print(f"runs are in {path}; `python -m bench.page` makes the page anew")


if __name__ == "__main__":
    main()
