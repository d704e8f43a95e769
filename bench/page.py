"""``docs/benchmarks.md`` and its plots, made from the figures in ``bench/results``.

    python -m bench.page [--results FOLDER] [--docs FOLDER]

The same figures give the same bytes: no date of making, no random identifiers in the plots.  A part without figures says
"not measured" and how to measure it.  The plots need matplotlib (``pip install '.[bench]'``).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bench import page_parts, page_scale
from bench.page_format import Machines, Results

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("scale", "alignment", "asymmetric", "crypto", "lookup", "audit", "chaos", "link", "links")
HEAD = """# Benchmarks

This page is made by `python -m bench.page` from the files in `bench/results`; change those, not the page. Every figure was measured
by the command that its section names, on the machine that its section names, unless it says otherwise; what nobody measured is
called so. No data are shipped: they are generated when a benchmark runs, or come with scikit-learn.

| command | measures |
|---|---|
| `python -m bench.scale` | whole jobs by the three real programs, beside naive phe (`--quick`, `--missing`, `--list`) |
| `python -m bench.alignment --json bench/results/alignment.json` | private set intersection alone |
| `python -m bench.asymmetric` | a small set against a large one that was masked once, and the later job |
| `python -m bench.crypto --json bench/results/crypto.json` | Paillier's operations beside phe's |
| `python -m bench.lookup --json bench/results/lookup.json` | oblivious lookups |
| `python -m bench.audit` | the verification of large logs |
| `python -m bench.chaos` | jobs whose processes are killed and whose links are cut |
| `python -m bench.link --json bench/results/link.json` | a direct link beside the relay |
| `python -m bench.links` | what a session costs over a bare stream |

They need a checkout and `pip install --editable '.[bench]'`. One core or two: all processes together were kept on so many.
"""


def load(folder: Path) -> Results:
    """What the folder holds, by name; names without a file, or with one that is no JSON object, are absent.

    Raises:
        SystemExit: a file is there and is no JSON.
    """
    found: Results = {}
    for name in NAMES:
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise SystemExit(f"error: {path} is no JSON; measure again or remove it.") from None
        if isinstance(document, dict):
            found[name] = document
    return found


def render(results: Results, plots: dict[str, str] | None = None) -> str:
    """The page.

    Args:
        results: see :func:`load`.
        plots: by name of a plot, its file as the page links to it.
    """
    machines = Machines()
    sections = page_scale.sections(results.get("scale"), machines, plots or {})
    sections += page_parts.sections(results, machines, plots or {})
    return "\n".join([HEAD, machines.section(), *sections]).rstrip() + "\n"


def make(results_folder: Path, docs: Path) -> list[Path]:
    """Write the page and the plots; a plot for which there are no figures any more is removed.  What was written."""
    from bench import page_plots

    results = load(results_folder)
    folder = docs / "benchmarks"
    drawn: dict[str, bytes] = page_plots.draw(results)
    links = {name: f"benchmarks/{name}.svg" for name in drawn}
    written = [docs / "benchmarks.md"]
    docs.mkdir(parents=True, exist_ok=True)
    written[0].write_text(render(results, links), encoding="utf-8")
    for old in folder.glob("*.svg"):
        old.unlink()
    for name, content in drawn.items():
        folder.mkdir(exist_ok=True)
        written.append(folder / f"{name}.svg")
        written[-1].write_bytes(content)
    return written


def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.page", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results", help="folder with the figures")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder that gets benchmarks.md and its plots")
    given: Any = parser.parse_args(argv)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise SystemExit("error: the plots need matplotlib.\n  remedy: pip install '.[bench]'") from None
    for path in make(given.results, given.docs):
        print(path)


if __name__ == "__main__":
    main()
