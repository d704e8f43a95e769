"""A small job of the three real programs through the benchmark: every figure is there and fits the others."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

from bench.page import render
from bench.scale import Case, append, read_runs, run_case
from coordinator.demo import parties
from tests.joint import _command


def test_a_run_has_every_figure(tmp_path: Path) -> None:
    told: list[str] = []
    case = Case("generated", 1000, 5, 512, 1, 2, "0.2", "0.01")
    folder = tmp_path / "run"
    folder.mkdir()
    with mock.patch.object(parties, "run_command", _command), redirect_stdout(StringIO()):
        record = run_case(case, folder, naive_seconds=0.2, small_keys=True, told=told.append)
    append(tmp_path / "scale.json", record)
    assert read_runs(tmp_path / "scale.json") == [record], "it is all JSON"
    steps = ["align", "prepare", "round", "finish", "evaluate"]
    assert list(record["seconds"]) == list(record["bytes"]) == steps
    assert record["seconds_steps"] < record["seconds_job"]
    assert (record["intersection"], record["rounds_done"], record["encoded_columns"]) == (1000, 2, {"bank": 4, "platform": 2})
    # By oblivious transfers: some 50 bytes a customer one way, some 14 the other.
    assert sorted(1334 * 10 < sent < 1334 * 64 for sent in record["bytes"]["align"].values()) == [True, True]
    for party in ("bank", "platform"):
        assert 1000 < record["bytes_to_coordinator"][party] < 200_000
        assert record["bytes_from_coordinator"][party] > 1000
        assert 0 < record["cpu_seconds_by_step"][party]["prepare"] <= record["cpu_seconds"][party]
        assert 50e6 < record["peak_rss_bytes"][party] < 2e9
        assert record["disk_bytes"][party] > 0
    assert record["peak_rss_bytes"]["coordinator"] > 50e6
    assert record["verify_exit_status"] == 0
    assert abs(record["quality"]["log_loss_train_difference"]) < 0.02
    assert record["naive"]["rows"] == record["rows_train"]
    assert record["naive"]["ratios"]["prepare_per_round"] > record["naive"]["ratios"]["prepare"] > 0
    assert any(line.startswith("prepare") for line in told)
    page = render({"scale": {"runs": [record]}})
    assert "| 1,000 | 5 | 512 | 1 |" in page
    assert "whole and lawful" in page
