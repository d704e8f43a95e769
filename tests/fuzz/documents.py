"""Targets: everything that is read as a whole, from a file or out of a message."""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from audit.checkpoint import Checkpoint, parse_checkpoint, parse_note, sign_checkpoint, verify_checkpoint
from audit.cosignature import cosign, parse_cosigner, verify_cosignature, with_cosignature
from audit.entries import parse_entry, read_lines
from audit.errors import IsthmusError
from audit.identity import Identity, create_identity, load_identity
from audit.merkle import leaf_hash
from audit.partner import export_partner, parse_partner
from audit.policy import load_policy as load_audit_policy
from audit.proofs import check_proof, parse_proof, prove
from audit.reading import read_log
from audit.receipts import approval_statement, parse_approval, verify_approval
from audit.record import LogWriter
from audit.renewal import prepare
from audit.replay_record import read_record
from audit.signing import SigningKey, VerifierKey
from audit.spec import parse_spec
from audit.verify import verify_logs
from audit.witness import Witness
from coordinator.config import load_config as load_coordinator_config
from node.config import DatasetConfig
from node.config import load_config as load_node_config
from node.crypto.drbg import Drbg
from node.crypto.packing import ciphertexts_from_bytes
from node.crypto.paillier_keys import PublicKey, check_public_key, generate_key
from node.data.load import load_table
from node.policy import load_policy as load_node_policy
from node.protocols.training import Prepared, parse_base_rate
from node.runtime.files import JobFiles
from node.runtime.kept import read_inbound, read_table, write_table
from node.runtime.seeds import draw_seed, open_seed
from tests.fuzz.halves import trained
from tests.fuzz.reader import Reader
from tests.nodes import POLICY, spec_of
from tests.unit.test_joins_rules import KEYS, a_count

KEY = SigningKey("isthmus.log/bank", bytes(range(32)))
OTHER = SigningKey("isthmus.log/platform", bytes(range(1, 33)))
JOB = "ab" * 32


def _now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


NOTE = sign_checkpoint(Checkpoint(KEY.name, 3, bytes(32)), KEY)


@functools.cache
def folder() -> Path:
    """Where files of these targets are; in memory where the system offers that."""
    made = tempfile.TemporaryDirectory(prefix="isthmus-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    _kept.append(made)
    return Path(made.name)


_kept: list[Any] = []


def _file(name: str, data: bytes) -> Path:
    path = folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# ---- statements, notes, proofs ---------------------------------------------------------------------------------------------------


def spec(data: bytes) -> None:
    found = parse_spec(data)
    assert found.canonical() == data


def approval(data: bytes) -> None:
    reader = Reader(data)
    signature = reader.take(64)
    statement = reader.rest()
    with contextlib.suppress(IsthmusError):
        parse_approval(statement)
    verify_approval(statement, signature, key=KEY.verifier, job=JOB, party="bank")


def partner(data: bytes) -> None:
    found = parse_partner(data)
    assert len(found.fingerprint) == 39


def note(data: bytes) -> None:
    found = parse_note(data)
    with contextlib.suppress(IsthmusError):
        parse_checkpoint(found.text)
    with contextlib.suppress(IsthmusError):
        verify_cosignature(found, OTHER.verifier)
    verify_checkpoint(data, KEY.verifier)


def cosignature(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(IsthmusError):
        parse_cosigner(text)
    with contextlib.suppress(IsthmusError):
        VerifierKey.parse(text)
    with_cosignature(NOTE.encode(), text, OTHER.verifier)


def proof(data: bytes) -> None:
    found = parse_proof(data)
    assert found.encode() == data
    check_proof(found, key=KEY.verifier)


def witness(data: bytes) -> None:
    """A note and a consistency proof that a partner shows to this witness."""
    reader = Reader(data)
    old, count = reader.integer(64), reader.byte() % 70
    proof_hashes = [reader.take(32) for _ in range(count) if reader.left]
    _witness().cosign(reader.rest(), key=KEY.verifier, old_size=old, proof=proof_hashes)


@functools.cache
def _witness() -> Witness:
    (folder() / "witness").mkdir()
    made = Witness(folder() / "witness", key=OTHER, clock=_now)
    made.cosign(NOTE.encode(), key=KEY.verifier, old_size=0, proof=[])
    return made


# ---- logs ------------------------------------------------------------------------------------------------------------------------


def entry(data: bytes) -> None:
    parse_entry(data)


def lines(data: bytes) -> None:
    total = 0
    for line in read_lines(io.BytesIO(data)):
        total += len(line.data)
        parse_entry(line.data)
    assert total <= len(data)


def log(data: bytes) -> None:
    """Every reader of a log file."""
    path = _file("log/log.jsonl", data)
    for read in (read_log, read_record):
        with contextlib.suppress(IsthmusError):
            read(path, name="bank")
    found = verify_logs([path])
    assert found.exit_status in (0, 1, 2, 3)


def own_log(data: bytes) -> None:
    """A node opens its own log again, with what a disk or a stranger left in it."""
    reader = Reader(data)
    with_note = reader.byte() & 1
    _file("own/log.jsonl", reader.rest())
    (folder() / "own" / "checkpoint").unlink(missing_ok=True)
    if with_note:
        _file("own/checkpoint", NOTE.encode())
    LogWriter.open(folder() / "own", key=KEY, clock=_now).close()


# ---- configuration ---------------------------------------------------------------------------------------------------------------


def toml(data: bytes) -> None:
    """Every file that people write."""
    reader = Reader(data)
    loaders: list[Callable[[Path], Any]] = [load_node_config, load_node_policy, load_coordinator_config, load_audit_policy]
    load = reader.pick(loaders)
    load(_file("config.toml", reader.rest()))


def identity(data: bytes) -> None:
    reader = Reader(data)
    good = _identity()
    names = ["log.key", "tls.key", "tls.crt", "identity.json"]
    changed = reader.pick(names)
    for name in names:
        path = _file(f"keys/{name}", reader.rest() if name == changed else (good / name).read_bytes())
        path.chmod(0o600)
    load_identity(folder() / "keys")


@functools.cache
def _identity() -> Path:
    create_identity(folder() / "good", name="bank", role="bank")
    return folder() / "good"


@functools.cache
def _renewing() -> list[Identity]:
    """With one certificate, and with two."""
    home = folder() / "renewing"
    return [create_identity(home, name="bank", role="bank"), prepare(home)]


# ---- numbers of the peer ---------------------------------------------------------------------------------------------------------


@functools.cache
def _key() -> PublicKey:
    return generate_key(512, Drbg(b"k" * 32, job="job", step="key").stream("key")).public


def paillier_key(data: bytes) -> None:
    reader = Reader(data)
    bits = reader.pick((512, 256, 1024, 2048, 0, 511, 8192, 2**31))
    modulus = int.from_bytes(reader.take(reader.pick((64, 32, 128, 1024))), "big")
    check_public_key(bits=bits, modulus=modulus, h_s=int.from_bytes(reader.rest(), "big"), minimum_bits=256, own=_key())


def ciphertexts(data: bytes) -> None:
    reader = Reader(data)
    count = reader.byte() % 4
    found = ciphertexts_from_bytes(reader.rest(), count, _key())
    assert len(found) == count


def base_rate(data: bytes) -> None:
    parse_base_rate(data.decode("utf-8", "replace"))


# ---- files of the state folder ---------------------------------------------------------------------------------------------------


def state_arrays(data: bytes) -> None:
    """A stored result that a disk damaged, as the next step reads it."""
    files = JobFiles(folder() / "job")
    _file("job/prepared.npz", data)
    files.read_as("prepared.npz", Prepared.from_arrays)


def kept_inbound(data: bytes) -> None:
    total = sum(len(message) for message in read_inbound(_file("kept.inbound", data)))
    assert total <= len(data)


def kept_table(data: bytes) -> None:
    _file("tables/table-0.npz", data)
    read_table(JobFiles(folder() / "tables"), 0, ["a", "c"], "casefold")


@functools.cache
def _node() -> Identity:
    return load_identity(_identity())


def seed(data: bytes) -> None:
    _file("seed/seed.sealed", data)
    open_seed(JobFiles(folder() / "seed"), job=JOB, identity=_node())


# ---- data sets -------------------------------------------------------------------------------------------------------------------


def _dataset(source: str, path: Path, delimiter: str | None = None) -> DatasetConfig:
    columns = {"a": {"kind": "number", "missing": "mean"}, "c": {"kind": "category"}, "y": {"kind": "label"}}
    return DatasetConfig.model_validate(
        {"name": "cards", "source": source, "path": str(path), "identifier": "id", "columns": columns, "delimiter": delimiter}
    )


def csv(data: bytes) -> None:
    reader = Reader(data)
    delimiter = reader.pick((None, ";", "|", "\t"))
    dataset = _dataset("csv", _file("cards.csv", reader.rest()), delimiter)
    load_table(dataset, features=["a", "c"], label="y", normalise="casefold", most_rows=10_000)


def parquet(data: bytes) -> None:
    load_table(
        _dataset("parquet", _file("cards.parquet", data)), features=["a", "c"], label="y", normalise="casefold", most_rows=10_000
    )


# ---- seeds -----------------------------------------------------------------------------------------------------------------------

CSV = b"id,a,c,y\nx1,1.5,east,0\nx2,,west,1\nx3,-2e3,east,1\n"


def seeds(name: str) -> Iterator[bytes]:
    """Valid inputs of a target."""
    statement = approval_statement(
        job=JOB, party="bank", peer="platform", decision="approve", by="Ana", time="2026-01-01T00:00:00Z"
    )
    found: dict[str, Callable[[], list[bytes]]] = {
        "spec": lambda: [
            *(spec_of(**changes).canonical() for changes in ({}, {"model": {"train_rows": 3}}, {"align": {"keys": KEYS}})),
            a_count().canonical(),
        ],
        "approval": lambda: [KEY.sign(statement) + statement],
        "partner": lambda: [export_partner(found, address="bank.example:8443") for found in _renewing()],
        "note": lambda: [NOTE.encode(), with_cosignature(NOTE.encode(), _line(), OTHER.verifier)],
        "cosignature": lambda: [_line().encode(), str(OTHER.verifier).encode()],
        "proof": lambda: [_proof()],
        "witness": lambda: [b"\0\3\0" + NOTE.encode()],
        "entry": lambda: _log().splitlines(),
        "lines": lambda: [_log()],
        "log": lambda: [_log()],
        "own-log": lambda: [b"\0" + _log(), b"\1" + _log()],
        "toml": _tomls,
        "identity": lambda: [bytes([i]) + (_identity() / n).read_bytes() for i, n in enumerate(("log.key", "tls.key", "tls.crt"))],
        "paillier-key": lambda: [b"\0\0" + int(_peer_key().n).to_bytes(64, "big") + int(_peer_key().h_s).to_bytes(128, "big")],
        "ciphertexts": lambda: [b"\2" + (5).to_bytes(128, "big") + (7).to_bytes(128, "big")],
        "base-rate": lambda: [b"0.21", b"0.0012"],
        "state-arrays": lambda: [_npz(trained().prepared[0])],
        "kept-inbound": lambda: [b"isthin1\n\0\0\0\3abc\0\0\0\0"],
        "kept-table": lambda: [_table()],
        "seed": lambda: [_sealed()],
        "csv": lambda: [b"\0" + CSV, b"\1" + CSV.replace(b",", b";"), b'\0id,a,c,y\n"x,1",1,"e ""q""",0\nx2,2,e,1\n'],
        "parquet": lambda: [_parquet()],
    }
    yield from found.get(name, lambda: [])()


def _line() -> str:
    return cosign(parse_note(NOTE.encode()).text, OTHER, time=1_767_225_600)


def _peer_key() -> PublicKey:
    return generate_key(512, Drbg(b"p" * 32, job="job", step="key").stream("key")).public


@functools.cache
def _log() -> bytes:
    writer = LogWriter.open(folder() / "seedlog", key=KEY, clock=_now)
    writer.append("software", version="0.1.0", python="3.11.7", lock_sha256="ab" * 32)
    found = spec_of()
    writer.append("spec", job=found.identity(), document=found.canonical().decode())
    writer.append("job", job=found.identity(), state="rejected", code="policy.partner")
    writer.checkpoint()
    writer.close()
    return (folder() / "seedlog" / "log.jsonl").read_bytes()


def _proof() -> bytes:
    assert leaf_hash(_log().splitlines()[0])
    return prove(folder() / "seedlog" / "log.jsonl", 1).encode() if _log() else b""


def _npz(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


@functools.cache
def _table() -> bytes:
    dataset = _dataset("csv", _file("seed.csv", CSV))
    table = load_table(dataset, features=["a", "c"], label="y", normalise="casefold")
    files = JobFiles(folder() / "seedtables")
    write_table(files, 0, table, ["a", "c"], {name: dataset.columns[name] for name in ("a", "c")})
    return files.read("table-0.npz")


@functools.cache
def _sealed() -> bytes:
    files = JobFiles(folder() / "seedseed")
    draw_seed(files, job=JOB, identity=_node())
    return files.read("seed.sealed")


def _parquet() -> bytes:
    table = pyarrow.csv.read_csv(io.BytesIO(CSV))
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, compression="none")
    return bytes(sink.getvalue())


def _tomls() -> list[bytes]:
    deploy = Path(__file__).resolve().parents[2] / "deploy"
    files = [("bank/node.toml", 0), ("platform/node.toml", 0), ("bank/policy.toml", 1), ("coordinator/coordinator.toml", 2)]
    return [bytes([place]) + (deploy / name).read_bytes() for name, place in files] + [b"\1" + POLICY.encode()]
