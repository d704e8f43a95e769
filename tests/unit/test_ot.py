"""Oblivious transfer in bulk, against block-by-block references and plain bits."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from node.crypto import ot
from node.crypto.bit_columns import ColumnStreams, transpose_bits
from node.errors import UsageError

SHAPES = [ot.TableShape(entries, width) for entries in (2, 4, 8, 16, 32, 64, 128, 256) for width in (1, 2, 4, 8)]
CHI_SQUARED_255 = 375.0
"""255 degrees of freedom: exceeded with chance below 2e-6."""


def chi_squared(data: bytes | np.ndarray) -> float:
    counts = np.bincount(np.frombuffer(bytes(data), dtype=np.uint8), minlength=256)
    expected = counts.sum() / 256
    return float(((counts - expected) ** 2 / expected).sum())


def aes(key: bytes, block: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return encryptor.update(block) + encryptor.finalize()


def xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def reference_hash(key: bytes, session: int, row: int, stream: int) -> bytes:
    """TMMO, one block at a time."""
    stream <<= 48
    tweak = (stream | session).to_bytes(8, "little") + (stream | row).to_bytes(8, "little")
    inner = aes(ot.PERMUTATION_KEY, key)
    return xor(aes(ot.PERMUTATION_KEY, xor(inner, tweak)), inner)


def reference_pad(keys: dict[tuple[int, int], bytes], shape: ot.TableShape, session: int, row: int, entry: int) -> int:
    """The pad of one entry, from the text of the module and nothing of its code."""
    low = shape.bits // 2
    high_value, low_value = divmod(entry, 2**low)
    wide, pad = max(shape.width, 16 // 2**low), 0
    for half, bits, value, word in ((1, range(low, shape.bits), high_value, low_value), (0, range(low), low_value, high_value)):
        if not bits:
            continue
        key = bytes(16)
        for bit in bits:
            key = xor(key, reference_hash(keys[bit, entry >> bit & 1], session, row, bit << 8 | value))
        block, lane = divmod(word * wide, 16)
        stream = reference_hash(key, session, row, (8 + half) << 8 | value << 4 | block)
        pad ^= int.from_bytes(stream[lane : lane + shape.width], "little")
    return pad


def random_keys(shape: ot.TableShape, rows: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2**64, (shape.bits, rows, 2), dtype=np.uint64), rng.integers(0, 2, 128, dtype=np.uint8)


@pytest.mark.parametrize("rows", [1, 7, 8, 63, 64, 65, 200, 1000])
def test_transpose_against_plain_bits(rows: int) -> None:
    columns = np.random.default_rng(rows).integers(0, 256, (128, (rows + 7) // 8), dtype=np.uint8)
    plain = np.unpackbits(columns, axis=1, bitorder="little").T[:rows]
    assert np.array_equal(transpose_bits(columns, rows), np.packbits(plain, axis=1, bitorder="little"))


def test_permutation_is_aes_block_by_block() -> None:
    blocks = np.random.default_rng(2).integers(0, 2**64, (3, 5, 2), dtype=np.uint64)
    expected = b"".join(aes(ot.PERMUTATION_KEY, block.tobytes()) for block in blocks.reshape(-1, 2))
    assert ot.permute(blocks).tobytes() == expected


def test_column_streams_are_aes_counter_mode() -> None:
    keys = np.random.default_rng(3).integers(0, 256, (128, 16), dtype=np.uint8)
    read = ColumnStreams(keys, session=0x01020304).read(40)
    for column in (0, 77, 127):
        counters = [bytes(4) + b"\x01\x02\x03\x04" + block.to_bytes(8, "big") for block in range(3)]
        assert read[column].tobytes() == b"".join(aes(keys[column].tobytes(), counter) for counter in counters)[:40]


def test_column_streams_never_repeat() -> None:
    keys = np.random.default_rng(4).integers(0, 256, (128, 16), dtype=np.uint8)
    streams = ColumnStreams(keys, session=5)
    parts = [streams.read(count) for count in (16, 5, 11, 32)]
    whole = ColumnStreams(keys, session=5).read(64)
    assert np.array_equal(np.concatenate(parts, axis=1), whole)
    pieces = [ColumnStreams(keys, session=session).read(64) for session in (0, 1, 2**31, 2**32 - 1)] + [whole]
    blocks = [part[i, j : j + 16].tobytes() for part in pieces for i in range(128) for j in range(0, 64, 16)]
    assert len(set(blocks)) == len(blocks)


@pytest.mark.parametrize(("entries", "rows"), [(2, 1), (2, 9), (16, 5), (64, 33), (256, 70)])
def test_extension_gives_keys_that_differ_by_the_choice(entries: int, rows: int) -> None:
    rng = np.random.default_rng(entries)
    shape = ot.TableShape(entries, 8)
    pairs = rng.integers(0, 256, (2, 128, 16), dtype=np.uint8)
    chosen = rng.integers(0, 2, 128, dtype=np.uint8)
    indices = rng.integers(0, entries, rows)
    own, sent = ot.extend_choices(
        ColumnStreams(pairs[0], session=1), ColumnStreams(pairs[1], session=1), ot.choice_bits(indices, shape)
    )
    mine = ColumnStreams(pairs[chosen, np.arange(128)], session=1)
    assert sent.shape == (128, shape.column_bytes(rows))
    q = ot.row_keys(ot.extend_tables(mine, chosen, sent), shape, rows)
    t = ot.row_keys(own, shape, rows)
    difference = int.from_bytes(np.packbits(chosen, bitorder="little").tobytes(), "little")
    for bit, row in itertools.product(range(shape.bits), range(rows)):
        both = int.from_bytes(q[bit, row].tobytes(), "little") ^ int.from_bytes(t[bit, row].tobytes(), "little")
        assert both == (difference if indices[row] >> bit & 1 else 0)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.entries}x{s.width}")
def test_pads_against_the_reference(shape: ot.TableShape) -> None:
    rows, session, first = 3, 2**32 - 1, 2**40 + 5
    keys, chosen = random_keys(shape, rows)
    difference = np.packbits(chosen, bitorder="little").tobytes()
    pads = ot.table_pads(keys, chosen, shape, session=session, first=first)
    assert pads.shape == (rows, shape.entries)
    assert pads.dtype == shape.dtype
    for row in range(rows):
        both = {(b, x): xor(keys[b, row].tobytes(), difference if x else bytes(16)) for b in range(shape.bits) for x in (0, 1)}
        for entry in {0, 1, shape.entries // 2, shape.entries - 1, (37 * row + 11) % shape.entries}:
            assert int(pads[row, entry]) == reference_pad(both, shape, session, first + row, entry)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.entries}x{s.width}")
def test_chosen_entry_and_no_other_is_unmasked(shape: ot.TableShape) -> None:
    rows = 40
    keys, chosen = random_keys(shape, rows, seed=6)
    indices = np.random.default_rng(7).integers(0, shape.entries, rows)
    difference = np.packbits(chosen, bitorder="little").view("<u8")
    mine = keys ^ (indices >> np.arange(shape.bits)[:, None] & 1).astype(np.uint64)[:, :, None] * difference
    pads = ot.table_pads(keys, chosen, shape, session=1, first=100)
    # All entries the index holder could unmask if it used its keys for an index it did not choose.
    for shift in range(min(shape.entries, 8)):
        wanted = (indices + shift) % shape.entries
        agree = ot.entry_pads(mine, wanted, shape, session=1, first=100) == pads[np.arange(rows), wanted]
        assert agree.all() if shift == 0 else agree.sum() <= rows // (2 if shape.width == 1 else 10)


def test_sub_batches_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = ot.TableShape(32, 4)
    keys, chosen = random_keys(shape, 50)
    whole = ot.table_pads(keys, chosen, shape, session=9, first=3)
    monkeypatch.setattr(ot, "_SUB_BATCH_BYTES", 7 * 2 * shape.entries * shape.pad_width)
    assert np.array_equal(ot.table_pads(keys, chosen, shape, session=9, first=3), whole)
    tail = ot.table_pads(keys[:, 20:], chosen, shape, session=9, first=23)
    assert np.array_equal(tail, whole[20:])


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.entries}x{s.width}")
def test_tweaks_are_unique(shape: ot.TableShape) -> None:
    low, high, split = shape.low_values, shape.high_values, shape.bits // 2
    streams = [ot.key_streams(bit, low if bit < split else high) for bit in range(shape.bits)]
    streams += [ot.word_streams(1, high, low // shape.lanes).ravel()]
    streams += [ot.word_streams(0, low, high // shape.lanes).ravel()] if split else []
    named = np.concatenate(streams)
    seen = [
        (ot.row_tweaks(session, first, 3)[:, None] ^ named[None, :, None]).reshape(-1, 2)
        for session in (0, 1, 2**32 - 1)
        for first in (0, 2**32 - 1, 2**48 - 3)
    ]
    tweaks = {row.tobytes() for part in seen for row in part}
    assert len(tweaks) == 9 * 3 * len(named)
    assert high * low == shape.entries
    assert named.max() < 10 << 56


def test_no_pad_repeats_over_rows_sessions_and_entries() -> None:
    # The same keys for every row and session, so that the tweaks alone have to tell them apart.
    shape = ot.TableShape(64, 8)
    keys, chosen = random_keys(shape, 1)
    same = np.repeat(keys, 50, axis=1)
    pads = np.concatenate([ot.table_pads(same, chosen, shape, session=s, first=f) for s in (1, 2) for f in (0, 50)])
    assert len(np.unique(pads)) == pads.size == 4 * 50 * 64


@pytest.mark.parametrize("shape", [ot.TableShape(64, 8), ot.TableShape(32, 1), ot.TableShape(2, 2)], ids=str)
def test_pads_are_uniform(shape: ot.TableShape) -> None:
    keys, chosen = random_keys(shape, 1)
    same = np.repeat(keys, 40_000 // shape.table_bytes + 1, axis=1)
    assert chi_squared(ot.table_pads(same, chosen, shape, session=1, first=0).tobytes()) < CHI_SQUARED_255


def test_pads_are_the_published_ones() -> None:
    """Own vector: a change of tweaks, bit order, hash or key breaks talk between versions, and must be seen."""
    shape = ot.TableShape(64, 8)
    keys = np.frombuffer(hashlib.shake_128(b"keys").digest(6 * 10 * 16), dtype="<u8").reshape(6, 10, 2)
    chosen = np.unpackbits(np.frombuffer(hashlib.shake_128(b"chosen").digest(16), dtype=np.uint8))
    pads = ot.table_pads(keys, chosen, shape, session=7, first=1000)
    assert hashlib.sha256(pads.tobytes()).hexdigest() == "d98787b4873b2fcbb6b8148268cf1056a54601b75eba78d9642da20cde558656"
    indices = np.arange(10) * 6
    assert (
        hashlib.sha256(ot.entry_pads(keys, indices, shape, session=7, first=1000).tobytes()).hexdigest()
        == "15f492b6c2235ee9aa305ed9b15ae70e93c22a1d64a826f5f6c7c9f8ad22b25a"
    )
    assert ot.PERMUTATION_KEY.hex() == hashlib.sha256(b"isthmus ot fixed-key permutation v1").hexdigest()[:32]


@pytest.mark.parametrize("entries", [0, 1, 3, 63, 512, -2])
def test_entries_must_be_a_power_of_two(entries: int) -> None:
    with pytest.raises(UsageError) as caught:
        ot.TableShape(entries, 8)
    assert caught.value.code == "ot.entries"


@pytest.mark.parametrize("width", [0, 3, 16, -1])
def test_width_must_be_a_machine_word(width: int) -> None:
    with pytest.raises(UsageError) as caught:
        ot.TableShape(64, width)
    assert caught.value.code == "ot.width"


def test_sessions_and_rows_have_bounds() -> None:
    for session in (-1, 2**32):
        with pytest.raises(UsageError) as caught:
            ot.row_tweaks(session, 0, 1)
        assert caught.value.code == "ot.session_range"
    for first in (-1, 2**48):
        with pytest.raises(UsageError) as caught:
            ot.row_tweaks(0, first, 1)
        assert caught.value.code == "ot.rows"


def test_streams_print_no_secret() -> None:
    assert repr(ColumnStreams(np.zeros((128, 16), dtype=np.uint8), session=1)) == "ColumnStreams(<secret>)"
