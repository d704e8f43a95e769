"""The command ``health`` and the options of ``serve``, alike for ``isthmus-node`` and ``isthmus-coordinator``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from audit.console import EXIT_INTERNAL, emit
from audit.errors import IsthmusError
from operations.logs import FORMATS, LEVELS, OWN, Format, logging_to, quiet_libraries
from operations.memory import share_one_heap
from operations.stopping import Stop, stop_on_signals

F = TypeVar("F", bound=Callable[..., Any])


def serve_options(command: F) -> F:
    """Adds ``--log-format``, ``--log-level`` and ``--grace``."""
    for option in (
        click.option(
            "--grace",
            type=click.IntRange(0, 86_400),
            metavar="SECONDS",
            help="On SIGTERM: how long a running step may take.",
        ),
        click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="The least that is logged."),
        click.option("--log-format", type=click.Choice(FORMATS), help="Text for people (default), or JSON lines for services."),
    ):
        command = option(command)
    return command


def serve_logged(run: Callable[[Stop], None], *, component: str, format: Format, level: str) -> int:
    """Run a server with its log on standard error and signals that stop it; the exit status.

    In the form of JSON lines every line is one: also the last, when the server ends with an error.
    """
    share_one_heap()
    with logging_to(sys.stderr, format=format, level=level), stop_on_signals() as stop:
        try:
            run(stop)
        except IsthmusError as error:
            if format == "text":
                raise
            logging.getLogger(f"{OWN}.{component}").error("%s", error, extra={"code": error.code})
            return error.exit_status
        except Exception:
            if format == "text":
                raise
            logging.getLogger(f"{OWN}.{component}").exception("ended with a fault of isthmus", extra={"code": "internal.error"})
            return EXIT_INTERNAL
    return 0


def report_health(folder: Path, *, live: bool, as_json: bool) -> int:
    """Ask the process that serves ``folder``, print what it says, and return the exit status: 0 well, 1 not."""
    quiet_libraries()
    from operations.health import LIVENESS, READINESS, ask  # gRPC takes a moment to load

    failing: list[str] = []
    error: IsthmusError | None = None
    try:
        found = ask(folder, (LIVENESS, READINESS, "attached", "leading", "log", "disk"))
        failing = [name for name, well in found.items() if not well and name != READINESS]
    except IsthmusError as told:
        error, found = told, {}
    data = {
        "live": found.get(LIVENESS, False),
        "ready": found.get(READINESS, False),
        "failing": failing,
        "code": error.code if error else "",
    }

    def human(console: Console) -> None:
        if error is not None:
            console.print(f"not served: {error}")
        elif data["ready"]:
            console.print("ready")
        else:
            console.print(f"{'live' if data['live'] else 'not live'}, not ready: {', '.join(failing) or 'it is stopping'}")

    emit(data, as_json=as_json, human=human)
    return 0 if data["live" if live else "ready"] else 1
