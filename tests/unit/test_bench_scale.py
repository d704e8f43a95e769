"""Parts of the benchmark of whole jobs: generated customers, the counting proxy, the naive pass, the choice of runs, the file."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from bench import people
from bench.joint_run import pinned
from bench.naive import NaivePass, ratios
from bench.people import write_people
from bench.scale import SIZES, Case, append, cases, identity, main, read_runs
from bench.tap import Tap
from node.config import ColumnConfig, DatasetConfig
from node.data.load import load_table


def test_people_are_shared_as_asked_and_the_nodes_can_read_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "GROUP_ROWS", 100)
    data = write_people(tmp_path, shared=300, columns=(3, 2))
    tables = {}
    for side in (data.bank, data.platform):
        columns = {name: ColumnConfig(kind="number") for name in side.numbers}
        if side.label:
            columns[side.label] = ColumnConfig(kind="label")
        dataset = DatasetConfig(name="d", source="parquet", path=str(side.path), identifier=side.identifier, columns=columns)
        tables[side.name] = load_table(dataset, features=side.features, label=side.label, normalise="casefold")
        assert pq.ParquetFile(side.path).num_row_groups == 4
        assert len(tables[side.name].identifiers) == 400
    assert len(set(tables["bank"].identifiers) & set(tables["platform"].identifiers)) == 300
    assert [len(side.numbers) for side in (data.bank, data.platform)] == [3, 2]
    assert data.minimum == 300


def test_the_same_arguments_give_the_same_people(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        (tmp_path / name).mkdir()
        write_people(tmp_path / name, shared=500, columns=(4, 4), seed=seed)
    one, two, three = (pq.read_table(tmp_path / name / "bank.parquet") for name in ("one", "two", "three"))
    assert one.equals(two)
    assert not one.equals(three)


def test_both_sides_columns_tell_something_of_the_label(tmp_path: Path) -> None:
    data = write_people(tmp_path, shared=4000, columns=(8, 8))
    bank, platform = (pq.read_table(side.path) for side in (data.bank, data.platform))
    label = dict(zip((n.lower() for n in bank["customer_id"].to_pylist()), bank[people.LABEL].to_pylist(), strict=True))
    assert np.mean(list(label.values())) == pytest.approx(people.BASE_RATE, abs=0.03)
    both = [(i, label[name]) for i, name in enumerate(platform["user_id"].to_pylist()) if name in label]
    rows, known = np.array([i for i, _ in both]), np.array([y for _, y in both])
    strongest = max(abs(np.corrcoef(platform[name].to_numpy()[rows], known)[0, 1]) for name in data.platform.numbers)
    assert strongest > 0.1


def test_the_tap_counts_what_passes_in_each_direction() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            end, _ = server.accept()
            with end:
                assert end.recv(5, socket.MSG_WAITALL) == b"hello"
                end.sendall(b"x" * 70_000)

        thread = threading.Thread(target=answer)
        thread.start()
        tap = Tap(server.getsockname()[1])
        host, port = tap.address.split(":")
        with socket.create_connection((host, int(port))) as end:
            end.sendall(b"hello")
            got = 0
            while data := end.recv(65_536):
                got += len(data)
        thread.join(5)
        tap.close()
    assert got == 70_000
    assert (tap.sent, tap.received) == (5, 70_000)


def test_a_naive_pass_computes_what_it_claims() -> None:
    naive = NaivePass(512, rows=9, columns=3)
    matrix, errors, gradient, scores = naive.block(4)
    x, e = np.array(matrix), np.array(errors)
    assert [naive.private.decrypt(g) for g in gradient] == pytest.approx(x.T @ e)
    assert [naive.private.decrypt(z) for z in scores] == pytest.approx(x @ np.array(naive.weights))


def test_a_naive_pass_is_extrapolated_only_where_rows_are_left() -> None:
    naive = NaivePass(256, rows=1000, columns=120)
    naive.measure(0.0)
    part = naive.data()
    assert (part["rows_measured"], part["extrapolated"]) == (2, True)
    assert part["cpu_seconds_by_part"]["column_products"] == pytest.approx(500 * naive.column_products)
    assert part["cpu_seconds"] == pytest.approx(sum(part["cpu_seconds_by_part"].values()))
    naive = NaivePass(256, rows=5, columns=2)
    naive.measure(60.0)
    assert (naive.data()["rows_measured"], naive.data()["extrapolated"]) == (5, False)
    assert naive.data()["cpu_seconds_by_part"]["row_products"] == naive.row_products


def test_ratios_are_plain_quotients() -> None:
    assert ratios(800.0, 20.0, 4.0, 8) == {
        "prepare": 40.0,
        "prepare_per_round": 320.0,
        "training_per_round": pytest.approx(800 / 3),
    }


def test_the_matrix_is_whole_and_small_runs_come_first() -> None:
    chosen = list(cases(("generated", "breast-cancer", "card-default"), SIZES, (2048, 3072), (1, 2), 8, "0.2"))
    assert len(chosen) == len(set(chosen)) == (len(SIZES) + 2) * 4
    assert chosen[0].job == "breast-cancer"
    assert chosen[0].holdout == "0"
    assert (chosen[-1].rows, chosen[-1].bits, chosen[-1].cores) == (1_000_000, 3072, 1)


def test_the_sampled_job_has_a_size_of_its_own_and_runs_when_named() -> None:
    [case] = cases(("sampled",), SIZES, (2048,), (2,), 8, "0.2")
    assert (case.rows, case.features) == (10_000_000, 24)
    listed = CliRunner().invoke(main, ["--list"])
    assert listed.exit_code == 0
    assert "sampled" not in listed.output
    assert "10,000,000 rows" in CliRunner().invoke(main, ["--job", "sampled", "--list"]).output


def test_runs_are_appended_and_what_is_there_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "results" / "scale.json"
    case = Case("generated", 10_000, 24, 2048, 2, 8, "0.2", "0.0001")
    record: dict[str, Any] = {**vars(case), "seconds": {}}
    append(path, record)
    append(path, record | {"bits": 3072})
    assert [run["bits"] for run in read_runs(path)] == [2048, 3072]
    assert identity(record) == identity(vars(case))
    assert not list(path.parent.glob("*.partial"))
    arguments = ["--list", "--missing", "--json", str(path), "--job", "generated", "--rows", "10000"]
    shown = CliRunner().invoke(main, arguments, catch_exceptions=False).output
    assert shown.count("10,000 rows, 24 features") == 2, "the runs on one core"
    assert "2 cores" not in shown
    assert len(json.loads(path.read_text())["runs"]) == 2


def test_processes_are_kept_on_the_cores_and_let_go() -> None:
    usable = os.sched_getaffinity(0)
    with pinned(1):
        assert os.sched_getaffinity(0) == {min(usable)}
    assert os.sched_getaffinity(0) == usable
    with pytest.raises(SystemExit, match="usable"), pinned(len(usable) + 1):
        pass
