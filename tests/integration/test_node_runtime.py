"""A whole job on two nodes over real gRPC and TLS on this machine; the test plays the coordinator."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from audit.spec import JobSpec
from coordinator.optimizer import first_range, plan_next
from node.cli import main
from node.limits import LIMITS
from node.runtime.files import JobFiles
from node.runtime.spill import SpillingScratch
from node.scratch import Piece
from protos import control_pb2
from tests.nodes import TestNode, free_port, identities, node, spec_of, write_node

SHARED = 220


def _write_data(folder: Path) -> None:
    """220 shared customers, 30 of the bank's own and 40 of the platform's own; the label depends on both sides' columns."""
    rng = random.Random(5)
    shared = [f"C{i:05d}" for i in range(SHARED)]
    rows = {name: [rng.gauss(0, 1) for _ in range(5)] for name in shared}
    with (folder / "bank" / "cards.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "a", "b", "y"])
        for name in shared + [f"B{i}" for i in range(30)]:
            a, b, c, d, _ = rows.get(name) or [rng.gauss(0, 1) for _ in range(5)]
            chance = 1 / (1 + math.exp(0.6 - a - 0.8 * c + 0.5 * d))
            writer.writerow([name, f"{a:.4f}", f"{100 + 10 * b:.4f}", int(rng.random() < chance)])
    with (folder / "platform" / "shop.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "c", "d", "e"])
        names = shared + [f"P{i}" for i in range(40)]
        rng.shuffle(names)
        for name in names:
            _, _, c, d, e = rows.get(name) or [rng.gauss(0, 1) for _ in range(5)]
            writer.writerow([name.lower(), f"{c:.4f}", f"{d:.4f}", f"{e:.4f}"])


def _dataset(name: str, columns: dict[str, str]) -> str:
    text = f'[[dataset]]\nname = "{name}"\nsource = "csv"\npath = "{name}.csv"\nidentifier = "id"\n'
    return text + "".join(f'[dataset.columns.{column}]\nkind = "{kind}"\n' for column, kind in columns.items())


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[TestNode, TestNode]]:
    """The bank can be dialled; the platform has no inbound port."""
    known = identities(tmp_path)
    _write_data(tmp_path)
    port = free_port()
    bank = write_node(tmp_path / "bank", "bank", _dataset("cards", {"a": "number", "b": "number", "y": "label"}), port=port)
    platform = write_node(tmp_path / "platform", "platform", _dataset("shop", dict.fromkeys("cde", "number")))
    with ExitStack() as stack:
        addresses = {"bank": f"127.0.0.1:{port}"}
        yield stack.enter_context(node(bank, known, addresses)), stack.enter_context(node(platform, known, addresses))


def _offer_and_approve(pair: tuple[TestNode, TestNode], spec: JobSpec) -> None:
    job = spec.identity()
    for one in pair:
        one.jobs.handle(control_pb2.Directive(offer=control_pb2.Offer(job=job, spec=spec.canonical().decode())))
        one.store.request(job, decision="approve", by="Ana")
        one.jobs.poll()
    decisions = [one.heard.of("decision")[0] for one in pair]
    for one in pair:
        one.jobs.handle(control_pb2.Directive(approvals=control_pb2.Approvals(job=job, decisions=decisions)))
        one.heard.reports.clear()


def _step(pair: tuple[TestNode, TestNode], start: control_pb2.StepStart) -> list[control_pb2.Report]:
    for one in pair:
        one.heard.reports.clear()
        one.jobs.handle(control_pb2.Directive(step_start=start))
    return [one.heard.wait(1)[0] for one in pair]


def _run(pair: tuple[TestNode, TestNode], start: control_pb2.StepStart) -> list[control_pb2.StepDone]:
    reports = _step(pair, start)
    assert [r.WhichOneof("body") for r in reports] == ["step_done", "step_done"], (reports, [one.heard.lines for one in pair])
    assert reports[0].step_done.transcript_sha256 == reports[1].step_done.transcript_sha256
    return [r.step_done for r in reports]


def test_restarts_before_the_training_cost_no_masks(pair: tuple[TestNode, TestNode]) -> None:
    """Attempts count over the whole job, masks from the attempt that prepared them."""
    spec = spec_of()
    job = spec.identity()
    _offer_and_approve(pair, spec)
    _run(pair, control_pb2.StepStart(job=job, step="align", attempt=1))
    prepared = _run(pair, control_pb2.StepStart(job=job, step="prepare", attempt=2))
    rate = float(prepared[0].base_rate)
    first = control_pb2.StepStart(job=job, step="round", round=1, attempt=2, lookup_range=first_range(rate))
    products = [tuple(_run(pair, first)[0].inner_products)]
    plan = plan_next(products, [()], base_rate=rate, rounds=2, tolerance=1e-5)
    numbers = {"coefficients": plan.coefficients, "lookup_range": plan.lookup_range}
    _run(pair, control_pb2.StepStart(job=job, step="round", round=2, attempt=3, **numbers))
    again = control_pb2.StepStart(job=job, step="finish", attempt=3, coefficients=(0.5, 0.5), lookup_range=plan.lookup_range)
    _run(pair, again)
    # The evaluation runs on the numbers of the finish: another range would tell more of the scores.
    other = control_pb2.StepStart(job=job, step="evaluate", attempt=3, coefficients=(0.5, 0.5), lookup_range=plan.lookup_range * 2)
    reports = _step(pair, other)
    assert {r.step_failed.code for r in reports} == {"job.directive_changed"}


def test_rows_beyond_memory_pass_through_a_folder_and_leave_nothing_there(
    pair: tuple[TestNode, TestNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    put = SpillingScratch._write

    def counted(self: SpillingScratch, data: bytes) -> Piece:
        assert f"c{0:05d}".encode() not in data, "an identifier in clear among hashes"
        written.append(len(data))
        return put(self, data)

    monkeypatch.setattr(SpillingScratch, "_write", counted)
    bank, platform = pair
    named = platform.config.node.model_copy(update={"scratch": str(tmp_path / "elsewhere")})
    for one, config in ((bank, bank.config), (platform, platform.config.model_copy(update={"node": named}))):
        one.jobs._parts = replace(one.parts, config=config, limits=replace(LIMITS, scratch_bytes=0))
    spec = spec_of(align={"minimum": 50, "method": "ot"})
    _offer_and_approve(pair, spec)
    done = _run(pair, control_pb2.StepStart(job=spec.identity(), step="align"))
    assert {step.intersection for step in done} == {SHARED}
    assert sorted(written) == [40 * (SHARED + 30), 40 * (SHARED + 40)]  # the hashes and rows of each side's only bin
    for folder in (bank.config.state_folder / "scratch", tmp_path / "elsewhere"):
        assert folder.is_dir()
        assert list(folder.iterdir()) == []
    for _ in range(100):  # the step is reported before its thread ends
        if not _opened_in("scratch", "elsewhere"):
            return
        time.sleep(0.05)
    raise AssertionError("a scratch file outlived its step")


def _opened_in(*folders: str) -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the listing itself
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in found if any(f"/{folder}/" in path for folder in folders)]


def test_a_round_that_found_no_mask_goes_on_after_a_second_preparation(pair: tuple[TestNode, TestNode]) -> None:
    spec = spec_of()
    job = spec.identity()
    _offer_and_approve(pair, spec)
    _run(pair, control_pb2.StepStart(job=job, step="align"))
    rate = float(_run(pair, control_pb2.StepStart(job=job, step="prepare"))[0].base_rate)
    products = [
        tuple(_run(pair, control_pb2.StepStart(job=job, step="round", round=1, lookup_range=first_range(rate)))[0].inner_products)
    ]
    plan = plan_next(products, [()], base_rate=rate, rounds=2, tolerance=1e-5)
    numbers = {"coefficients": plan.coefficients, "lookup_range": plan.lookup_range}
    none_left = _step(pair, control_pb2.StepStart(job=job, step="round", round=2, attempt=2, **numbers))
    assert {r.step_failed.code for r in none_left} == {"training.no_mask_left"}
    again = _run(pair, control_pb2.StepStart(job=job, step="prepare", attempt=3))
    assert float(again[0].base_rate) == rate
    done = _run(pair, control_pb2.StepStart(job=job, step="round", round=2, attempt=3, **numbers))
    products.append(tuple(done[0].inner_products))
    plan = plan_next(products, [(), plan.coefficients], base_rate=rate, rounds=2, tolerance=1e-5)
    end = {"coefficients": plan.coefficients, "lookup_range": plan.lookup_range}
    _run(pair, control_pb2.StepStart(job=job, step="finish", attempt=3, **end))
    assert _run(pair, control_pb2.StepStart(job=job, step="evaluate", attempt=3, **end))[0].metrics.auc > 0.6
    _check_models(pair, job)


def test_a_whole_job(pair: tuple[TestNode, TestNode], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bank, _platform = pair
    spec = spec_of()
    job = spec.identity()
    _offer_and_approve(pair, spec)
    aligned = _run(pair, control_pb2.StepStart(job=job, step="align"))
    assert [d.intersection for d in aligned] == [SHARED, SHARED]
    assert [d.set_size for d in aligned] == [SHARED + 30, SHARED + 40]
    prepared = _run(pair, control_pb2.StepStart(job=job, step="prepare"))
    assert [d.columns for d in prepared] == [3, 3]
    rate = float(prepared[0].base_rate)
    products: list[tuple[float, ...]] = []
    coefficients: list[tuple[float, ...]] = []
    current, reach = (), first_range(rate)
    for number in (1, 2):
        start = control_pb2.StepStart(job=job, step="round", round=number, coefficients=current, lookup_range=reach)
        done = _run(pair, start)
        assert list(done[0].inner_products) == list(done[1].inner_products)
        products.append(tuple(done[0].inner_products))
        coefficients.append(current)
        plan = plan_next(products, coefficients, base_rate=rate, rounds=2, tolerance=1e-5)
        current, reach = plan.coefficients, plan.lookup_range
    _run(pair, control_pb2.StepStart(job=job, step="finish", coefficients=current, lookup_range=reach))
    evaluated = _run(pair, control_pb2.StepStart(job=job, step="evaluate", coefficients=current, lookup_range=reach))
    assert evaluated[0].HasField("metrics")
    assert not evaluated[1].HasField("metrics")
    assert evaluated[0].metrics.auc > 0.6
    for one in pair:
        one.jobs.handle(control_pb2.Directive(job_end=control_pb2.JobEnd(job=job, outcome="finished")))
        assert one.store.job(job).state == "finished"
    _check_order(pair)
    _check_models(pair, job)
    _check_disclosures(pair)
    _check_commands(bank, job, capsys, tmp_path)


def _check_order(pair: tuple[TestNode, TestNode]) -> None:
    """Both hold the same customers in the same order, and the files are the owner's alone."""
    members = []
    for one in pair:
        folder = next((one.config.state_folder / "jobs").iterdir())
        for path in folder.iterdir():
            assert path.stat().st_mode & 0o077 == 0, path
        members.append(JobFiles(folder).read_arrays("align.npz"))
    texts = [bytes(m["text"]).decode() for m in members]
    assert texts[0].casefold() == texts[1].casefold()
    assert np.array_equal(members[0]["holdout"], members[1]["holdout"])


def _check_models(pair: tuple[TestNode, TestNode], job: str) -> None:
    documents = [json.loads(one.store.files(job).read("model.json")) for one in pair]
    assert [[c["name"] for c in d["columns"]] for d in documents] == [["a", "b"], ["c", "d", "e"]]
    assert documents[0]["intercept"] is not None
    assert documents[1]["intercept"] is None
    weights = {c["name"]: c["weight"] for d in documents for c in d["columns"]}
    # The signs and sizes of the model that made the labels: a 1, c 0.8, d -0.5; b is per unit of a column ten times as wide.
    assert weights["a"] > 0.5
    assert weights["c"] > 0.3
    assert weights["d"] < 0
    assert abs(weights["b"]) < 0.1


def _check_disclosures(pair: tuple[TestNode, TestNode]) -> None:
    receipts = [one.entries("disclosures")[0]["items"] for one in pair]
    bank = {(item["what"], item["to"]): item["count"] for item in receipts[0]}
    assert bank[("base_rate", "platform")] == bank[("base_rate", "coordinator")] == 1
    assert bank[("shared_customers", "platform")] == SHARED
    assert bank[("inner_products", "coordinator")] == 3
    assert bank[("weights_of_the_receiver", "platform")] == 3
    assert ("score_bands", "platform") not in bank
    platform = {(item["what"], item["to"]): item["count"] for item in receipts[1]}
    assert ("base_rate", "bank") not in platform
    assert platform[("score_bands", "bank")] == pair[1].store.disclosures(spec_of().identity())[-1]["count"] > 30
    assert not any(
        to == "coordinator" and what in ("aggregates", "score_bands", "weights_of_the_receiver") for what, to in platform
    )


def _check_commands(bank: TestNode, job: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = ["--config", str(bank.config.path)]
    bank.config.partners_folder.mkdir(exist_ok=True)
    assert main([*config, "jobs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["jobs"][0]["state"] == "finished"
    assert main([*config, "show", job[:8]]) == 0
    shown = capsys.readouterr().out
    assert "base rate" in shown
    assert "step evaluate: done" in shown
    assert main([*config, "model", job[:6], "--output", str(tmp_path / "m.json"), "--members", str(tmp_path / "m.csv")]) == 0
    lines = (tmp_path / "m.csv").read_text().splitlines()
    assert lines[0] == "identifier,position,split"
    assert len(lines) == SHARED + 1
    assert os.stat(tmp_path / "m.csv").st_mode & 0o077 == 0
    capsys.readouterr()


def test_a_data_fault_stops_both_and_only_the_code_crosses(pair: tuple[TestNode, TestNode]) -> None:
    bank, _platform = pair
    text = (bank.config.folder / "cards.csv").read_text()
    lines = text.splitlines()
    lines[3] = lines[3].rsplit(",", 1)[0] + ",7"  # a third label value
    (bank.config.folder / "cards.csv").write_text("\n".join(lines))
    spec = spec_of()
    _offer_and_approve(pair, spec)
    reports = _step(pair, control_pb2.StepStart(job=spec.identity(), step="align"))
    assert [r.step_failed.code for r in reports] == ["data.label_not_two_valued"] * 2
    told = b"".join(r.SerializeToString() for r in reports)
    assert b"cards" not in told
    assert b"row" not in told
    for one in pair:
        assert not (one.config.state_folder / "jobs" / spec.identity() / "align.npz").exists()
        assert one.entries("step")[-1]["code"] == "data.label_not_two_valued"


def test_an_attempt_never_serves_twice_and_a_repeated_start_repeats_the_report(pair: tuple[TestNode, TestNode]) -> None:
    spec = spec_of()
    job = spec.identity()
    _offer_and_approve(pair, spec)
    first = _run(pair, control_pb2.StepStart(job=job, step="align", attempt=1))
    again = _run(pair, control_pb2.StepStart(job=job, step="align", attempt=1))
    assert first == again
    lower = _step(pair, control_pb2.StepStart(job=job, step="align", attempt=0))
    assert [r.step_failed.code for r in lower] == ["job.attempt_reused"] * 2
    higher = _run(pair, control_pb2.StepStart(job=job, step="align", attempt=2))
    assert higher[0].transcript_sha256 != first[0].transcript_sha256
    skipped = _step(pair, control_pb2.StepStart(job=job, step="finish", attempt=2))
    assert [r.step_failed.code for r in skipped] == ["job.step_order"] * 2


def test_a_data_set_that_changed_after_alignment_is_refused(pair: tuple[TestNode, TestNode]) -> None:
    _bank, platform = pair
    spec = spec_of()
    _offer_and_approve(pair, spec)
    _run(pair, control_pb2.StepStart(job=spec.identity(), step="align"))
    path = platform.config.folder / "shop.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *reversed(lines[1:])]))
    reports = _step(pair, control_pb2.StepStart(job=spec.identity(), step="prepare"))
    assert [r.step_failed.code for r in reports] == ["data.changed"] * 2


def test_an_unapproved_job_and_an_unknown_one_are_refused_at_the_door(pair: tuple[TestNode, TestNode]) -> None:
    bank, platform = pair
    spec = spec_of()
    job = spec.identity()
    offer = control_pb2.Directive(offer=control_pb2.Offer(job=job, spec=spec.canonical().decode()))
    for one in pair:
        one.jobs.handle(offer)
    # The platform believes it may start; the bank has approved nothing.
    for one in pair:
        one.store.request(job, decision="approve", by="Ana")
    platform.jobs.poll()
    bank.jobs.handle(control_pb2.Directive(step_start=control_pb2.StepStart(job=job, step="align")))
    assert bank.heard.of("step_failed")[0].code == "job.not_approved"
    with pytest.raises(Exception, match="not approved here") as refused:
        bank.jobs.permit("platform", job)
    assert refused.value.code == "job.not_approved"
