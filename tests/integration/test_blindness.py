"""The coordinator is blind: canaries are planted in both data sets, a full job runs over real gRPC and TLS, and nothing
that reaches the coordinator (its inbound bytes, its database, its log, its disk) holds a canary, a key, a ciphertext or a share.

The job is real: the coordinator's own server and two serving nodes, laid out by their own commands.  They run in this process so
that the test can see every byte after TLS was taken off and every message between the nodes.

It runs twice: with a stream between the nodes, and with two nodes of which neither can be reached, so that all they say to each
other passes through the coordinator, sealed.
"""

from __future__ import annotations

import base64
import hashlib
import random
import re
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import coordinator.server as coordinator_server
from coordinator.client import connect
from coordinator.config import load_config as load_coordinator
from coordinator.demo.datasets import UserFiles, open_user_files
from coordinator.demo.parties import job_document, lay_out
from coordinator.submit import build_spec
from coordinator.views import as_json
from node.cli import main as node_command
from node.config import load_config as load_node
from node.runtime.files import JobFiles
from node.runtime.serve import serve
from node.transport.channel import GrpcChannel
from protos import control_pb2, relay_pb2

SHARED = 260
RELAY = "/isthmus.relay.v1.Relay/Exchange"
IDENTIFIER_CANARY = "canary{:05d}zq"
NUMBER_CANARY = 73519.0625
CATEGORY_CANARY = "xylophone-quarter"


@dataclass
class Captured:
    """Everything the test saw: bytes into the coordinator, messages between the nodes."""

    relayed: bool
    inbound: list[tuple[str, bytes]] = field(default_factory=list)
    between: list[tuple[str, bytes]] = field(default_factory=list)
    disk: dict[str, bytes] = field(default_factory=dict)
    nodes_disk: list[bytes] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    view: dict[str, Any] = field(default_factory=dict)

    @property
    def methods(self) -> set[str]:
        return {method for method, _ in self.inbound}

    def told(self) -> list[bytes]:
        """What came in by all services but the relay."""
        return [data for method, data in self.inbound if method != RELAY]

    def sealed(self) -> list[bytes]:
        """What came in to be relayed."""
        return [data for method, data in self.inbound if method == RELAY]

    def seen_by_coordinator(self) -> bytes:
        return b"\x00".join([*self.told(), *self.sealed(), *self.disk.values()])


class Recorder(grpc.ServerInterceptor):
    """Notes the raw bytes of every message that comes in, before anything parses them."""

    def __init__(self, captured: Captured) -> None:
        self.captured = captured

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        parse = handler.request_deserializer

        def noted(data: bytes) -> Any:
            self.captured.inbound.append((details.method, data))
            return parse(data)

        return handler._replace(request_deserializer=noted)


def _write_files(folder: Path) -> UserFiles:
    rng = random.Random(11)
    names = [IDENTIFIER_CANARY.format(i) for i in range(SHARED)]
    hidden = {name: rng.gauss(0, 1) for name in names}
    bank = ["id,limit,region,late"]
    for i, name in enumerate(names):
        limit = NUMBER_CANARY if i % 50 == 0 else 1000 * (1 + abs(rng.gauss(0, 1)))
        region = CATEGORY_CANARY if i % 3 == 0 else ("north" if i % 3 == 1 else "south")
        bank.append(f"{name.upper()},{limit},{region},{int(rng.random() < 1 / (1 + np.exp(1 - hidden[name])))}")
    shop = ["user,spend,visits"]
    for i, name in enumerate(names):
        spend = NUMBER_CANARY if i % 41 == 0 else 500 * (1 + abs(hidden[name]))
        shop.append(f"{name},{spend},{hidden[name] + rng.gauss(0, 1):.4f}")
    (folder / "cards.csv").write_text("\n".join(bank) + "\n")
    (folder / "shoppers.csv").write_text("\n".join(shop) + "\n")
    return UserFiles(bank=folder / "cards.csv", bank_id="id", platform=folder / "shoppers.csv", platform_id="user", label="late")


@contextmanager
def _serving(config_path: Path) -> Iterator[None]:
    stop, failed = threading.Event(), []

    def run() -> None:
        try:
            serve(load_node(config_path), notify=lambda line: None, stop=stop)
        except Exception as error:  # noqa: BLE001 - reported by the assertion below
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)
        assert not failed, failed


@pytest.fixture(scope="module", params=[False, True], ids=["direct", "relayed"])
def captured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Captured:
    folder = tmp_path_factory.mktemp("blind")
    found = Captured(request.param)
    data = open_user_files(_write_files(folder), label_holder="bank", normalise="casefold", minimum=100)
    (folder / "parties").mkdir()
    reachable = () if found.relayed else ("platform",)
    layout = lay_out(folder / "parties", data, rounds=2, workers=1, small_keys=True, reachable=reachable)
    with pytest.MonkeyPatch.context() as patch:
        make = grpc.server
        patch.setattr(
            coordinator_server.grpc, "server", lambda pool, **options: make(pool, interceptors=(Recorder(found),), **options)
        )
        config = load_coordinator(layout.config("coordinator"))
        server = coordinator_server.Server(config)
        patch.undo()
        send = GrpcChannel.send_payload

        def noted(self: GrpcChannel, kind: str, payload: bytes) -> None:
            found.between.append((kind, payload))
            send(self, kind, payload)

        patch.setattr(GrpcChannel, "send_payload", noted)
        write, shares = JobFiles.write_arrays, ("score_masks", "score_u", "score_v", "gradient_masks", "residual_masks")

        def noted_too(self: JobFiles, name: str, arrays: Any) -> None:
            if name == "prepared.npz":  # gone from the nodes' disks when the job has ended
                found.keys += [arrays["p"].tobytes(), arrays["q"].tobytes()]
                found.nodes_disk += [np.asarray(arrays[key]).tobytes() for key in (*shares, "column_u", "column_v")]
            write(self, name, arrays)

        patch.setattr(JobFiles, "write_arrays", noted_too)
        server.start()
        try:
            with _serving(layout.config("bank")), _serving(layout.config("platform")):
                found.view = _run_job(layout, config, data, "ot" if found.relayed else "curve")
        finally:
            server.stop()
    for path in sorted(layout.home("coordinator").rglob("*")):
        # The partner files are what the parties gave the coordinator; everything else came to be by itself.
        if path.is_file() and path.suffix not in {".key", ".crt"} and "partners" not in path.parts:
            found.disk[str(path.relative_to(folder))] = path.read_bytes()
    return found


def _run_job(layout: Any, config: Any, data: Any, method: str) -> dict[str, Any]:
    document = job_document(data, rounds=2, l2="0.001", holdout="0.3", key_bits=512)
    document["align"]["method"] = method
    spec = build_spec(document, coordinator="coordinator", partners=config.partners())
    with connect(config) as operator:
        job = operator.submit(spec.canonical())
        deadline = time.monotonic() + 120
        approved = False
        while time.monotonic() < deadline:
            view = as_json(operator.show(job))
            if view["state"] in {"finished", "failed", "cancelled", "rejected"}:
                assert view["state"] == "finished", view
                return dict(view)
            if not approved and all(_approve(layout, name, job) for name in ("bank", "platform")):
                approved = True
            time.sleep(0.2)
    raise AssertionError("the job did not end")


def _approve(layout: Any, name: str, job: str) -> bool:
    return node_command(["--config", str(layout.config(name)), "approve", job, "--by", "a person"]) == 0


def test_the_job_was_whole(captured: Captured) -> None:
    """The oracle can only be trusted on a job that ran: all messages of all steps crossed between the nodes, none here."""
    kinds = {kind for kind, _ in captured.between}
    matched = {"StoreColumns", "ItemTags", "SharedMarks"} if captured.relayed else {"MaskedPoints", "DoublyMasked"}
    assert kinds & {"MaskedPoints", "DoublyMasked", "StoreColumns", "ItemTags", "SharedMarks"} == matched
    assert {"PsiStart", "ColumnMasks", "RowProducts", "LookupTables", "WeightShares", "BandTables", "StepReceipt"} <= kinds
    assert captured.methods >= {"/isthmus.control.v1.Control/Attach", "/isthmus.control.v1.Operator/Submit"}
    assert len(captured.told()) > 20
    assert len(captured.keys) == 4
    assert any("log.jsonl" in name for name in captured.disk)
    assert any(name.endswith((".db", ".sqlite")) for name in captured.disk), sorted(captured.disk)
    assert captured.view["metrics"]["auc"] > 0.5


def test_what_the_relay_takes_is_sealed(captured: Captured) -> None:
    """All of the conversation goes through it where the nodes cannot reach each other, and nothing where they can."""
    sealed = captured.sealed()
    assert (RELAY in captured.methods) is captured.relayed
    if not captured.relayed:
        return
    records = [relay_pb2.Sealed.FromString(data) for data in sealed]
    rooms = [record.room for record in records if record.WhichOneof("body") == "room"]
    assert {room.step for room in rooms} == {"align", "prepare", "round", "finish", "evaluate"}
    assert all(known.SerializeToString() == data for known, data in zip(records, sealed, strict=True))
    content = b"".join(record.record for record in records)
    assert len(content) > sum(len(payload) for _, payload in captured.between) > 100_000
    # Sealed bytes look random: they do not compress, no record comes twice, no byte is much more frequent than another.
    assert len(zlib.compress(content)) >= len(content)
    long = [record.record for record in records if record.record]
    assert len(set(long)) == len(long)
    counts = np.bincount(np.frombuffer(content, dtype=np.uint8), minlength=256)
    # Chi-square with 255 degrees of freedom: 400 lies more than six standard deviations above the mean.
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 400


def test_no_canary_reaches_the_coordinator(captured: Captured) -> None:
    seen = captured.seen_by_coordinator()
    lower = seen.lower()
    assert b"region" in lower  # column names stand in the job specification: the search does find what is there
    for i in range(SHARED):
        name = IDENTIFIER_CANARY.format(i).encode()
        assert name not in lower
        for digest in (hashlib.sha256(name).digest(), hashlib.sha256(name.upper()).digest()):
            assert digest not in seen
            assert digest.hex().encode() not in lower
            assert base64.b64encode(digest) not in seen
    assert CATEGORY_CANARY.encode() not in lower
    assert b"73519.06" not in seen
    for form in (struct.pack("<d", NUMBER_CANARY), struct.pack(">d", NUMBER_CANARY)):
        assert form not in seen
    # Four bytes turn up by chance in megabytes that look random, so these are searched for where nothing is sealed.
    assert struct.pack("<f", NUMBER_CANARY) not in b"\x00".join([*captured.told(), *captured.disk.values()])


def _windows(data: bytes) -> np.ndarray:
    """Every 8-byte window of ``data`` as a number."""
    octets = np.frombuffer(data, dtype=np.uint8)
    if len(octets) < 8:
        return np.empty(0, dtype=np.uint64)
    return np.unique(np.lib.stride_tricks.sliding_window_view(octets, 8).copy().view("<u8").ravel())


def _decoded(seen: bytes) -> bytes:
    """What long hexadecimal, base64 and decimal texts in ``seen`` stand for."""
    parts = [bytes.fromhex(run.decode()[: len(run) // 2 * 2]) for run in re.findall(rb"[0-9a-fA-F]{16,}", seen)]
    for run in re.findall(rb"[A-Za-z0-9+/_-]{16,}", seen):
        parts.append(base64.b64decode(run[: len(run) // 4 * 4].replace(b"-", b"+").replace(b"_", b"/")))
    for run in re.findall(rb"[0-9]{12,400}", seen):
        value = int(run)
        size = (value.bit_length() + 7) // 8
        parts += [value.to_bytes(size, "big"), value.to_bytes(size, "little")]
    return b"\x00".join(parts)


def _secrets(captured: Captured) -> np.ndarray:
    """8-byte pieces of all bulk values between the nodes, and of shares and keys on their disks; random ones."""
    pieces = []
    for kind, payload in captured.between:
        message = getattr(__import__("protos.peer_pb2", fromlist=[kind]), kind).FromString(payload)
        if "values" in message.DESCRIPTOR.fields_by_name:
            pieces.append(message.values)
    pieces += captured.nodes_disk + captured.keys
    words = np.concatenate([np.frombuffer(p[: len(p) // 8 * 8], dtype="<u8") for p in pieces])
    octets = np.sort(words.view(np.uint8).reshape(-1, 8), axis=1)
    distinct = 1 + (np.diff(octets, axis=1) != 0).sum(axis=1)
    return np.unique(words[distinct >= 6])


def test_no_key_ciphertext_or_share_reaches_the_coordinator(captured: Captured) -> None:
    seen = captured.seen_by_coordinator()
    everything = np.union1d(_windows(seen), _windows(_decoded(seen)))
    secrets = _secrets(captured)
    assert len(secrets) > 10_000
    # The search finds a ciphertext that is there, in each of the three forms.
    planted = int(secrets[len(secrets) // 2]).to_bytes(8, "little") + int(secrets[0]).to_bytes(8, "little")
    for form in (planted, planted.hex().encode(), base64.b64encode(planted), str(int.from_bytes(planted)).encode()):
        with_form = np.union1d(_windows(b"{" + form + b"}"), _windows(_decoded(b"{" + form + b"}")))
        assert len(np.intersect1d(with_form, secrets)) > 0
    assert len(np.intersect1d(everything, secrets)) == 0


def test_reports_hold_only_figures_and_digests(captured: Captured) -> None:
    """Every report parses completely into the known fields: nothing rides along in unknown ones."""
    reports = 0
    for data in captured.told():
        report = control_pb2.Report()
        try:
            report.ParseFromString(data)
        except Exception:  # noqa: BLE001 - a message of the Operator service
            continue
        known = control_pb2.Report()
        known.CopyFrom(report)
        known.DiscardUnknownFields()
        if report.WhichOneof("body") and known.SerializeToString() == data:
            reports += 1
    assert reports > 20
