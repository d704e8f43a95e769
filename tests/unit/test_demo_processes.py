"""The demo's processes: started apart, their errors passed on, ended on every way out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from audit.errors import UsageError
from coordinator.demo import processes
from coordinator.demo.processes import CommandError, Supervisor, raise_command_error, read_error, run_command, work_folder

pytestmark = pytest.mark.timed

# Stands in for a server: it has a worker of its own, and a mood.
SERVER = """
import signal, subprocess, sys, time

def main():
    mood = sys.argv[1]
    if mood == "fails":
        print("error: Port 7 is taken.\\n  remedy: Choose another.\\n  code: transport.port_in_use", file=sys.stderr)
        return 1
    if mood == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    worker = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
    worker.stdout.readline()
    print("ready", worker.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stand_in.py").write_text(SERVER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(processes.MODULES, "isthmus-node", "stand_in")
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)


def gone(pid: int, timeout: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def worker_of(server: processes.Server) -> int:
    deadline = time.monotonic() + 10
    while "ready" not in server.said():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(server.said().split()[1])


@pytest.mark.parametrize("mood", ["kind", "stubborn"])
def test_all_processes_and_their_workers_end(tmp_path: Path, mood: str) -> None:
    began = time.monotonic()
    with Supervisor(tmp_path) as servers:
        server = servers.start("bank", "isthmus-node", mood, cwd=tmp_path)
        worker = worker_of(server)
        servers.check()
        servers.sample_memory()
        assert server.peak_rss > 2**20
    assert time.monotonic() - began < 20, "they were ended, they did not end by themselves"
    assert gone(server.process.pid)
    assert gone(worker)


def test_processes_end_when_the_block_is_left_by_an_error(tmp_path: Path) -> None:
    started: list[int] = []

    def interrupted() -> None:
        with Supervisor(tmp_path) as servers:
            server = servers.start("bank", "isthmus-node", "kind", cwd=tmp_path)
            started.extend([server.process.pid, worker_of(server)])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(gone(pid) for pid in started)


def test_a_server_that_ends_is_an_error_with_its_own_words(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as servers:
        servers.start("platform", "isthmus-node", "fails", cwd=tmp_path)
        with pytest.raises(CommandError) as caught:
            servers.wait_until(lambda: False, "nothing", timeout=20)
    assert caught.value.code == "transport.port_in_use"
    assert "Port 7 is taken." in caught.value.message
    assert caught.value.remedy == "Choose another."
    assert caught.value.exit_status == 1


def test_waiting_has_an_end(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as servers:
        servers.start("platform", "isthmus-node", "kind", cwd=tmp_path)
        with pytest.raises(CommandError) as caught:
            servers.wait_until(lambda: False, "the platform's port", timeout=0.3)
    assert caught.value.code == "demo.start_timeout"


def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as caught:
        run_command("isthmus-node", "kind", cwd=tmp_path, timeout=1.0)
    assert caught.value.code == "demo.command_timeout"


def test_killing_the_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    """Even SIGKILL, which no program can answer: the kernel then ends the servers."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux can tell a process that its parent was killed")
    program = f"""
import sys, time
from pathlib import Path
from coordinator.demo import processes
processes.MODULES["isthmus-node"] = "stand_in"
servers = processes.Supervisor(Path({str(tmp_path)!r}))
server = servers.start("bank", "isthmus-node", "kind", cwd=Path({str(tmp_path)!r}))
print(server.process.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        output = tmp_path / "bank.txt"
        deadline = time.monotonic() + 10
        while "ready" not in output.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        worker = int(output.read_text().split()[1])
    finally:
        parent.kill()
        parent.communicate()
    assert gone(pid)
    os.kill(worker, signal.SIGKILL)  # the stand-in's worker belongs to the stand-in, not to the demo


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_unwind(number: signal.Signals) -> None:
    def signalled() -> None:
        with processes.STOP.on_signals():
            os.kill(os.getpid(), number)
            time.sleep(5)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as caught:
        signalled()
    if number != signal.SIGINT:
        assert caught.value.code == 128 + number
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_that_a_library_swallowed_is_raised_at_the_next_look(tmp_path: Path) -> None:
    def swallowed() -> None:
        with processes.STOP.on_signals(), Supervisor(tmp_path) as servers:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            except SystemExit:
                pass  # as an at-fork hook or a finaliser would
            servers.check()
            raise AssertionError("the signal got lost")

    with pytest.raises(SystemExit):
        swallowed()


def test_errors_are_read_from_both_forms() -> None:
    text = "warning\nerror: first\n  code: a.b\nerror: No such file.\n  remedy: Look.\n  code: data.missing_file\n"
    assert read_error("", text) == ("data.missing_file", "No such file.", "Look.")
    assert read_error('{"error": {"code": "x.y", "message": "m", "remedy": "r"}}', "") == ("x.y", "m", "r")
    assert read_error("", "Traceback ...") == ("", "", "")
    with pytest.raises(CommandError) as caught:
        raise_command_error("isthmus-node serve", "", "Traceback\nValueError: x", -9)
    assert caught.value.code == "demo.command_failed"
    assert caught.value.exit_status == 1


def test_the_folder_to_keep_must_be_empty(tmp_path: Path) -> None:
    assert work_folder(tmp_path / "new" / "one").is_dir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError) as caught:
        work_folder(tmp_path / "full")
    assert caught.value.code == "demo.keep_exists"
