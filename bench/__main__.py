"""All benchmarks, one after the other, for one machine and run.

    python -m bench [--quick] [--key-bits N ...] [--json FILE] [-- DEMO OPTIONS]

Paillier beside phe, lookups, alignment, links, the verification of logs, and the whole training at each key size; each part prints
its own tables.  The JSON file holds the machine and every part's figures; each part's own file lies beside it.  Options after
``--`` go to the training (``--bank FILE ...`` for files of one's own).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from bench.common import write_json

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run the parts and gather what they wrote."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="little work in each part, to see that it runs")
    parser.add_argument("--key-bits", type=int, nargs="+", default=[2048, 3072], help="sizes of the Paillier modulus")
    parser.add_argument("--json", type=Path, default=RESULTS / "all.json", help="where the figures go")
    parser.add_argument("demo", nargs="*", help="options of the demo for the training, after --")
    given = parser.parse_args()
    bits = [str(size) for size in given.key_bits]
    parts = {
        "crypto": ["--bits", *bits, *(["--quick"] if given.quick else [])],
        "lookup": ["--rows", "4096", "--repeats", "1"]
        if given.quick
        else ["--entries", "64", "--entries", "128", "--entries", "256"],
        "alignment": ["--elements", "2000"] if given.quick else [],
        "link": ["--messages", "8", "--trips", "10", "--repeats", "1"] if given.quick else [],
        "audit": ["--entries", "20000"] if given.quick else [],
        "links": ["--quick"] if given.quick else [],
        "training": ["--key-bits", *bits, *(["--", *given.demo] if given.demo else [])],
    }
    figures = {}
    given.json.parent.mkdir(parents=True, exist_ok=True)
    for part, arguments in parts.items():
        written = given.json.resolve().with_name(f"{given.json.stem}.{part}.json")
        command = [sys.executable, "-m", f"bench.{part}", "--json", str(written), *arguments]
        if subprocess.run(command, cwd=Path(__file__).parents[1], check=False).returncode != 0:
            raise SystemExit(f"error: the part {part} failed; its own words stand above")
        figures[part] = json.loads(written.read_text())
    write_json(given.json, {"benchmark": "all", "parts": figures})
    print(f"all figures are in {given.json}")


if __name__ == "__main__":
    main()
