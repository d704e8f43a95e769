"""Lookup: the table holder has a table for every row, the index holder takes its one entry of each (protocols.md, section 4).

    index holder                                             table holder
                                 base transfers, once a job
                  <-- BaseOtChoices: Enc(s_i), i < 128 ------  s: 128 secret bits
      k0, k1: 128 key pairs
                  --- BaseOtReplies: Enc(k0 + s_i d) ------->  k_s, one key of each pair
                                 for each batch of rows
      r: index bits
                  --- OtColumns: G(k0) xor G(k1) xor r ----->  q = G(k_s) xor s u, transposed: both keys of each index bit
      t = G(k0), transposed: its key of each index bit
                  <-- LookupTables: table xor pads ----------
      entry = word[index] xor its pads

The index holder sends the columns of the next batch before it reads the tables of this one, so both sides work at the same
time; never more than one batch ahead, so memory is bounded (the link must hold a message of each direction at once).  What
crosses: u, uniform to the table holder, who knows only one of the two streams; tables of which the index holder can unmask one
entry a row.  What the entries mean (shares, bands) is the caller's business.

Semi-honest model.  A table holder that encrypts something other than bits, or an index holder whose columns hold different
choices, is not noticed here but by an audit replay.  :mod:`node.crypto.ot` has the theory, the hash and the sources.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gmpy2
import numpy as np
from numpy.typing import NDArray

from audit.layout import BASE_OTS
from node.crypto.bit_columns import BLOCK, Bytes, ColumnStreams, Words
from node.crypto.drbg import Stream
from node.crypto.ot import (
    Table,
    TableShape,
    check_session,
    choice_bits,
    entry_pads,
    extend_choices,
    extend_tables,
    row_keys,
    table_pads,
)
from node.crypto.packing import ciphertexts_from_bytes, ciphertexts_to_bytes
from node.crypto.paillier import Decryptor, OwnerEncryptor, PeerEncryptor
from node.crypto.paillier_keys import PublicKey, SecretKey
from node.errors import DataError, PeerError, UsageError
from node.limits import LIMITS, Limits
from node.protocols.channel import Channel, Progress, silent
from protos.peer_pb2 import BaseOtChoices, BaseOtReplies, OtColumns

_KEY_RANGE = 1 << (8 * BLOCK)
_ENVELOPE_BYTES = 64
"""Room for the fields of a batch beside its values."""


# ---- holders ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TableHolder:
    """What the table holder keeps of the base transfers, for all lookups of a job.

    Attributes:
        choices: its secret bits s, uint8 of 0 and 1, shape (128,).
        keys: the key of each pair that s chose, uint8, shape (128, 16).
        sessions: numbers of the sessions served so far.
    """

    choices: Bytes = field(repr=False)
    keys: Bytes = field(repr=False)
    sessions: set[int] = field(default_factory=set, repr=False)

    def open(self, session: int) -> ColumnStreams:
        """The streams of a session, which must be a new one (``ot.session_reused``, ``ot.session_range``)."""
        _claim(self.sessions, session)
        return ColumnStreams(self.keys, session=session)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """For storage beside the node's other secrets."""
        return {"choices": self.choices, "keys": self.keys, "sessions": _sessions_array(self.sessions)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> TableHolder:
        """Inverse of :meth:`to_arrays` (``ot.stored_keys``)."""
        choices = _stored(arrays, "choices", np.uint8, (BASE_OTS,))
        if choices.max() > 1:
            raise _damaged("choices")
        return cls(choices, _stored(arrays, "keys", np.uint8, (BASE_OTS, BLOCK)), _stored_sessions(arrays))


@dataclass(frozen=True, eq=False)
class IndexHolder:
    """What the index holder keeps of the base transfers, for all lookups of a job.

    Attributes:
        keys: both keys of every pair, uint8, shape (2, 128, 16).
        sessions: numbers of the sessions used so far.
    """

    keys: Bytes = field(repr=False)
    sessions: set[int] = field(default_factory=set, repr=False)

    def open(self, session: int) -> tuple[ColumnStreams, ColumnStreams]:
        """The streams of both keys for a session, which must be a new one (``ot.session_reused``, ``ot.session_range``)."""
        _claim(self.sessions, session)
        return ColumnStreams(self.keys[0], session=session), ColumnStreams(self.keys[1], session=session)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """For storage beside the node's other secrets."""
        return {"keys": self.keys, "sessions": _sessions_array(self.sessions)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> IndexHolder:
        """Inverse of :meth:`to_arrays` (``ot.stored_keys``)."""
        return cls(_stored(arrays, "keys", np.uint8, (2, BASE_OTS, BLOCK)), _stored_sessions(arrays))


def _claim(used: set[int], session: int) -> None:
    # Two sets of columns from one stream would show the table holder the difference of the index holder's choices.
    check_session(session)
    if session in used:
        raise UsageError(
            "ot.session_reused",
            f"Lookup session {session} was used before with these keys.",
            remedy="Give every lookup a session number of its own; a step that is run again takes the next one.",
        )
    used.add(session)


def _sessions_array(sessions: set[int]) -> NDArray[np.uint64]:
    return np.array(sorted(sessions), dtype=np.uint64)


def _stored(arrays: dict[str, NDArray[Any]], name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    array = arrays.get(name)
    if array is None or array.dtype != dtype or array.shape != shape:
        raise _damaged(name)
    return np.ascontiguousarray(array)


def _stored_sessions(arrays: dict[str, NDArray[Any]]) -> set[int]:
    array = arrays.get("sessions")
    if array is None or array.dtype != np.uint64 or array.ndim != 1:
        raise _damaged("sessions")
    return {int(session) for session in array}


def _damaged(name: str) -> DataError:
    return DataError(
        "ot.stored_keys",
        f"The stored keys of the base transfers are damaged: {name!r} is missing or has another form.",
        remedy="Run the job's prepare step again.",
    )


# ---- base transfers -----------------------------------------------------------------------------------------------------------


def base_ots_table_holder(ch: Channel, *, secret_key: SecretKey, stream: Stream) -> TableHolder:
    """Choose one key of each of the peer's 128 pairs (the sender of the extension is the receiver of its base transfers).

    Args:
        secret_key: this party's own Paillier key, of at least 256 bits.
        stream: for the choices and the encryptions.

    Raises:
        PeerError: ``ot.bad_reply``, ``lookup.wrong_*``, ``paillier.ciphertext_*``.
    """
    public = secret_key.public
    choices = np.unpackbits(np.frombuffer(stream.bytes(BASE_OTS // 8), dtype=np.uint8), bitorder="little")
    bits = choices.tolist()
    encrypted = OwnerEncryptor(secret_key).encrypt(bits, stream)
    ch.send(BaseOtChoices(first=0, count=BASE_OTS, values=ciphertexts_to_bytes(encrypted, public)))
    values = _receive(ch, BaseOtReplies, first=0, count=BASE_OTS, length=BASE_OTS * public.ciphertext_bytes)
    replies = Decryptor(secret_key).decrypt(ciphertexts_from_bytes(values, BASE_OTS, public))
    # An honest reply is k0, or k1 + 2**128: its top bit repeats the choice.
    if any(int(reply) >> (8 * BLOCK) != bit for reply, bit in zip(replies, bits, strict=True)):
        raise PeerError("ot.bad_reply", "A reply of the base transfers is not a key.", remedy="Both nodes must run one version.")
    keys = b"".join((int(reply) % _KEY_RANGE).to_bytes(BLOCK, "little") for reply in replies)
    return TableHolder(choices, np.frombuffer(keys, dtype=np.uint8).reshape(BASE_OTS, BLOCK).copy())


def base_ots_index_holder(ch: Channel, *, public_key: PublicKey, stream: Stream) -> IndexHolder:
    """Offer 128 pairs of keys, of each of which the peer learns one.

    The reply for choice s is an encryption of ``k0 + s d`` with ``d = k1 - k0 + 2**128``: as integers (far below the
    modulus, so nothing wraps) that is k0 or k1 + 2**128, which tells nothing of the other key.  With d reduced modulo 2**128
    the sum would carry or not depending on whether k1 < k0, which tells of both.  d is positive, so no inverse is taken; the
    re-randomisation hides it in the ciphertext's randomness.

    Args:
        public_key: the peer's, checked.
        stream: for the keys and the re-randomisation.

    Raises:
        PeerError: ``lookup.wrong_*``, ``paillier.ciphertext_*``.
    """
    keys = np.frombuffer(stream.bytes(2 * BASE_OTS * BLOCK), dtype=np.uint8).reshape(2, BASE_OTS, BLOCK).copy()
    zero, one = ([int.from_bytes(key.tobytes(), "little") for key in half] for half in keys)
    values = _receive(ch, BaseOtChoices, first=0, count=BASE_OTS, length=BASE_OTS * public_key.ciphertext_bytes)
    choices = ciphertexts_from_bytes(values, BASE_OTS, public_key)
    products = [gmpy2.powmod(c, k1 - k0 + _KEY_RANGE, public_key.n_squared) for c, k0, k1 in zip(choices, zero, one, strict=True)]
    replies = PeerEncryptor(public_key).rerandomise(products, stream, add=zero)
    ch.send(BaseOtReplies(first=0, count=BASE_OTS, values=ciphertexts_to_bytes(replies, public_key)))
    return IndexHolder(keys)


# ---- lookups ----------------------------------------------------------------------------------------------------------------


def serve_tables(
    ch: Channel,
    holder: TableHolder,
    *,
    session: int,
    rows: int,
    entries: int,
    width: int,
    tables: Callable[[int, int], NDArray[np.unsignedinteger]],
    message: type[Any],
    limits: Limits = LIMITS,
    progress: Progress = silent,
) -> None:
    """Serve one table a row; the peer learns one entry of each and this party nothing.

    Args:
        session: a number never used before with ``holder``, in [0, 2**32).
        rows: number of tables; both parties must name the same.
        entries: words in a table, a power of two from 2 to 256.
        width: bytes of a word: 1, 2, 4 or 8.
        tables: ``tables(first, count)`` gives the tables of rows ``first`` to ``first + count``: unsigned integers of
            ``width`` bytes, shape (count, entries).  Called once for each batch, in order.
        message: type of the answers: ``LookupTables`` or ``BandTables``.

    Raises:
        UsageError: ``ot.session_reused``, ``ot.session_range``, ``ot.entries``, ``ot.width``, ``lookup.rows``, ``lookup.batch``,
            ``lookup.table_shape``.
        PeerError: ``lookup.wrong_position``, ``lookup.wrong_count``, ``lookup.wrong_length``.
    """
    shape = TableShape(entries, width)
    batch = _batch_rows(shape, rows, limits)
    streams = holder.open(session)
    for first in range(0, rows, batch):
        count = min(batch, rows - first)
        size = shape.column_bytes(count)
        values = _receive(ch, OtColumns, first=first, count=count, length=BASE_OTS * size)
        columns = np.frombuffer(values, dtype=np.uint8).reshape(BASE_OTS, size)
        keys = row_keys(extend_tables(streams, holder.choices, columns), shape, count)
        masked = table_pads(keys, holder.choices, shape, session=session, first=first)
        masked ^= _table_words(tables(first, count), shape, count)
        ch.send(message(first=first, count=count, values=masked.tobytes()))
        progress("lookup", first + count, rows)


def fetch_entries(
    ch: Channel,
    holder: IndexHolder,
    *,
    session: int,
    indices: NDArray[np.integer],
    entries: int,
    width: int,
    message: type[Any],
    limits: Limits = LIMITS,
    progress: Progress = silent,
) -> NDArray[np.unsignedinteger]:
    """Take entry ``indices[row]`` of the peer's table of every row; the peer learns nothing.

    Args:
        session: a number never used before with ``holder``, in [0, 2**32); the same as the peer's.
        indices: integers in [0, entries), shape (rows,).
        entries, width, message: as for :func:`serve_tables`.

    Returns:
        Unsigned integers of ``width`` bytes, shape (rows,).

    Raises:
        UsageError: ``ot.session_reused``, ``ot.session_range``, ``ot.entries``, ``ot.width``, ``lookup.batch``, ``lookup.indices``,
            ``lookup.index_range``.
        PeerError: ``lookup.wrong_position``, ``lookup.wrong_count``, ``lookup.wrong_length``.
    """
    shape = TableShape(entries, width)
    _check_indices(indices, shape)
    rows = len(indices)
    batch = _batch_rows(shape, rows, limits)
    zero, one = holder.open(session)

    def request(first: int) -> Words:
        part = indices[first : first + batch]
        own, sent = extend_choices(zero, one, choice_bits(part, shape))
        ch.send(OtColumns(first=first, count=len(part), values=sent.tobytes()))
        return row_keys(own, shape, len(part))

    fetched = np.empty(rows, dtype=shape.dtype)
    waiting = deque([request(0)] if rows else [])
    for first in range(0, rows, batch):
        part = indices[first : first + batch]
        if first + batch < rows:
            waiting.append(request(first + batch))
        entry = entry_pads(waiting.popleft(), part, shape, session=session, first=first)
        values = _receive(ch, message, first=first, count=len(part), length=len(part) * shape.table_bytes)
        words = np.frombuffer(values, dtype=shape.dtype)
        entry ^= words[np.arange(len(part), dtype=np.int64) * shape.entries + part.astype(np.int64)]
        fetched[first : first + batch] = entry
        progress("lookup", first + len(part), rows)
    return fetched


def _batch_rows(shape: TableShape, rows: int, limits: Limits) -> int:
    """Rows in one message: as many as ``lookup_batch`` and ``message_bytes`` allow; both sides compute the same."""
    if rows < 0:
        raise UsageError("lookup.rows", f"{rows} rows cannot be looked up.")
    # The columns of a row take 16 bytes for each index bit: less than its table, but for short and narrow ones.
    room = limits.message_bytes - _ENVELOPE_BYTES - BASE_OTS
    batch = min(limits.lookup_batch, room // max(shape.table_bytes, BLOCK * shape.bits))
    if batch < 1:
        raise UsageError(
            "lookup.batch",
            f"A table of {shape.table_bytes} bytes does not fit a message of {limits.message_bytes}.",
            remedy="Raise the limit message_bytes or lookup_batch, or use fewer entries.",
        )
    return batch


def _check_indices(indices: NDArray[np.integer], shape: TableShape) -> None:
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
        raise UsageError("lookup.indices", f"Indices must be one row of integers, not {indices.dtype} of shape {indices.shape}.")
    if len(indices) and (indices.min() < 0 or indices.max() >= shape.entries):
        raise UsageError("lookup.index_range", f"An index is outside the table of {shape.entries} entries.")


def _table_words(words: NDArray[np.unsignedinteger], shape: TableShape, count: int) -> Table:
    if words.shape != (count, shape.entries) or words.dtype.newbyteorder("<") != shape.dtype:
        raise UsageError(
            "lookup.table_shape",
            f"Tables of shape {words.shape} and type {words.dtype}; expected {(count, shape.entries)} and {shape.dtype}.",
        )
    return words.astype(shape.dtype, copy=False)


def _receive(ch: Channel, kind: type[Any], *, first: int, count: int, length: int) -> bytes:
    """The values of the next message, which must be the one both sides expect here."""
    message = ch.recv(kind)
    for what, expected, received in (
        ("position", first, message.first),
        ("count", count, message.count),
        ("length", length, len(message.values)),
    ):
        if received != expected:
            raise PeerError(
                f"lookup.wrong_{what}",
                f"{kind.DESCRIPTOR.name}: the {what} is {received}, expected {expected}.",
                remedy="Both nodes must run the same version with the same limits.",
            )
    return bytes(message.values)
