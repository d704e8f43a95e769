"""``python -m tests.tampering LOGS... --keys FOLDERS... --output DIR``: a folder of bad logs from three good ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.tampering.corpus import keys_of, story_of, write_corpus


def main() -> None:
    """Read the command line and write the corpus."""
    about = "Make bad logs from the good ones of a finished job."
    parser = argparse.ArgumentParser(prog="python -m tests.tampering", description=about)
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOGS", help="log folders of both nodes and the coordinator")
    parser.add_argument("--keys", nargs="+", type=Path, required=True, metavar="FOLDERS", help="their key folders")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder for the bad logs")
    options = parser.parse_args()
    if options.output.exists():
        parser.error(f"{options.output} is already there")
    count = write_corpus(story_of(options.logs, keys_of(options.keys)), options.output)
    print(f"{count} kinds of bad logs in {options.output}; manifest.json says where each must fail")


if __name__ == "__main__":
    main()
