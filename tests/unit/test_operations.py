"""Logs that cannot quote a value, labels that cannot grow, an endpoint that stays on loopback, health and the two signals."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import re
import signal
import stat
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from audit.errors import DataError, IsthmusError, UsageError
from audit.identity import create_identity
from coordinator.config import load_config as load_coordinator
from coordinator.metrics import CoordinatorMetrics, CoordinatorState
from coordinator.watching import Watch
from node.cli import main_group as node_commands
from node.config import load_config as load_node
from node.runtime.journal import StepLabels
from node.runtime.metrics import NodeMetrics, NodeState
from operations import codes
from operations.config import MetricsSection, check_exposure
from operations.endpoint import Endpoint
from operations.figures import Figures, Gauges
from operations.health import Check, Health, LocalHealth, ask
from operations.logs import FIELDS, Line, Notices, fault, logging_to
from operations.stopping import Stop, stop_on_signals, wait_for
from tests.nodes import free_port

ROOT = Path(__file__).resolve().parents[2]
SECRET = "canary-4711"
LABELS = StepLabels("ab" * 32, "prepare", 0, 1)


# --- logs -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    with logging_to(stream, format="json", level="debug"):
        yield stream


def read(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_the_frame_and_the_fields_that_are_known(lines: io.StringIO) -> None:
    extra = {"job": "ab" * 32, "step": "align", "round": 0, "seconds": 1.23456, "code": "", "value": SECRET, "row": {"id": SECRET}}
    logging.getLogger("isthmus.node.steps").info("step %s done", "align", extra=extra)
    (line,) = read(lines)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", str(line.pop("time")))
    assert line == {
        "level": "info",
        "event": "step align done",
        "component": "node.steps",
        "job": "abababababab",
        "step": "align",
        "round": 0,
        "seconds": 1.235,
    }


def test_no_object_but_text_and_numbers_becomes_a_field(lines: io.StringIO) -> None:
    for key in FIELDS:
        logging.getLogger("isthmus").info("x", extra={key: {"secret": SECRET}})
        logging.getLogger("isthmus").info("x", extra={key: SECRET.encode()})
    assert SECRET not in lines.getvalue()
    assert all(set(line) == {"time", "level", "event", "component"} for line in read(lines))


def test_a_fault_is_told_without_the_exceptions_text(lines: io.StringIO) -> None:
    try:
        try:
            float(SECRET)
        except ValueError as error:
            raise KeyError(SECRET) from error
    except KeyError:
        logging.getLogger("isthmus.node").exception("a step ended with a fault of isthmus")
    (line,) = read(lines)
    assert SECRET not in lines.getvalue()
    assert "KeyError at test_operations.py:" in str(line["trace"])
    assert "after ValueError at" in str(line["trace"])


def test_own_errors_keep_their_code_in_a_trace(lines: io.StringIO) -> None:
    try:
        raise DataError("data.missing_value", f"about {SECRET}")
    except DataError:
        logging.getLogger("isthmus.node").exception("oops")
    assert "DataError [data.missing_value] at" in str(read(lines)[0]["trace"])
    assert SECRET not in lines.getvalue()


def test_what_libraries_say_is_placed_but_not_repeated(lines: io.StringIO) -> None:
    logging.getLogger("grpc._server").error(f"Exception calling application: {SECRET}")
    logging.getLogger("sqlalchemy.engine").info("SELECT %s", SECRET)
    warnings.warn(SECRET, stacklevel=1)
    thread = threading.Thread(target=lambda: int(SECRET))
    thread.start()
    thread.join()
    assert SECRET not in lines.getvalue()
    found = read(lines)
    assert [line["component"] for line in found] == ["library", "library", "threads"]
    assert "grpc._server (test_operations:" in str(found[0]["event"])
    assert "ValueError at" in str(found[2]["trace"])


def test_a_partner_cannot_write_a_line_of_its_own() -> None:
    stream = io.StringIO()
    with logging_to(stream, format="text", level="info"):
        Notices("node")("a name\n12:00:00 job approved by Ada\x1b[2J\u202e")
        Notices("node")(fault(UsageError("job.unknown", "No job."), peer="bank"))
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d a name 12:00:00 job approved by Ada \[2J ", first)
    assert second.endswith(" warning: No job. [job.unknown]")


def test_a_line_with_a_code_is_a_warning_and_stays_text_elsewhere(lines: io.StringIO) -> None:
    line = Line("job 1 failed: it was cut [transport.closed]", code="transport.closed", job="c" * 64)
    assert line == "job 1 failed: it was cut [transport.closed]"
    Notices("node")(line)
    (found,) = read(lines)
    assert (found["level"], found["code"], found["job"]) == ("warning", "transport.closed", "c" * 12)


def test_the_level_asked_for_and_everything_as_before() -> None:
    stream, before = io.StringIO(), (logging.getLogger().handlers[:], logging.getLogger("isthmus").level, threading.excepthook)
    with logging_to(stream, format="text", level="warning"):
        logging.getLogger("isthmus.node").info("not this")
        logging.getLogger("isthmus.node").warning("this")
    assert stream.getvalue().endswith("warning: this\n")
    assert "not this" not in stream.getvalue()
    assert before == (logging.getLogger().handlers[:], logging.getLogger("isthmus").level, threading.excepthook)


# --- codes and figures ------------------------------------------------------------------------------------------------------------

CODE = re.compile(r"[a-z0-9_]{1,40}(\.[a-z0-9_]{1,60}){1,2}")
SHARED = (
    *("checkpoint", "cosignature", "entries", "home", "identity", "merkle", "opening", "partner", "receipts", "record"),
    *("sealed", "signing", "spec", "strict_toml", "unlocking", "witness"),
)
"""Modules of the audit wing that serving processes run on."""
FILE_NAMES = (".toml", ".json", ".jsonl", ".npz", ".db", ".lock", ".pub", ".sealed", ".csv", ".sock", ".cli")
BY_PARTS = ("paillier.key_", "lookup.wrong_", "merkle.")
"""Areas in which a code is put together from parts."""


def literals() -> set[str]:
    wings = [path for wing in ("node", "coordinator", "protos", "operations") for path in (ROOT / wing).rglob("*.py")]
    found: set[str] = set()
    for path in [*wings, *(ROOT / "audit" / f"{name}.py" for name in SHARED)]:
        if "_pb2" not in path.name and "demo" not in path.parts:
            nodes = ast.walk(ast.parse(path.read_text()))
            found |= {
                n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str) and CODE.fullmatch(n.value)
            }
    return found


OFFLINE = {"init", "replay"}
"""Areas of commands that serve nothing."""


def raised() -> set[str]:
    """Codes that stand where an error of isthmus is made: the first argument of a call of something called ...Error."""
    found: set[str] = set()
    for wing in ("node", "coordinator", "operations"):
        for path in (ROOT / wing).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())) if "demo" not in path.parts else ():
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Error") and node.args:
                    first = node.args[0]
                    if isinstance(first, ast.Constant) and isinstance(first.value, str) and CODE.fullmatch(first.value):
                        found.add(first.value)
    return {code for code in found if code.split(".")[0] not in OFFLINE}


def test_every_code_is_in_the_catalogue_and_nothing_else_is() -> None:
    written, areas = literals(), {code.split(".")[0] for code in codes.CODES}
    own = {text for text in written if text.split(".")[0] in areas and not text.endswith((*FILE_NAMES, "_"))} | raised()
    assert own - codes.CODES == set(), "add these to operations/codes.py"
    left = {code for code in codes.CODES - written if not code.startswith(BY_PARTS)}
    assert left == set(), "no longer raised: remove them from operations/codes.py"


def counted(metrics: NodeMetrics) -> dict[str, float]:
    (family,) = [f for f in metrics.figures.registry.collect() if f.name == "isthmus_node_errors"]
    return {sample.labels["code"]: sample.value for sample in family.samples if sample.name.endswith("_total")}


def test_ten_thousand_codes_of_a_peer_make_one_series() -> None:
    metrics = NodeMetrics()
    metrics.step_failed(LABELS, "psi.too_few_shared", sent=1, received=2)
    for number in range(10_000):
        metrics.step_failed(LABELS, f"psi.made_up_{number}", sent=0, received=0)
    metrics.error("Nonsense\n{}")
    assert counted(metrics) == {"psi.too_few_shared": 1.0, "peer.unknown_code": 10_001.0}


def test_steps_rounds_seconds_and_bytes_are_counted() -> None:
    metrics = NodeMetrics()
    for labels in (LABELS, StepLabels("cd" * 32, "round", 1, 0), StepLabels("cd" * 32, "round", 2, 0)):
        metrics.step_started(labels)
        metrics.step_done(labels, seconds=2.0, sent=100, received=50)
    metrics.step_done(StepLabels("cd" * 32, f"{SECRET}", 0, 0), seconds=1.0, sent=1, received=1)
    get = metrics.figures.registry.get_sample_value
    assert get("isthmus_node_steps_total", {"step": "round", "state": "done"}) == 2
    assert get("isthmus_node_steps_total", {"step": "align", "state": "failed"}) == 0
    assert get("isthmus_node_rounds_done_total") == 2
    assert get("isthmus_node_bytes_total", {"step": "prepare", "direction": "received"}) == 50
    assert get("isthmus_node_step_seconds_bucket", {"step": "round", "le": "3.0"}) == 2
    assert get("isthmus_node_step_seconds_bucket", {"step": "round", "le": "1.0"}) == 0
    assert get("isthmus_node_steps_total", {"step": "other", "state": "done"}) == 1, "no step that is none becomes a label"


def test_queues_of_open_links_are_summed_and_forgotten_with_them(tmp_path: Path) -> None:
    class FakeLink:
        def depths(self) -> tuple[int, int]:
            return 3, 4

    metrics, one, two = NodeMetrics(), FakeLink(), FakeLink()
    metrics.linked(one)
    metrics.linked(two)
    metrics.read_from(
        NodeState(lambda: True, lambda: False, lambda: 7, lambda: {"running": 2}, 4, tmp_path / "no such log", tmp_path)
    )
    get = metrics.figures.registry.get_sample_value
    assert get("isthmus_node_queue_messages", {"queue": "peer_out"}) == 6
    del two
    assert get("isthmus_node_queue_messages", {"queue": "peer_out"}) == 3
    assert get("isthmus_node_queue_messages", {"queue": "peer_in"}) == 4
    assert get("isthmus_node_queue_messages", {"queue": "coordinator_out"}) == 7
    assert get("isthmus_node_jobs", {"state": "running"}) == 2
    assert get("isthmus_node_jobs", {"state": "failed"}) == 0
    assert get("isthmus_node_attached") == 1
    assert get("isthmus_node_ready") == 0
    assert get("isthmus_node_log_size_bytes") is None, "what cannot be read is left out; the rest is there"
    assert get("isthmus_node_disk_free_bytes") > 0


def test_two_processes_figures_share_nothing() -> None:
    one, two = (Figures("isthmus_node", states=("done",), directions=("sent",)) for _ in range(2))
    one.count_error("job.ended")
    assert two.registry.get_sample_value("isthmus_node_errors_total", {"code": "job.ended"}) is None
    one.registry.register(Gauges("isthmus_node", [("x", "X.", (), lambda: 1 / 0)]))
    assert one.registry.get_sample_value("isthmus_node_x") is None


PAGES = {"isthmus_node": "bank-it.md", "isthmus_coordinator": "platform-operator.md"}


@pytest.mark.parametrize("prefix", PAGES)
def test_the_page_lists_exactly_the_figures_there_are(prefix: str, tmp_path: Path) -> None:
    metrics: NodeMetrics | CoordinatorMetrics
    if prefix == "isthmus_node":
        metrics = NodeMetrics()
        metrics.read_from(NodeState(lambda: True, lambda: True, lambda: 0, dict, 1, tmp_path, tmp_path))
    else:
        metrics = CoordinatorMetrics()
        metrics.read_from(CoordinatorState(lambda: 0, lambda: True, lambda: 0, dict, tmp_path, tmp_path))
    metrics.error("job.ended")
    told = {}
    for line in (ROOT / "docs" / PAGES[prefix]).read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if line.startswith(f"| `{prefix}_"):
            told[cells[1].strip("`")] = (cells[2], set(re.findall(r"`(\w+)`", cells[3])))
    there = {}
    for family in metrics.figures.registry.collect():
        if family.name.startswith(prefix):
            labels = {key for sample in family.samples for key in sample.labels} - {"le"}
            there[family.name + ("_total" if family.type == "counter" else "")] = (family.type, labels)
    assert told == there


@pytest.mark.parametrize("page", PAGES.values())
def test_the_pages_yaml_loads_and_names_commands_that_exist(page: str) -> None:
    blocks = [yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.M | re.S)]
    scrapes = [block for block in blocks if "scrape_configs" in block]
    (target,) = scrapes[0]["scrape_configs"][0]["static_configs"][0]["targets"]
    assert f'listen = "{target}"' in (ROOT / "docs" / page).read_text()
    for block in blocks:
        for probe in (block.get("readinessProbe"), block.get("livenessProbe")):
            if probe is not None:
                command = probe["exec"]["command"]
                assert command[:4] == ["isthmus-node", "--config", "node.toml", "health"]
                node_commands.commands["health"].make_context("health", command[4:])


# --- where the endpoint may listen ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listen", "expose", "found"),
    [
        (None, False, None),
        ("127.0.0.1:9464", False, ("127.0.0.1", 9464)),
        ("127.9.9.9:1", False, ("127.9.9.9", 1)),
        ("[::1]:9464", False, ("::1", 9464)),
        ("0.0.0.0:9464", True, ("0.0.0.0", 9464)),
        ("0.0.0.0:9464", False, "metrics.not_loopback"),
        ("[::]:9464", False, "metrics.not_loopback"),
        ("10.0.0.7:9464", False, "metrics.not_loopback"),
        ("[::ffff:10.0.0.7]:9464", False, "metrics.not_loopback"),
        ("localhost:9464", False, "metrics.bad_address"),
        ("127.0.0.1", True, "metrics.bad_address"),
        ("127.0.0.1:0", True, "metrics.bad_address"),
        ("127.0.0.1:65536", True, "metrics.bad_address"),
    ],
)
def test_only_loopback_unless_asked_for_by_name(listen: str | None, expose: bool, found: object) -> None:
    section = MetricsSection(listen=listen, expose=expose)
    if isinstance(found, str):
        with pytest.raises(UsageError) as caught:
            check_exposure(section)
        assert caught.value.code == found
        assert caught.value.remedy
    else:
        assert check_exposure(section) == found


def test_a_configuration_that_exposes_is_refused_by_every_command(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('[node]\nname = "bank"\nrole = "bank"\n[metrics]\nlisten = "0.0.0.0:9464"\n')
    with pytest.raises(UsageError) as caught:
        load_node(path)
    assert caught.value.code == "metrics.not_loopback"
    path.write_text(path.read_text() + "expose = true\n")
    assert load_node(path).metrics.expose


# --- the endpoint and health ------------------------------------------------------------------------------------------------------


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_endpoint_answers_and_closes() -> None:
    attached, port = [False], free_port()
    health = Health((Check("attached", lambda: attached[0]), Check("log", lambda: 1 / 0 > 0)))
    figures = Figures("isthmus_node", states=("done",), directions=("sent",))
    endpoint = Endpoint("127.0.0.1", port, figures.registry, health)
    try:
        status, text = get(port, "/metrics")
        families = {family.name for family in text_string_to_metric_families(text)}
        assert status == 200
        assert {"isthmus_node_steps", "process_resident_memory_bytes", "process_cpu_seconds"} <= families
        assert get(port, "/healthz") == (200, '{"live": true}\n')
        assert get(port, "/readyz") == (503, '{"ready": false, "failing": ["attached", "log"]}\n')
        attached[0] = True
        assert json.loads(get(port, "/readyz")[1])["failing"] == ["log"], "a check that cannot be made does not hold"
        assert get(port, "/")[0] == get(port, "/metrics/../etc")[0] == 404
        assert get(port, "/metrics", "POST")[0] == get(port, "/readyz", "DELETE")[0] == 405
        with pytest.raises(UsageError) as caught:
            Endpoint("127.0.0.1", port, figures.registry, health)
        assert caught.value.code == "metrics.port_in_use"
    finally:
        endpoint.close()
    with pytest.raises(urllib.error.URLError):
        get(port, "/metrics")


def test_live_is_a_main_loop_that_turns_and_stopping_is_not_ready() -> None:
    now = [0.0]
    health = Health((), clock=lambda: now[0])
    assert (health.live(), health.failing()) == (True, [])
    now[0] = 61.0
    assert (health.live(), health.failing()) == (False, ["liveness"])
    health.beat()
    assert health.failing() == []
    health.stop()
    assert (health.live(), health.failing()) == (True, ["stopping"])


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("h")
    assert len(str(folder)) < 85
    return folder


def test_the_socket_speaks_the_standard_protocol_to_its_owner(short: Path) -> None:
    holds = [True]
    local = LocalHealth(short, Health((Check("disk", lambda: holds[0]),)))
    try:
        assert stat.S_IMODE(os.stat(short / "health.sock").st_mode) == 0o600
        assert ask(short, ("readiness", "disk", "no such")) == {"readiness": True, "disk": True}
        credentials = grpc.local_channel_credentials(grpc.LocalConnectionType.UDS)
        with grpc.secure_channel(f"unix:{short}/health.sock", credentials) as channel:
            watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""), timeout=10)
            assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
            holds[0] = False
            local.service.refresh()
            assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watched.cancel()
        assert ask(short, ("readiness", "liveness", "disk")) == {"readiness": False, "liveness": True, "disk": False}
    finally:
        local.close()
    assert not (short / "health.sock").exists()
    with pytest.raises(IsthmusError) as caught:
        ask(short, ("readiness",))
    assert caught.value.code == "health.not_served"


def test_a_socket_that_a_killed_process_left_is_replaced_and_a_long_path_is_told(short: Path) -> None:
    (short / "health.sock").write_text("left")
    LocalHealth(short, Health(())).close()
    deep = short / ("x" * 100)
    deep.mkdir()
    with pytest.raises(IsthmusError) as caught:
        LocalHealth(deep, Health(()))
    assert caught.value.code == "health.path_too_long"


def test_a_standby_is_alive_and_not_ready_until_it_leads(short: Path) -> None:
    create_identity(short / "keys", name="coordinator", role="coordinator")
    (short / "coordinator.toml").write_text('[coordinator]\nname = "coordinator"\nlisten = "127.0.0.1:7442"\n')
    (short / "state" / "log").mkdir(parents=True)
    (short / "state" / "log" / "log.jsonl").touch()
    leading = SimpleNamespace(epoch=0, lost="")
    watch = Watch(load_coordinator(short / "coordinator.toml"), leading)  # type: ignore[arg-type]
    watch.listen()
    watch.listen()
    try:
        names = ("liveness", "readiness", "leading", "log", "disk")
        assert ask(short / "state", names) == dict.fromkeys(names, True) | {"readiness": False, "leading": False}
        leading.epoch = 3
        assert ask(short / "state", names) == dict.fromkeys(names, True)
        leading.lost = "another took the lead"
        assert ask(short / "state", names)["readiness"] is False
    finally:
        watch.close()


# --- the two signals --------------------------------------------------------------------------------------------------------------


def test_the_first_signal_asks_and_the_second_insists() -> None:
    former = signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked.wait(5)
        assert not stop.at_once.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.at_once.wait(5)
    assert signal.getsignal(signal.SIGTERM) is former


def test_waiting_ends_with_what_comes_first() -> None:
    stop = Stop()
    assert wait_for(lambda: True, 100.0, stop.at_once)
    assert not wait_for(lambda: False, 0.1, stop.at_once)
    threading.Timer(0.1, stop.at_once.set).start()
    assert not wait_for(lambda: False, 100.0, stop.at_once)
