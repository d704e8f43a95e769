"""What a node binds itself to: the tree and the rows by hand, openings of single rows, and what any change does to a root."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from dataclasses import replace

import numpy as np
import pytest

from audit.merkle import inclusion_proof, leaf_hash, root_of, verify_inclusion
from node.config import ColumnConfig
from node.data.commitment import dataset_root, dataset_rows, encoded_root, key_digest, row_salt
from node.data.encoding import Encoded, EncodedColumn
from node.data.load import Table
from node.errors import DataError

SALT = bytes(range(32))
FEATURES = ("income", "region", "age")
DECLARED = {
    "income": ColumnConfig(kind="number", missing="mean"),
    "region": ColumnConfig(kind="category"),
    "age": ColumnConfig(kind="number"),
    "late": ColumnConfig(kind="label"),
}
TABLE = Table(
    identifiers=["ann", "bo", "çem"],
    raw_identifiers=["Ann", "Bo", "Çem"],
    columns={
        "income": np.array([1.5, np.nan, -0.0]),
        "region": np.array([1, 0, 1], dtype=np.int32),
        "age": np.array([40.0, 41.0, 42.0]),
    },
    levels={"region": ["south", "north"]},
    label=np.array([1, 0, 1], dtype=np.int8),
    duplicates=0,
    rows_read=3,
)


def field(text: str) -> bytes:
    return struct.pack(">I", len(text.encode())) + text.encode()


def tree(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, as it stands there."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + tree(leaves[:k]) + tree(leaves[k:])).digest()


def leaves_by_hand() -> list[bytes]:
    missing = {"encoding": None, "positive": None, "missing": "refuse"}
    description = json.dumps(
        {
            "declared": {
                "age": {**missing, "kind": "number"},
                "income": {**missing, "kind": "number", "missing": "mean"},
                "late": {**missing, "kind": "label"},
                "region": {**missing, "kind": "category"},
            },
            "features": ["income", "region", "age"],
            "label": True,
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode()
    rows = [
        b"\x01" + struct.pack("<dd", 1.5, 40.0) + field("Ann") + field("north"),
        b"\x00" + bytes.fromhex("000000000000f87f") + struct.pack("<d", 41.0) + field("Bo") + field("south"),
        b"\x01" + struct.pack("<dd", -0.0, 42.0) + field("Çem") + field("north"),
    ]
    head = b"isthmus dataset row v1\x00" + hashlib.sha256(description).digest()
    salts = [hmac.new(SALT, struct.pack(">Q", number), hashlib.sha256).digest() for number in range(3)]
    return [head + salt + row for salt, row in zip(salts, rows, strict=True)]


def test_the_root_of_a_data_set_by_hand() -> None:
    assert dataset_root(TABLE, FEATURES, DECLARED, salt=SALT) == tree(leaves_by_hand()).hex()


def test_one_row_opens_without_the_others() -> None:
    leaves = leaves_by_hand()
    hashes = [leaf_hash(leaf) for leaf in leaves]
    proof = inclusion_proof(1, 3, lambda first, last: root_of(hashes[first:last]))
    opened = leaves[1][: -len(row_salt(SALT, 1)) - len(list(dataset_rows(TABLE, FEATURES))[1])]
    shown = opened + row_salt(SALT, 1) + list(dataset_rows(TABLE, FEATURES))[1]
    root = bytes.fromhex(dataset_root(TABLE, FEATURES, DECLARED, salt=SALT))
    verify_inclusion(index=1, size=3, leaf=leaf_hash(shown), proof=proof, root=root)
    assert len({row_salt(SALT, number) for number in range(3)}) == 3


def test_any_change_of_the_data_gives_another_root() -> None:
    def column(name: str, values: list[float]) -> Table:
        kind = TABLE.columns[name].dtype
        return replace(TABLE, columns=TABLE.columns | {name: np.array(values, dtype=kind)})

    changed = [
        column("income", [np.nextafter(1.5, 2), np.nan, -0.0]),
        column("income", [1.5, np.nan, 0.0]),
        column("region", [1, 1, 1]),
        replace(TABLE, levels={"region": ["south", "nortH"]}),
        replace(TABLE, raw_identifiers=["Ann", "Bo", "Cem"]),
        replace(TABLE, label=np.array([1, 1, 1], dtype=np.int8)),
        replace(TABLE, label=None),
    ]
    roots = [dataset_root(table, FEATURES, DECLARED, salt=SALT) for table in changed]
    roots.append(dataset_root(TABLE, FEATURES, DECLARED, salt=SALT[::-1]))
    roots.append(dataset_root(TABLE, ("age", "region", "income"), DECLARED, salt=SALT))
    roots.append(dataset_root(TABLE, FEATURES, DECLARED | {"region": ColumnConfig(kind="category", encoding="woe")}, salt=SALT))
    assert len({dataset_root(TABLE, FEATURES, DECLARED, salt=SALT), *roots}) == len(roots) + 1


def test_codes_are_no_part_of_it_but_what_they_mean() -> None:
    other = replace(
        TABLE, columns=TABLE.columns | {"region": np.array([0, 1, 0], dtype=np.int32)}, levels={"region": ["north", "south"]}
    )
    assert dataset_root(other, FEATURES, DECLARED, salt=SALT) == dataset_root(TABLE, FEATURES, DECLARED, salt=SALT)


def test_the_root_of_encoded_rows_by_hand() -> None:
    columns = [EncodedColumn(name=name, source=name, kind="number", centre=0.0, scale=1.0) for name in ("x", "y=ä")]
    train, holdout = np.array([[1, -2], [3, 8191]], dtype=np.int32), np.array([[-8191, 0]], dtype=np.int32)
    encoded = Encoded(train=train, holdout=holdout, columns=columns)
    head = b"isthmus encoded row v1\x00" + hashlib.sha256('{"columns":["x","y=ä"]}'.encode()).digest()
    rows = [
        b"\x00\x01" + struct.pack("<ii", 1, -2),
        b"\x00\x00" + struct.pack("<ii", 3, 8191),
        b"\x01\x01" + struct.pack("<ii", -8191, 0),
    ]
    salts = [hmac.new(SALT, struct.pack(">Q", number), hashlib.sha256).digest() for number in range(3)]
    expected = tree([head + salt + row for salt, row in zip(salts, rows, strict=True)]).hex()
    label, held = np.array([1, 0], dtype=np.int8), np.array([1], dtype=np.int8)
    assert encoded_root(encoded, label, held, salt=SALT) == expected
    moved = Encoded(train=np.vstack([train, holdout]), holdout=holdout[:0], columns=columns)
    others = [
        encoded_root(encoded, None, None, salt=SALT),
        encoded_root(encoded, 1 - label, held, salt=SALT),
        encoded_root(moved, np.append(label, held), held[:0], salt=SALT),
    ]
    assert len({expected, *others}) == 4


def test_more_rows_than_one_chunk() -> None:
    encoded = Encoded(
        train=np.arange(9001 * 2, dtype=np.int32).reshape(-1, 2), holdout=np.zeros((0, 2), dtype=np.int32), columns=[]
    )
    head = b"isthmus encoded row v1\x00" + hashlib.sha256(b'{"columns":[]}').digest()
    leaves = [
        head + hmac.digest(SALT, struct.pack(">Q", n), "sha256") + b"\x00\xff" + struct.pack("<ii", 2 * n, 2 * n + 1)
        for n in range(9001)
    ]
    assert encoded_root(encoded, None, None, salt=SALT) == tree(leaves).hex()


def test_a_short_salt_is_refused() -> None:
    with pytest.raises(DataError) as refused:
        dataset_root(TABLE, FEATURES, DECLARED, salt=bytes(31))
    assert refused.value.code == "data.salt"


def test_a_key_at_fixed_widths() -> None:
    assert key_digest(5, 7, bits=512) == hashlib.sha256(bytes(63) + b"\x05" + bytes(127) + b"\x07").hexdigest()
