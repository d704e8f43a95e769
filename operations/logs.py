"""Log lines of a serving process: text for people, or one JSON object a line for a service.

A line says what happened (``event``) and has at most the fields of :data:`FIELDS` beside it.  Three things never stand in one:

* any field that is not in that list, whatever a caller adds to a record;
* the text of an exception that isthmus did not raise on purpose: it may quote a value (``could not convert string to float: ...``).
  A trace names types, files, lines and functions alone;
* the text of a record that another library wrote, for the same reason: its logger, file and line are named instead.

The texts of isthmus' own errors name files, columns and rows, never a value (``audit.errors``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, TextIO

from pythonjsonlogger.json import JsonFormatter

from audit.errors import IsthmusError

Format = Literal["text", "json"]
FORMATS: tuple[Format, ...] = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")

OWN = "isthmus"
"""Root of isthmus' own loggers; a line's component is the rest of its logger's name."""
FIELDS = ("job", "step", "round", "attempt", "peer", "code", "seconds", "bytes")
JOB_DIGITS = 12
TEXT_MAX = 200
"""Longest text of a field."""
EVENT_MAX = 4000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_PROMPTS = ("error: ",)

_Info = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class Line(str):
    """A line for the operator that brings its fields along: wherever lines are printed or kept, it is the text alone."""

    fields: dict[str, Any]

    def __new__(cls, text: str, **fields: Any) -> Line:
        """``fields``: some of :data:`FIELDS`."""
        line = super().__new__(cls, text)
        line.fields = fields
        return line


def fault(error: IsthmusError, **fields: Any) -> Line:
    """The line that tells an error."""
    return Line(f"error: {error}", code=error.code, **fields)


class Notices:
    """``notify`` of a serving process: every line goes through the logger; one with a code is a warning."""

    def __init__(self, component: str) -> None:
        self._log = logging.getLogger(f"{OWN}.{component}")

    def __call__(self, line: str) -> None:
        """Write one line."""
        fields = line.fields if isinstance(line, Line) else {}
        level = logging.WARNING if fields.get("code") else logging.INFO
        self._log.log(level, "%s", line, extra={key: fields[key] for key in FIELDS if key in fields})


def trace(error: BaseException | None) -> str:
    """An exception and its causes: types, files, lines, functions; the text only of isthmus' own errors."""
    told, seen = [], 0
    while error is not None and seen < 8:
        frames = [f"{os.path.basename(f.filename)}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
        text = f" [{error.code}]" if isinstance(error, IsthmusError) else ""
        told.append(f"{type(error).__name__}{text} at {' < '.join(reversed(frames)) or 'no frame'}")
        error, seen = error.__cause__ or (None if error.__suppress_context__ else error.__context__), seen + 1
    return "; after ".join(told)


def _fields(record: logging.LogRecord) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {}
    for key in FIELDS:
        value = getattr(record, key, None)
        if isinstance(value, str) and value:
            found[key] = _clean(value, JOB_DIGITS if key == "job" else TEXT_MAX)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[key] = round(value, 3)
    return found


def _clean(text: str, most: int) -> str:
    return _CONTROL.sub(" ", text)[:most]


def _event(record: logging.LogRecord) -> str:
    if not _is_own(record):
        return f"a record of the library {_clean(record.name, TEXT_MAX)} ({record.module}:{record.lineno}); its text is not logged"
    text = record.getMessage()
    for prompt in _PROMPTS:
        text = text.removeprefix(prompt)
    return _clean(text, EVENT_MAX)


def _is_own(record: logging.LogRecord) -> bool:
    return record.name == OWN or record.name.startswith(OWN + ".")


def _component(record: logging.LogRecord) -> str:
    return record.name.removeprefix(OWN + ".") if _is_own(record) else "library"


class JsonLines(JsonFormatter):
    """One canonical-looking JSON object a line: ``time``, ``level``, ``event``, ``component``, then what applies of the fields."""

    def __init__(self) -> None:
        super().__init__(json_ensure_ascii=True)

    def format(self, record: logging.LogRecord) -> str:
        """See :class:`logging.Formatter`."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "level": record.levelname.lower(),
            "event": _event(record),
            "component": _component(record),
            **_fields(record),
        }
        if record.exc_info:
            line["trace"] = trace(record.exc_info[1])
        return self.serialize_log_record(line)


class TextLines(logging.Formatter):
    """``HH:MM:SS what happened`` in local time; what is more than a notice names its level."""

    def format(self, record: logging.LogRecord) -> str:
        """See :class:`logging.Formatter`."""
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        text = f"{at} {level}{_event(record)}"
        return f"{text} ({trace(record.exc_info[1])})" if record.exc_info else text


class _Wanted(logging.Filter):
    """Isthmus' own records from the level asked for; of others only warnings and worse."""

    def filter(self, record: logging.LogRecord) -> bool:
        return _is_own(record) or record.levelno >= logging.WARNING


def quiet_libraries() -> None:
    """Keep gRPC's core from writing to standard error by itself; to be called before anything of gRPC runs."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GLOG_minloglevel", "3")


@contextlib.contextmanager
def logging_to(stream: TextIO, *, format: Format, level: str) -> Iterator[None]:
    """Send everything that is logged, warned or raised in a thread to ``stream`` while inside; afterwards all is as before."""
    quiet_libraries()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if format == "json" else TextLines())
    handler.addFilter(_Wanted())
    root, own, hook = logging.getLogger(), logging.getLogger(OWN), threading.excepthook
    former = root.handlers[:], root.level, own.level
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    own.setLevel(level.upper())
    logging.captureWarnings(True)
    threading.excepthook = _thread_fault
    try:
        yield
    finally:
        threading.excepthook = hook
        logging.captureWarnings(False)
        root.handlers[:] = former[0]
        root.setLevel(former[1])
        own.setLevel(former[2])


def _thread_fault(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        info = (args.exc_type, args.exc_value, args.exc_traceback)
        logging.getLogger(f"{OWN}.threads").error("a thread ended with a fault of isthmus", exc_info=info)
