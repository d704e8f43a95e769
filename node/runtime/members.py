"""The shared customers of a job for this node's own use: identifier, position in the common order, split; group by group."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from node.runtime.files import split_from_arrays, text_slices

_HEAD = ("identifier", "position", "split")
_SPLITS = np.array(["unused", "train", "holdout"])


def members_writer(path: Path) -> Callable[[Mapping[str, NDArray], IO[bytes]], None]:
    """What writes the members of an ``align.npz`` to a file of this name: Parquet where it ends in ``.parquet``, else CSV."""
    return write_parquet if path.suffix.lower() == ".parquet" else write_csv


def write_csv(aligned: Mapping[str, NDArray], file: IO[bytes]) -> None:
    """UTF-8, a header line, fields quoted where needed (RFC 4180), lines ended by a line feed."""
    for number, (identifiers, positions, splits) in enumerate(_parts(aligned)):
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        if not number:
            writer.writerow(_HEAD)
        writer.writerows(zip(identifiers, positions, splits, strict=True))
        file.write(text.getvalue().encode())


def write_parquet(aligned: Mapping[str, NDArray], file: IO[bytes]) -> None:
    """Columns ``identifier`` (text), ``position`` (64 bits) and ``split`` (text, as a dictionary)."""
    schema = pa.schema(zip(_HEAD, (pa.string(), pa.int64(), pa.string()), strict=True))
    with pq.ParquetWriter(file, schema) as writer:
        for part in _parts(aligned):
            writer.write_table(pa.table([pa.array(values, kind) for values, kind in zip(part, schema.types, strict=True)], _HEAD))


def _parts(aligned: Mapping[str, NDArray]) -> Iterator[tuple[list[str], range, list[str]]]:
    """The columns of some rows; at least one part, be it empty."""
    split = split_from_arrays(aligned)
    names = _SPLITS[np.where(split.holdout, 2, split.train.astype(np.int64))]
    if not len(names):
        yield [], range(0), []
    first = 0
    for texts in text_slices(aligned):
        stop = first + len(texts)
        yield texts, range(first, stop), names[first:stop].tolist()
        first = stop
