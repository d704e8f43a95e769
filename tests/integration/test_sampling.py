"""Two nodes that train and are evaluated on samples: what each keeps and shows, and what one of them cannot change alone."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from audit.accuracy import Accuracy, auc_standard_error
from audit.spec import JobSpec
from audit.split import holdout_rows, split_rows
from node.cli import main
from node.runtime.files import JobFiles
from protos import control_pb2
from tests.replay_world import PARTIES, World, make_world

ROWS, TRAIN, EVALUATE = 160, 90, 30


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with make_world(tmp_path_factory.mktemp("sampled"), shared=ROWS).nodes() as running:
        yield running


def sampled(world: World, title: str, **model: int) -> JobSpec:
    return world.spec(title=title, model={"key_bits": 512, "rounds": 2, "holdout": "0.3", "l2": "0.001", **model})


def files(world: World, name: str, job: str) -> JobFiles:
    return world.running[name].store.files(job)


def test_a_job_on_samples(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = sampled(world, "sampled", train_rows=TRAIN, evaluate_rows=EVALUATE)
    job = world.run_job(spec)
    drawn = split_rows(job, ROWS, spec.model)
    available = ROWS - int(holdout_rows(job, ROWS, Decimal("0.3")).sum())
    columns, documents = 0, []
    for name in PARTIES:
        kept = files(world, name, job)
        aligned = kept.read_arrays("align.npz")
        (encoded,) = [entry for entry in world.running[name].entries("commitment") if entry["what"] == "encoded"]
        assert encoded["rows"] == TRAIN + EVALUATE
        assert np.array_equal(aligned["train"], drawn.train)
        assert np.array_equal(aligned["holdout"], drawn.holdout)
        columns += encoded["columns"]
        documents.append(json.loads(kept.read("model.json"))["accuracy"])
        capsys.readouterr()
        config = str(world.configs[name].policy_path.parent / "node.toml")
        assert main(["--config", config, "model", job]) == 0
        assert f"Trained on {TRAIN} of {available} rows" in " ".join(capsys.readouterr().out.split())
        assert main(["--config", config, "show", job]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert f"of which a sample of at most {TRAIN} serves, drawn by a public coin" in shown
        assert f"of which a sample of at most {EVALUATE} serves, drawn by a public coin" in shown
        assert main(["--config", config, "model", job, "--members", str(tmp_path / f"{name}.csv")]) == 0
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            splits = Counter(row["split"] for row in csv.DictReader(file))
        assert splits == {"train": TRAIN, "holdout": EVALUATE, "unused": ROWS - TRAIN - EVALUATE}
    assert documents[0] == documents[1] == Accuracy(rows=TRAIN, available=available, columns=columns + 1).document()
    own, told = (json.loads(files(world, name, job).read("metrics.json")) for name in PARTIES)
    assert (own["rows"], told["rows"]) == (EVALUATE, EVALUATE)
    assert 0.01 < own["auc_standard_error"] < 0.2
    assert 0.01 < own["log_loss_standard_error"] < 0.2
    assert told["log_loss_standard_error"] is None
    assert told["auc_standard_error"] == auc_standard_error(told["auc"], rows=EVALUATE, base_rate=told["base_rate"])


def test_more_rows_than_there_are_are_all(world: World) -> None:
    job = world.approve(sampled(world, "all", train_rows=10 * ROWS, evaluate_rows=10 * ROWS))
    held = int(holdout_rows(job, ROWS, Decimal("0.3")).sum())
    assert {(report.rows_train, report.rows_holdout) for report in world.done(job=job, step="align")} == {(ROWS - held, held)}
    world.end(job, "failed", "test.ended")


def test_a_party_that_draws_another_sample_is_refused(world: World) -> None:
    """Another number of rows is seen before anything is encrypted; the same job under another bound is another job."""
    spec = sampled(world, "contested", train_rows=TRAIN)
    job = world.approve(spec)
    assert {report.rows_train for report in world.done(job=job, step="align")} == {TRAIN}
    kept = files(world, "platform", job)
    aligned = dict(kept.read_arrays("align.npz"))
    aligned["train"][np.flatnonzero(~aligned["train"] & ~aligned["holdout"])[0]] = True
    kept.write_arrays("align.npz", aligned)
    reports = world.step(job=job, step="prepare", attempt=1)
    assert {report.code for report in reports} == {"training.rows_differ"}
    world.end(job, "failed", "training.rows_differ")

    other = sampled(world, "contested", train_rows=TRAIN + 1)
    assert other.identity() != job
    bank = world.running["bank"]
    bank.heard.lines.clear()
    bank.jobs.handle(control_pb2.Directive(offer=control_pb2.Offer(job=spec.identity()[::-1], spec=other.canonical().decode())))
    assert any("job.spec_mismatch" in line for line in bank.heard.lines)


def test_an_alignment_from_before_samples_were_known(world: World) -> None:
    """Its file says which rows are held out, and all others are trained on."""
    spec = sampled(world, "older")
    job = world.approve(spec)
    world.done(job=job, step="align")
    for name in PARTIES:
        kept = files(world, name, job)
        aligned = dict(kept.read_arrays("align.npz"))
        del aligned["train"]
        kept.write_arrays("align.npz", aligned)
    world.done(job=job, step="prepare", attempt=1)
    rows = len(files(world, "bank", job).read_arrays("encoded.npz")["train"])
    assert rows == ROWS - int(holdout_rows(job, ROWS, Decimal("0.3")).sum())
    world.end(job, "failed", "test.ended")
