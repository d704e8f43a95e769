"""The benchmarks' page: whole for the figures that are there, plain about those that are not, committed as it is made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from bench.page import NAMES, load, make, render
from bench.page_parts import alignment_rows, elements_of, series_of

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {"processor": "Made Up 9000", "cores": 2, "system": "Linux-0", "python": "3.11.0", "load_1min": 0.25}
STEPS = ("align", "prepare", "round", "finish", "evaluate")


def run(job: str = "generated", rows: int = 10_000, features: int = 24, cores: int = 2, scale: float = 1.0) -> dict[str, Any]:
    """A run whose every figure is recognisable."""
    parties = ("bank", "platform")
    return {
        "job": job,
        "rows": rows,
        "features": features,
        "bits": 2048,
        "cores": cores,
        "rounds": 8,
        "holdout": "0.2",
        "data": "generated",
        "machine": MACHINE,
        "commit": "abcdef012345",
        "rows_train": rows - rows // 5,
        "rounds_done": 8,
        "seconds": {step: scale * (i + 1) for i, step in enumerate(STEPS)},
        "seconds_steps": scale * 15,
        "bytes": {step: {"bank_to_platform": 2_000_000, "platform_to_bank": 1_000_000} for step in STEPS},
        "bytes_to_coordinator": dict.fromkeys(parties, 31_000),
        "bytes_from_coordinator": dict.fromkeys(parties, 17_000),
        "cpu_seconds": {"bank": 11.0, "platform": 12.0, "coordinator": 0.5},
        "cpu_seconds_by_step": {party: {"prepare": 5.0, "round": 1.0} for party in parties},
        "peak_rss_bytes": {"bank": 301e6, "platform": 402e6, "coordinator": 103e6},
        "quality": {"log_loss_train_exact": 0.4321, "log_loss_train_difference": 2e-6, "auc_exact": 0.71, "auc_pooled": 0.72},
        "verify_exit_status": 0,
        "naive": {
            "rows": 8000,
            "columns": 24,
            "rows_measured": 400,
            "extrapolated": True,
            "cpu_seconds": 1500.0,
            "ratios": {"prepare": 150.0, "prepare_per_round": 1200.0, "training_per_round": 1000.0},
        },
    }


def results(folder: Path) -> Path:
    """A file of each kind, as small as they come."""
    scale = [run(), run(rows=30_000, scale=3.0), run(rows=30_000, features=300, scale=9.0), run("breast-cancer", 569, 30)]
    sampled = run("sampled", 10_000_000, 24) | {"rows_train": 30_000}
    sampled["peak_rss_bytes"] = {"bank": 2_345e6, "platform": 2_222e6, "coordinator": 111e6}
    documents: dict[str, Any] = {
        "scale": {"benchmark": "scale", "runs": [*scale, run("card-default", 18_000, 21, scale=2.5), sampled]},
        "alignment": {
            "machine": MACHINE,
            "label_holder_elements": 10_000,
            "feature_holder_elements": 12_000,
            "parts_per_second": {"masking": 1.0},
            "processes": {"seconds": 1.25, "bytes_sent": {"a": 1_000_000, "b": 500_000}, "rss_growth_bytes": {"a": 7e6, "b": 9e6}},
        },
        "asymmetric": {
            "results": [
                {
                    "machine": MACHINE,
                    "large": 7_000_000,
                    "small": 80_000,
                    "first_job": {"seconds": 123.0, "cpu_seconds": {"publisher": 200.0, "querier": 9.0}, "bytes_sent": {}},
                    "later_job": {"seconds": 4.0, "peak_rss_bytes": {"publisher": 5e8, "querier": 6e8}},
                }
            ],
            "filter": {
                "machine": MACHINE,
                "elements": 7_000_000,
                "bytes_an_element": 7.987,
                "strangers_asked": 5,
                "strangers_found": 0,
            },
        },
        "crypto": {
            "machine": MACHINE,
            "results": [{"work": "decryption", "bits": 2048, "per_second": 391.0, "phe_per_second": 390.0}],
        },
        "lookup": {"machine": MACHINE, "results": [{"entries": 64, "rows": 4096, "lookups_per_second": 323_456.0}]},
        "audit": {"machine": MACHINE, "results": [{"entries": 1_003_092, "jobs": 159, "seconds": 15.0, "rate": 66_654.0}]},
        "chaos": {"machine": MACHINE, "chaos": {"faults": 100, "jobs": 26, "finished": 26, "failed": [], "verify_exit_status": 0}},
        "link": {"machine": MACHINE, "direct": {"bytes_per_second": 3 * 2**20, "trip_seconds": 0.002}},
        "links": {"machine": MACHINE, "bulk": [{"bytes": 16_384, "bare_mb_s": 111.0, "session_mb_s": 99.0}], "recovery": {}},
    }
    folder.mkdir()
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return results(tmp_path_factory.mktemp("figures") / "results")


@pytest.fixture(scope="module")
def written(figures: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make(figures, tmp_path_factory.mktemp("docs"))


def test_made_up_figures_all_appear(written: list[Path]) -> None:
    page = written[0].read_text()
    for shown in (
        "Made Up 9000",
        "abcdef012345",
        "| 10,000 | 24 | 2048 | 2 | 1.0 | 2.0 | 3.0 | 4.0 | 5.0 | 15.0 |",
        "402 MB",
        "1,200.0",
    ):
        assert shown in page
    for shown in (
        "400 of 8,000",
        "30 s: not reached",
        "| 10,000,000 | 30,000 | 2048 | 2 | 1.0 | 2.0 | 3.0 | 4.0 | 5.0 | 2,345 | 2,222 | 111 | 0.3 | whole and lawful |",
        "| 800.0 |",
        "67 to 80",
        "0.283",
        "| 7,000,000 | 80,000 | first job | 123 | 200.0 + 9.0 |",
        "| 7,000,000 | 80,000 | later job | 4.0 | not measured | not measured | 500 + 600 |",
        "7.99",
        "391",
        "323,456",
        "1,003,092",
        "17,600",
        "whole and lawful",
    ):
        assert shown in page, shown
    assert "1 machine" not in page
    assert "| 1,000,000 | 24 | 3072 | 1 |" in page, "what the matrix lacks has its line"
    linked = re.findall(r"\]\((benchmarks/[\w-]+\.svg)\)", page)
    assert sorted(linked) == [f"benchmarks/{name}.svg" for name in ("alignment", "naive", "scale-features", "scale-rows")]
    assert sorted(path.name for path in written[1:]) == sorted(Path(link).name for link in linked)
    assert max(len(line) for line in page.splitlines() if not line.startswith(("|", "`", "Measured", "Private"))) <= 132


def test_the_aim_and_the_memory_bound_are_judged(tmp_path: Path) -> None:
    slow = run()
    slow["naive"]["ratios"]["prepare_per_round"] = 57.0
    slow["peak_rss_bytes"]["platform"] = 2_100_000_000
    page = render({"scale": {"runs": [slow]}})
    assert "57.0 to 57.0 times;\n0 of 1 runs reach the aim" in page
    assert "NOT kept: the most was 2,100 MB" in page
    page = render({"scale": {"runs": [run()]}})
    assert "1 of 1 runs reach the aim" in page
    assert "is\nkept: the most was 402 MB" in page


def test_a_run_beside_other_work_is_marked(tmp_path: Path) -> None:
    quiet, busy = run(), run(rows=30_000) | {"busy": True}
    assert "upper bound" not in render({"scale": {"runs": [quiet]}})
    page = render({"scale": {"runs": [quiet, busy]}})
    assert "| 15.0 | 1, busy |" in page
    assert "| 15.0 | 1 |" in page
    assert "upper bound" in page


def test_a_later_run_replaces_an_earlier_one() -> None:
    page = render({"scale": {"runs": [run(scale=1.0), run(scale=7.0)]}})
    assert "| 10,000 | 24 | 2048 | 2 | 7.0 |" in page
    assert "| 10,000 | 24 | 2048 | 2 | 1.0 |" not in page


def test_an_empty_folder_gives_a_whole_page_that_says_so(figures: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    stale = tmp_path / "docs" / "benchmarks" / "naive.svg"
    stale.parent.mkdir(parents=True)
    stale.write_text("of figures that are gone")
    written = make(tmp_path / "results", tmp_path / "docs")
    page = written[0].read_text()
    assert written[1:] == []
    assert not stale.exists()
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    full = render(load(figures))
    assert [s.splitlines()[0] for s in sections] == re.findall(r"^## (.+)$", full, re.MULTILINE)
    assert all(re.search("not(hing is)? measured", section, re.IGNORECASE) for section in sections)
    assert ".svg" not in page


def test_the_same_figures_give_the_same_bytes(figures: Path, written: list[Path], tmp_path: Path) -> None:
    first, second = ([path.read_bytes() for path in paths] for paths in (written, make(figures, tmp_path)))
    assert first == second
    assert b"<dc:date>" not in b"".join(first)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text("{")
    with pytest.raises(SystemExit, match=r"audit\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    "document",
    [
        {"runs": [{"method": "ot", "elements": 10, "processes": {"seconds": 2.0}}]},
        {"results": [{"method": "ot", "label_holder_elements": 10, "feature_holder_elements": 10, "seconds": 2.0}]},
        {"elements": 10, "ot": {"seconds": 2.0, "bytes_sent": 5}},
        {"elements": 10, "methods": {"ot": {"processes": {"seconds": 2.0}}}},
    ],
)
def test_alignments_are_found_however_they_are_nested(document: dict[str, Any]) -> None:
    (row,) = alignment_rows(document)
    assert elements_of(row) == (10, 10)
    assert "ot" in series_of(row)
    assert "| 2.0 | 10 |" in render({"alignment": document}), "ten identifiers a second of both sets together"


def test_an_alignment_shows_each_side_and_its_phases() -> None:
    run = {
        "seconds": 2.0,
        "cpu_seconds": {"label_holder": 1.25, "feature_holder": 0.75},
        "bytes_sent": {"label_holder": 3_000_000, "feature_holder": 2_000_000},
        "peak_rss_bytes": {"label_holder": 90e6, "feature_holder": 80e6},
        "scratch_bytes": {"label_holder": 7e6, "feature_holder": 0},
    }
    parts = {"ot": {"240 base transfers, sender": 0.0221, "tags": 2.5e-7}}
    page = render({"alignment": {"parts": parts, "results": [{"elements": 100_000, "runs": {"ot": run}}]}})
    assert "| ot | 100,000 | 100,000 | 2.0 | 100,000 | 1.2 + 0.8 | 5.0 | 3.0 + 2.0 | 50.0 | 90 + 80 | 7 + 0 |" in page
    assert "| ot | 240 base transfers, sender | 22.1 |  |" in page
    assert "| ot | tags |  | 0.25 |" in page


def test_figures_of_other_forms_do_no_harm() -> None:
    for name in NAMES:
        for document in ({}, {"results": None, "runs": 3, "chaos": []}, {"results": [{}], "bulk": [{}], "chaos": {}, "direct": {}}):
            assert "measured" in render({name: document})


def test_the_committed_page_is_what_the_committed_figures_make(tmp_path: Path) -> None:
    written = make(ROOT / "bench" / "results", tmp_path)
    message = "run `python -m bench.page` and commit what it writes"
    assert (ROOT / "docs" / "benchmarks.md").read_text() == written[0].read_text(), message
    plots = {path.name: path.read_bytes() for path in written[1:]}
    committed = {path.name: path.read_bytes() for path in (ROOT / "docs" / "benchmarks").glob("*.svg")}
    assert plots.keys() == committed.keys(), message
    for name, content in committed.items():
        assert b"<dc:date>" not in content
        if f"Matplotlib v{matplotlib.__version__},".encode() in content:  # another version may draw the same figures otherwise
            assert content == plots[name], f"{name}: {message}"
