"""Oblivious transfer in bulk: the extension, its fixed-key hash and the pads of 1-of-N transfers.

Theory of operation.  A *row* is one lookup: the table holder has N words, the index holder wants word v.  For each of the
log2(N) bits of v the IKNP extension (Ishai, Kilian, Nissim, Petrank, "Extending oblivious transfers efficiently", CRYPTO
2003, section 3) gives

    table holder:  K[b, 0] = q            K[b, 1] = q xor s          (s: its 128 base choice bits)
    index holder:  K[b, v_b]              (t, and t = q xor v_b s)

The bits fall into a high and a low half: v = i m + j with i of the high ones and j in [0, m) of the low ones.  Each half has a key
for each of its values, the sum (xor) over its bits b of one block of the stream of K[b, i_b],

    A_i = sum of TMMO(K[b, i_b], tweak(b, i)) over the high bits,      B_j likewise over the low ones

(1-of-m keys from log2(m) transfers: Naor and Pinkas, "Oblivious transfer and polynomial evaluation", STOC 1999, section 3).  Of
each half the index holder knows one key; every other one contains a block under an unknown key that no second one contains, so it
is random to it.  Entry v is masked by word j of the stream of A_i plus word i of the stream of B_j: who lacks one of the two
keys lacks a word that serves no other entry.  That is two words an entry; a stream for each bit would take log2(N).

The stream of key K is made of blocks

    TMMO(K, tweak) = pi(pi(K) xor tweak) xor pi(K)

(Guo, Katz, Wang, Yu, "Efficient and secure multiparty computation from fixed-key block ciphers", IEEE S&P 2020, section 7.4:
tweakable circular correlation robust for a random permutation pi, here AES-128 under a fixed public key), with a tweak that
names session, row, level, half or bit, value and block.  pi(K) is taken once a key.

Everything is a function of keys and inputs, little-endian, without floating point: the same inputs give the same bytes on
every machine.  The functions here do not talk; :mod:`node.protocols.lookup` does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from node.crypto.bit_columns import BLOCK, Bytes, ColumnStreams, Words, transpose_bits
from node.errors import UsageError

ENTRIES_MAX = 256
SESSION_BITS = 32
ROW_BITS = 48

PERMUTATION_KEY = hashlib.sha256(b"isthmus ot fixed-key permutation v1").digest()[:BLOCK]
"""The public key of pi: any constant serves, this one shows that it was not chosen."""

_SUB_BATCH_BYTES = 512 * 2**10
"""Pad blocks made at once: written, encrypted and summed while in a second-level cache of 1 MiB (96 KiB and 1.5 MiB are slower)."""

Table = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class TableShape:
    """The shape of one row's table, and what follows from it.

    Args:
        entries: words in a table, a power of two from 2 to 256.
        width: bytes of a word: 1, 2, 4 or 8.

    Raises:
        UsageError: ``ot.entries``, ``ot.width``.
    """

    entries: int
    width: int

    def __post_init__(self) -> None:
        if not 2 <= self.entries <= ENTRIES_MAX or self.entries & (self.entries - 1):
            raise UsageError(
                "ot.entries",
                f"A lookup table of {self.entries} entries cannot be served.",
                remedy=f"Use a power of two from 2 to {ENTRIES_MAX}.",
            )
        if self.width not in (1, 2, 4, 8):
            raise UsageError("ot.width", f"A table word of {self.width} bytes cannot be served.", remedy="Use 1, 2, 4 or 8 bytes.")

    @property
    def bits(self) -> int:
        """log2(entries): 1-of-2 transfers a row."""
        return self.entries.bit_length() - 1

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Little-endian unsigned words of ``width`` bytes."""
        return np.dtype(f"<u{self.width}")

    @property
    def table_bytes(self) -> int:
        """Bytes of one row's table."""
        return self.entries * self.width

    @property
    def low_values(self) -> int:
        """Values m of the low half of an index's bits; the high half has as many, or twice."""
        return 1 << self.bits // 2

    @property
    def high_values(self) -> int:
        """Values of the high half."""
        return self.entries // self.low_values

    @property
    def pad_width(self) -> int:
        """Bytes of a pad word.  Wider than ``width`` (and cut) where the words of a stream would not fill one block."""
        return max(self.width, BLOCK // self.low_values)

    @property
    def lanes(self) -> int:
        """Pad words in one block."""
        return BLOCK // self.pad_width

    def column_bytes(self, rows: int) -> int:
        """Bytes of one extension column for ``rows`` rows: one bit for each row and index bit."""
        return (rows * self.bits + 7) // 8


# ---- extension --------------------------------------------------------------------------------------------------------------


def choice_bits(indices: NDArray[np.integer], shape: TableShape) -> Bytes:
    """The bits of all indices as one extension column r: bit ``b * rows + row`` is bit b of ``indices[row]``.

    Returns:
        uint8, shape (``shape.column_bytes(rows)``,).
    """
    places = np.arange(shape.bits, dtype=np.int64)[:, None]
    return np.packbits((indices.astype(np.int64) >> places & 1).astype(np.uint8).reshape(-1), bitorder="little")


def extend_choices(zero: ColumnStreams, one: ColumnStreams, choices: Bytes) -> tuple[Bytes, Bytes]:
    """The index holder's half of the extension for one batch.

    Args:
        zero, one: the streams of both keys of every base transfer.
        choices: column r, as :func:`choice_bits` gives it.

    Returns:
        ``(t, u)``: t = G(k0), its own columns, and u = G(k0) xor G(k1) xor r, the columns to send; both uint8, shape
        (128, len(choices)).
    """
    own = zero.read(len(choices))
    sent = one.read(len(choices))
    sent ^= own
    sent ^= choices
    return own, sent


def extend_tables(streams: ColumnStreams, chosen: Bytes, columns: Bytes) -> Bytes:
    """The table holder's half: q = G(k_s) xor s u; uint8, shape (128, m).

    Args:
        streams: of the chosen key of every base transfer.
        chosen: the base choice bits s, uint8 of 0 and 1, shape (128,).
        columns: u as received, uint8, shape (128, m).
    """
    own = streams.read(columns.shape[1])
    own ^= columns & (chosen * np.uint8(255))[:, None]
    return own


def row_keys(columns: Bytes, shape: TableShape, rows: int) -> Words:
    """Extension columns to keys; uint64 halves, shape (bits, rows, 2)."""
    return transpose_bits(columns, shape.bits * rows).view("<u8").reshape(shape.bits, rows, 2)


# ---- hash -------------------------------------------------------------------------------------------------------------------


def permute(blocks: Words) -> Words:
    """pi on every block: AES-128-ECB under the fixed public key; uint64 of any shape whose bytes are whole blocks, C order."""
    out = np.empty(blocks.nbytes + BLOCK, dtype=np.uint8)
    encryptor = Cipher(algorithms.AES(PERMUTATION_KEY), modes.ECB()).encryptor()
    encryptor.update_into(blocks.reshape(-1).view(np.uint8).data, out.data)
    return out[: blocks.nbytes].view("<u8").reshape(blocks.shape)


def row_tweaks(session: int, first: int, rows: int) -> Words:
    """The part of the tweaks that is a row's; shape (rows, 2).

    A tweak is two little-endian 64-bit words: ``stream << 48 | session`` and ``stream << 48 | row`` with ``stream`` of
    :func:`key_streams` or :func:`word_streams`: no two of (session, row, stream) share one.  ``stream`` stands in both so that
    one scalar serves all rows.

    Raises:
        UsageError: ``ot.session_range``, ``ot.rows``.
    """
    check_session(session)
    if first < 0 or rows < 0 or first + rows > 1 << ROW_BITS:
        raise UsageError("ot.rows", f"Rows {first} to {first + rows} are outside the {ROW_BITS} bits that a session counts.")
    tweaks = np.empty((rows, 2), dtype="<u8")
    tweaks[:, 0] = session
    tweaks[:, 1] = np.arange(first, first + rows, dtype=np.uint64)
    return tweaks


def key_streams(bit: int, values: int) -> Words:
    """The part of the tweaks that names a block of a key of the transfers, ``bit << 8 | value``, in place; shape (values,)."""
    return (np.uint64(bit << 8) | np.arange(values, dtype=np.uint64)) << np.uint64(ROW_BITS)


def word_streams(half: int, values: int, blocks: int) -> Words:
    """That of a block of one half's words, ``(8 + half) << 8 | value << 4 | block``, in place; shape (values, blocks)."""
    places = np.arange(values, dtype=np.uint64)[:, None] << np.uint64(4) | np.arange(blocks, dtype=np.uint64)
    return (np.uint64((8 + half) << 8) | places) << np.uint64(ROW_BITS)


def check_session(session: int) -> None:
    """Refuse a session number that the tweaks cannot hold (``ot.session_range``)."""
    if not 0 <= session < 1 << SESSION_BITS:
        raise UsageError("ot.session_range", f"Session {session} is outside [0, 2**{SESSION_BITS}).")


# ---- pads -------------------------------------------------------------------------------------------------------------------


def table_pads(keys: Words, chosen: Bytes, shape: TableShape, *, session: int, first: int) -> Table:
    """The pads of whole tables, at the table holder.

    Costs about 2 (1 + entries / lanes) AES calls a row and those of the keys, in sub-batches that stay in cache.

    Args:
        keys: q, shape (bits, rows, 2), as :func:`row_keys` gives them.
        chosen: the base choice bits s, uint8 of 0 and 1, shape (128,).
        shape: of the tables.
        session, first: session number and number of the first row in it.

    Returns:
        Unsigned words, shape (rows, entries).
    """
    rows = keys.shape[1]
    difference = np.packbits(chosen, bitorder="little").view("<u8")
    pads = np.empty((rows, shape.entries), dtype=shape.dtype)
    step = max(1, _SUB_BATCH_BYTES // (2 * shape.entries * shape.pad_width))
    for start in range(0, rows, step):
        part = keys[:, start : start + step]
        pairs = np.empty((shape.bits, 2, part.shape[1], 2), dtype=np.uint64)
        pairs[:, 0] = part
        np.bitwise_xor(part, difference, out=pairs[:, 1])
        tweaks = row_tweaks(session, first + start, part.shape[1])
        pads[start : start + step] = _tables_of(permute(pairs), tweaks, shape)
    return pads


def _tables_of(hashed: Words, tweaks: Words, shape: TableShape) -> Table:
    """Pads of a sub-batch from pi(K), shape (bits, 2, rows, 2); rows are the inner axis: every sum runs over contiguous words."""
    rows, high, low, lanes = tweaks.shape[0], shape.high_values, shape.low_values, shape.lanes
    split = low.bit_length() - 1
    table = _words_of(_value_keys(hashed[split:], tweaks, split), tweaks, half=1, words=low, shape=shape)
    if low > 1:
        others = _words_of(_value_keys(hashed[:split], tweaks, 0), tweaks, half=0, words=high, shape=shape)
        # table[i, j] is to take others[j, i]; in both the last of their words' two indices is part block, part lane.
        mine = table.reshape(high // lanes, lanes, low // lanes, rows, lanes)
        theirs = others.reshape(low // lanes, lanes, high // lanes, rows, lanes)
        for i in range(lanes):
            for j in range(lanes):
                target = mine[:, i, :, :, j]
                target ^= theirs[:, j, :, :, i].transpose(1, 0, 2)
    blocks = np.ascontiguousarray(table.reshape(-1, rows * lanes).view(f"V{BLOCK}").T)  # (rows, table blocks)
    pads = blocks.view(np.uint8).reshape(rows, shape.entries, shape.pad_width)[:, :, : shape.width]
    return np.ascontiguousarray(pads).view(shape.dtype).reshape(rows, shape.entries)


def _value_keys(hashed: Words, tweaks: Words, lowest: int) -> Words:
    """The keys A_i or B_j of a half whose lowest bit is ``lowest``, from pi(K) of its bits; shape (values, 2 rows)."""
    bits, width = len(hashed), 2 * len(tweaks)
    values = 1 << bits
    streams = np.empty((bits, values, width), dtype=np.uint64)
    parts = [(place, (values >> (place + 1), 2, 1 << place)) for place in range(bits)]  # values above the bit, the bit, below it
    for place, view in parts:
        named = key_streams(lowest + place, values).reshape(*view, 1)
        np.bitwise_xor((hashed[place] ^ tweaks).reshape(1, 2, 1, width), named, out=streams[place].reshape(*view, width))
    streams = permute(streams)
    for place, view in parts:
        own = streams[place].reshape(*view, width)
        own ^= hashed[place].reshape(1, 2, 1, width)
    return np.bitwise_xor.reduce(streams, axis=0)


def _words_of(keys: Words, tweaks: Words, *, half: int, words: int, shape: TableShape) -> Table:
    """The streams of ``words`` words of one half's keys; shape (values, blocks, rows * lanes)."""
    hashed, blocks = permute(keys), words // shape.lanes
    inputs = (hashed ^ tweaks.reshape(-1))[:, None] ^ word_streams(half, len(keys), blocks)[:, :, None]
    streams = permute(inputs)
    streams ^= hashed[:, None]
    return streams.view(f"<u{shape.pad_width}") if shape.lanes > 1 else streams.view(f"V{BLOCK}")


def entry_pads(keys: Words, indices: NDArray[np.integer], shape: TableShape, *, session: int, first: int) -> Table:
    """The pads of the chosen entries, at the index holder; unsigned words, shape (rows,).

    Args:
        keys: t, shape (bits, rows, 2), as :func:`row_keys` gives them.
        indices: the chosen entries, in [0, entries), shape (rows,).
        shape, session, first: as for :func:`table_pads`.
    """
    tweaks = row_tweaks(session, first, keys.shape[1])
    high, low = np.divmod(indices.astype(np.int64), shape.low_values)
    split = shape.low_values.bit_length() - 1
    hashed = permute(np.ascontiguousarray(keys))
    pads = _chosen_words(hashed[split:], tweaks, split, high, low, half=1, words=shape.low_values, shape=shape)
    if split:
        pads ^= _chosen_words(hashed[:split], tweaks, 0, low, high, half=0, words=shape.high_values, shape=shape)
    return pads


def _chosen_words(
    hashed: Words,
    tweaks: Words,
    lowest: int,
    values: NDArray[np.int64],
    places: NDArray[np.int64],
    *,
    half: int,
    words: int,
    shape: TableShape,
) -> Table:
    """Word ``places`` of the stream of the key of ``values``, for each row; unsigned words, shape (rows,)."""
    named = np.stack([key_streams(lowest + bit, 1 << len(hashed))[values] for bit in range(len(hashed))])
    streams = permute((hashed ^ tweaks) ^ named[:, :, None])
    streams ^= hashed
    inner = permute(np.bitwise_xor.reduce(streams, axis=0))
    block, lane = np.divmod(places, shape.lanes)
    named = word_streams(half, 1 << len(hashed), words // shape.lanes)[values, block]
    stream = permute((inner ^ tweaks) ^ named[:, None])
    stream ^= inner
    cut = stream.view(np.uint8).reshape(len(values), shape.lanes, shape.pad_width)[np.arange(len(values)), lane, : shape.width]
    return np.ascontiguousarray(cut).view(shape.dtype).reshape(-1)
