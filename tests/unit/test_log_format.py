"""docs/log-format.md is exact: its examples hold, a verifier written from it accepts real logs and refuses altered ones, and
its table of kinds and fields is what real logs contain."""

from __future__ import annotations

import ast
import base64
import hmac
import json
import re
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from audit.partner import read_partner
from audit.record import LogWriter
from audit.spec import JobSpec, parse_spec
from audit.witness import Witness
from coordinator.cosigning import Cosigning
from node.config import ColumnConfig
from node.data import commitment
from node.runtime.seeds import Seed
from protos import control_pb2
from tests import second_verifier
from tests.asks import CANCELLED, PLAIN, PLATFORM, REJECTED, RESTARTED, SEVERAL_FILTERED, TOO_FEW, Ask
from tests.joint import PARTIES, Joint, joint
from tests.second_verifier import Bad, canonical, field, key_id, read, root, sha, signed, transcript, verify

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "log-format.md").read_text()
BLOCKS = dict(re.findall(r"^```text ([a-z.-]+)\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL))
KEYS = dict(zip(("bank", "platform", "coordinator"), BLOCKS["keys"].split("\n"), strict=True))


def lines(name: str) -> list[str]:
    return BLOCKS[name].split("\n")


# ---- the second verifier stands alone ------------------------------------------------------------------------------------------


def test_the_second_verifier_imports_nothing_of_the_project() -> None:
    tree = ast.parse(Path(second_verifier.__file__).read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).split(".")[0])
    assert imported == {"base64", "hashlib", "json", "re", "struct", "pathlib", "cryptography"}


# ---- the page's examples -------------------------------------------------------------------------------------------------------


def test_the_keys_are_those_that_anyone_can_make() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    for name, key in KEYS.items():
        private = Ed25519PrivateKey.from_private_bytes(sha(name.encode()))
        assert base64.b64decode(key.split("+", 2)[2]) == b"\x01" + private.public_key().public_bytes_raw()
        assert key.split("+")[:2] == [f"isthmus.log/{name}", key_id(key)[1].hex()]
    assert [key_id(key, b"\x04")[1].hex() for key in KEYS.values()] == lines("cosigner-ids")


def test_the_small_log_is_whole(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "log.jsonl").write_text(BLOCKS["log.jsonl"] + "\n")
    for file in ("checkpoint", "checkpoints/000000000003"):
        (tmp_path / file).write_text(BLOCKS["checkpoint"] + "\n")
    entries, leaves = read(tmp_path, "bank", KEYS)
    assert [leaf.hex() for leaf in leaves] == lines("leaf-hashes")
    _, _, cosigners = second_verifier.checkpoint((BLOCKS["checkpoint"] + "\n").encode(), KEYS["bank"], list(KEYS.values()))
    assert cosigners == {"isthmus.log/platform", "isthmus.log/coordinator"}
    public = base64.b64decode(KEYS["bank"].split("+", 2)[2])[1:]
    assert entries[1]["sha256"] == sha(public).hex()
    assert (entries[2]["statement"], entries[2]["signature"]) == (BLOCKS["approval-statement"], BLOCKS["approval-signature"])


def test_the_tree() -> None:
    leaves = [sha(b"\x00", bytes.fromhex(line)) for line in lines("tree-leaves")]
    assert len(leaves) == 8
    assert root(leaves).hex() == BLOCKS["tree-root"]


def test_the_job_its_approval_and_its_receipt() -> None:
    job = sha(BLOCKS["spec"].encode()).hex()
    assert job == BLOCKS["job"] == parse_spec(BLOCKS["spec"].encode()).identity()
    assert canonical(json.loads(BLOCKS["spec"])).decode() == BLOCKS["spec"]
    signed(KEYS["bank"], bytes.fromhex(BLOCKS["approval-signature"]), BLOCKS["approval-statement"].encode())
    where = {"job": job, "step": "align", "round": 0, "attempt": 0}
    messages = [
        where
        | {"kind": "message", "direction": "sent" if sender == "bank" else "received", "type": kind}
        | {"length": len(bytes.fromhex(data)), "sha256": sha(bytes.fromhex(data)).hex()}
        for sender, kind, data in (line.split() for line in lines("messages"))
    ]
    digest = transcript(messages, "bank", tuple(where.values()), ("bank", "platform"))
    assert digest == BLOCKS["transcript"]
    assert canonical({"v": 1, "kind": "isthmus.receipt", **where, "digest": digest}).decode() == BLOCKS["receipt-statement"]
    for party, signature in zip(("bank", "platform"), lines("receipt-signatures"), strict=True):
        signed(KEYS[party], bytes.fromhex(signature), BLOCKS["receipt-statement"].encode())


def salted(tag: bytes, salt: str, description: str, rows: list[str]) -> str:
    head = tag + b"\x00" + sha(description.encode())
    row_salts = [hmac.digest(bytes.fromhex(salt), struct.pack(">Q", number), "sha256") for number in range(len(rows))]
    return root([sha(b"\x00", head, own, bytes.fromhex(row)) for own, row in zip(row_salts, rows, strict=True)]).hex()


def test_the_commitments_are_as_the_page_says() -> None:
    salt, seed, committed = lines("seed")
    assert sha(b"isthmus seed v1", bytes.fromhex(salt), bytes.fromhex(seed)).hex() == committed
    assert sha(bytes.fromhex("c0ffee01"), bytes.fromhex("0123456789abcdef")).hex() == BLOCKS["paillier-key"]
    salt, description, *rows, committed = lines("dataset")
    assert bytes.fromhex(rows[0]) == b"\x01" + struct.pack("<d", 1200.5) + field("C0001") + field("north")
    assert salted(b"isthmus dataset row v1", salt, description, rows) == committed
    salt, description, *rows, committed = lines("encoded")
    assert salted(b"isthmus encoded row v1", salt, description, rows) == committed


def test_the_project_commits_as_the_page_says() -> None:
    salt, seed, committed = lines("seed")
    assert Seed(value=bytes.fromhex(seed), salt=bytes.fromhex(salt)).commitment == committed
    assert commitment.key_digest(0xC0FFEE01, 0x0123456789ABCDEF, bits=32) == BLOCKS["paillier-key"]
    salt, description, *_, committed = lines("dataset")
    table: Any = SimpleNamespace(
        columns={"limit": np.array([1200.5, np.nan]), "region": np.array([0, 1])},
        levels={"region": ["north", "south"]},
        label=np.array([1, 0], dtype=np.int8),
        raw_identifiers=["C0001", "C0002"],
        raw_keys=[],
    )
    declared = {name: ColumnConfig(**fields) for name, fields in json.loads(description)["declared"].items()}
    assert commitment.dataset_root(table, ["limit", "region"], declared, salt=bytes.fromhex(salt)) == committed
    salt, description, *_, committed = lines("encoded")
    columns = [SimpleNamespace(name=name) for name in json.loads(description)["columns"]]
    encoded: Any = SimpleNamespace(train=np.array([[1024, -1024]]), holdout=np.array([[512, 0]]), columns=columns)
    labels = (np.array([1], dtype=np.int8), np.array([0], dtype=np.int8))
    assert commitment.encoded_root(encoded, *labels, salt=bytes.fromhex(salt)) == committed


def test_the_proof() -> None:
    """RFC 6962, section 2.1.1, for the middle of three leaves: its left neighbour, then the single leaf on the right."""
    head, _, note = BLOCKS["proof"].partition("\n\n")
    magic, extra, index, *path = head.split("\n")
    assert (magic, index, note) == ("c2sp.org/tlog-proof@v1", "index 1", BLOCKS["checkpoint"])
    entry = base64.b64decode(extra.removeprefix("extra "))
    assert entry.decode() == lines("log.jsonl")[1]
    left, right = map(base64.b64decode, path)
    _, top, _ = second_verifier.checkpoint(note.encode(), KEYS["bank"], [])
    assert sha(b"\x01", sha(b"\x01", left, sha(b"\x00", entry)), right) == top


# ---- real logs -----------------------------------------------------------------------------------------------------------------


def keys_of(made: Joint) -> dict[str, str]:
    return {name: str(key.verifier) for name, key in made.keys.items()}


@pytest.mark.parametrize("ask", [PLAIN, PLATFORM, REJECTED, CANCELLED, TOO_FEW, RESTARTED], ids=str)
def test_real_logs_stand_before_the_second_verifier(ask: Ask) -> None:
    made = joint(ask)
    entries = verify(made.folders, keys_of(made))
    assert {name: len(told) for name, told in entries.items()} == {name: len(made.entries(name)) for name in PARTIES}


def edit(name: str, old: bytes, new: bytes) -> Callable[[dict[str, Path]], None]:
    def change(folders: dict[str, Path]) -> None:
        path = folders[name] / "log.jsonl"
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new, 1))

    return change


def drop_an_entry(folders: dict[str, Path]) -> None:
    path = folders["bank"] / "log.jsonl"
    told = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(told[:20] + told[21:]))


def cut_at_a_checkpoint(folders: dict[str, Path]) -> None:
    """An older copy of the log, with its checkpoints: only what others cosigned shows that there was more."""
    kept = sorted((folders["bank"] / "checkpoints").iterdir())[:4]
    for path in sorted((folders["bank"] / "checkpoints").iterdir())[4:]:
        path.unlink()
    (folders["bank"] / "checkpoint").write_bytes(kept[-1].read_bytes())
    path = folders["bank"] / "log.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[: int(kept[-1].name)]))


def swap_signatures(folders: dict[str, Path]) -> None:
    path = folders["bank"] / "checkpoint"
    older = sorted((folders["bank"] / "checkpoints").iterdir())[0]
    text, lines = path.read_text().split("\n\n")
    path.write_text(text + "\n\n" + older.read_text().split("\n\n")[1])
    assert lines


def stale_cosignature(folders: dict[str, Path]) -> None:
    newest, older = sorted((folders["bank"] / "checkpoints").iterdir())[-1:-3:-1]
    stale = [line for line in older.read_text().split("\n") if line.startswith("\u2014 isthmus.log/platform ")]
    kept = [line for line in newest.read_text().split("\n") if not line.startswith("\u2014 isthmus.log/platform ")]
    newest.write_text("\n".join([*kept[:-1], *stale, ""]))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (edit("bank", b'"items":1,', b'"items":2,'), "the chain is broken"),
        (edit("bank", b'{"attempt":0,', b'{ "attempt":0,'), "not canonical"),
        (edit("coordinator", b'"version":"', b'"version":"9'), "the chain is broken"),
        (drop_an_entry, "out of its place"),
        (cut_at_a_checkpoint, "cosigned"),
        (swap_signatures, "a signature does not hold"),
        (stale_cosignature, "a signature does not hold"),
        (edit("platform", b'"v":1}\n', b'"v":1}'), "a line is no JSON"),
    ],
    ids=["items", "space", "version", "dropped", "older", "signature", "cosignature", "newline"],
)
def test_altered_logs_fall(change: Callable[[dict[str, Path]], None], rule: str, tmp_path: Path) -> None:
    made = joint(PLAIN)
    folders = made.copy(tmp_path)
    change(folders)
    with pytest.raises(Bad, match=rule):
        verify(folders, keys_of(made))


# ---- kinds and fields ----------------------------------------------------------------------------------------------------------

DAYS = ("reuse_days", "filter_days", "period_days")
FRAME = re.findall(r"^\| `([a-z]+)` \| (text|integer) \|", PAGE, re.MULTILINE)
WHERE = r"(?: where `(?P<name>\w+)` is `(?P<value>[^`]+)`)?"
ROW = rf"^\| `(?P<kind>\w+)`{WHERE} \| (?P<log>all|nodes|coordinator) \| (?P<labels>run|job|attempt) \| (?P<fields>`.*) \|$"
TYPES: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "count": lambda value: type(value) is int and value >= 0,
    "hash": lambda value: re.fullmatch("[0-9a-f]{64}", value) is not None,
    "signature": lambda value: re.fullmatch("[0-9a-f]{128}", value) is not None,
    "hex": lambda value: re.fullmatch("([0-9a-f]{2})*", value) is not None,
    "number": lambda value: repr(float(value)) == value,
    "numbers": lambda value: all(repr(float(each)) == each for each in value),
    "clauses": lambda value: all({"partner", "dataset", "role", *DAYS} == set(each) - {"queries"} for each in value),
    "items": lambda value: all({"what", "to", "count", "clause"} == set(each) - {"party"} for each in value),
}


class Kind:
    """A row of the page's table."""

    def __init__(self, row: re.Match[str]) -> None:
        self.kind, self.log, self.labels, self.condition = row["kind"], row["log"], row["labels"], (row["name"], row["value"])
        self.fields = dict(re.findall(r"`(\w+)`: (\w+)", row["fields"]))

    def fits(self, entry: dict[str, Any]) -> bool:
        """Whether the row is about entries like this one."""
        name, value = self.condition
        at = "coordinator" if entry["log"] == "coordinator" else "nodes"
        return self.kind == entry["kind"] and self.log in ("all", at) and (name is None or entry.get(name) == value)

    def holds(self, entry: dict[str, Any]) -> bool:
        """Whether the entry has these fields, of these types, and these labels."""
        own = {name: value for name, value in entry.items() if name not in dict(FRAME)}
        labels = {"run": (False, False), "job": (True, False), "attempt": (True, True)}[self.labels]
        typed = own.keys() == self.fields.keys() and all(TYPES[self.fields[name]](value) for name, value in own.items())
        return typed and (bool(entry["job"]), bool(entry["step"])) == labels


KINDS = [Kind(row) for row in re.finditer(ROW, PAGE, re.MULTILINE)]


def refusal(folders: dict[str, Path], made: Joint) -> None:
    """An old checkpoint of the bank is shown to the coordinator once more."""
    log = LogWriter.open(folders["coordinator"], key=made.keys["coordinator"], clock=lambda: datetime.now(UTC))
    witness = Witness(folders["coordinator"], key=made.keys["coordinator"], clock=lambda: datetime.now(UTC))
    partners = {partner.name: partner for partner in map(read_partner, made.partners)}
    cosigning = Cosigning(log, witness, partners=partners, attached={}, refused=lambda refused: None)
    old = sorted((folders["bank"] / "checkpoints").iterdir())[0].read_text()
    cosigning.offered("bank", control_pb2.Checkpoint(log="bank", witness="coordinator", note=old))
    log.close()


def recovery(folders: dict[str, Path], made: Joint) -> None:
    """The bank's node was cut off while it wrote."""
    with (folders["bank"] / "log.jsonl").open("ab") as file:
        file.write(b'{"attempt":0,')
    LogWriter.open(folders["bank"], key=made.keys["bank"], clock=lambda: datetime.now(UTC)).close()


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    found = [entry for ask in (PLATFORM, REJECTED, TOO_FEW, RESTARTED) for name in PARTIES for entry in joint(ask).entries(name)]
    found += [entry for name in PARTIES for entry in joint(*SEVERAL_FILTERED).entries(name)]
    folders = joint(PLAIN).copy(tmp_path_factory.mktemp("logs"))
    refusal(folders, joint(PLAIN))
    recovery(folders, joint(PLAIN))
    return found + [entry for told in verify(folders, keys_of(joint(PLAIN))).values() for entry in told]


def test_every_entry_of_real_logs_is_in_the_table(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        rows = [row for row in KINDS if row.fits(entry)]
        assert len(rows) == 1, entry
        assert rows[0].holds(entry), entry


def test_every_row_of_the_table_is_in_real_logs(entries: list[dict[str, Any]]) -> None:
    assert len(KINDS) > 20
    assert not [(row.kind, row.condition, row.log) for row in KINDS if not any(map(row.fits, entries))]
    for row in KINDS:
        if row.log == "all":
            at = {entry["log"] == "coordinator" for entry in entries if row.fits(entry)}
            assert at == {True, False} or row.kind in ("recovery", "refusal"), row.kind


def test_the_frame_is_the_page_s() -> None:
    assert {name: {"text": str, "integer": int}[kind] for name, kind in FRAME} == second_verifier.FRAME


def test_the_states_of_a_job_are_those_of_the_page(entries: list[dict[str, Any]]) -> None:
    sentence = re.search(r"^- `job`: `state` is (.*?);", PAGE, re.MULTILINE | re.DOTALL)
    assert sentence
    named = set(re.findall(r"`(\w+)`", sentence[1]))
    seen = {entry["state"] for entry in [*entries, *joint(CANCELLED).entries("bank")] if entry["kind"] == "job"}
    assert seen == named


def test_the_keys_of_a_specification_are_those_of_the_page() -> None:
    section = PAGE.split("## 6.")[1].split("## 7.")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", section, re.MULTILINE)
    assert {name for left, _ in rows for name in re.findall(r"`(\w+)`", left)} == set(JobSpec.model_fields)
    for left, right in rows:
        for name in re.findall(r"`(\w+)`", left):
            model = JobSpec.model_fields[name].annotation
            if hasattr(model, "model_fields"):
                assert set(model.model_fields) <= set(re.findall(r"`(\w+)`", right)), name
