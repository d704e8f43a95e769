"""``isthmus-audit prove`` and ``check-proof``: what holds, what does not (1), what cannot be used (3), each with its code."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit.checkpoint import Checkpoint, parse_note, sign_checkpoint
from audit.cli import cli
from audit.console import run, visible
from audit.cosignature import cosign
from audit.errors import VerificationError
from audit.merkle import Frontier, verify_inclusion
from audit.proofs import PROOF_BYTES_MAX, Proof, ProofUnusable, parse_proof, prove
from audit.record import CHECKPOINT_FILE, LOG_FILE, LogWriter
from audit.signing import SigningKey
from tests.unit.audit_world import BANK, JOB, KEYS, PLATFORM, clock, events, policy, write

SHARED = Path(__file__).parents[3] / "shared" / "vectors" / "rfc6962_inclusion.json"
Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write(tmp_path_factory.mktemp("world"), events())


def lines(folder: Path) -> list[bytes]:
    return (folder / LOG_FILE).read_bytes().splitlines()


def audit(*arguments: object) -> int:
    return run(cli, [str(argument) for argument in arguments], usage_status=3)


def made(world: dict[str, Path], tmp_path: Path, seq: int = 1, name: str = BANK) -> Path:
    path = tmp_path / "entry.tlog-proof"
    assert audit("prove", world[name], seq, "--output", path) == 0
    return path


def fails(output: Output, status: int, expected: int, code: str) -> None:
    said = output.readouterr()
    assert (status, f"code: {code}" in said.err) == (expected, True), said.err


def test_every_entry_can_be_proven(world: dict[str, Path], tmp_path: Path, capsys: Output) -> None:
    policy_file = policy(tmp_path)
    for name in (BANK, PLATFORM):
        for seq, line in enumerate(lines(world[name])):
            path = made(world, tmp_path, seq, name)
            capsys.readouterr()
            assert audit("check-proof", path, "--policy", policy_file, "--json") == 0
            told = json.loads(capsys.readouterr().out)
            assert (told["result"], told["log"], told["seq"], told["entry"]) == ("holds", name, seq, json.loads(line))
            assert told["checkpoint"]["size"] == len(lines(world[name]))


def test_the_file_is_a_c2sp_tlog_proof(world: dict[str, Path], tmp_path: Path) -> None:
    head, _, note = made(world, tmp_path, 5).read_text().partition("\n\n")
    first, extra, index, *hashes = head.split("\n")
    assert first == "c2sp.org/tlog-proof@v1"
    assert base64.b64decode(extra.removeprefix("extra ")) == lines(world[BANK])[5]
    assert index == "index 5"
    assert all(len(base64.b64decode(value)) == 32 for value in hashes)
    assert note == (world[BANK] / CHECKPOINT_FILE).read_text(), "the checkpoint verbatim"


def test_it_goes_to_the_screen_and_comes_back(world: dict[str, Path], tmp_path: Path, capsys: Output) -> None:
    assert audit("prove", world[BANK], 3) == 0
    (tmp_path / "piped").write_text(capsys.readouterr().out)
    assert audit("check-proof", tmp_path / "piped", "--key", KEYS[BANK].verifier) == 0
    said = capsys.readouterr().out
    assert "holds: this is entry 3 of the log 'bank'" in said
    assert f"job: {JOB}" in said


def test_a_log_that_grew_since_its_checkpoint(world: dict[str, Path], tmp_path: Path, capsys: Output) -> None:
    shutil.copytree(world[BANK], tmp_path / BANK)
    size = len(lines(world[BANK]))
    log = LogWriter.open(tmp_path / BANK, key=KEYS[BANK], clock=clock())
    log.append("software", version="2", python="3", lock_sha256="00")
    log._file.close()
    assert prove(tmp_path / BANK / LOG_FILE, size - 1).checkpoint.size == size
    fails(capsys, audit("prove", tmp_path / BANK, size), 3, "proof.no_such_entry")


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    count, line = 40_000, b"x" * 400
    frontier = Frontier()
    with (tmp_path / LOG_FILE).open("wb") as file:
        for number in range(count):
            frontier.append(line + b"%d" % number)
            file.write(line + b"%d\n" % number)
    note = sign_checkpoint(Checkpoint("isthmus.log/bank", count, frontier.root()), KEYS[BANK])
    (tmp_path / CHECKPOINT_FILE).write_text(note)
    tracemalloc.start()
    proof = prove(tmp_path / LOG_FILE, 12_345)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(proof.path) == 16
    assert peak < 2 * 2**20, f"{peak} bytes for a log of {(tmp_path / LOG_FILE).stat().st_size}"


# ---- what does not hold: exit code 1 ---------------------------------------------------------------------------------------------


def flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def resigned(proof: Proof, **changes: Any) -> bytes:
    """The proof's checkpoint with another content under the old signature."""
    return proof.note.replace(proof.checkpoint.text().encode(), Checkpoint(**(vars(proof.checkpoint) | changes)).text().encode())


TAMPERED: dict[str, tuple[Callable[[Proof], Proof], str]] = {
    "entry": (lambda p: Proof(p.index, p.path, p.note, (p.extra or b"").replace(b"bank", b"bunk")), "merkle.inclusion"),
    "index": (lambda p: Proof(p.index + 1, p.path, p.note, p.extra), "merkle.inclusion"),
    "index beyond": (lambda p: Proof(10**6, p.path, p.note, p.extra), "merkle.inclusion"),
    "hash": (lambda p: Proof(p.index, (flip(p.path[0]), *p.path[1:]), p.note, p.extra), "merkle.inclusion"),
    "last hash": (lambda p: Proof(p.index, (*p.path[:-1], flip(p.path[-1])), p.note, p.extra), "merkle.inclusion"),
    "hash left out": (lambda p: Proof(p.index, p.path[1:], p.note, p.extra), "merkle.inclusion"),
    "hash added": (lambda p: Proof(p.index, (*p.path, bytes(32)), p.note, p.extra), "merkle.inclusion"),
    "no path": (lambda p: Proof(p.index, (), p.note, p.extra), "merkle.inclusion"),
    "tree size": (lambda p: Proof(p.index, p.path, resigned(p, size=p.checkpoint.size + 1), p.extra), "audit.bad_signature"),
    "root": (lambda p: Proof(p.index, p.path, resigned(p, root=bytes(32)), p.extra), "audit.bad_signature"),
    "signed by another": (
        lambda p: Proof(p.index, p.path, sign_checkpoint(p.checkpoint, KEYS[PLATFORM]).encode(), p.extra),
        "audit.not_signed",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_tampered_proof_does_not_hold(what: str, world: dict[str, Path], tmp_path: Path, capsys: Output) -> None:
    change, code = TAMPERED[what]
    path = made(world, tmp_path)
    path.write_bytes(change(parse_proof(path.read_bytes())).encode())
    fails(capsys, audit("check-proof", path, "--policy", policy(tmp_path)), 1, code)


def test_another_entry_under_the_owner_s_own_key(tmp_path: Path, capsys: Output) -> None:
    """A log's owner can sign a tree over anything; an entry that says to stand elsewhere is not taken for one that stands here."""
    folder = tmp_path / "log"
    world = write(tmp_path / "world", events())
    folder.mkdir()
    entry = lines(world[BANK])[4]
    (folder / LOG_FILE).write_bytes(entry + b"\n")
    leaf = Checkpoint("isthmus.log/bank", 1, hashlib.sha256(b"\x00" + entry).digest())
    (folder / CHECKPOINT_FILE).write_text(sign_checkpoint(leaf, KEYS[BANK]))
    path = tmp_path / "p"
    path.write_bytes(prove(folder / LOG_FILE, 0).encode())
    fails(capsys, audit("check-proof", path, "--key", KEYS[BANK].verifier), 1, "proof.other_entry")


def test_no_proof_of_an_altered_log(world: dict[str, Path], tmp_path: Path, capsys: Output) -> None:
    shutil.copytree(world[BANK], tmp_path / BANK)
    log = tmp_path / BANK / LOG_FILE
    log.write_bytes(log.read_bytes().replace(b"MaskedPoints", b"OtherPointss", 1))
    fails(capsys, audit("prove", tmp_path / BANK, 1), 1, "proof.log_altered")
    log.write_bytes(b"".join(line + b"\n" for line in lines(world[BANK])[:-1]))
    fails(capsys, audit("prove", tmp_path / BANK, 1), 1, "proof.log_altered")


# ---- cosignatures ---------------------------------------------------------------------------------------------------------------


def cosigned(proof: Proof, name: str, *, time: int = 1_700_000_000, over: str = "") -> Proof:
    line = cosign(over or parse_note(proof.note).text, KEYS[name], time=time)
    return Proof(proof.index, proof.path, proof.note + line.encode(), proof.extra)


def test_cosignatures_are_checked_and_counted(world: dict[str, Path], tmp_path: Path, capsys: Output) -> None:
    path, rules = made(world, tmp_path), policy(tmp_path)
    rules.write_text("quorum = 1\n" + rules.read_text())
    proof = parse_proof(path.read_bytes())
    proof = Proof(proof.index, proof.path, sign_checkpoint(proof.checkpoint, KEYS[BANK]).encode(), proof.extra)
    path.write_bytes(proof.encode())
    fails(capsys, audit("check-proof", path, "--policy", rules), 1, "proof.quorum")
    path.write_bytes(cosigned(proof, PLATFORM).encode())
    assert audit("check-proof", path, "--policy", rules) == 0
    assert "cosigned by platform, 2023-11-14T22:13:20Z" in capsys.readouterr().out
    path.write_bytes(cosigned(proof, PLATFORM, over="isthmus.log/bank\n1\n" + "A" * 43 + "=\n").encode())
    fails(capsys, audit("check-proof", path, "--policy", rules), 1, "audit.bad_signature")
    # Whose key is not given is not asked.
    assert audit("check-proof", path, "--key", KEYS[BANK].verifier) == 0


# ---- what cannot be used: exit code 3 ------------------------------------------------------------------------------------------


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(old, new, 1)


MALFORMED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "proof.malformed"),
    "another version": (replaced(b"@v1", b"@v2"), "proof.malformed"),
    "no index": (replaced(b"index 1\n", b""), "proof.malformed"),
    "index with a zero before": (replaced(b"index 1", b"index 01"), "proof.malformed"),
    "negative index": (replaced(b"index 1", b"index -1"), "proof.malformed"),
    "index too large": (replaced(b"index 1", b"index 9223372036854775808"), "proof.malformed"),
    "extra is no base64": (replaced(b"extra ", b"extra !"), "proof.malformed"),
    "a hash of another length": (replaced(b"index 1\n", b"index 1\nAAAA\n"), "proof.malformed"),
    "a hash that is none": (replaced(b"index 1\n", b"index 1\nnothing at all\n"), "proof.malformed"),
    "too many hashes": (replaced(b"index 1\n", b"index 1\n" + (b"A" * 43 + b"=\n") * 64), "proof.malformed"),
    "not ASCII": (replaced(b"index", "índex".encode()), "proof.malformed"),
    "no checkpoint": (lambda data: data.partition(b"\n\n")[0] + b"\n", "proof.malformed"),
    "checkpoint without a signature": (lambda data: data.rpartition(b"\n\n")[0] + b"\n", "audit.bad_note"),
    "checkpoint with a bad size": (replaced(b"isthmus.log/bank\n", b"isthmus.log/bank\nmany\n"), "audit.bad_checkpoint"),
    "cut": (lambda data: data[:-20], "audit.bad_note"),
    "Windows line ends": (lambda data: data.replace(b"\n", b"\r\n"), "proof.malformed"),
    "too long": (lambda data: data + b"x" * PROOF_BYTES_MAX, "proof.malformed"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_proof_is_unusable(what: str, world: dict[str, Path], tmp_path: Path, capsys: Output) -> None:
    change, code = MALFORMED[what]
    path = made(world, tmp_path)
    changed = change(path.read_bytes())
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    fails(capsys, audit("check-proof", path, "--policy", policy(tmp_path)), 3, code)


def test_a_proof_without_a_trusted_key_proves_nothing(world: dict[str, Path], tmp_path: Path, capsys: Output) -> None:
    path = made(world, tmp_path)
    fails(capsys, audit("check-proof", path), 3, "proof.no_key")
    fails(capsys, audit("check-proof", path, "--key", KEYS[PLATFORM].verifier), 3, "proof.log_unknown")
    fails(capsys, audit("check-proof", path, "--key", "isthmus.log/bank+00000000+AAAA"), 3, "proof.bad_key")
    other = SigningKey("isthmus.log/bank", bytes(32)).verifier
    fails(capsys, audit("check-proof", path, "--key", other, "--policy", policy(tmp_path)), 3, "proof.two_keys")
    fails(capsys, audit("check-proof", path, "--key", other), 1, "audit.not_signed")
    fails(capsys, audit("check-proof", tmp_path / "absent", "--key", other), 3, "proof.unreadable")


def test_the_entry_may_come_apart_from_the_proof(world: dict[str, Path], tmp_path: Path, capsys: Output) -> None:
    path, entry, key = made(world, tmp_path, 2), tmp_path / "entry", KEYS[BANK].verifier
    proof = parse_proof(path.read_bytes())
    path.write_bytes(Proof(proof.index, proof.path, proof.note).encode())
    fails(capsys, audit("check-proof", path, "--key", key), 3, "proof.no_entry")
    for end in (b"", b"\n"):
        entry.write_bytes(lines(world[BANK])[2] + end)
        assert audit("check-proof", path, "--key", key, "--entry", entry) == 0
    entry.write_bytes(lines(world[BANK])[1])
    fails(capsys, audit("check-proof", path, "--key", key, "--entry", entry), 1, "merkle.inclusion")


def test_a_log_that_cannot_be_proven_from(world: dict[str, Path], tmp_path: Path, capsys: Output) -> None:
    fails(capsys, audit("prove", tmp_path, 0), 3, "audit.no_log")
    (tmp_path / LOG_FILE).write_bytes((world[BANK] / LOG_FILE).read_bytes())
    fails(capsys, audit("prove", tmp_path, 0), 3, "proof.no_checkpoint")
    fails(capsys, audit("prove", world[BANK], 0, "--output", tmp_path / "no" / "where"), 3, "proof.unwritable")
    fails(capsys, audit("prove", world[BANK], -1), 3, "usage.invalid")


def test_what_an_entry_says_cannot_draw_on_the_terminal() -> None:
    assert visible("a\x1b[31m\u202eb\nc") == "a\\x1b[31m\\u202eb\\nc"


def test_published_inclusion_vectors() -> None:
    if not SHARED.is_file():
        pytest.skip(f"the large vector set {SHARED} is not on this machine")
    held = refused = 0
    for vector in json.loads(SHARED.read_text()):
        root, leaf = (base64.b64decode(vector[name] or "") for name in ("root", "leafHash"))
        path = tuple(base64.b64decode(part) for part in vector["proof"] or [])
        note = sign_checkpoint(Checkpoint("isthmus.log/bank", 1, bytes(32)), KEYS[BANK]).encode()
        try:
            proof = parse_proof(Proof(vector["leafIdx"], path, note).encode())
            verify_inclusion(index=proof.index, size=vector["treeSize"], leaf=leaf, proof=proof.path, root=root)
        except (ProofUnusable, VerificationError):
            assert vector["wantErr"], vector["name"]
            refused += 1
        else:
            assert not vector["wantErr"], vector["name"]
            held += 1
    assert held > 3
    assert refused > 30
