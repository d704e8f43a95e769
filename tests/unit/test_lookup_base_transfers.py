"""The base transfers of a lookup over the fake link: keys, what the replies say, and a link that lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from node.crypto.drbg import Drbg
from node.crypto.packing import ciphertexts_from_bytes, ciphertexts_to_bytes
from node.crypto.paillier import Decryptor, PeerEncryptor
from node.crypto.paillier_keys import SecretKey, generate_key
from node.errors import PeerError
from node.protocols.lookup import base_ots_index_holder, base_ots_table_holder
from protos.peer_pb2 import BandTables, BaseOtChoices, BaseOtReplies, LookupTables
from tests.lookups import changed, example, run_lookup, values
from tests.pair import Outcome, run_pair


def drbg(name: str) -> Drbg:
    return Drbg(bytes(32), job="job", step=name)


@pytest.fixture(scope="module")
def secret_key() -> SecretKey:
    return generate_key(512, drbg("key").stream("key"))


def run_base(secret_key: SecretKey, **tamper: Any) -> Outcome:
    return run_pair(
        lambda ch: base_ots_table_holder(ch, secret_key=secret_key, stream=drbg("table").stream("base")),
        lambda ch: base_ots_index_holder(ch, public_key=secret_key.public, stream=drbg("index").stream("base")),
        timeout=20,
        **tamper,
    )


def test_base_transfers_give_the_chosen_keys(secret_key: SecretKey) -> None:
    outcome = run_base(secret_key)
    table_holder, index_holder = outcome.results()
    assert set(table_holder.choices.tolist()) == {0, 1}
    assert np.array_equal(table_holder.keys, index_holder.keys[table_holder.choices, np.arange(128)])
    other = index_holder.keys[1 - table_holder.choices, np.arange(128)]
    assert not (other == table_holder.keys).all(axis=1).any()
    assert [name for name, _ in outcome.left_sent + outcome.right_sent] == ["BaseOtChoices", "BaseOtReplies"]


def test_replies_decrypt_to_the_chosen_key_and_a_constant(secret_key: SecretKey) -> None:
    """The whole integer is a function of the chosen key and the choice: no carry, no multiple, nothing of the other key."""
    outcome = run_base(secret_key)
    table_holder, _ = outcome.results()
    replies = ciphertexts_from_bytes(values(outcome.right_sent, BaseOtReplies), 128, secret_key.public)
    for choice, key, plain in zip(table_holder.choices, table_holder.keys, Decryptor(secret_key).decrypt(replies), strict=True):
        assert plain == int.from_bytes(key.tobytes(), "little") + int(choice) * 2**128


def test_replies_are_rerandomised(secret_key: SecretKey) -> None:
    """Without fresh randomness the reply would be c^d (1 + k0 N), and d could be tested for."""
    outcome = run_base(secret_key)
    _, index_holder = outcome.results()
    public = secret_key.public
    choices = ciphertexts_from_bytes(values(outcome.left_sent, BaseOtChoices), 128, public)
    replies = ciphertexts_from_bytes(values(outcome.right_sent, BaseOtReplies), 128, public)
    for i in range(128):
        k0, k1 = (int.from_bytes(index_holder.keys[x, i].tobytes(), "little") for x in (0, 1))
        bare = pow(int(choices[i]), k1 - k0 + 2**128, int(public.n_squared)) * (1 + k0 * int(public.n)) % int(public.n_squared)
        assert int(replies[i]) != bare


def test_base_transfers_repeat_byte_for_byte(secret_key: SecretKey) -> None:
    first, second = run_base(secret_key), run_base(secret_key)
    assert first.left_sent == second.left_sent
    assert first.right_sent == second.right_sent


def test_a_reply_that_is_no_key_is_refused(secret_key: SecretKey) -> None:
    def add(index: int, kind: str, payload: bytes) -> list[tuple[str, bytes]]:
        message = BaseOtReplies()
        message.ParseFromString(payload)
        replies = ciphertexts_from_bytes(message.values, 128, secret_key.public)
        stream = drbg("tamper").stream("rerandomise")
        replies = PeerEncryptor(secret_key.public).rerandomise(replies, stream, add=[0] * 100 + [2**200] + [0] * 27)
        message.values = ciphertexts_to_bytes(replies, secret_key.public)
        return [(kind, message.SerializeToString())]

    with pytest.raises(PeerError) as caught:
        run_base(secret_key, tamper_right=add).results()
    assert caught.value.code == "ot.bad_reply"


@pytest.mark.parametrize("side", ["tamper_left", "tamper_right"])
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"first": 1}, "lookup.wrong_position"),
        ({"count": 127}, "lookup.wrong_count"),
        ({"values": b"short"}, "lookup.wrong_length"),
        ({"values": bytes(128 * 128)}, "paillier.ciphertext_range"),
    ],
)
def test_base_transfers_refuse_other_forms(secret_key: SecretKey, side: str, change: dict[str, Any], code: str) -> None:
    kind = BaseOtChoices if side == "tamper_left" else BaseOtReplies
    with pytest.raises(PeerError) as caught:
        run_base(secret_key, **{side: changed(kind, change)}).results()
    assert caught.value.code == code


def test_lookup_after_real_base_transfers(secret_key: SecretKey) -> None:
    pair = run_base(secret_key).results()
    for session, message in ((0, LookupTables), (1, BandTables), (2**32 - 1, LookupTables)):
        tables, indices = example(60, 32, "u4", seed=session)
        outcome = run_lookup(tables, indices, pair=pair, session=session, message=message)
        assert np.array_equal(outcome.results()[1], tables[np.arange(60), indices])
        assert {name for name, _ in outcome.left_sent} == {message.DESCRIPTOR.name}
