"""The random streams: an independent derivation, separation of labels, ranges, uniformity, and silence."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections import Counter

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from node.crypto.drbg import Drbg, Stream
from node.errors import UsageError

SEED = bytes(range(32))


def make(seed: bytes = SEED, *, job: str = "job", step: str = "align", round: int = 0, attempt: int = 0) -> Drbg:
    return Drbg(seed, job=job, step=step, round=round, attempt=attempt)


def derived(seed: bytes, labels: list[str], count: int) -> bytes:
    """RFC 5869 by hmac alone and AES-CTR by single blocks: what a stream must hold."""
    info = b"isthmus drbg v1" + b"".join(struct.pack(">I", len(label.encode())) + label.encode() for label in labels)
    extracted = hmac.new(bytes(32), seed, hashlib.sha256).digest()
    key = hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return b"".join(block.update(i.to_bytes(16, "big")) for i in range(-(-count // 16)))[:count]


def test_a_stream_is_hkdf_and_aes_ctr() -> None:
    drbg = make(job="jöb", step="round", round=3, attempt=12)
    assert drbg.stream("mask").bytes(1000) == derived(SEED, ["jöb", "round", "3", "12", "mask"], 1000)


def test_the_bytes_never_change() -> None:
    """A replay of an old job needs today's bytes for ever."""
    assert make().stream("psi.scalar").bytes(32).hex() == "820f51a2321af5f9069e1127074ce25e377a5cb5628a69f7cc51a42ca51835e0"


def test_every_label_separates() -> None:
    variants = [
        make(),
        make(bytes(32)),
        make(job="jo", step="balign"),
        make(step="prepare"),
        make(round=1),
        make(attempt=1),
        make(round=1, attempt=1),
    ]
    outputs = {drbg.stream("a").bytes(32) for drbg in variants} | {make().stream("b").bytes(32)}
    assert len(outputs) == len(variants) + 1


def test_a_purpose_opens_once() -> None:
    drbg = make()
    drbg.stream("a")
    drbg.stream("b")
    with pytest.raises(UsageError) as caught:
        drbg.stream("a")
    assert caught.value.code == "drbg.reused"


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_seed_has_32_bytes(length: int) -> None:
    with pytest.raises(UsageError) as caught:
        Drbg(bytes(length), job="j", step="s")
    assert caught.value.code == "drbg.seed"


def test_reading_in_parts_is_reading_at_once() -> None:
    whole = make().stream("a").bytes(100)
    parts = make().stream("a")
    assert b"".join(parts.bytes(n) for n in (1, 0, 15, 17, 67)) == whole


def test_integers_are_little_endian_and_in_range() -> None:
    raw = make().stream("a").bytes(24)
    assert make().stream("a").uint64(3).tolist() == [int.from_bytes(raw[i : i + 8], "little") for i in (0, 8, 16)]
    assert make().stream("a").uint64((2, 5)).shape == (2, 5)
    assert make().stream("a").bits(20) == int.from_bytes(raw[:3], "little") & 0xFFFFF
    many, single = make().stream("a"), make().stream("a")
    assert many.bits_many(50, 13) == [single.bits(13) for _ in range(50)]


def test_numbers_below_a_bound_are_uniform() -> None:
    stream = make().stream("a")
    counts = Counter(stream.below(5) for _ in range(5000))
    assert set(counts) == set(range(5))
    assert chi_squared([counts[i] for i in range(5)]) < 25  # 4 degrees of freedom: chance below 1e-4
    assert stream.below(1) == 0
    assert all(stream.below(2**64 + 1) <= 2**64 for _ in range(20))
    with pytest.raises(UsageError) as caught:
        stream.below(0)
    assert caught.value.code == "drbg.bound"


def test_permutations_are_uniform() -> None:
    stream = make().stream("a")
    counts = Counter(tuple(stream.permutation(4).tolist()) for _ in range(4800))
    assert len(counts) == 24
    assert all(sorted(p) == [0, 1, 2, 3] for p in counts)
    assert chi_squared(list(counts.values())) < 60  # 23 degrees of freedom: chance below 1e-4
    large = stream.permutation(1000)
    assert large.dtype == np.int64
    assert sorted(large.tolist()) == list(range(1000))


def test_bytes_are_uniform() -> None:
    data = np.frombuffer(make().stream("a").bytes(1 << 16), dtype=np.uint8)
    assert chi_squared(np.bincount(data, minlength=256).tolist()) < 390  # 255 degrees of freedom


def test_nothing_prints_a_secret() -> None:
    drbg = make()
    stream = drbg.stream("a")
    for shown in (repr(drbg), str(drbg), f"{drbg}", repr(stream), str(stream), f"{stream}"):
        assert SEED.hex() not in shown.lower()
        assert "secret" in shown


def test_a_stream_is_of_its_key() -> None:
    assert Stream(bytes(32)).bytes(16) != Stream(bytes(31) + b"\x01").bytes(16)


def chi_squared(counts: list[int]) -> float:
    mean = sum(counts) / len(counts)
    return sum((count - mean) ** 2 for count in counts) / mean
