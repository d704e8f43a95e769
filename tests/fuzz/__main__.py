"""Coverage-guided fuzzing by hand or in CI: ``python -m tests.fuzz [TARGET ...] [--seconds N] [--corpus FOLDER]``.

Each target is a process of its own under Atheris (libFuzzer) with bounds on time and memory for one input.  What it learns stays
in the corpus folder, so that the next run goes on from there.  An input that fails is written to ``<corpus>/failed``; once the
fault is mended, keep it, small, in ``tests/vectors/fuzz/<target>``.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

CORPUS = Path(".fuzz")
INPUT_BYTES = 4096
INPUT_SECONDS = 20
MEMORY_MIB = 3072
"""Of the process, tables for the key sizes of the tests among it."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz what foreign bytes reach, guided by coverage.")
    parser.add_argument("target", nargs="*", help="names of tests/fuzz/targets.py; all without one")
    parser.add_argument("--seconds", type=int, default=10, help="for each target (10)")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="folder of what was learned (.fuzz)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        sys.exit("error: Atheris is not installed.\n  remedy: pip install 'isthmus[fuzz]' (or `make fuzz`)")
    if asked.one:
        _fuzz(asked.target[0], asked.seconds, asked.corpus)
    names = asked.target or _names()
    unknown = sorted(set(names) - set(_names()))
    if unknown:
        sys.exit(f"error: there is no target {', '.join(unknown)}.\n  remedy: name some of: {', '.join(_names())}")
    failed = [name for name in names if not _run(name, asked.seconds, asked.corpus)]
    print(f"{len(names)} targets, {len(failed)} with findings" + (f": {', '.join(failed)}" if failed else ""), flush=True)
    return 1 if failed else 0


def _names() -> list[str]:
    from tests.fuzz.targets import BY_NAME

    return list(BY_NAME)


def _run(name: str, seconds: int, corpus: Path) -> bool:
    print(f"== {name}", flush=True)
    command = [sys.executable, "-m", "tests.fuzz", name, "--one", "--seconds", str(seconds), "--corpus", str(corpus)]
    return subprocess.run(command, check=False).returncode == 0


def _fuzz(name: str, seconds: int, corpus: Path) -> None:
    """In a process of its own; does not return."""
    import atheris

    with atheris.instrument_imports(include=["audit", "node", "coordinator", "tests.fuzz"], enable_loader_override=False):
        from tests.fuzz.targets import BY_NAME

    target = BY_NAME[name]
    known, failed = corpus / name, corpus / "failed"
    known.mkdir(parents=True, exist_ok=True)
    failed.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (known / f"seed-{number}").write_bytes(seed)
    for path in target.regressions():
        (known / f"regression-{path.name}").write_bytes(path.read_bytes())
    bounds = [f"-max_total_time={seconds}", f"-max_len={INPUT_BYTES}", f"-timeout={INPUT_SECONDS}", f"-rss_limit_mb={MEMORY_MIB}"]
    atheris.Setup([name, str(known), f"-artifact_prefix={failed}/{name}-", "-verbosity=0", "-print_final_stats=1", *bounds], target)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
