"""The documentation is run: every command it shows is one that exists with those options, and the README's first job happens."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest

from audit.cli import cli as audit_commands
from coordinator.cli import main_group as coordinator_commands
from coordinator.demo.columns import write_csv
from coordinator.demo.generator import generate
from coordinator.demo.processes import accepts_connections, command_line, free_port
from node.cli import main_group as node_commands

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
COMMANDS: dict[str, click.Command] = {
    "isthmus-node": node_commands,
    "isthmus-coordinator": coordinator_commands,
    "isthmus-audit": audit_commands,
}
PROMPT = re.compile(r"^(?P<who>bank|platform|coordinator|auditor|)\$ (?P<command>.+)$")


def console_lines(text: str) -> list[tuple[str, str]]:
    """(whose machine, command) of every console block."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            matched = PROMPT.match(line)
            assert matched, f"a console line without a prompt: {line!r}"
            found.append((matched["who"], matched["command"]))
    return found


SHOWN = [(page.relative_to(ROOT).as_posix(), who, command) for page in PAGES for who, command in console_lines(page.read_text())]


def test_something_is_shown() -> None:
    assert len(SHOWN) > 40


@pytest.mark.parametrize(("page", "who", "command"), SHOWN, ids=[f"{page}: {command[:60]}" for page, _, command in SHOWN])
def test_commands_exist_with_these_options(page: str, who: str, command: str) -> None:
    words = shlex.split(command)
    if words[0] == "cd":
        return
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets
        arguments = [word.removeprefix("ARGS=") for word in words[2:] if word.startswith("ARGS=")]
        if words[1] == "demo" and arguments:
            parse(coordinator_commands, "isthmus-coordinator", ["demo", *shlex.split(arguments[0])])
        return
    assert words[0] in COMMANDS, f"{page} shows a command that isthmus does not install"
    assert who in ("bank", "platform") or words[0] != "isthmus-node"
    parse(COMMANDS[words[0]], words[0], words[1:])


def parse(command: click.Command, name: str, arguments: list[str]) -> None:
    """Parse as click would, down to the last subcommand, without running anything."""
    with contextlib.suppress(click.exceptions.Exit):  # --help
        context = command.make_context(name, list(arguments))
        if isinstance(command, click.Group):
            rest = [*context._protected_args, *context.args]
            subname, subcommand, remaining = command.resolve_command(context, rest)
            assert subcommand is not None
            parse(subcommand, str(subname), remaining)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_codes_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for named in re.findall(r"`((?:deploy|docs|protos|node|coordinator|audit|tests|bench)/[\w./-]+)`", text):
        if named.endswith((".toml", "/log")) and not named.startswith("deploy/"):
            continue  # a file on the reader's machine
        assert (ROOT / named).exists(), f"{page.name} names {named}"
    code = "\n".join(path.read_text() for wing in ("audit", "node", "coordinator") for path in (ROOT / wing).rglob("*.py"))
    for named in re.findall(r"`((?:policy|data|job|partner|transport|psi|demo)\.[a-z_]+)`", text):
        if named != "policy.toml":
            assert f'"{named}"' in code, f"{page.name} names the code {named}"


# ---- the README's first job, for real -------------------------------------------------------------------------------------------


@dataclass
class Machines:
    """Where each party's prompt stands, and what runs in the background; one folder for all, as the auditor sees it."""

    root: Path
    replace: dict[str, str]
    at: dict[str, Path] = field(default_factory=dict)
    serving: list[subprocess.Popen[bytes]] = field(default_factory=list)
    job: str = ""
    outputs: dict[str, str] = field(default_factory=dict)

    def run(self, who: str, command: str) -> None:
        here = self.at.setdefault(who, self.root)
        for one, other in {**self.replace, "JOB": self.job[:12] or "JOB"}.items():
            command = command.replace(one, other)
        words = shlex.split(command)
        if words[0] == "cd":
            self.at[who] = here / words[1]
            assert self.at[who].is_dir()
            return
        if words[1:] == ["serve"]:
            self.serve(words[0], here)
            return
        deadline = time.monotonic() + 30
        while True:
            done = subprocess.run(
                command_line(words[0], *words[1:]), cwd=here, input="y\n", capture_output=True, text=True, timeout=120, check=False
            )
            # The job reaches a node a moment after it was submitted.
            if done.returncode == 0 or "job.unknown" not in done.stderr or time.monotonic() > deadline:
                break
            time.sleep(0.3)
        assert done.returncode == 0, f"{who}$ {command}\n{done.stdout}\n{done.stderr}"
        self.outputs[f"{who} {words[1]}"] = done.stdout
        if words[1:3] == ["partner", "export"]:
            sent = here / words[words.index("--output") + 1]
            for other in ("bank", "platform", "coordinator"):
                if other != who:
                    shutil.copy(sent, self.root / other)
        if words[1] == "submit":
            found = re.search(r"\b[0-9a-f]{64}\b", done.stdout)
            assert found, "submit prints the job's hash"
            self.job = found[0]

    def serve(self, name: str, here: Path) -> None:
        with (here / "serve.txt").open("wb") as output:
            process = subprocess.Popen(
                command_line(name, "serve"), cwd=here, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        self.serving.append(process)
        listening = {"coordinator": "coordinator.example:7442", "platform": "platform.example:7443"}.get(here.name)
        deadline = time.monotonic() + 30
        while listening and not accepts_connections(int(self.replace[listening].split(":")[1])):
            assert process.poll() is None, (here / "serve.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def stop(self) -> None:
        for process in self.serving:
            process.send_signal(signal.SIGTERM)
        for process in self.serving:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    one, two = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    made = Machines(
        tmp_path,
        {
            "0.0.0.0:7442": one,
            "coordinator.example:7442": one,
            "0.0.0.0:7443": two,
            "platform.example:7443": two,
            # The one thing that is not as the page has it: keys this small are quick, and have to be asked for by name.
            "key_bits = 3072": "key_bits = 512",
        },
    )
    try:
        yield made
    finally:
        made.stop()


def steps(section: str) -> Iterator[tuple[str, str]]:
    """The blocks of a section in order: ("toml", text) or (who, command)."""
    for kind, block in re.findall(r"^```(console|toml)\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
        if kind == "toml":
            yield "toml", block
        else:
            yield from console_lines(f"```console\n{block}```\n")


def test_the_first_job_of_the_readme(machines: Machines) -> None:
    readme = (ROOT / "README.md").read_text()
    section = readme[readme.index("## A first job between two machines") :]
    section = section[: section.index("\n## ", 5)]
    persons = generate(bank_rows=1500, platform_rows=1600, shared=1200)
    for who, text in steps(section):
        if who != "toml":
            machines.run(who, text)
            continue
        for old, new in machines.replace.items():
            text = text.replace(old, new)
        path = machines.root / text.splitlines()[0].removeprefix("# ")
        with path.open("a") as file:
            file.write(text)
            if path.name == "node.toml":
                file.write("\n[unsafe]\nsmall_keys = true\n")
        if path.parent.name == "bank":
            columns = {"customer_id": persons.bank.identifiers, **persons.bank.columns, "default_12m": persons.bank_label}
            write_csv(path.parent / "cards.csv", columns)
        if path.parent.name == "platform":
            write_csv(path.parent / "shoppers.csv", {"user_id": persons.platform.identifiers, **persons.platform.columns})
    assert (machines.root / "bank" / "model.json").is_file()
    assert (machines.root / "platform" / "model.json").is_file()
    assert "result: whole and lawful" in machines.outputs["auditor verify"]
    assert "own word" not in machines.outputs["auditor verify"], "checked under the partner files, not under the logs' own keys"
    assert "result: whole and lawful" in machines.outputs["auditor report"]
    assert "✓ Whole and lawful" in (machines.root / "report.html").read_text()
    assert os.stat(machines.root / "bank" / "model.json").st_mode & 0o077 == 0
    # What `init` writes keeps what an auditor's replay needs, and the nodes may be served meanwhile.
    for party in ("bank", "platform"):
        machines.run("auditor", f"isthmus-audit replay {party}")
        assert "result: all reproduced" in machines.outputs["auditor replay"]
        assert f"{party} is being served" in machines.outputs["auditor replay"]
