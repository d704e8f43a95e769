"""The messages that carry nothing but public figures: their bytes follow from what the logs say, and so do their digests.

    PsiStart         the sender's set size, for each key            DirectiveEcho    the coordinator's numbers
    JobFigures       rows, columns, the label holder's base rate    Aggregates       as the label holder disclosed them
    IntersectionSize what the learner of a count told
    FilterState      a filter's key, version, digest and sizes      FilterQueries, SharedCount   how many items of a kind follow

A log holds a message's SHA-256.  Where the logs' word for these figures gives another one, the message said something else
than the logs do, however many of them agree.

The bytes are those of proto3 (``protos/peer.proto``): fields in the order of their numbers, those that are zero or empty left out.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence

from audit.figures import JobView, NodeView
from audit.history import PLAIN, Attempt, Directive
from audit.layout import FILTER_PREFIX_MAX, FILTER_PREFIX_MIN, filter_prefix_bits
from audit.protocol import Figures, FilterFigures

_VARINT, _DOUBLE, _BYTES = 0, 1, 2


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(data) + bytes([value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value) if value else b""


def _text(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(value)) + value if value else b""


def _double(field: int, value: float) -> bytes:
    data = struct.pack("<d", value)
    return _varint(field << 3 | _DOUBLE) + data if any(data) else b""


def psi_start(elements: int) -> bytes:
    """A ``PsiStart``."""
    return _number(1, elements)


def directive_echo(coefficients: Sequence[str], lookup_range: str) -> bytes:
    """A ``DirectiveEcho``: coefficients packed, then the lookup range."""
    packed = b"".join(struct.pack("<d", float(value)) for value in coefficients)
    return _text(1, packed) + (_double(2, float(lookup_range)) if lookup_range else b"")


def aggregates(value: str) -> bytes | None:
    """An ``Aggregates`` with what a disclosure entry says: six decimals each; None when the entry's value is no such object."""
    try:
        told = json.loads(value)
        shares = (f"{float(told[name]):.6f}".encode() for name in ("auc", "ks", "log_loss", "base_rate"))
        return b"".join(_text(field, share) for field, share in enumerate(shares, 1)) + _number(5, int(told["rows"]))
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None


def plain_message(kind: str, figures: Figures, directive: Directive, *, step: str, number: int = 0) -> bytes | None:
    """The bytes of a message of these figures; None where the logs do not tell all of them, or it is no plain one.

    ``number`` counts the messages of this kind: of an alignment by several keys each has one.
    """
    f = figures
    if kind == "PsiStart":
        own = f.own_set if not f.sets else f.sets[number][0] if number < len(f.sets) else None
        return None if own is None else psi_start(own)
    if kind == "IntersectionSize" and f.told is not None:
        return _number(1, f.told)
    if kind in ("FilterQueries", "SharedCount") and f.filter is not None:
        return _number(1, f.filter.queries if kind == "FilterQueries" else f.filter.found)
    if kind == "JobFigures" and f.rows is not None and f.own_columns is not None:
        rate = f.base_rate if f.holds_label else ""
        return None if rate is None else _number(1, f.rows) + _number(2, f.own_columns) + _text(3, rate.encode())
    if kind == "DirectiveEcho":
        coefficients = directive.coefficients if step in ("round", "finish") else ()
        return directive_echo(coefficients, "" if step == "finish" else directive.lookup_range)
    return None


def filter_state(
    key: bytes, version: int, digest: bytes, *, prefix_bits: int, base: int, removed: int, added: int, reusable: bool
) -> bytes:
    """A ``FilterState``."""
    numbers = enumerate((prefix_bits, base, removed, added, int(reusable)), 4)
    return _text(1, key) + _number(2, version) + _text(3, digest) + b"".join(_number(field, value) for field, value in numbers)


def _filter_states(node: NodeView, attempt: Attempt, figures: FilterFigures, elements: int | None) -> set[str]:
    """Digests of the ``FilterState`` that the node's commitments allow; no log tells the prefix of a filter that was not sent, nor,
    by itself, whether both policies let it serve again.
    """
    made = {act.data.what: act.data for act in node.record.of("commitment") if act.key == attempt.key}
    key, version = made.get("filter key"), made.get("filter")
    if key is None or version is None or version.version is None or elements is None:
        return set()
    changes = figures.removed + figures.added
    lengths = [filter_prefix_bits(elements)] if figures.whole else range(FILTER_PREFIX_MIN, FILTER_PREFIX_MAX + 1)
    base = 0 if figures.whole else version.version - (changes > 0)
    found = (
        filter_state(
            bytes.fromhex(key.sha256),
            version.version,
            bytes.fromhex(version.sha256),
            prefix_bits=length,
            base=base,
            removed=figures.removed,
            added=figures.added,
            reusable=reusable,
        )
        for length in lengths
        for reusable in (True, False)
    )
    return {hashlib.sha256(data).hexdigest() for data in found}


def altered(view: JobView, node: NodeView, attempt: Attempt) -> Iterator[tuple[str, str]]:
    """Plain messages of an attempt that was done whose digest is not that of the logs' figures: (direction, type)."""
    if not attempt.was_done or not attempt.peer:
        return
    for way, sender in (("sent", node.name), ("received", attempt.peer)):
        figures = view.figures(node, attempt, sender)
        for (kind, number), sha256 in attempt.direction(way).plain.items():
            data = plain_message(kind, figures, attempt.directive, step=attempt.key.step, number=number)
            if kind == "Aggregates":
                said = view.told(attempt.key, "aggregates", by=sender, to=view.spec.peer_of(sender).name)
                data = aggregates(said[0]) if said else None
            if kind == "FilterState" and figures.filter is not None:
                states = _filter_states(node, attempt, figures.filter, figures.own_set)
                if states and sha256 not in states:
                    yield way, kind
            if data is not None and hashlib.sha256(data).hexdigest() != sha256:
                yield way, kind


__all__ = ["PLAIN", "aggregates", "altered", "directive_echo", "filter_state", "plain_message", "psi_start"]
