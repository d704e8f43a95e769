"""The accuracy that is promised, on real data, through the whole path of three processes.

With small keys, to be quick: of all that decides accuracy only the bits of the score ring depend on the key.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from coordinator.demo.processes import command_line

DATA = Path(__file__).parents[3] / "shared" / "data"
SMALL = ["--key-bits", "512", "--unsafe-small-keys"]


def demo(folder: Path, *arguments: str) -> dict[str, Any]:
    command = command_line("isthmus-coordinator", "demo", *SMALL, *arguments, "--json", "result.json")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    names = (
        "auc",
        "auc_exact",
        "auc_pooled",
        "auc_train_exact",
        "auc_train_pooled",
        "log_loss_train_exact",
        "log_loss_train_pooled",
    )
    print({name: result[name] for name in names}, result["rounds"])
    return result


def test_card_default(tmp_path: Path) -> None:
    bank, platform = DATA / "uci_default_bank.csv", DATA / "uci_default_platform.csv"
    if not bank.exists():
        pytest.skip(f"the card-default files are not in {DATA}")
    sides = ["--bank", str(bank), "--bank-id", "customer_id", "--platform", str(platform), "--platform-id", "user_id"]
    result = demo(tmp_path, *sides, "--label", "default")
    assert result["intersection"] == 18_000
    assert result["rounds"] <= 8
    assert abs(result["log_loss_train_exact"] - result["log_loss_train_pooled"]) < 1e-4
    assert abs(result["auc_train_exact"] - result["auc_train_pooled"]) < 0.001
    assert abs(result["auc"] - result["auc_pooled"]) < 0.003
    assert result["auc"] > result["auc_label_holder_alone"]
    assert result["audit"]["exit_status"] == 0


def test_breast_cancer(tmp_path: Path) -> None:
    result = demo(tmp_path, "--dataset", "breast-cancer")
    assert result["intersection"] == 569
    assert abs(result["auc_train_exact"] - result["auc_train_pooled"]) < 0.003
    assert abs(result["auc"] - result["auc_pooled"]) < 0.003
