"""What a node binds itself to before it speaks: its rows, by salted Merkle roots, and the key of a job.

A root is that of an RFC 6962 tree with one leaf a row::

    leaf data  = tag || SHA-256(description) || salt of the row (32 bytes) || row in canonical form
    row's salt = HMAC-SHA256(salt of the attempt, row number in 8 bytes, big-endian)

The description is canonical JSON (RFC 8785) and says what the fields of a row are.  A row's own salt lets its owner open that row
to an auditor, with an inclusion proof, and shows nothing of the others, however few values they can have.

**Data set as loaded** (tag ``isthmus dataset row v1`` and a zero byte), rows in the order of the source::

    label (1 byte: 0, 1, or 255 where there is none) || each number: IEEE 754 double, little-endian, NaN as 7ff8000000000000
    || field(identifier as the source has it) || for each key of the job: field(value as the source has it)
    || for each category: field(level)

with ``field(x)`` = length of x in 4 bytes, big-endian, then x in UTF-8; numbers and categories each in the order of the job's
features.

**Encoded aligned rows** (tag ``isthmus encoded row v1`` and a zero byte), training rows first, then those held out, each part in
the common order::

    0 for training, 1 for held out (1 byte) || label (as above) || each column: int32, little-endian
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import rfc8785
from numpy.typing import NDArray

from audit.merkle import Frontier
from node.config import ColumnConfig
from node.data.encoding import Encoded
from node.data.load import Table
from node.errors import DataError

SALT_BYTES = 32
_DATASET_TAG = b"isthmus dataset row v1\x00"
_ENCODED_TAG = b"isthmus encoded row v1\x00"
_NO_LABEL = 255
_NAN = np.array([0x7FF8000000000000], dtype="<u8").view("<f8")[0]
_CHUNK = 1 << 12  # rows made into bytes at a time


def row_salt(salt: bytes, row: int) -> bytes:
    """The salt of one row (32 bytes): what opens that row's leaf and no other."""
    return hmac.digest(salt, struct.pack(">Q", row), "sha256")


def salted_root(rows: Iterable[bytes], *, tag: bytes, description: bytes, salt: bytes) -> str:
    """The Merkle root (hex) over rows in canonical form.

    Raises:
        DataError: ``data.salt`` for a salt shorter than 32 bytes.
    """
    if len(salt) < SALT_BYTES:
        raise DataError("data.salt", f"A commitment's salt has at least {SALT_BYTES} bytes, not {len(salt)}.")
    head = tag + hashlib.sha256(description).digest()
    tree = Frontier()
    for number, row in enumerate(rows):
        tree.append(head + row_salt(salt, number) + row)
    return tree.root().hex()


def dataset_root(
    table: Table, features: Sequence[str], declared: dict[str, ColumnConfig], *, salt: bytes, keys: Sequence[str] = ()
) -> str:
    """The root over the rows of a data set as loaded.

    Args:
        table: the loaded data set.
        features: names of the job's features, in its order.
        declared: how each column is declared in node.toml, the label's among them: it is part of the description.
        salt: at least 32 secret random bytes.
        keys: names of the job's keys, in its order; part of the description where there are any.

    Returns:
        64 hexadecimal digits.

    Raises:
        DataError: ``data.salt``.
    """
    description = rfc8785.dumps(
        {
            "features": list(features),
            "declared": {name: column.model_dump(mode="json") for name, column in declared.items()},
            "label": table.label is not None,
            **({"keys": list(keys)} if keys else {}),
        }
    )
    return salted_root(dataset_rows(table, features), tag=_DATASET_TAG, description=description, salt=salt)


def dataset_rows(table: Table, features: Sequence[str]) -> Iterator[bytes]:
    """The rows of a data set in canonical form, see the module."""
    numbers = [table.columns[name] for name in features if name not in table.levels]
    categories = [
        (table.columns[name], [_field(level) for level in table.levels[name]]) for name in features if name in table.levels
    ]
    labels = _label_column(table.label, len(table.raw_identifiers))
    for first in range(0, len(labels), _CHUNK):
        part = slice(first, first + _CHUNK)
        fixed = [labels[part].reshape(-1, 1)]
        for column in numbers:
            chunk = column[part]
            values = np.where(np.isnan(chunk), _NAN, chunk).astype("<f8")
            fixed.append(np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8))
        block = np.concatenate(fixed, axis=1)
        width, data = block.shape[1], block.tobytes()
        coded = [([levels[code] for code in codes[part].tolist()]) for codes, levels in categories]
        keys = [key[part] for key in table.raw_keys]
        for place, identifier in enumerate(table.raw_identifiers[part]):
            row = data[place * width : (place + 1) * width] + _field(identifier)
            row += b"".join([_field(key[place]) for key in keys])
            yield row + b"".join([texts[place] for texts in coded]) if coded else row


def encoded_root(encoded: Encoded, label: NDArray[np.int8] | None, label_holdout: NDArray[np.int8] | None, *, salt: bytes) -> str:
    """The root over the encoded aligned rows, training rows first.

    Args:
        encoded: both matrices, int32 (rows, columns).
        label: 0 and 1 of the training rows, ``label_holdout`` of those held out; None at the feature holder.
        salt: at least 32 secret random bytes.

    Returns:
        64 hexadecimal digits.

    Raises:
        DataError: ``data.salt``.
    """
    description = rfc8785.dumps({"columns": [column.name for column in encoded.columns]})

    def rows() -> Iterator[bytes]:
        for split, matrix, labels in ((0, encoded.train, label), (1, encoded.holdout, label_holdout)):
            head = np.empty((len(matrix), 2), dtype=np.uint8)
            head[:, 0], head[:, 1] = split, _label_column(labels, len(matrix))
            for first in range(0, len(matrix), _CHUNK):
                part = slice(first, first + _CHUNK)
                values = np.ascontiguousarray(matrix[part], dtype="<i4").view(np.uint8).reshape(len(matrix[part]), -1)
                block = np.concatenate([head[part], values], axis=1)
                width, data = block.shape[1], block.tobytes()
                yield from (data[start : start + width] for start in range(0, len(data), width))

    return salted_root(rows(), tag=_ENCODED_TAG, description=description, salt=salt)


def key_digest(modulus: int, h_s: int, *, bits: int) -> str:
    """SHA-256 (hex) over a Paillier key: modulus in bits / 8 bytes, then h_s in bits / 4 bytes, big-endian."""
    return hashlib.sha256(int(modulus).to_bytes(bits // 8) + int(h_s).to_bytes(bits // 4)).hexdigest()


def _label_column(label: NDArray[np.int8] | None, rows: int) -> NDArray[np.uint8]:
    return np.full(rows, _NO_LABEL, dtype=np.uint8) if label is None else label.astype(np.uint8)


def _field(text: str) -> bytes:
    # A lone surrogate, which some sources let through, is no UTF-8; it is refused later, and committed to as it is.
    data = text.encode("utf-8", "surrogatepass")
    return struct.pack(">I", len(data)) + data
