"""An entry of a log as bytes: one line of canonical JSON (RFC 8785), with the fields that every entry has.

What stands in an entry reads the same everywhere: no number but integers within 2**53, and no key twice.  The bytes as written
are what is hashed, so that a line in any other form is refused, never put right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import BinaryIO, NamedTuple, TypeAlias

import rfc8785

from audit.errors import DataError, UsageError

Json: TypeAlias = "str | int | bool | list[Json] | dict[str, Json] | None"

ENTRY_VERSION = 1
LINE_BYTES_MAX = 2**20
INTEGER_MAX = 2**53 - 1
FRAME_FIELDS = ("v", "log", "seq", "prev", "time", "kind", "job", "step", "attempt", "round")


class Line(NamedTuple):
    """One line of a log file: ``data`` without its newline, ``complete`` when the newline is there."""

    offset: int
    data: bytes
    complete: bool


def read_lines(stream: BinaryIO, *, offset: int = 0) -> Iterator[Line]:
    """The lines of a log from the stream's position on, one in memory at a time.

    Raises:
        DataError: ``log.line_too_long`` names the byte where the line begins.
    """
    while data := stream.readline(LINE_BYTES_MAX + 2):
        complete = data.endswith(b"\n")
        if len(data) - complete > LINE_BYTES_MAX:
            raise DataError(
                "log.line_too_long", f"The line at byte {offset} has more than {LINE_BYTES_MAX} bytes: this is no isthmus log."
            )
        yield Line(offset, data[:-1] if complete else data, complete)
        offset += len(data)


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_float(text: str) -> Json:
    raise ValueError(f"{text[:20]} is not an integer")


def _exact(text: str) -> int:
    if len(text) > 15 and (len(text) > 17 or abs(int(text)) > INTEGER_MAX):
        raise ValueError(f"{text[:20]} is beyond 2**53")
    return int(text)


# RFC 8785 for documents of text and integers is what Python's own encoder writes with these settings: the same escapes, keys in
# the order of code points, which is that of UTF-16 units as long as no character beyond U+FFFF (four bytes in UTF-8) is there.
_decoder = json.JSONDecoder(parse_float=_no_float, parse_int=_exact, parse_constant=_no_float)
_encoder = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False, allow_nan=False)
_strict = json.JSONDecoder(parse_float=_no_float, parse_int=_exact, parse_constant=_no_float, object_pairs_hook=_unique)
_FRAME_TYPES = tuple((name, int if name in ("v", "seq", "attempt", "round") else str) for name in FRAME_FIELDS)


_NUMBER, _DIGEST, _WORD = "(0|[1-9][0-9]{0,14})", '"([0-9a-f]{64})"', '"([A-Za-z0-9-]{1,63})"'
_MESSAGE = re.compile(
    rf'\{{"attempt":{_NUMBER},"direction":{_WORD},"items":{_NUMBER},"job":{_DIGEST},"kind":"message","length":{_NUMBER}'
    rf',"log":{_WORD},"number":{_NUMBER},"peer":{_WORD},"prev":{_DIGEST},"round":{_NUMBER},"seq":{_NUMBER},"sha256":{_DIGEST}'
    rf',"step":{_WORD},"time":"([0-9TZ:.-]{{1,40}})","type":{_WORD},"v":{ENTRY_VERSION}\}}'
)
"""The canonical form of a message entry, of which large logs consist: what matches is canonical, and read already."""


def _message(text: str) -> dict[str, Json] | None:
    """A message entry of the usual form; None for anything else."""
    found = _MESSAGE.fullmatch(text)
    if found is None:
        return None
    attempt, direction, items, job, length, log, number, peer, prev, round, seq, sha256, step, time, kind = found.groups()
    return {
        "v": ENTRY_VERSION, "log": log, "seq": int(seq), "prev": prev, "time": time, "kind": "message", "job": job, "step": step,
        "attempt": int(attempt), "round": int(round), "direction": direction, "items": int(items), "length": int(length),
        "number": int(number), "peer": peer, "sha256": sha256, "type": kind,
    }  # fmt: skip


def _canonical(text: str, data: bytes) -> Json:
    """The document that ``data`` is the canonical form of: by the quick way where it is certain, else by the reference."""
    document: Json = _decoder.decode(text)
    if _encoder.encode(document) == text and (text.isascii() or max(data) < 0xF0):
        return document
    document = _strict.decode(text)
    if rfc8785.dumps(document) != data:
        raise ValueError("it is not in canonical form (RFC 8785)")
    return document


def parse_entry(data: bytes) -> dict[str, Json]:
    """One line as an entry: canonical JSON, no number but integers, the frame's fields present with their types.

    Raises:
        DataError: ``log.entry_malformed``; the message gives the reason, never the content.
    """
    try:
        text = data.decode()
        if (message := _message(text)) is not None:
            return message
        entry = _canonical(text, data)
        if not isinstance(entry, dict):
            raise ValueError("it is no object")
        for name, wanted in _FRAME_TYPES:
            value = entry.get(name)
            if type(value) is not wanted or (wanted is int and value < 0):  # type: ignore[operator]
                raise ValueError(f"its field {name!r} is missing, negative or of the wrong type")
        if entry["v"] != ENTRY_VERSION:
            raise ValueError(f"its version is {entry['v']}, and this program reads version {ENTRY_VERSION}")
    except UnicodeDecodeError:
        raise DataError("log.entry_malformed", "It is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise DataError("log.entry_malformed", f"It is not JSON: {error.msg}.") from None
    except (ValueError, RecursionError, rfc8785.CanonicalizationError) as error:
        raise DataError("log.entry_malformed", f"It is no entry: {error}.") from None
    return entry


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds: as text it sorts as it does in time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def refuse_inexact(value: object, where: str) -> None:
    """No float and no large integer stands in an entry: other readers of JSON would change them.

    Args:
        value: what is to be written.
        where: its place in the entry, for the error.

    Raises:
        UsageError: ``log.number``; ``log.field`` for a type that JSON has not.
    """
    if isinstance(value, float) or (isinstance(value, int) and abs(value) > INTEGER_MAX):
        raise UsageError(
            "log.number", f"The field {where!r} holds a number that JSON cannot carry exactly.", remedy="Write it as a string."
        )
    if isinstance(value, dict):
        for key, item in value.items():
            refuse_inexact(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            refuse_inexact(item, where)
    elif not isinstance(value, str | int | None):
        raise UsageError("log.field", f"The field {where!r} holds a {type(value).__name__}, which JSON has not.")
