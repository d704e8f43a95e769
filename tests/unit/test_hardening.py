"""Processes that hold keys: no core file, no memory that others can read.  In processes of their own: it cannot be undone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")


def run(script: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a script in a process that would leave a core file, were it not for what it asks.

    The limit is raised by the process itself: Python code between fork and exec can fail in a process that has threads.
    """
    raised = "import resource as r; r.setrlimit(r.RLIMIT_CORE, (r.getrlimit(r.RLIMIT_CORE)[1],) * 2)\n"
    return subprocess.run(
        [sys.executable, "-c", raised + textwrap.dedent(script), *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_process_that_asked_leaves_no_core_file(tmp_path: Path) -> None:
    script = """
        import os, signal, sys
        from audit.hardening import core_dumps_off, forbid_core_dumps
        if sys.argv[1] == "forbid":
            forbid_core_dumps()
            assert core_dumps_off()
        os.kill(os.getpid(), signal.SIGABRT)
    """
    done = run(script, "forbid", cwd=tmp_path)
    assert done.returncode == -signal.SIGABRT, done.stderr
    assert list(tmp_path.iterdir()) == []


@linux
def test_the_kernel_confirms_it() -> None:
    script = """
        import os, resource
        from audit.hardening import core_dumps_off, forbid_core_dumps
        before = os.stat("/proc/self/mem").st_uid, core_dumps_off()
        forbid_core_dumps()
        print(before[0] == os.geteuid(), before[1], os.stat("/proc/self/mem").st_uid, core_dumps_off(),
              resource.getrlimit(resource.RLIMIT_CORE))
    """
    assert run(script).stdout.split(maxsplit=4)[:4] == ["True", "False", "0", "True"]


@linux
@pytest.mark.parametrize("module", ["node.cli", "coordinator.cli", "audit.cli"])
def test_every_command_asks_for_it(module: str) -> None:
    script = f"""
        import sys, atexit
        from audit.hardening import core_dumps_off
        from {module} import main
        atexit.register(lambda: print("off" if core_dumps_off() else "on"))
        sys.argv = ["x", "--version"]
        sys.exit(main())
    """
    done = run(script)
    assert done.stdout.splitlines()[-1:] == ["off"], (done.returncode, done.stderr)


@linux
def test_workers_of_the_engine_ask_for_it(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text("from audit.hardening import core_dumps_off\ndef off(_):\n    return core_dumps_off()\n")
    (tmp_path / "main.py").write_text(
        "from node.engine.pool import PoolEngine\nfrom worker import off\n"
        "if __name__ == '__main__':\n    e = PoolEngine(1)\n    print(list(e.map(off, [1])))\n    e.close()\n"
    )
    done = run("import runpy, sys; sys.path.insert(0, '.'); runpy.run_path('main.py', run_name='__main__')", cwd=tmp_path)
    assert done.stdout.strip() == "[True]", done.stderr


@linux
@pytest.mark.parametrize("asked", [True, False])
def test_threads_of_a_server_share_one_heap(asked: bool) -> None:
    script = f"""
        import ctypes, sys, threading
        from operations.memory import share_one_heap
        if {asked} and not share_one_heap():
            sys.exit(3)
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        held = threading.Barrier(9)
        def work():
            libc.malloc(5000)
            held.wait()
        for _ in range(8):
            threading.Thread(target=work).start()
        held.wait()
        libc.malloc_stats()
    """
    done = run(script)
    if done.returncode == 3 or "Arena 0" not in done.stderr:
        pytest.skip("this C library is not glibc")
    assert ("Arena 1" in done.stderr) is not asked
