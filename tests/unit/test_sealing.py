"""The sealing of relayed frames: fixed vectors from an independent computation, and everything that a relay could do to records."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.receipts import approval_statement, receipt_statement
from audit.signing import SigningKey
from node.errors import IsthmusError
from node.transport import sealing
from node.transport.sealing import Handshake, Kind, Meeting, Opener, Sealer, Side, padded, statement

FRAME_BYTES = 2**20
BANK = SigningKey("isthmus.log/bank", bytes(range(32)))
SHOP = SigningKey("isthmus.log/shop", bytes(range(32, 64)))
STRANGER = SigningKey("isthmus.log/shop", bytes(range(64, 96)))
MEETING = Meeting("ab" * 32, "round", 3, 1, label_holder=Side("bank", BANK.verifier), feature_holder=Side("shop", SHOP.verifier))
LOW_ORDER = [bytes(32), b"\1" + bytes(31), *(
    bytes.fromhex(text) for text in (
        # RFC 7748 names no list; these are the points of order 8 and the non-canonical forms of 0 and 1.
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)]  # fmt: skip


def handshake(me: str, key: SigningKey, meeting: Meeting = MEETING) -> Handshake:
    return Handshake(meeting, me=me, key=key, frame_bytes=FRAME_BYTES)


def session() -> tuple[tuple[Handshake, Sealer, Opener], tuple[Handshake, Sealer, Opener]]:
    bank, shop = handshake("bank", BANK), handshake("shop", SHOP)
    return (bank, *bank.meet(shop.ephemeral)), (shop, *shop.meet(bank.ephemeral))


def one_way() -> tuple[Sealer, Opener]:
    (_, sealer, _), (_, _, opener) = session()
    return sealer, opener


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(IsthmusError) as error:
        call()
    return error.value.code


def test_both_sides_prove_themselves_and_read_each_other() -> None:
    (bank, to_shop, from_shop), (shop, to_bank, from_bank) = session()
    shop.check(from_bank, to_shop.seal(Kind.PROOF, bank.proof()))
    bank.check(from_shop, to_bank.seal(Kind.PROOF, shop.proof()))
    for sealer, opener in ((to_shop, from_bank), (to_bank, from_shop)):
        (record,) = sealer.frame(b"a frame")
        assert opener.take(record) == (Kind.FRAME, b"a frame")
        assert opener.take(sealer.seal(Kind.END)) == (Kind.END, b"")


def _by_hand(monkeypatch: pytest.MonkeyPatch) -> tuple[Sealer, bytes, bytes, bytes]:
    """A session from fixed ephemeral keys, and the same keys by RFC 5869's formulas and json.dumps, not the libraries used."""
    secrets = [X25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (7, 9)]
    remaining = iter(secrets)
    with monkeypatch.context() as patch:
        patch.setattr(sealing.X25519PrivateKey, "generate", lambda: next(remaining))
        bank, shop = handshake("bank", BANK), handshake("shop", SHOP)
    sealer, _ = bank.meet(shop.ephemeral)
    document = {
        "attempt": 1,
        "feature_holder": {"ephemeral": shop.ephemeral.hex(), "log_key": str(SHOP.verifier), "name": "shop"},
        "job": "ab" * 32,
        "kind": "isthmus.relay.session",
        "label_holder": {"ephemeral": bank.ephemeral.hex(), "log_key": str(BANK.verifier), "name": "bank"},
        "round": 3,
        "step": "round",
        "v": 1,
    }
    digest = hashlib.sha256(json.dumps(document, separators=(",", ":"), sort_keys=True).encode()).digest()
    shared = secrets[0].exchange(secrets[1].public_key())
    extracted = hmac.digest(digest, shared, "sha256")
    info = b"isthmus relay v1: label holder to feature holder, feature holder to label holder"
    first = hmac.digest(extracted, info + b"\1", "sha256")
    second = hmac.digest(extracted, first + info + b"\2", "sha256")
    return sealer, digest, first, second


def test_keys_and_records_are_those_of_the_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    sealer, digest, forth, _ = _by_hand(monkeypatch)
    records = [sealer.seal(Kind.PROOF, b"p" * 64), *sealer.frame(b"hello"), sealer.seal(Kind.END)]
    plain = [b"\1\0\0\0\x40" + b"p" * 64, b"\3\0\0\0\5hello", b"\4\0\0\0\0"]
    for number, (record, content) in enumerate(zip(records, plain, strict=True)):
        nonce = bytes(11) + bytes([number])
        assert ChaCha20Poly1305(forth).decrypt(nonce, record, None) == content + bytes(256 - len(content))
    signed = (
        f'{{"attempt":1,"from":"bank","job":"{"ab" * 32}","kind":"isthmus.relay","role":"label_holder","round":3,"step":"round",'
        f'"to":"shop","transcript":"{digest.hex()}","v":1}}'
    )
    assert statement(MEETING, "bank", digest) == signed.encode()


def test_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written down once, so that a later version that speaks differently is noticed."""
    vectors = json.loads((Path(__file__).parents[1] / "vectors" / "relay_sealing.json").read_text())
    sealer, digest, forth, back = _by_hand(monkeypatch)
    assert {
        "transcript": digest.hex(),
        "label_holder_to_feature_holder": forth.hex(),
        "feature_holder_to_label_holder": back.hex(),
        "first_record_of_hello_sha256": hashlib.sha256(b"".join(sealer.frame(b"hello"))).hexdigest(),
        "label_holder_proof": BANK.sign(statement(MEETING, "bank", digest)).hex(),
    } == vectors["expected"]


def test_the_statement_is_like_nothing_else_the_log_key_signs() -> None:
    mine = json.loads(statement(MEETING, "bank", bytes(32)))
    receipt = json.loads(receipt_statement(job="ab" * 32, step="round", round=3, attempt=1, digest=bytes(32)))
    approval = json.loads(approval_statement(job="ab" * 32, party="bank", peer="shop", decision="approve", by="a", time="t"))
    assert len({mine["kind"], receipt["kind"], approval["kind"]}) == 3
    assert not statement(MEETING, "bank", bytes(32)).startswith((b"isthmus.log/", b"cosignature/"))


@pytest.mark.parametrize(
    "change",
    [
        {"job": "ac" * 32},
        {"step": "align"},
        {"round": 4},
        {"attempt": 2},
        {"label_holder": Side("bank", STRANGER.verifier)},
        {"label_holder": Side("bunk", BANK.verifier)},
        {"label_holder": MEETING.feature_holder, "feature_holder": MEETING.label_holder},
    ],
)
def test_two_nodes_that_disagree_have_different_keys(change: dict[str, object]) -> None:
    bank = handshake("bank", BANK)
    other = replace(MEETING, **change)
    shop = handshake("shop", SHOP, other)
    to_shop, _ = bank.meet(shop.ephemeral)
    _, from_bank = shop.meet(bank.ephemeral)
    assert refused(lambda: shop.check(from_bank, to_shop.seal(Kind.PROOF, bank.proof()))) == "relay.wrong_identity"


def test_a_coordinator_in_the_middle_has_no_proof_to_show() -> None:
    """It substitutes the X25519 keys and has a session of its own with each side, but no signature over either."""
    # towards the platform it plays the bank, and hears the platform's proof of that session
    shop, as_bank = handshake("shop", SHOP), handshake("bank", STRANGER)
    shop_says, _ = shop.meet(as_bank.ephemeral)
    _, hears_shop = as_bank.meet(shop.ephemeral)
    shop_proof = hears_shop.open(shop_says.seal(Kind.PROOF, shop.proof()))[1]
    # towards the bank it plays the platform, and hears the bank's
    bank, as_shop = handshake("bank", BANK), handshake("shop", STRANGER)
    bank_says, bank_hears = bank.meet(as_shop.ephemeral)
    says_to_bank, hears_bank = as_shop.meet(bank.ephemeral)
    bank_proof = hears_bank.open(bank_says.seal(Kind.PROOF, bank.proof()))[1]
    for kind, proof in [
        (Kind.PROOF, shop_proof),
        (Kind.PROOF, bank_proof),  # reflected
        (Kind.PROOF, as_shop.proof()),
        (Kind.PROOF, bytes(64)),
        (Kind.PROOF, b""),
        (Kind.FRAME, shop_proof),
    ]:
        record = says_to_bank.seal(kind, proof)
        assert refused(lambda record=record: bank.check(bank_hears, record)) == "relay.wrong_identity"


def test_a_proof_of_another_session_is_refused() -> None:
    """Recorded in one room and replayed in another: the statement names both fresh keys."""
    (_, _, _), (shop, _, _) = session()
    bank, again = handshake("bank", BANK), handshake("shop", SHOP)
    _, hears = bank.meet(again.ephemeral)
    says, _ = again.meet(bank.ephemeral)
    assert refused(lambda: bank.check(hears, says.seal(Kind.PROOF, shop.proof()))) == "relay.wrong_identity"
    bank.check(hears, says.seal(Kind.PROOF, again.proof()))


@pytest.mark.parametrize("key", [*LOW_ORDER, b"", bytes(31), bytes(range(33))])
def test_keys_that_are_none_are_refused(key: bytes) -> None:
    assert refused(lambda: handshake("bank", BANK).meet(key)) == "relay.bad_key"


def test_a_key_sent_back_is_refused_and_a_handshake_serves_once() -> None:
    bank = handshake("bank", BANK)
    assert refused(lambda: bank.meet(bank.ephemeral)) == "relay.bad_key"
    assert refused(lambda: bank.meet(handshake("shop", SHOP).ephemeral)) == "relay.met_twice"


# ---- records


FRAMES = [b"first", b"second" * 100, b"", b"x" * 300_000, b"last"]


def sealed_stream() -> tuple[list[bytes], Opener]:
    sealer, opener = one_way()
    records = [record for frame in FRAMES for record in sealer.frame(frame)]
    return [*records, sealer.seal(Kind.END)], opener


def read(records: list[bytes], opener: Opener) -> Iterator[bytes]:
    """The frames until the end; raises what the opener raises, IndexError where the records stop before the end."""
    for record in records:
        kind, content = opener.take(record)
        if kind is Kind.END:
            return
        if kind is Kind.FRAME:
            yield content
    raise IndexError("truncated")


def test_frames_come_out_as_they_went_in() -> None:
    records, opener = sealed_stream()
    assert list(read(records, opener)) == FRAMES
    assert [len(record) - 16 for record in records] == [256, 1024, 256, 262144, 65536, 256, 256]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_the_relay_does_the_frames_before_it_are_right_and_none_after(data: st.DataObject) -> None:
    records, opener = sealed_stream()
    changed = list(records)
    what = data.draw(st.sampled_from(["flip", "repeat", "swap", "drop", "shorten", "lengthen", "invent", "cut"]))
    at = data.draw(st.integers(0, len(records) - 1))
    if what == "flip":
        bit = data.draw(st.integers(0, 8 * len(records[at]) - 1))
        number = int.from_bytes(records[at], "little") ^ (1 << bit)
        changed[at] = number.to_bytes(len(records[at]), "little")
    elif what == "repeat":
        at = data.draw(st.integers(0, len(records) - 2))  # after the end nothing is read
        changed.insert(at, records[data.draw(st.integers(0, len(records) - 1))])
    elif what == "swap":
        other = data.draw(st.integers(0, len(records) - 1).filter(lambda n: n != at))
        changed[at], changed[other] = changed[other], changed[at]
    elif what == "drop":
        del changed[at]
    elif what == "shorten":
        changed[at] = records[at][: data.draw(st.integers(0, len(records[at]) - 1))]
    elif what == "lengthen":
        changed[at] = records[at] + data.draw(st.binary(min_size=1, max_size=40))
    elif what == "invent":
        changed.insert(at, data.draw(st.binary(max_size=400)))
    else:
        del changed[at:]
    got: list[bytes] = []
    with pytest.raises((IsthmusError, IndexError)) as error:
        got.extend(read(changed, opener))
    if isinstance(error.value, IsthmusError):
        assert error.value.code == "relay.bad_seal"
    else:
        assert what in ("cut", "drop")  # nothing follows that could be noticed: the missing end is
        assert at == len(records) - 1 or what == "cut"
    assert got == FRAMES[: len(got)]


def test_own_records_sent_back_do_not_open() -> None:
    (_, sealer, opener), _ = session()
    assert refused(lambda: opener.take(sealer.seal(Kind.FRAME, b"mine"))) == "relay.bad_seal"


def test_records_of_another_session_do_not_open() -> None:
    records, _ = sealed_stream()
    _, opener = one_way()
    assert refused(lambda: opener.take(records[0])) == "relay.bad_seal"


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        b"\3\0\0",
        b"\3\0\0\0\1a",  # not padded
        b"\3\0\0\0\1a".ljust(512, b"\0"),  # padded too far
        b"\3\0\0\0\1a".ljust(255, b"\0") + b"x",  # something in the padding
        b"\3\0\0\1\0".ljust(256, b"\0"),  # longer than what is there
        b"\5\0\0\0\1a".ljust(256, b"\0"),  # no kind
        b"\0\0\0\0\1a".ljust(256, b"\0"),
        b"\2\0\0\0\1a".ljust(256, b"\0"),  # a part that is not full
        b"\1\0\0\0\1a".ljust(256, b"\0"),  # a proof where a frame is due
        b"\4\0\0\0\1a".ljust(256, b"\0"),  # an end that says something
    ],
)
def test_a_peer_that_seals_nonsense_is_refused(plain: bytes) -> None:
    key = bytes(range(32))
    opener = Opener(key, peer="shop", frame_bytes=FRAME_BYTES)
    record = ChaCha20Poly1305(key).encrypt(bytes(12), plain, None)
    assert refused(lambda: opener.take(record)) == "relay.malformed"


def test_an_end_in_the_middle_of_a_frame_or_a_record_after_the_end_is_refused() -> None:
    sealer, opener = one_way()
    first, _ = sealer.frame(b"x" * 300_000)
    assert opener.take(first) == (Kind.PART, b"")
    sealer._next = 1  # the peer leaves out its own second half
    assert refused(lambda: opener.take(sealer.seal(Kind.END))) == "relay.malformed"
    sealer, opener = one_way()
    opener.take(sealer.seal(Kind.END))
    assert refused(lambda: opener.take(sealer.seal(Kind.FRAME, b"more"))) == "relay.malformed"


def test_a_frame_over_the_limit_is_refused_before_it_is_whole() -> None:
    sealer, opener = one_way()
    records = sealer.frame(bytes(FRAME_BYTES + 2**19))
    assert [opener.take(next(records))[0] for _ in range(4)] == [Kind.PART] * 4
    assert refused(lambda: opener.take(next(records))) == "transport.oversized"


def test_numbers_run_out_rather_than_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "RECORDS_MAX", 2)
    sealer, _ = one_way()
    records = [sealer.seal(Kind.FRAME, b"same") for _ in range(2)]
    assert records[0] != records[1]
    assert refused(lambda: sealer.seal(Kind.FRAME, b"same")) == "relay.exhausted"


@given(st.integers(1, sealing.RECORD_BYTES))
def test_sizes_fall_into_few_classes(length: int) -> None:
    size = padded(length)
    assert length <= size <= sealing.RECORD_BYTES
    assert size < 2 * length or size == 256
    assert size in {256 << n for n in range(9)} | {65536 * n for n in range(1, 5)}
    assert padded(size) == size


def test_nothing_prints_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    sealer, _, forth, back = _by_hand(monkeypatch)
    texts = [repr(thing) + str(thing) for thing in (sealer, handshake("bank", BANK), *session()[0])]
    for secret in (forth, back, BANK.private_text().encode()):
        assert not any(secret.hex() in text or repr(secret) in text for text in texts)
