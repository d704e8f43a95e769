"""The demo's result, put together from what the nodes reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audit.errors import UsageError
from coordinator.demo.report import sizes, steps_by_name, write_json


def report(**fields: Any) -> dict[str, Any]:
    return {"bytes_sent": 0, "peak_rss_bytes": 0, "set_size": 0, "intersection": 0, "rows_train": 0, "columns": 0} | fields


def step(
    name: str, number: int = 0, *, state: str = "done", attempt: int = 0, seconds: float = 1.0, **reports: Any
) -> dict[str, Any]:
    decrement = 10.0**-number if name == "round" else None
    found = {"step": name, "round": number, "attempt": attempt, "state": state, "seconds": seconds, "decrement": decrement}
    return found | {"reports": [report(party=party, **fields) for party, fields in reports.items()]}


VIEW: dict[str, Any] = {
    "state": "round",
    "step": "round",
    "round": 3,
    "intersection": 50,
    "rows_train": 40,
    "rows_holdout": 10,
    "parties": [
        {"party": "bank", "phase": "lookup", "done": 20, "total": 40},
        {"party": "platform", "phase": "", "done": 0, "total": 0},
    ],
    "steps": [
        step("align", bank={"set_size": 90, "bytes_sent": 7, "rows_train": 40, "intersection": 50}, platform={"set_size": 80}),
        step("prepare", state="failed", seconds=9, bank={"bytes_sent": 999}),
        step("prepare", attempt=1, seconds=2, bank={"columns": 5, "bytes_sent": 11}, platform={"columns": 3, "bytes_sent": 13}),
        step("round", 1, attempt=1, bank={"bytes_sent": 1, "peak_rss_bytes": 5}, platform={"bytes_sent": 2}),
        step("round", 2, attempt=1, seconds=0.5, bank={"bytes_sent": 10, "peak_rss_bytes": 4}, platform={"bytes_sent": 20}),
    ],
}


def test_steps_add_up_by_name_and_direction() -> None:
    found = steps_by_name(VIEW)
    assert found["seconds"] == {"align": 1.0, "prepare": 2.0, "round": 1.5}, "a failed attempt does not count"
    assert found["bytes"]["round"] == {"bank_to_platform": 11, "platform_to_bank": 22}
    assert found["bytes"]["prepare"] == {"bank_to_platform": 11, "platform_to_bank": 13}
    assert [r["round"] for r in found["rounds"]] == [1, 2]
    assert found["peak_rss"] == {"bank": 5, "platform": 0}


def test_sizes_come_from_the_reports() -> None:
    found = sizes(VIEW)
    assert found["set_sizes"] == {"bank": 90, "platform": 80}
    assert found["encoded_columns"] == {"bank": 5, "platform": 3}
    assert (found["intersection"], found["rows_train"], found["rows_holdout"]) == (50, 40, 10)


def test_json_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", {"auc": None, "ks": 0.5})
    assert json.loads((tmp_path / "r.json").read_text()) == {"auc": None, "ks": 0.5}
    with pytest.raises(ValueError):
        write_json(tmp_path / "s.json", {"auc": float("nan")})
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
    with pytest.raises(UsageError) as caught:
        write_json(tmp_path / "no" / "r.json", {})
    assert caught.value.code == "demo.json_unwritable"
