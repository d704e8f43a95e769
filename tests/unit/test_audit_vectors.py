"""Published and own vectors: RFC 8032, RFC 8785, RFC 6962, C2SP notes, and bad ones that say where they must fail."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from audit.checkpoint import Checkpoint, parse_checkpoint, parse_note, sign_note, verify_checkpoint
from audit.entries import parse_entry
from audit.errors import DataError, VerificationError
from audit.ledger import LogRejected
from audit.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from audit.record import LogWriter
from audit.signing import SigningKey, VerifierKey
from audit.verify import verify_logs

OWN = Path(__file__).parent.parent / "vectors" / "audit"
SHARED = Path(__file__).parents[3] / "shared" / "vectors"


def own(name: str) -> Any:
    return json.loads((OWN / name).read_text())


def shared(name: str) -> Any:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"the large vector set {path} is not on this machine")
    return json.loads(path.read_text())


def cases(name: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in own(name)["vectors"]]


@pytest.mark.parametrize("vector", own("rfc8032.json")["vectors"])
def test_ed25519(vector: dict[str, str]) -> None:
    key = SigningKey("test", bytes.fromhex(vector["seed"]))
    message, signature = bytes.fromhex(vector["message"]), bytes.fromhex(vector["signature"])
    assert key.verifier.public.hex() == vector["public"]
    assert key.sign(message) == signature
    key.verifier.verify(message, signature)
    with pytest.raises(VerificationError, match=r"audit\.bad_signature"):
        key.verifier.verify(message + b"\x00", signature)


@pytest.mark.parametrize("vector", [pytest.param(v, id=v["name"]) for v in own("rfc8785.json")["vectors"]])
def test_canonical_json(vector: dict[str, str]) -> None:
    assert rfc8785.dumps(json.loads(vector["input"])).hex() == vector["output_hex"]


def test_tree_roots_and_proofs() -> None:
    vectors = own("rfc6962.json")
    leaves = [leaf_hash(bytes.fromhex(leaf)) for leaf in vectors["leaves"]]
    frontier = Frontier()
    for size, root in enumerate(vectors["roots"]):
        assert frontier.root().hex() == root
        if size < len(leaves):
            frontier.append_hash(leaves[size])
    roots = [bytes.fromhex(root) for root in vectors["roots"]]
    for case in vectors["inclusion"]:
        proof = [bytes.fromhex(part) for part in case["proof"]]
        assert inclusion_proof(case["index"], case["size"], lambda a, b: root_of(leaves[a:b])) == proof
        verify_inclusion(index=case["index"], size=case["size"], leaf=leaves[case["index"]], proof=proof, root=roots[case["size"]])
    for case in vectors["consistency"]:
        proof = [bytes.fromhex(part) for part in case["proof"]]
        assert consistency_proof(case["old"], case["new"], lambda a, b: root_of(leaves[a:b])) == proof
        verify_consistency(old=case["old"], new=case["new"], old_root=roots[case["old"]], new_root=roots[case["new"]], proof=proof)


def hashes(values: list[str] | None) -> list[bytes]:
    return [base64.b64decode(value) for value in values or []]


def test_shared_inclusion_proofs() -> None:
    good = bad = 0
    for case in shared("rfc6962_inclusion.json"):
        arguments = {"index": case["leafIdx"], "size": case["treeSize"], "proof": hashes(case["proof"])}
        root, leaf = hashes([case["root"], case["leafHash"]]) if case["root"] and case["leafHash"] else (b"", b"")
        if case["wantErr"]:
            bad += 1
            with pytest.raises(VerificationError, match=r"merkle\.inclusion"):
                verify_inclusion(**arguments, leaf=leaf, root=root)
        else:
            good += 1
            verify_inclusion(**arguments, leaf=leaf, root=root)
    assert good
    assert bad


def test_shared_consistency_proofs() -> None:
    good = bad = 0
    for case in shared("rfc6962_consistency.json"):
        old_root, new_root = base64.b64decode(case["root1"] or ""), base64.b64decode(case["root2"] or "")
        arguments = {
            "old": case["size1"],
            "new": case["size2"],
            "old_root": old_root,
            "new_root": new_root,
            "proof": hashes(case["proof"]),
        }
        if case["wantErr"]:
            bad += 1
            with pytest.raises(VerificationError, match=r"merkle\.consistency"):
                verify_consistency(**arguments)
        else:
            good += 1
            verify_consistency(**arguments)
    assert good
    assert bad


@pytest.mark.parametrize("vector", own("signed_note.json")["vectors"])
def test_signed_notes(vector: dict[str, str]) -> None:
    key = VerifierKey.parse(vector["verifier"])
    assert str(key) == vector["verifier"]
    assert parse_note(vector["note"].encode()).verify(key) == vector["text"]
    if vector["signer"]:
        signer = SigningKey.parse(vector["signer"])
        assert signer.verifier == key
        assert signer.private_text() == vector["signer"]
        assert sign_note(vector["text"], signer) == vector["note"]


@pytest.mark.parametrize("vector", cases("bad_verifier_keys.json"))
def test_bad_verifier_keys(vector: dict[str, str]) -> None:
    with pytest.raises(VerificationError) as caught:
        VerifierKey.parse(vector["text"])
    assert caught.value.code == own("bad_verifier_keys.json")["fails_at"]


@pytest.mark.parametrize("vector", cases("bad_notes.json"))
def test_bad_notes(vector: dict[str, str]) -> None:
    key = VerifierKey.parse(own("bad_notes.json")["verifier"])
    with pytest.raises(VerificationError) as caught:
        parse_note(vector["note"].encode()).verify(key)
    assert caught.value.code == vector["fails_at"]


def test_good_checkpoint_and_extension_lines() -> None:
    good = own("bad_checkpoints.json")["good"]
    checkpoint = parse_checkpoint(good)
    assert (checkpoint.origin, checkpoint.size) == ("isthmus.log/bank", 8)
    assert checkpoint.root.hex() == own("rfc6962.json")["roots"][8]
    assert checkpoint.text() == good
    assert parse_checkpoint(good + "an extension\n") == checkpoint


@pytest.mark.parametrize("vector", cases("bad_checkpoints.json"))
def test_bad_checkpoints(vector: dict[str, str]) -> None:
    with pytest.raises(VerificationError) as caught:
        parse_checkpoint(vector["text"])
    assert caught.value.code == own("bad_checkpoints.json")["fails_at"]


def test_a_key_signs_only_for_its_own_log() -> None:
    key = SigningKey("isthmus.log/bank", bytes(32))
    note = sign_note(Checkpoint("isthmus.log/platform", 0, EMPTY_ROOT).text(), key)
    with pytest.raises(VerificationError, match=r"audit\.wrong_origin"):
        verify_checkpoint(note.encode(), key.verifier)


@pytest.mark.parametrize("vector", cases("bad_entries.json"))
def test_bad_entries(vector: dict[str, str]) -> None:
    parse_entry(own("bad_entries.json")["good"].encode())
    with pytest.raises(DataError) as caught:
        parse_entry(vector["line"].encode())
    assert caught.value.code == own("bad_entries.json")["fails_at"]


def put_log(folder: Path, vector: dict[str, str]) -> Path:
    """Write a vector's log, its checkpoint and a policy that names its key; returns the policy."""
    (folder / "log.jsonl").write_bytes(vector["log"].encode())
    if vector["checkpoint"]:
        (folder / "checkpoint").write_bytes(vector["checkpoint"].encode())
    policy = folder / "policy.toml"
    policy.write_text(f'[[log]]\nname = "bank"\nrole = "bank"\nkey = "{own("bad_logs.json")["key"]}"\n')
    return policy


def test_the_bytes_of_a_log(tmp_path: Path) -> None:
    """The format of entries and checkpoints, byte for byte: a change here is a change of the log's version."""
    good = own("bad_logs.json")["good"]
    key = SigningKey("isthmus.log/bank", bytes(range(32)))
    seconds = iter(range(9))
    log = LogWriter.open(tmp_path / "own", key=key, clock=lambda: datetime(2025, 1, 1, 0, 0, next(seconds), tzinfo=UTC))
    log.append("software", version="0.1.0", python="3.11.7", lock_sha256="00" * 32)
    log.append("policy", sha256="11" * 32)
    log.append("commitment", job="22" * 32, what="seed", sha256="33" * 32)
    assert log.checkpoint() == good["checkpoint"]
    log.close()
    assert (tmp_path / "own" / "log.jsonl").read_text() == good["log"]
    assert verify_logs([tmp_path / "log.jsonl"], policy=put_log(tmp_path, good)).exit_status == 2, (
        "whole, but its job has not ended"
    )


@pytest.mark.parametrize("vector", cases("bad_logs.json"))
def test_bad_logs(tmp_path: Path, vector: dict[str, Any]) -> None:
    policy = put_log(tmp_path, vector)
    with pytest.raises(LogRejected) as caught:
        verify_logs([tmp_path], policy=policy)
    assert (caught.value.step, caught.value.code) == (vector["fails_at"], vector["code"])
    assert caught.value.exit_status == vector["exit_status"]
