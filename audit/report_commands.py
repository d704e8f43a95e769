"""``isthmus-audit report``: the verification and what the logs say, as one page for people."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import click

from audit.console import console
from audit.entries import format_time
from audit.errors import UsageError
from audit.record import write_atomic
from audit.report import Page, make_page
from audit.report_html import render

PATH = click.Path(path_type=Path)


@click.command("report")
@click.argument("logs", nargs=-1, required=True, type=PATH, metavar="LOG...")
@click.option("--output", required=True, type=PATH, metavar="FILE", help="Where the page goes, for example report.html.")
@click.option("--policy", type=PATH, metavar="FILE", help="TOML file that names the logs and their keys (as for verify).")
@click.option("--partner", "partners", type=PATH, multiple=True, metavar="FILE", help="Partner file of a log's owner; repeat.")
@click.option("--last", type=PATH, multiple=True, metavar="CHECKPOINT", help="A checkpoint you kept: the log must continue it.")
@click.option("--job", default="", metavar="JOB", help="Describe only jobs whose hash begins so; all are checked.")
@click.option("--json", "json_file", type=PATH, metavar="FILE", help="Write the same as JSON to FILE.")
def report_command(
    logs: tuple[Path, ...],
    output: Path,
    policy: Path | None,
    partners: tuple[Path, ...],
    last: tuple[Path, ...],
    job: str,
    json_file: Path | None,
) -> int:
    """Check logs, and write a page about them for people.

    The checks are those of verify.  The page says who took part, what was approved by whom and when, what each side learned and
    why it was allowed, when each step ran, which checks passed, and what the logs do not prove.  It stands on its own: it loads
    nothing and can be printed or sent.  It is written also when the check fails; the fault then stands on top, and the exit code
    tells it.

    \b
    Exit codes: 0 whole and lawful; 1 tampered or contradictory; 2 lawful so far but incomplete; 3 unusable input.

    \b
    Example:
      isthmus-audit report bank/state platform/state coordinator/state --output report.html \\
          --partner bank.partner.json --partner platform.partner.json --partner coordinator.partner.json
    """
    page = make_page(
        logs,
        policy=policy,
        partners=partners,
        last=last,
        job=job,
        made=format_time(datetime.now(UTC)),
        made_by=metadata.version("isthmus"),
    )
    _write(output, render(page), "--output")
    if json_file is not None:
        _write(json_file, page_json(page), "--json")
    _tell(page, output)
    return page.exit_status


def page_json(page: Page) -> str:
    """Everything on the page, as JSON."""
    return json.dumps(asdict(page), indent=2, ensure_ascii=False) + "\n"


def _write(path: Path, text: str, option: str) -> None:
    try:
        # A log may hold text that UTF-8 cannot carry (a lone surrogate): it is shown as a question mark.
        write_atomic(path, text.encode(errors="replace"))
    except OSError as error:
        raise UsageError(
            "report.unwritable", f"{path} cannot be written: {error.strerror}.", remedy=f"Choose another file for {option}."
        ) from None


def _tell(page: Page, output: Path) -> None:
    screen = console()
    screen.print(
        f"result: {page.headline.lower()}", style="green" if page.exit_status == 0 else "yellow" if page.exit_status == 2 else "red"
    )
    if page.failure:
        screen.print(f"  check {page.failure.step}: {page.failure.message}\n  code: {page.failure.code}")
    screen.print(f"report written to {output}")
