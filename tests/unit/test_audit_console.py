"""Manners at the command line: what a failure prints, where, and with which exit status."""

from __future__ import annotations

import json

import click
import pytest
from rich.console import Console

from audit.console import console, emit, run
from audit.errors import IsthmusError, PeerError, UsageError


@click.group()
def tool() -> None:
    """A tool."""


@tool.command()
@click.option("--json", "as_json", is_flag=True)
@click.option("--what", default="fine")
def work(as_json: bool, what: str) -> int | None:
    """Do something."""
    errors: dict[str, BaseException] = {
        "usage": UsageError("area.what", "The thing is wrong.", remedy="Do it right."),
        "peer": PeerError("psi.repeated_element", "A value came twice."),
        "bug": ZeroDivisionError("secret 4711"),
        "interrupt": KeyboardInterrupt(),
        "abort": click.Abort(),
    }
    if what in errors:
        raise errors[what]
    if what == "seven":
        return 7
    emit({"b": 1, "a": "ä"}, as_json=as_json, human=lambda screen: screen.print("[bold]fine[/bold]"))
    return None


@tool.command()
@click.option("--json", "file")
def into(file: str | None) -> None:
    """Write a file."""
    raise UsageError("area.what", "The thing is wrong.")


def test_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tool, ["work"]) == 0
    assert capsys.readouterr() == ("[bold]fine[/bold]\n", "")
    assert run(tool, ["work", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"a": "ä", "b": 1}
    assert run(tool, ["work", "--what", "seven"]) == 7


def test_an_error_says_what_remedy_and_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tool, ["work", "--what", "usage"]) == 2
    assert capsys.readouterr() == ("", "error: The thing is wrong.\n  remedy: Do it right.\n  code: area.what\n")
    assert run(tool, ["work", "--what", "peer"]) == 1
    assert capsys.readouterr().err == "error: A value came twice.\n  code: psi.repeated_element\n"


def test_an_error_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tool, ["work", "--json", "--what", "usage"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"] == {
        "code": "area.what",
        "message": "The thing is wrong.",
        "remedy": "Do it right.",
        "exit_status": 2,
    }
    assert "code: area.what" in captured.err
    assert run(tool, ["into", "--json", "file"]) == 2
    assert capsys.readouterr().out == "", "where --json takes a file, standard output stays free"


def test_a_fault_of_ours_shows_no_traceback_and_no_data(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ISTHMUS_DEBUG", raising=False)
    assert run(tool, ["work", "--what", "bug"]) == 70
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert "4711" not in captured.err
    assert "code: internal.zerodivisionerror" in captured.err
    monkeypatch.setenv("ISTHMUS_DEBUG", "1")
    assert run(tool, ["work", "--what", "bug"]) == 70
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["interrupt", "abort"])
def test_interrupted(capsys: pytest.CaptureFixture[str], what: str) -> None:
    assert run(tool, ["work", "--what", what]) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


@pytest.mark.parametrize("arguments", [["wrok"], ["work", "--waht"], ["work", "extra"]])
def test_mistyped_commands(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run(tool, arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert "--help" in captured.err
    assert "code: usage.invalid" in captured.err
    assert run(tool, arguments, usage_status=3) == 3


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tool, ["--help"]) == 0
    assert run(tool, []) == 2
    assert "work" in capsys.readouterr().out


def test_the_process_ends_with_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["tool", "work", "--what", "seven"])
    with pytest.raises(SystemExit) as caught:
        run(tool)
    assert caught.value.code == 7


def test_consoles_are_plain_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    screen: Console = console()
    screen.print("red [not markup] " + "x" * 300, style="red")
    assert capsys.readouterr().out == "red [not markup] " + "x" * 300 + "\n"


def test_error_text() -> None:
    assert str(IsthmusError("a.b", "It is so.", remedy="Do this.")) == "It is so. Do this. [a.b]"
