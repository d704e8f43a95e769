"""Starting, watching and ending the demo's processes.

Every process gets a session of its own: a Ctrl-C at the terminal reaches the demo alone, which then ends the others in order.  On
Linux the kernel also tells them to end should the demo itself be killed, so that none is ever left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import psutil

from audit.errors import IsthmusError, UsageError

GRACE_SECONDS = 10.0
"""How long a process may take to end after SIGTERM before it is killed."""

MODULES = {"isthmus-node": "node.cli", "isthmus-coordinator": "coordinator.cli", "isthmus-audit": "audit.cli"}

_PR_SET_PDEATHSIG = 1


class CommandError(IsthmusError):
    """A command that the demo ran ended with an error: its own message, remedy, code and exit status are passed on."""

    def __init__(self, code: str, message: str, *, remedy: str = "", exit_status: int = 1) -> None:
        super().__init__(code, message, remedy=remedy)
        self.exit_status = exit_status


def command_line(command: str, *arguments: str, end_with_parent: bool = False) -> list[str]:
    """``isthmus-node show ...`` as an argument vector for this very interpreter: what the installed script does.

    ``-P`` keeps the current directory off the module path: a file called ``node.py`` there must not be run.  ``end_with_parent``
    (Linux) lets the kernel send SIGTERM to the process when its parent ends, however that ends.
    """
    script = f"import sys; sys.argv[0] = {command!r}; from {MODULES[command]} import main; sys.exit(main())"
    if end_with_parent and sys.platform.startswith("linux"):
        ask = f"ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGTERM)})"
        script = f"import ctypes, os; {ask}; os.getppid() == {os.getpid()} or os._exit(1); {script}"
    return [sys.executable, "-P", "-c", script, *arguments]


def run_command(command: str, *arguments: str, cwd: Path, timeout: float = 120.0, accept: Sequence[int] = (0,)) -> dict[str, Any]:
    """Run one command with ``--json`` to its end and return the JSON object it printed (empty when it printed none).

    Args:
        accept: exit statuses that are an answer and not an error.

    Raises:
        CommandError: with the command's own code and remedy, or ``demo.command_failed``, ``demo.command_timeout``.
    """
    process = subprocess.Popen(
        command_line(command, *arguments),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    shown = " ".join([command, *(Path(a).name if a.startswith("/") else a for a in arguments)])
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise CommandError(
            "demo.command_timeout",
            f"`{shown}` did not end within {timeout:.0f} seconds.",
            remedy="Try again; with --keep DIR the logs stay in DIR.",
        ) from None
    finally:
        end_group(process)
    if process.returncode in accept:
        return _json_object(out)
    raise_command_error(shown, out, err, process.returncode)


def _json_object(text: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text) if text.strip() else {}
    except json.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {"items": parsed}


def raise_command_error(shown: str, out: str, err: str, status: int) -> NoReturn:
    """Raise what a failed command said, as one :class:`CommandError`."""
    code, message, remedy = read_error(out, err)
    if not code:
        last = [line for line in (err or out).splitlines() if line.strip()]
        raise CommandError(
            "demo.command_failed",
            f"`{shown}` ended with status {status}: {last[-1].strip() if last else 'it said nothing'}",
            remedy="Run it by hand, or look at the logs that --keep DIR keeps.",
            exit_status=status if 0 < status < 126 else 1,
        )
    raise CommandError(code, f"`{shown}`: {message}", remedy=remedy, exit_status=status if 0 < status < 126 else 1)


def read_error(out: str, err: str) -> tuple[str, str, str]:
    """Code, message and remedy of the last error in a command's output; empty strings when there is none.

    The commands print ``error: ...``, ``remedy: ...``, ``code: ...`` on standard error and, with ``--json``, the same as an object.
    """
    reported = _json_object(out).get("error")
    if isinstance(reported, dict):
        return str(reported.get("code", "")), str(reported.get("message", "")), str(reported.get("remedy", ""))
    found: dict[str, str] = {}
    for line in err.splitlines():
        match = re.match(r"\s*(error|remedy|code): (.*)", line)
        if match:
            if match[1] == "error":
                found = {}
            found[match[1]] = match[2].strip()
    return found.get("code", ""), found.get("error", ""), found.get("remedy", "")


@dataclass
class Server:
    """One long-running process and where its output goes."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path
    peak_rss: int = 0

    def said(self) -> str:
        """What it printed so far (the last 64 KiB)."""
        with contextlib.suppress(OSError), self.output.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 65536))
            return file.read().decode("utf-8", "replace")
        return ""


class Supervisor:
    """The demo's servers; as a context manager it ends all of them however the block is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: dict[str, Server] = {}

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, command: str, *arguments: str, cwd: Path) -> Server:
        """Start one server; its output goes to ``<folder>/<name>.txt``."""
        output = self.folder / f"{name}.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                command_line(command, *arguments, end_with_parent=True),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = Server(name, process, output)
        self.servers[name] = server
        return server

    def check(self) -> None:
        """Raise when a server has ended: with what it said; and when the demo itself was asked to end."""
        STOP.raise_if_asked()
        for server in self.servers.values():
            status = server.process.poll()
            if status is not None:
                raise_command_error(f"{server.name}: serve", "", server.said(), status)

    def wait_until(self, ready: Callable[[], bool], what: str, *, timeout: float) -> None:
        """Wait for ``ready`` while all servers live.

        Raises:
            CommandError: ``demo.start_timeout``, or what the server that ended said.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise CommandError(
                    "demo.start_timeout",
                    f"{what} did not happen within {timeout:.0f} seconds.",
                    remedy="Try again on a less busy machine; with --keep DIR the logs stay in DIR.",
                )
            time.sleep(0.05)

    def sample_memory(self) -> None:
        """Note each server's memory so far; short-lived workers count with what they hold now."""
        for server in self.servers.values():
            server.peak_rss = max(server.peak_rss, resident_peak(server.process.pid))

    def stop(self) -> None:
        """Ask all servers to end, wait, then kill what is left.  A second signal does not cut this short."""
        self.sample_memory()
        with _uninterrupted():
            running = [s.process for s in self.servers.values()]
            for process in running:
                _signal_group(process, signal.SIGTERM)
            deadline = time.monotonic() + GRACE_SECONDS
            for process in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
            for process in running:
                end_group(process)


def end_group(process: subprocess.Popen[Any]) -> None:
    """Kill whatever is left of a process's group and collect the process."""
    _signal_group(process, signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _signal_group(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    # The group outlives its leader while a worker lives; the number cannot be taken by another group before then.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    previous = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(ValueError):  # not in the main thread: nothing would interrupt it
            previous[number] = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Stop:
    """Ctrl-C, SIGTERM and SIGHUP as exceptions that cannot get lost.

    Python raises from a signal handler wherever the main thread happens to be; where that is a finaliser or a library's callback,
    the exception is swallowed.  So the signal is remembered, and raised again at the next place that asks.
    """

    def __init__(self) -> None:
        self._asked = 0

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """While inside, the three signals unwind the program, so that cleaning up happens; SIGTERM and SIGHUP end it with 128 +
        number."""
        self._asked = 0
        previous = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with contextlib.suppress(ValueError):  # not in the main thread
                previous[number] = signal.signal(number, self._received)
        try:
            yield
            self.raise_if_asked()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _received(self, number: int, _frame: object) -> None:
        self._asked = number
        self.raise_if_asked()

    def raise_if_asked(self) -> None:
        """Raise KeyboardInterrupt or SystemExit when a signal was received."""
        if self._asked == signal.SIGINT:
            raise KeyboardInterrupt
        if self._asked:
            raise SystemExit(128 + self._asked)


STOP = Stop()


def resident_peak(pid: int) -> int:
    """Peak resident bytes of a process and its living children (Linux; elsewhere their present size); 0 when it is gone."""
    total = 0
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    for member in family:
        try:
            total += _high_water(member.pid) or int(member.memory_info().rss)
        except psutil.Error:
            continue
    return total


def _high_water(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    match = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts_connections(port: int) -> bool:
    """Whether something listens on the loopback port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def work_folder(keep: Path) -> Path:
    """The folder that ``--keep`` names, made if need be.

    Raises:
        UsageError: ``demo.keep_exists``: it holds something already; ``demo.keep_unwritable``.
    """
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise UsageError("demo.keep_exists", f"{keep} exists and is not an empty folder.", remedy="Name a new folder with --keep.")
    try:
        keep.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            "demo.keep_unwritable", f"{keep} cannot be made: {error.strerror}.", remedy="Name a folder where you may write."
        ) from None
    return keep.resolve()
