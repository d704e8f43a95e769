"""``isthmus-audit``: for auditors.  Needs no network and no secret, and imports nothing of the node or the coordinator."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from audit.console import console, run
from audit.errors import UsageError
from audit.hardening import forbid_core_dumps
from audit.ledger import LogRejected
from audit.proof_commands import check_proof_command, prove_command
from audit.record import write_atomic
from audit.replay_commands import replay
from audit.report_commands import report_command
from audit.verify import StepResult, VerifiedLogs, verify_logs

MARKS = {"passed": "✓", "warning": "!", "open": "…", "failed": "✗", "unchecked": "–"}
STYLES = {"passed": "green", "warning": "yellow", "open": "yellow", "failed": "red", "unchecked": "dim"}
PLAIN_MARKS = {"passed": "ok", "warning": "!", "open": "..", "failed": "X", "unchecked": "-"}
RESULTS = {0: "whole and lawful", 1: "tampered or contradictory", 2: "lawful so far, but incomplete", 3: "unusable input"}

EXISTING = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="isthmus", message="%(prog)s %(version)s")
def cli() -> None:
    """Check the logs of isthmus nodes and coordinators.

    \b
    Example:
      isthmus-audit verify bank/state/log platform/state/log coordinator/state/log --policy audit.toml
    """


@cli.command()
@click.argument("logs", nargs=-1, required=True, type=EXISTING, metavar="LOG...")
@click.option("--policy", type=EXISTING, metavar="FILE", help="TOML file that names the logs and their keys.")
@click.option("--partner", "partners", type=EXISTING, multiple=True, metavar="FILE", help="Partner file of a log's owner; repeat.")
@click.option("--last", type=EXISTING, multiple=True, metavar="CHECKPOINT", help="A checkpoint you kept: the log must continue it.")
@click.option("--json", "json_file", type=EXISTING, metavar="FILE", help="Write the result to FILE as JSON.")
def verify(
    logs: tuple[Path, ...], policy: Path | None, partners: tuple[Path, ...], last: tuple[Path, ...], json_file: Path | None
) -> int:
    """Check that logs are whole, unaltered, and agree with each other.

    LOG is a log folder, its log.jsonl, or the state or node folder above it.  Give the logs of both nodes, and the
    coordinator's: a message is only proven by both sides' logs.  Without --policy and --partner the keys are the logs' own word;
    step 0 then says so.

    \b
    Exit codes: 0 whole and lawful; 1 tampered or contradictory; 2 lawful so far but incomplete; 3 unusable input.

    \b
    Example:
      isthmus-audit verify bank/state platform/state coordinator/state \\
          --partner bank.partner.json --partner platform.partner.json --partner coordinator.partner.json \\
          --last bank-checkpoint-of-last-quarter --json result.json

    \b
    A policy file:
      [[log]]
      name = "bank"
      role = "bank"
      key = "isthmus.log/bank+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    """
    screen = console()
    results: list[StepResult] = []

    def show(result: StepResult) -> None:
        results.append(result)
        _print_step(screen, result)

    try:
        verified = verify_logs(logs, policy=policy, partners=partners, last=last, on_step=show)
    except LogRejected as rejected:
        _print_rejection(screen, rejected)
        _write(json_file, rejection_data(rejected, results))
        return rejected.exit_status
    for point in verified.open_points:
        screen.print(f"  missing: {point.text}")
    screen.print(f"result: {RESULTS[verified.exit_status]}", style="green" if verified.whole else "yellow")
    if verified.trust.source == "self-asserted":
        screen.print("        under the keys that the logs themselves name", style="yellow")
    _write(json_file, verified_data(verified))
    return verified.exit_status


def _print_step(screen: Console, result: StepResult) -> None:
    sign = MARKS[result.state]
    try:
        sign.encode(screen.encoding)
    except UnicodeEncodeError:
        sign = PLAIN_MARKS[result.state]
    screen.print(f"{sign:<3}({result.number}) {result.title}: {result.detail}", style=STYLES[result.state])


def _print_rejection(screen: Console, rejected: LogRejected) -> None:
    screen.print(f"result: {RESULTS[rejected.exit_status]}", style="red")
    screen.print(f"  step {rejected.step}: {rejected.message}")
    if rejected.remedy:
        screen.print(f"  remedy: {rejected.remedy}")
    screen.print(f"  code: {rejected.code}")


def _steps_data(results: list[StepResult]) -> list[dict[str, Any]]:
    return [{"step": r.number, "title": r.title, "state": r.state, "detail": r.detail} for r in results]


def rejection_data(rejected: LogRejected, results: list[StepResult]) -> dict[str, Any]:
    """The JSON form of a failed verification."""
    return {
        "result": RESULTS[rejected.exit_status],
        "exit_status": rejected.exit_status,
        "steps": _steps_data(results),
        "error": {
            "step": rejected.step,
            "code": rejected.code,
            "message": rejected.message,
            "remedy": rejected.remedy,
            "log": rejected.log,
            "seq": rejected.seq,
            "offset": rejected.offset,
        },
    }


def verified_data(verified: VerifiedLogs) -> dict[str, Any]:
    """The JSON form of verified logs."""
    return {
        "result": RESULTS[verified.exit_status],
        "exit_status": verified.exit_status,
        "keys": verified.trust.source,
        "steps": _steps_data(list(verified.steps)),
        "open": [{"step": point.step, "text": point.text} for point in verified.open_points],
        "logs": [
            {
                "name": source.name,
                "key": str(source.key) if source.key else "",
                "entries": ledger.size,
                "signed_entries": source.signed_size,
                "root": ledger.roots[ledger.size].hex(),
                "checkpoints": len(source.checkpoints),
                "jobs": [
                    {
                        "job": job.job,
                        "outcome": job.outcome,
                        "attempts": len(job.attempts),
                        "steps_done": sum(attempt.done for attempt in job.attempts.values()),
                        "messages": job.messages,
                    }
                    for job in ledger.jobs.values()
                ],
            }
            for source, ledger in zip(verified.sources, verified.ledgers, strict=True)
        ],
        "jobs": [facts.data() for facts in verified.jobs],
    }


def _write(path: Path | None, data: Mapping[str, Any]) -> None:
    if path is None:
        return
    try:
        write_atomic(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise UsageError(
            "audit.json_unwritable", f"{path} cannot be written: {error.strerror}.", remedy="Choose another file for --json."
        ) from None


cli.add_command(prove_command)
cli.add_command(check_proof_command)
cli.add_command(report_command)
cli.add_command(replay)


def main() -> int:
    """Entry point of ``isthmus-audit``.  Exit code 2 means "incomplete" here, so an error of usage, 2 elsewhere, is 3."""
    forbid_core_dumps()  # a replay reads a node's keys
    return run(cli, sys.argv[1:], usage_status=3)
