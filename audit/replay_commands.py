"""``isthmus-audit replay``: the command, its output for people and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from audit.console import console
from audit.errors import UsageError
from audit.record import write_atomic
from audit.replay import open_premises, replay_node, software_here
from audit.replay_results import AttemptResult, JobResult, Replay

MARKS = {"reproduced": ("✓", "ok", "green"), "missing": ("…", "..", "yellow"), "differs": ("✗", "X", "red")}
RESULTS = {0: "all reproduced", 1: "something differs", 2: "not everything can be reproduced"}


@click.command()
@click.argument("node_folder", type=click.Path(path_type=Path), metavar="NODE_FOLDER")
@click.option("--job", "prefix", metavar="PREFIX", help="Replay this job alone: its hash or the first digits of it.")
@click.option(
    "--workers", type=click.IntRange(1, 256), metavar="N", help="Worker processes; the result is the same for any number."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the result to FILE as JSON.")
def replay(node_folder: Path, prefix: str | None, workers: int | None, json_file: Path | None) -> int:
    """Compute every message that a node sent once more, and hold it against the node's log.

    Runs on the node's premises, on its folder or a copy with keys and state: from the data set as it was aligned, the sealed seed
    and the kept messages received, through the very functions that ran live.  Nothing in the folder is changed.  How long what it
    needs is kept, the node's policy says under `retention`.

    \b
    Exit codes: 0 all reproduced; 1 something differs; 2 not everything can be reproduced; 3 unusable input.

    \b
    Examples:
      isthmus-audit replay bank
      isthmus-audit replay bank --job 3fa2c1 --workers 4 --json replay.json
    """
    screen = console()
    shown: set[str] = set()

    def show(job: JobResult, result: AttemptResult) -> None:
        if job.job not in shown:
            shown.add(job.job)
            screen.print(f"job {job.job[:12]}" + (f" ({job.state})" if job.state else " (not ended)"))
        _print_result(screen, result)

    premises = open_premises(node_folder, workers=workers)
    try:
        if premises.served:
            screen.print(f"{premises.name} is being served: what runs now is left out", style="yellow")
        found = replay_node(premises, prefix=prefix, on_result=show)
    finally:
        premises.close()
    _print_end(screen, found)
    if json_file is not None:
        _write(json_file, as_json(found))
    return found.exit_status


def _print_result(screen: Console, result: AttemptResult) -> None:
    mark, plain, style = MARKS[result.verdict]
    try:
        mark.encode(screen.encoding)
    except UnicodeEncodeError:
        mark = plain
    name = str(result.name) if result.name else "job"
    state = f" ({result.state})" if result.name and result.state != "done" else ""
    text = f"{mark:<3}{name}{state}: {result.reproduced} of {result.sent} messages"
    screen.print(text + (f"; {result.detail}" if result.detail else ""), style=style)
    if result.verdict == "differs" and result.explanation:
        screen.print(f"   {result.explanation}")


def _print_end(screen: Console, found: Replay) -> None:
    screen.print(f"log of {found.name}: {found.size} entries, root {found.root}")
    style = {0: "green", 1: "red", 2: "yellow"}[found.exit_status]
    screen.print(f"{found.reproduced} of {found.sent} messages reproduced", style=style)
    differs = found.first("differs")
    if differs is not None:
        screen.print(f"the first that differs: {differs.detail}", style="red")
    if found.other_software:
        screen.print(f"what ran live was {found.other_software}; this is {software_here()}", style="yellow")
        screen.print("   the same numbers may come out, but a difference may be the software's", style="yellow")
    screen.print(f"result: {RESULTS[found.exit_status]}", style=style)


def as_json(found: Replay) -> dict[str, Any]:
    """The result as a document."""
    first = found.first("differs")
    return {
        "result": RESULTS[found.exit_status],
        "exit_status": found.exit_status,
        "log": {"name": found.name, "entries": found.size, "root": found.root},
        "served": found.served,
        "software": {"here": software_here(), "other_live": found.other_software},
        "sent": found.sent,
        "reproduced": found.reproduced,
        "first_difference": _attempt(first) if first else None,
        "jobs": [
            {
                "job": job.job,
                "state": job.state,
                "sent": job.sent,
                "reproduced": job.reproduced,
                "attempts": [_attempt(result) for result in job.results],
            }
            for job in found.jobs
        ],
    }


def _attempt(result: AttemptResult) -> dict[str, Any]:
    name = result.name
    return {
        "step": name.step if name else "",
        "round": name.round if name else 0,
        "attempt": name.attempt if name else 0,
        "state": result.state,
        "sent": result.sent,
        "reproduced": result.reproduced,
        "verdict": result.verdict,
        "detail": result.detail,
        "code": result.code,
        "seq": result.seq,
        "type": result.type,
        "explanation": result.explanation,
    }


def _write(path: Path, data: dict[str, Any]) -> None:
    try:
        write_atomic(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise UsageError(
            "audit.json_unwritable", f"{path} cannot be written: {error.strerror}.", remedy="Choose another file for --json."
        ) from None
