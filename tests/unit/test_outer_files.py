"""The files around the code: make's error messages, the check script, the licence."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OLD = """#!/bin/sh
case "$2" in *version_info*) exit 1;; *python_version*) echo 3.9.2;; esac
"""
NO_VENV = """#!/bin/sh
case "$1" in -c) exit 0;; -m) echo "ensurepip is not available"; mkdir -p .venv; exit 1;; esac
"""


@pytest.mark.parametrize(
    ("interpreter", "said", "remedy"),
    [
        (OLD, "./python is 3.9.2; isthmus needs Python 3.11 or newer", "make PYTHON="),
        (NO_VENV, "could not make a virtual environment", "apt-get install python3-venv"),
        ("", "there is no ./python", "apt-get install"),
    ],
)
def test_make_says_what_is_missing(tmp_path: Path, interpreter: str, said: str, remedy: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    if interpreter:
        (tmp_path / "python").write_text(interpreter)
        (tmp_path / "python").chmod(0o755)
    done = subprocess.run(["make", "demo", "PYTHON=./python"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"error: {said}" in done.stderr or said in done.stderr
    assert remedy in done.stderr
    assert not (tmp_path / ".venv").exists(), "nothing half made is left"


def test_the_check_script_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_licence_is_the_one_that_is_declared() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "GNU GENERAL PUBLIC LICENSE" in text
    assert "Version 3, 29 June 2007" in text
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"] == "GPL-3.0-or-later"


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    reasons = (ROOT / "docs" / "decisions" / "0001-dependencies.md").read_text()
    for requirement in [
        *project["dependencies"],
        *project["optional-dependencies"]["demo"],
        *project["optional-dependencies"]["postgresql"],
        *project["optional-dependencies"]["dev"],
    ]:
        name = requirement.split(">")[0].split("[")[0].strip()
        assert f"`{name}`" in reasons, f"{name} has no reason in docs/decisions/0001-dependencies.md"
