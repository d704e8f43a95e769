"""Coverage-guided fuzzing by hand or in CI: ``python -m tests.fuzz [TARGET ...] [--seconds N] [--corpus FOLDER]``.

Each target is a process of its own under Atheris (libFuzzer) with bounds on time and memory for one input.  What it learns stays
in the corpus folder, so that the next run goes on from there.  An input that fails is written to ``<corpus>/failed``; once the
fault is mended, keep it, small, in ``tests/vectors/fuzz/<target>``.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fuzz.targets import Target

CORPUS = Path(".fuzz")
SEED = 1
"""Of a search by number of inputs."""
INPUT_BYTES = 4096
INPUT_SECONDS = 20
MEMORY_MIB = 3072
"""Of the process, tables for the key sizes of the tests among it."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz what foreign bytes reach, guided by coverage.")
    parser.add_argument("target", nargs="*", help="names of tests/fuzz/targets.py; all without one")
    parser.add_argument("--seconds", type=int, default=10, help="for each target (10)")
    parser.add_argument("--runs", type=int, default=-1, help="inputs for each target, for a search that is the same every time")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (1)")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="folder of what was learned (.fuzz)")
    asked = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        sys.exit("error: Atheris is not installed.\n  remedy: pip install 'isthmus[fuzz]' (or `make fuzz`)")
    targets = _targets()
    names = asked.target or list(targets)
    unknown = sorted(set(names) - set(targets))
    if unknown:
        sys.exit(f"error: there is no target {', '.join(unknown)}.\n  remedy: name some of: {', '.join(targets)}")
    bounds = [f"-max_total_time={asked.seconds}"] + ([f"-runs={asked.runs}", f"-seed={SEED}"] if asked.runs >= 0 else [])
    with ThreadPoolExecutor(asked.jobs) as pool:
        ended = dict(zip(names, pool.map(lambda name: _run(targets[name], bounds, asked.corpus), names), strict=True))
    failed = [name for name, fine in ended.items() if not fine]
    print(f"{len(names)} targets, {len(failed)} with findings" + (f": {', '.join(failed)}" if failed else ""), flush=True)
    return 1 if failed else 0


def _targets() -> Mapping[str, Target]:
    """All targets, instrumented once: the processes that search are forks of this one."""
    import atheris

    sys.stderr.flush()
    with atheris.instrument_imports(include=["audit", "node", "coordinator", "tests.fuzz"], enable_loader_override=False):
        from tests.fuzz.targets import BY_NAME
    return BY_NAME


def _run(target: Target, bounds: Sequence[str], corpus: Path) -> bool:
    """Whether a search ended without a finding; says what it printed if not."""
    with tempfile.TemporaryFile() as told:
        child = multiprocessing.get_context("fork").Process(target=_fuzz, args=(target, bounds, corpus, told.fileno()))
        child.start()
        child.join()
        told.seek(0)
        lines = told.read().decode(errors="replace").splitlines()
    units = next((line.split()[-1] for line in lines if line.startswith("stat::number_of_executed_units")), "0")
    fine = child.exitcode == 0
    first = f"== {target.name}: {units} inputs{'' if fine else ', a finding'}"
    print("\n".join([first, *([] if fine else lines[-60:])]), flush=True)
    return fine


def _fuzz(target: Target, bounds: Sequence[str], corpus: Path, output: int) -> None:
    """In a process of its own; does not return."""
    import atheris

    os.dup2(output, 1)
    os.dup2(output, 2)
    known, failed = corpus / target.name, corpus / "failed"
    known.mkdir(parents=True, exist_ok=True)
    failed.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (known / f"seed-{number}").write_bytes(seed)
    for path in target.regressions():
        (known / f"regression-{path.name}").write_bytes(path.read_bytes())
    limits = [f"-max_len={INPUT_BYTES}", f"-timeout={INPUT_SECONDS}", f"-rss_limit_mb={MEMORY_MIB}"]
    quiet = ["-verbosity=0", "-print_final_stats=1", f"-artifact_prefix={failed}/{target.name}-"]
    atheris.Setup([target.name, str(known), *quiet, *limits, *bounds], target)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
