"""Manners at the command line, shared by the three commands: one way to print a result, one way to fail.

A failure says what, what to do about it, and its code; never a traceback (unless ``ISTHMUS_DEBUG=1``).  Results go to standard
output, everything else to standard error, so that ``--json`` can be piped.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console

from audit.errors import IsthmusError, UsageError
from audit.hardening import forbid_core_dumps

EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141


def run(command: click.Command, argv: Sequence[str] | None = None, *, usage_status: int = 2) -> int:
    """Run a click command and return its exit status; without ``argv`` it runs on the process's arguments and ends the process.

    A command's integer result is its exit status; anything else is 0.  An :class:`IsthmusError` prints its message, remedy and
    code and gives its ``exit_status``; Ctrl-C gives 130; any other exception 70 with the code ``internal.<type>``.  Errors of
    usage give ``usage_status``, for a command where 2 has a meaning of its own.  A process of its own leaves no core file: it may
    come to hold keys.
    """
    if argv is None:
        forbid_core_dumps()
    arguments = sys.argv[1:] if argv is None else list(argv)
    status = _run(command, arguments, usage_status)
    if argv is None:
        sys.exit(status)
    return status


def _run(command: click.Command, arguments: list[str], usage_status: int) -> int:
    try:
        result = command.main(arguments, standalone_mode=False)
        sys.stdout.flush()
    except IsthmusError as error:
        status = usage_status if error.exit_status == UsageError.exit_status else error.exit_status
        return _fail(command, arguments, code=error.code, message=error.message, remedy=error.remedy, status=status)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return usage_status
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else command.name
        remedy = f"See `{path} --help`."
        return _fail(command, arguments, code="usage.invalid", message=error.format_message(), remedy=remedy, status=usage_status)
    except click.ClickException as error:
        return _fail(command, arguments, code="usage.failed", message=error.format_message(), remedy="", status=error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`| head`): say no more, also not when Python flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except Exception as error:  # noqa: BLE001 - the last resort of a command: whatever happened, no traceback reaches the user
        return _internal(command, arguments, error)
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _internal(command: click.Command, arguments: list[str], error: Exception) -> int:
    if os.environ.get("ISTHMUS_DEBUG") == "1":
        traceback.print_exception(error)
    kind = type(error).__name__
    # The exception's own text may quote data, so it is not shown.
    return _fail(
        command,
        arguments,
        code=f"internal.{kind.lower()}",
        message=f"internal error: {kind}. This is a fault of isthmus, not of your input.",
        remedy="Run it again with ISTHMUS_DEBUG=1 to see where, and report it.",
        status=EXIT_INTERNAL,
    )


def _fail(command: click.Command, arguments: list[str], *, code: str, message: str, remedy: str, status: int) -> int:
    lines = [f"error: {message}"]
    if remedy:
        lines.append(f"  remedy: {remedy}")
    lines.append(f"  code: {code}")
    click.echo("\n".join(lines), err=True)
    if _wants_json(command, arguments):
        click.echo(json.dumps({"error": {"code": code, "message": message, "remedy": remedy, "exit_status": status}}, indent=2))
    return status


def _wants_json(command: click.Command, arguments: list[str]) -> bool:
    """Whether ``--json`` was given as a flag.  Where it takes a file, the command itself writes that file."""
    if "--json" not in arguments:
        return False
    commands = [command]
    for argument in arguments:
        last = commands[-1]
        if isinstance(last, click.Group) and argument in last.commands:
            commands.append(last.commands[argument])
    options = [p for c in reversed(commands) for p in c.params if isinstance(p, click.Option) and "--json" in p.opts]
    return bool(options) and options[0].is_flag


def emit(data: Mapping[str, Any], *, as_json: bool, human: Callable[[Console], None]) -> None:
    """Print a result on standard output: ``data`` as JSON, or what ``human`` prints for a person."""
    if as_json:
        click.echo(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False))
    else:
        human(console())


def console(*, stderr: bool = False) -> Console:
    """A rich console that is plain (no colour, no wrapping) when it is not a terminal; values are never taken for markup."""
    stream = sys.stderr if stderr else sys.stdout
    terminal = stream.isatty()
    return Console(file=stream, no_color=not terminal, highlight=False, markup=False, emoji=False, soft_wrap=not terminal)


def visible(text: str) -> str:
    """Text that somebody else wrote, harmless to show: what is not printable, or would change the direction of what follows, is
    written as its code."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
