"""Data and jobs that a node cannot work with, through the commands and over real links: a message that names the thing and the
remedy, a code, a status that is not 0, nothing half written, and the other side told the code alone."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from audit.identity import Identity
from audit.spec import JobSpec
from node.cli import main as node_main
from protos import control_pb2
from tests.nodes import TestNode, free_port, identities, node, spec_of, write_node

SECRET = "SECRET"


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    return identities(tmp_path_factory.mktemp("keys"))


# --- one node's own data, through its commands ------------------------------------------------------------------------------------


def rows() -> list[list[str]]:
    rng = random.Random(3)
    return [[f"C{i:03d}", f"{rng.gauss(0, 1):.4f}", f"{rng.gauss(0, 1):.4f}", str(i % 2)] for i in range(80)]


def put(row: int, column: int, value: str) -> Callable[[list[list[str]]], None]:
    def change(found: list[list[str]]) -> None:
        found[row][column] = value

    return change


def fill(column: int, value: str) -> Callable[[list[list[str]]], None]:
    def change(found: list[list[str]]) -> None:
        for row in found:
            row[column] = value

    return change


DATA: dict[str, tuple[Callable[[list[list[str]]], None], str, str]] = {
    "empty identifier": (put(4, 0, ""), "data.empty_identifier", "row 5"),
    "duplicate identifier": (put(6, 0, "c002"), "data.duplicate_identifiers", "row 7"),
    "three labels": (put(4, 3, SECRET), "data.label_not_two_valued", "3 different values"),
    "one label": (fill(3, "1"), "data.label_not_two_valued", "1 different values"),
    "NaN": (put(4, 1, "NaN"), "data.missing_value", "row 5"),
    "infinity": (put(4, 1, "-inf"), "data.missing_value", "row 5"),
    "too large for a float": (put(4, 1, "1e400"), "data.missing_value", "row 5"),
    "not a number": (put(4, 1, SECRET), "data.not_a_number", "row 5"),
}


def write_csv(path: Path, header: str, found: list[list[str]]) -> None:
    path.write_text("\n".join([header, *(",".join(row) for row in found)]) + "\n")


def dataset(name: str, columns: dict[str, str], identifier: str = "id") -> str:
    text = f'[[dataset]]\nname = "{name}"\nsource = "csv"\npath = "{name}.csv"\nidentifier = "{identifier}"\n'
    return text + "".join(f'[dataset.columns.{column}]\nkind = "{kind}"\n' for column, kind in columns.items())


CARDS = {"a": "number", "b": "number", "y": "label"}


def check_datasets(folder: Path, capsys: pytest.CaptureFixture[str], code: str, named: tuple[str, ...]) -> None:
    assert node_main(["--config", str(folder / "node.toml"), "datasets", "--json"]) == 1
    out, err = capsys.readouterr()
    (found,) = json.loads(out)["datasets"]
    (problem,) = [p for p in found["problems"] if p["grave"]]
    assert problem["code"] == code
    assert problem["remedy"]
    for word in named:
        assert word in problem["message"]
    assert SECRET not in out + err
    assert "Traceback" not in err


@pytest.mark.parametrize("case", DATA, ids=str)
def test_a_fault_in_the_data_is_named_by_column_and_row(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, code, named = DATA[case]
    found = rows()
    change(found)
    write_csv(tmp_path / "cards.csv", "id,a,b,y", found)
    write_node(tmp_path, "bank", dataset("cards", CARDS))
    column = "'id'" if "identifier" in case else "'y'" if "label" in case else "'a'"
    check_datasets(tmp_path, capsys, code, (named, column, "'cards'"))


@pytest.mark.parametrize(("header", "column", "nearest"), [("id,aa,b,y", "'a'", "'aa'"), ("idd,a,b,y", "'id'", "'idd'")])
def test_a_misspelt_column_is_named_with_the_nearest(
    header: str, column: str, nearest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(tmp_path / "cards.csv", header, rows())
    write_node(tmp_path, "bank", dataset("cards", CARDS))
    named = (column, f"Did you mean {nearest}?") if column == "'id'" else (column,)
    check_datasets(tmp_path, capsys, "data.missing_column", named)


# --- in a job: both nodes stop, the other side hears the code --------------------------------------------------------------------


@contextmanager
def two_nodes(folder: Path, known: dict[str, Identity], bank_rows: list[list[str]], shop_rows: list[list[str]]) -> Iterator[Any]:
    for name in ("bank", "platform"):
        (folder / name).mkdir()
    write_csv(folder / "bank" / "cards.csv", "id,a,b,y", bank_rows)
    write_csv(folder / "platform" / "shop.csv", "id,c,d,e", shop_rows)
    port = free_port()
    bank = write_node(folder / "bank", "bank", dataset("cards", CARDS), port=port)
    shop = write_node(folder / "platform", "platform", dataset("shop", dict.fromkeys("cde", "number")))
    with ExitStack() as stack:
        addresses = {"bank": f"127.0.0.1:{port}"}
        yield stack.enter_context(node(bank, known, addresses)), stack.enter_context(node(shop, known, addresses))


def approve(pair: tuple[TestNode, ...], spec: JobSpec) -> None:
    for one in pair:
        one.jobs.handle(control_pb2.Directive(offer=control_pb2.Offer(job=spec.identity(), spec=spec.canonical().decode())))
        one.jobs.decisions.decide(spec.identity(), decision="approve", by="Ana")
    decisions = [one.heard.of("decision")[0] for one in pair]
    for one in pair:
        one.jobs.handle(control_pb2.Directive(approvals=control_pb2.Approvals(job=spec.identity(), decisions=decisions)))


def run(pair: tuple[TestNode, ...], start: control_pb2.StepStart) -> list[control_pb2.Report]:
    for one in pair:
        one.heard.reports.clear()
        one.jobs.handle(control_pb2.Directive(step_start=start))
    return [one.heard.wait(1)[0] for one in pair]


def shop_rows() -> list[list[str]]:
    rng = random.Random(4)
    return [[row[0].lower(), *(f"{rng.gauss(0, 1):.4f}" for _ in "cde")] for row in rows()]


JOBS: dict[str, tuple[str, Callable[[list[list[str]]], None], str, tuple[str, ...]]] = {
    "duplicate identifier": ("align", put(6, 0, "c002"), "data.duplicate_identifiers", ("'shop'", "'id'", "row 7")),
    "not a number": ("align", put(4, 1, SECRET), "data.not_a_number", ("'shop'", "'c'", "row 5")),
    "too few shared": ("align", fill(0, ""), "psi.too_few_shared", ("share 20 customers", "at least 50")),
    "constant column": ("prepare", fill(2, "5"), "data.constant_column", ("'shop'", "'d'")),
}


@pytest.mark.parametrize("case", JOBS, ids=str)
def test_a_fault_at_one_node_ends_the_step_at_both(case: str, known: dict[str, Identity], tmp_path: Path) -> None:
    step, change, code, named = JOBS[case]
    shop = shop_rows()
    if case == "too few shared":
        for number, row in enumerate(shop[20:]):
            row[0] = f"other{number}"
    else:
        change(shop)
    spec = spec_of()
    job = spec.identity()
    with two_nodes(tmp_path, known, rows(), shop) as pair:
        approve(pair, spec)
        if step == "prepare":
            assert {r.WhichOneof("body") for r in run(pair, control_pb2.StepStart(job=job, step="align"))} == {"step_done"}
        reports = run(pair, control_pb2.StepStart(job=job, step=step))
        # The coordinator hears which attempt failed, and the code: nothing else has a place in the report.
        assert reports == [control_pb2.Report(step_failed=control_pb2.StepFailed(job=job, step=step, code=code))] * 2
        bank, platform = pair
        said = "\n".join(platform.heard.lines)
        for word in (*named, code):
            assert word in said
        assert SECRET not in said
        heard = "\n".join(bank.heard.lines)
        assert code in heard
        if code.startswith("data."):
            assert not any(word in heard for word in named)
        left = {"align": "align.npz", "prepare": "prepared.npz"}[step]
        for one in pair:
            assert not one.store.files(job).has(left)
            assert [(row.step, row.state, row.code) for row in one.store.steps(job)][-1] == (step, "failed", code)
            assert one.entries("step")[-1]["code"] == code


def test_a_key_that_is_too_short_is_rejected_before_anyone_is_asked(known: dict[str, Identity], tmp_path: Path) -> None:
    config = write_node(tmp_path, "bank", dataset("cards", CARDS))
    text = config.path.read_text().replace("small_keys = true", "small_keys = false")
    config.path.write_text(text)
    config = type(config).model_validate(config.model_dump() | {"unsafe": {"small_keys": False}})
    config._path = tmp_path / "node.toml"
    spec = spec_of(model={"key_bits": 1024})
    with node(config, known, {}) as bank:
        bank.jobs.handle(control_pb2.Directive(offer=control_pb2.Offer(job=spec.identity(), spec=spec.canonical().decode())))
        (line, *_) = bank.heard.lines
        for word in ("model.key_bits is 1024", "limits.key_bits_min is 2048", "at least 3072", "policy.key_too_short"):
            assert word in line
        row = bank.store.job(spec.identity())
        assert row is not None
        assert (row.state, row.code) == ("rejected", "policy.key_too_short")
        (decision,) = bank.heard.of("decision")
        assert "1024" not in decision.statement
        assert not bank.store.files(spec.identity()).has("seed.sealed")


def test_a_step_tried_again_with_other_numbers_is_refused(known: dict[str, Identity], tmp_path: Path) -> None:
    """Else a coordinator could have a node disclose one combination after another."""
    config = write_node(tmp_path, "bank", '[relay]\nuse = "never"\n' + dataset("cards", CARDS))
    spec = spec_of()
    job = spec.identity()
    with ExitStack() as stack:
        bank = stack.enter_context(node(config, known, {}))
        (tmp_path / "platform").mkdir()
        shop = write_node(tmp_path / "platform", "platform", dataset("shop", dict.fromkeys("cde", "number")))
        approve((bank, stack.enter_context(node(shop, known, {}))), spec)
        for step, number in (("align", 0), ("prepare", 0), ("round", 1), ("round", 2)):
            bank.store.begin_step(job, step, number, 0, now="2026-01-01T00:00:00Z")
            bank.store.end_step(job, step, number, 0, state="done", now="2026-01-01T00:00:00Z")
        codes = []
        for attempt, coefficients in ((0, (0.5, 0.25)), (1, (0.5, 0.25)), (2, (0.5, 0.0))):
            start = control_pb2.StepStart(job=job, step="finish", attempt=attempt, coefficients=coefficients, lookup_range=8.0)
            codes.append(run((bank,), start)[0].step_failed.code)
    # Neither node can be dialled here: as far as that the first two came.
    assert codes == ["transport.no_route", "transport.no_route", "job.directive_changed"]


def test_a_failure_is_reported_although_the_database_broke(
    known: dict[str, Identity], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object) -> None:
        raise RuntimeError(f"{SECRET} text of a database")

    with two_nodes(tmp_path, known, rows(), shop_rows()) as pair:
        spec = spec_of()
        approve(pair, spec)
        bank, platform = pair
        monkeypatch.setattr(bank.store, "end_step", fault)
        reports = run(pair, control_pb2.StepStart(job=spec.identity(), step="align"))
        assert reports[0].step_failed.code == "internal.error"
        assert SECRET not in "\n".join(bank.heard.lines + platform.heard.lines)
