"""Bad input of every kind, through the commands and over real links: a message that names the thing and the remedy, a code, a
status that is not 0, nothing half written, and the other side told the code alone."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from audit.identity import Identity
from audit.partner import export_partner
from audit.spec import JobSpec
from coordinator.cli import main as coordinator_main
from coordinator.client import connect as connect_operator
from coordinator.errors import UsageError
from node.cli import main as node_main
from node.commands.jobs import _write_private
from node.errors import DataError, PeerAborted, TransportError
from protos import control_pb2
from protos.peer_pb2 import Frame
from tests.coordinator_world import World
from tests.integration.test_control_link import Coordinator, client
from tests.integration.test_peer_transport import TOKEN, Acceptor, connect, opening, raw
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


# --- configuration, ports, certificates ------------------------------------------------------------------------------------------


def served_folder(folder: Path, capsys: pytest.CaptureFixture[str], *, port: int, world: World) -> list[str]:
    """A bank's folder that could serve, made by the commands."""
    made = ["init", str(folder), "--name", "bank", "--role", "bank", "--listen", f"127.0.0.1:{port}"]
    assert node_main(made) == 0
    config = ["--config", str(folder / "node.toml")]
    files = {
        "coordinator": export_partner(world.own, address=f"127.0.0.1:{world.port}"),
        "platform": export_partner(world.identities["platform"], address=""),
    }
    for name, data in files.items():
        path = folder.parent / f"{name}.partner.json"
        path.write_bytes(data)
        assert node_main([*config, "partner", "add", str(path), "--yes"]) == 0
    capsys.readouterr()
    return config


def refused(capsys: pytest.CaptureFixture[str], status: int, expected: int, code: str, *named: str) -> None:
    out, err = capsys.readouterr()
    assert status == expected, err
    assert f"  code: {code}" in err
    assert "  remedy: " in err
    assert "Traceback" not in out + err
    for word in named:
        assert word in err


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path / "world")
    yield found
    found.stop()


def test_an_unknown_key_stops_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], world: World) -> None:
    config = served_folder(tmp_path / "bank", capsys, port=free_port(), world=world)
    path = tmp_path / "bank" / "node.toml"
    path.write_text(path.read_text() + "\n[unsafe]\nsmal_keys = true\n")
    for command in (["serve"], ["datasets"], ["jobs"]):
        refused(capsys, node_main([*config, *command]), 2, "config.unknown_key", "unsafe.smal_keys", "'small_keys'", "node.toml")
    assert not any((tmp_path / "bank" / "state").iterdir())
    path = world.home / "coordinator.toml"
    path.write_text(path.read_text() + "[jobs]\ndetach_grase = 3\n")
    for command in (["serve"], ["jobs"]):
        status = coordinator_main(["--config", str(path), *command])
        refused(capsys, status, 2, "config.unknown_key", "jobs.detach_grase", "'detach_grace'")
    assert not (world.home / "state").exists()


def test_a_taken_port_stops_both_servers(tmp_path: Path, capsys: pytest.CaptureFixture[str], world: World) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        config = served_folder(tmp_path / "bank", capsys, port=port, world=world)
        refused(capsys, node_main([*config, "serve"]), 1, "transport.port_in_use", str(port))
        path = world.home / "coordinator.toml"
        path.write_text(path.read_text().replace(str(world.port), str(port)))
        status = coordinator_main(["--config", str(path), "serve"])
        refused(capsys, status, 1, "transport.port_in_use", str(port))
        assert not (world.home / "state").exists()


def test_a_coordinator_with_another_certificate_ends_serve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], world: World, known: dict[str, Identity]
) -> None:
    impostor = Coordinator(known)
    world.port = impostor.port
    config = served_folder(tmp_path / "bank", capsys, port=free_port(), world=world)
    try:
        refused(capsys, node_main([*config, "serve"]), 1, "transport.wrong_certificate", f"127.0.0.1:{impostor.port}")
    finally:
        impostor.stop()


def test_a_coordinator_of_another_version_ends_serve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], world: World, known: dict[str, Identity]
) -> None:
    config = served_folder(tmp_path / "bank", capsys, port=free_port(), world=world)
    bank = tmp_path / "bank" / "keys"
    for file in bank.iterdir():  # the scripted coordinator knows this bank
        file.unlink()
    own = known["bank"]
    contents = {
        "tls.key": own.tls_key_pem,
        "tls.crt": own.tls_certificate_pem,
        "log.key": own.log_key.private_text().encode() + b"\n",
        "identity.json": b'{"v":1,"name":"bank","role":"bank"}',
    }
    for name, data in contents.items():
        (bank / name).write_bytes(data)
        (bank / name).chmod(0o600)
    newer = Coordinator(known, protocol=2)
    partner = tmp_path / "bank" / "partners" / "coordinator.partner.json"
    partner.write_bytes(export_partner(known["coordinator"], address=newer.partner.address))
    try:
        status = node_main([*config, "serve"])
        refused(capsys, status, 1, "transport.protocol_version", "control protocol 2", "speaks 1")
    finally:
        newer.stop()


# --- a fault of isthmus itself is no way out for a text --------------------------------------------------------------------------


def fault(*_: object) -> None:
    raise RuntimeError(f"{SECRET} text of a database")


def test_a_fault_while_a_stream_is_let_in_tells_the_peer_a_code(known: dict[str, Identity]) -> None:
    more = known | {"stranger": known["coordinator"]}
    acceptor = Acceptor(more, fault)
    try:
        with pytest.raises(PeerAborted) as told:
            connect(acceptor, known["platform"])
        assert told.value.code == "internal.error"
        assert SECRET not in str(told.value)
    finally:
        acceptor.server.stop(None).wait()


def test_a_fault_of_the_coordinator_tells_a_node_a_code_and_an_operator_its_kind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = world.serve()
    monkeypatch.setattr(server.runner, "attach", fault)
    monkeypatch.setattr(server.runner, "recent", fault)
    assert world.node("bank").ended() == "internal.error"
    with connect_operator(world.config) as operator, pytest.raises(UsageError) as caught:
        operator.jobs()
    assert caught.value.code == "internal.error"
    assert "RuntimeError" in caught.value.message
    assert SECRET not in str(caught.value)


def test_a_fault_in_a_report_ends_that_stream_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    server = world.serve()
    job = world.submit()
    monkeypatch.setattr(server.runner, "_decision", fault)
    bank = world.node("bank")
    assert SECRET not in bank.ended()
    monkeypatch.undo()
    world.node("bank"), world.node("platform")
    world.until(job, "finished")


def test_a_node_goes_on_after_a_fault_in_a_directive(known: dict[str, Identity]) -> None:
    running = Coordinator(known)
    attached = threading.Semaphore(0)
    lines: list[str] = []
    link = client(running.partner, known, handle=fault, on_attach=attached.release, notify=lines.append)
    link.start()
    try:
        assert attached.acquire(timeout=5)
        running.script.say.put(control_pb2.Directive(job_end=control_pb2.JobEnd()))
        assert attached.acquire(timeout=5)
        assert any("internal error: RuntimeError" in line for line in lines)
        assert SECRET not in "".join(lines)
    finally:
        link.stop()
        running.script.say.put(None)  # one for each stream that was opened
        running.stop()


def test_a_failure_is_reported_although_the_database_broke(
    known: dict[str, Identity], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with two_nodes(tmp_path, known, rows(), shop_rows()) as pair:
        spec = spec_of()
        approve(pair, spec)
        bank, platform = pair
        monkeypatch.setattr(bank.store, "end_step", fault)
        reports = run(pair, control_pb2.StepStart(job=spec.identity(), step="align"))
        assert reports[0].step_failed.code == "internal.error"
        assert SECRET not in "\n".join(bank.heard.lines + platform.heard.lines)


def test_a_checkpoint_that_cannot_be_written_is_an_error_of_the_log(known: dict[str, Identity], tmp_path: Path) -> None:
    config = write_node(tmp_path, "bank", dataset("cards", CARDS))
    with node(config, known, {}) as bank:
        (bank.config.state_folder / "log" / "checkpoint.partial").mkdir()
        with pytest.raises(DataError, match="cannot be written") as caught:
            bank.log.checkpoint()
        assert caught.value.code == "log.write_failed"
        (bank.config.state_folder / "log" / "checkpoint.partial").rmdir()


def test_personal_data_stays_private_in_a_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "members.csv"
    path.touch(mode=0o644)
    _write_private(path, lambda file: file.write(b"identifier\n"))
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_coordinators_configuration_and_database_are_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert coordinator_main(["init", str(tmp_path / "c"), "--listen", f"127.0.0.1:{free_port()}"]) == 0
    capsys.readouterr()
    assert (tmp_path / "c" / "coordinator.toml").stat().st_mode & 0o077 == 0


def test_a_stream_that_names_another_node_is_refused(known: dict[str, Identity]) -> None:
    acceptor = Acceptor(known | {"stranger": known["coordinator"]})
    try:
        with pytest.raises((PeerAborted, TransportError)) as told:
            connect(acceptor, known["platform"], party="bank")
        assert told.value.code == "transport.party_mismatch"
    finally:
        acceptor.server.stop(None).wait()


def test_a_node_cannot_report_for_the_other(world: World) -> None:
    world.serve()
    as_platform = control_pb2.Hello(protocol=1, party="platform", software="0.1.0")
    assert world.node("bank", hello=as_platform).ended() == "control.party_mismatch"
    job = world.submit()
    bank = world.node("bank", decision=None)
    platform = world.identities["platform"]
    assert bank.attached.wait(5)
    statement = json.dumps(
        {
            "by": "x", "decision": "approve", "job": job, "kind": "isthmus.approval", "party": "platform", "peer": "bank",
            "time": "t", "v": 1,
        },
        separators=(",", ":"),
    )  # fmt: skip
    signature = platform.log_key.sign(statement.encode()).hex()
    bank.say(control_pb2.Report(decision=control_pb2.Decision(job=job, statement=statement, signature=signature)))
    assert bank.ended() == "audit.bad_signature"
    assert world.show(job).parties[1].decision == "waiting"


def test_the_status_of_a_refusal_holds_no_text(known: dict[str, Identity]) -> None:
    acceptor = Acceptor(known | {"stranger": known["coordinator"]}, fault)
    try:
        peer = raw(acceptor, known["platform"], [Frame(open=opening("platform", session=TOKEN))])
        peer.wait()
        assert peer.ended is not None
        assert peer.ended.details() == "internal.error"
    finally:
        acceptor.server.stop(None).wait()
