"""Cosignatures and witnesses: byte-exact against the format's own words, and every way a log may fail to continue."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.checkpoint import Checkpoint, parse_note, sign_checkpoint, verify_checkpoint
from audit.cosignature import cosign, verify_cosignature, with_cosignature
from audit.errors import DataError, UsageError, VerificationError
from audit.merkle import Frontier, TreeHashes, leaf_hash, verify_consistency, verify_inclusion
from audit.record import LogWriter
from audit.signing import SigningKey
from audit.witness import Refused, Witness

BANK = SigningKey("isthmus.log/bank", bytes(range(32)))
PLATFORM = SigningKey("isthmus.log/platform", bytes(range(1, 33)))
NOW = 1_760_000_000


def clock() -> datetime:
    return datetime.fromtimestamp(NOW, UTC)


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return Witness(tmp_path, key=PLATFORM, clock=clock)


def tree(*leaves: bytes) -> TreeHashes:
    hashes = TreeHashes()
    for leaf in leaves:
        hashes.append(leaf)
    return hashes


def note(hashes: TreeHashes, key: SigningKey = BANK) -> bytes:
    return sign_checkpoint(Checkpoint(key.name, hashes.size, hashes.root()), key).encode()


# ---- the format ----------------------------------------------------------------------


def test_a_cosignature_is_what_the_format_says() -> None:
    """Built again from the words of C2SP tlog-cosignature with nothing but a hash and Ed25519."""
    text = "isthmus.log/bank\n42\nqINS1GRFhWHwdkUeqLEoP4yEMkTBBzxBkGwGQlVlVcs=\n"
    line = cosign(text, PLATFORM, time=1679315147)
    assert line.startswith("— isthmus.log/platform ")
    assert line.endswith("\n")
    data = base64.b64decode(line.split(" ")[2])
    public = PLATFORM.verifier.public
    assert data[:4] == hashlib.sha256(b"isthmus.log/platform\n\x04" + public).digest()[:4]
    assert data[4:12] == struct.pack(">Q", 1679315147)
    Ed25519PublicKey.from_public_bytes(public).verify(data[12:], f"cosignature/v1\ntime 1679315147\n{text}".encode())


def test_the_published_example_parses_and_its_key_id_is_told_apart() -> None:
    """The note of C2SP tlog-cosignature: a log's signature and a witness's; its keys are not published, its form is."""
    published = (
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
        "— example.com/behind-the-sofa "
        "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
        "— witness.example.com/w1 "
        "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
    )
    log, witness = parse_note(published.encode()).signatures
    assert (len(log.signature), len(witness.signature)) == (64, 72)
    assert struct.unpack(">Q", witness.signature[:8])[0] == 1679315147


def test_cosignatures_are_added_replaced_and_checked() -> None:
    hashes = tree(b"a", b"b")
    signed = note(hashes)
    text = parse_note(signed).text
    once = with_cosignature(signed, cosign(text, PLATFORM, time=5), PLATFORM.verifier)
    again = with_cosignature(once, cosign(text, PLATFORM, time=9), PLATFORM.verifier)
    assert len(parse_note(again).signatures) == 2
    assert verify_cosignature(parse_note(again), PLATFORM.verifier).time == 9
    assert verify_checkpoint(again, BANK.verifier).size == 2
    assert again.startswith(signed)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (lambda text: cosign(text + "x\n", PLATFORM, time=5), "audit.bad_signature"),
        (lambda text: cosign(text, BANK, time=5), "audit.not_cosigned"),
        (lambda text: cosign(text, PLATFORM, time=5) + cosign(text, BANK, time=5), "audit.bad_note"),
        (lambda text: "— isthmus.log/platform AAAA\n", "audit.bad_note"),
        (lambda text: cosign(text, PLATFORM, time=5)[:-2] + "\n", "audit.bad_note"),
        (lambda text: "nothing\n", "audit.bad_note"),
    ],
)
def test_nothing_but_a_right_cosignature_is_added(line: Callable[[str], str], code: str) -> None:
    signed = note(tree(b"a"))
    with pytest.raises(VerificationError) as caught:
        with_cosignature(signed, line(parse_note(signed).text), PLATFORM.verifier)
    assert caught.value.code == code


def test_a_changed_time_breaks_a_cosignature() -> None:
    signed = note(tree(b"a"))
    text = parse_note(signed).text
    data = bytearray(base64.b64decode(cosign(text, PLATFORM, time=5).split(" ")[2]))
    data[11] ^= 1
    forged = f"— {PLATFORM.name} {base64.b64encode(bytes(data)).decode()}\n"
    with pytest.raises(VerificationError) as caught:
        verify_cosignature(parse_note(signed + forged.encode()), PLATFORM.verifier)
    assert caught.value.code == "audit.bad_signature"


# ---- the tree that proves ----------------------------------------------------------------------


def _head(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + _head(leaves[:split]) + _head(leaves[split:])).digest()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 150), st.data())
def test_stored_hashes_prove_any_two_sizes(size: int, data: st.DataObject) -> None:
    leaves = [bytes([i % 251, i // 251]) for i in range(size)]
    hashes = tree(*leaves)
    new = data.draw(st.integers(1, size))
    old, index = data.draw(st.integers(0, new)), data.draw(st.integers(0, new - 1))
    proof = hashes.consistency(old, new)
    verify_consistency(old=old, new=new, old_root=_head(leaves[:old]), new_root=_head(leaves[:new]), proof=proof)
    path = hashes.inclusion(index, new)
    verify_inclusion(index=index, size=new, leaf=leaf_hash(leaves[index]), proof=path, root=_head(leaves[:new]))
    assert hashes.root() == _head(leaves)


def test_many_leaves_cross_the_buffer_and_a_subtree_that_is_not_there_is_refused() -> None:
    hashes, frontier = TreeHashes(), Frontier()
    for number in range(10_000):
        hashes.append(str(number).encode())
        frontier.append(str(number).encode())
    assert hashes.root() == frontier.root()
    assert hashes.subtree(0, 10_000) == frontier.root()
    with pytest.raises(UsageError) as caught:
        hashes.subtree(8192, 16384)
    assert caught.value.code == "merkle.range"


# ---- the witness ----------------------------------------------------------------------


def test_a_log_that_grows_is_cosigned_each_time(witness: Witness, tmp_path: Path) -> None:
    hashes, old = TreeHashes(), 0
    for size in (1, 2, 5, 5, 9, 64, 65):
        while hashes.size < size:
            hashes.append(str(hashes.size).encode())
        answer = witness.cosign(note(hashes), key=BANK.verifier, old_size=old, proof=hashes.consistency(old))
        assert answer.size == size
        kept = (tmp_path / "witness" / "bank").read_bytes()
        assert verify_checkpoint(kept, BANK.verifier) == Checkpoint(BANK.name, size, hashes.root())
        assert verify_cosignature(parse_note(kept), PLATFORM.verifier).time == NOW
        assert kept.decode().endswith(answer.line)
        old = size


def test_a_proof_from_another_size_is_answered_with_the_size_kept(witness: Witness) -> None:
    hashes = tree(b"a", b"b", b"c")
    witness.cosign(note(hashes), key=BANK.verifier, old_size=0, proof=[])
    hashes.append(b"d")
    answer = witness.cosign(note(hashes), key=BANK.verifier, old_size=2, proof=hashes.consistency(2))
    assert (answer.size, answer.line) == (3, "")
    assert witness.cosign(note(hashes), key=BANK.verifier, old_size=3, proof=hashes.consistency(3)).line


def _refused(witness: Witness, shown: TreeHashes, proof: list[bytes], tmp_path: Path, old: int = 4) -> Refused:
    before = (tmp_path / "witness" / "bank").read_bytes()
    with pytest.raises(Refused) as caught:
        witness.cosign(note(shown), key=BANK.verifier, old_size=old, proof=proof)
    assert (tmp_path / "witness" / "bank").read_bytes() == before, "nothing is stored"
    return caught.value


@pytest.mark.parametrize(
    ("shown", "code"),
    [
        ((b"a", b"b", b"c"), "witness.rolled_back"),
        ((), "witness.rolled_back"),
        ((b"a", b"b", b"c", b"D"), "witness.forked"),
        ((b"a", b"b", b"c", b"D", b"e"), "witness.forked"),
        ((b"A", b"b", b"c", b"d", b"e", b"f", b"g", b"h", b"i"), "witness.forked"),
    ],
)
def test_a_log_rolled_back_or_forked_is_refused_with_both_checkpoints(
    witness: Witness, tmp_path: Path, shown: tuple[bytes, ...], code: str
) -> None:
    honest = tree(b"a", b"b", b"c", b"d")
    witness.cosign(note(honest), key=BANK.verifier, old_size=0, proof=[])
    other = tree(*shown)
    proof = other.consistency(4) if other.size > 4 else []
    refused = _refused(witness, other, proof, tmp_path)
    assert refused.code == code
    assert (refused.of, refused.kept.size, refused.shown.size) == ("bank", 4, len(shown))
    for root in (honest.root(), other.root()):
        assert root.hex() in refused.message
    honest.append(b"e")
    assert witness.cosign(note(honest), key=BANK.verifier, old_size=4, proof=honest.consistency(4)).line, "honesty is taken back"


@pytest.mark.parametrize("fault", ["a hash changed", "a hash missing", "a hash more"])
def test_a_proof_that_does_not_hold_is_refused(witness: Witness, tmp_path: Path, fault: str) -> None:
    honest = tree(b"a", b"b", b"c", b"d")
    witness.cosign(note(honest), key=BANK.verifier, old_size=0, proof=[])
    for leaf in (b"e", b"f", b"g"):
        honest.append(leaf)
    proof = honest.consistency(4)
    wrong = {"a hash changed": [bytes(32), *proof[1:]], "a hash missing": proof[:-1], "a hash more": [*proof, bytes(32)]}[fault]
    assert _refused(witness, honest, wrong, tmp_path).code == "witness.forked"


@pytest.mark.parametrize("who", ["another key", "another log"])
def test_only_the_logs_own_checkpoints_are_cosigned(witness: Witness, tmp_path: Path, who: str) -> None:
    thief = SigningKey(BANK.name, bytes(32)) if who == "another key" else PLATFORM
    with pytest.raises(VerificationError) as caught:
        witness.cosign(note(tree(b"a"), thief), key=BANK.verifier, old_size=0, proof=[])
    assert caught.value.code == "audit.not_signed"
    assert not (tmp_path / "witness").exists()


def test_it_stores_before_it_answers_and_remembers_after_a_restart(witness: Witness, tmp_path: Path) -> None:
    first, second = tree(b"a"), tree(b"a", b"b")
    with (
        mock.patch("audit.witness.write_atomic", side_effect=OSError(28, "No space left on device")),
        pytest.raises(DataError) as full,
    ):
        witness.cosign(note(second), key=BANK.verifier, old_size=0, proof=[])
    assert full.value.code == "witness.unwritable"
    assert witness.kept(BANK.verifier) is None, "what was not stored was not answered"
    witness.cosign(note(second), key=BANK.verifier, old_size=0, proof=[])
    again = Witness(tmp_path, key=PLATFORM, clock=clock)
    with pytest.raises(Refused) as caught:
        again.cosign(note(first), key=BANK.verifier, old_size=0, proof=[])
    assert caught.value.code == "witness.rolled_back"


def test_a_damaged_memory_cosigns_nothing(witness: Witness, tmp_path: Path) -> None:
    witness.cosign(note(tree(b"a")), key=BANK.verifier, old_size=0, proof=[])
    (tmp_path / "witness" / "bank").write_bytes(b"rubbish")
    with pytest.raises(DataError) as caught:
        witness.cosign(note(tree(b"a", b"b")), key=BANK.verifier, old_size=0, proof=[])
    assert caught.value.code == "witness.unreadable"


# ---- the log that is cosigned ----------------------------------------------------------------------


def test_a_log_proves_itself_and_keeps_cosignatures(tmp_path: Path) -> None:
    log = LogWriter.open(tmp_path / "log", key=BANK, clock=clock)
    witness = Witness(tmp_path / "other", key=PLATFORM, clock=clock)
    (tmp_path / "other").mkdir()
    old = 0
    for _ in range(3):
        log.append("software", version="1")
        log.append("policy", sha256="00")
        signed = log.checkpoint()
        answer = witness.cosign(signed.encode(), key=BANK.verifier, old_size=old, proof=log.consistency(old, log.size))
        log.add_cosignature(answer.size, answer.line, PLATFORM.verifier)
        old = answer.size
    for name in ("checkpoint", "checkpoints/000000000006"):
        assert verify_cosignature(parse_note((tmp_path / "log" / name).read_bytes()), PLATFORM.verifier)
    with pytest.raises(DataError) as caught:
        log.add_cosignature(5, answer.line, PLATFORM.verifier)
    assert caught.value.code == "log.no_checkpoint"
    with pytest.raises(VerificationError):
        log.add_cosignature(4, answer.line, PLATFORM.verifier)
    log.close()
    again = LogWriter.open(tmp_path / "log", key=BANK, clock=clock)
    again.append("software", version="2")
    again.checkpoint()
    proof = again.consistency(6, 7)
    assert witness.cosign((tmp_path / "log" / "checkpoint").read_bytes(), key=BANK.verifier, old_size=6, proof=proof).line
    again.close()
