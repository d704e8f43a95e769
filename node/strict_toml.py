"""TOML files read strictly: an unknown key refuses to start, and an error names the key, the file and the remedy.

What is wrong is told without repeating what was written: a value may be a password.
"""

from __future__ import annotations

import difflib
import tomllib
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from node.errors import UsageError

FILE_BYTES_MAX = 4 * 2**20
"""Largest configuration file that is read."""

M = TypeVar("M", bound=BaseModel)


class Strict(BaseModel):
    """Base of every table of a configuration file: unknown keys refused, no silent conversion, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


def nearest(name: str, options: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the option closest to a misspelt ``name``, or ``""`` when none is close."""
    options = list(options)
    folded = {option.casefold(): option for option in options}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
    return f" Did you mean {folded[close[0]]!r}?" if close else ""


def load_toml(path: Path, model: type[M], *, what: str) -> M:
    """Read ``path`` into ``model``.

    Args:
        path: the file.
        model: a :class:`Strict` model.
        what: how an error calls the file, for example ``"node configuration"``.

    Raises:
        UsageError: ``config.missing_file``, ``config.unreadable``, ``config.not_toml``, ``config.unknown_key``,
            ``config.missing_key``,
            ``config.invalid``.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            "config.missing_file",
            f"The {what} {path} does not exist.",
            remedy="Name it with --config, or make one with `isthmus-node init FOLDER --name NAME --role ROLE`.",
        ) from None
    except OSError as error:
        raise UsageError(
            "config.unreadable",
            f"The {what} {path} cannot be read: {error.strerror}.",
            remedy="Give the user who runs the node the right to read it.",
        ) from None
    if len(data) > FILE_BYTES_MAX:
        raise UsageError(
            "config.unreadable",
            f"The {what} {path} has more than {FILE_BYTES_MAX} bytes.",
            remedy="Name the configuration file, not a data file.",
        )
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise UsageError(
            "config.not_toml", f"The {what} {path} is not UTF-8 text.", remedy="Save it as UTF-8; TOML allows nothing else."
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            "config.not_toml",
            f"The {what} {path} is not valid TOML: {error}.",
            remedy="Correct that line; text values stand in double quotes.",
        ) from None
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise _first_error(error, path, model, what) from None


def _first_error(error: ValidationError, path: Path, model: type[BaseModel], what: str) -> UsageError:
    """The error to show: a misspelt key first, since it often explains a missing one."""
    details = error.errors(include_url=False, include_input=False, include_context=False)
    details.sort(key=lambda item: 0 if item["type"] == "extra_forbidden" else 1)
    return _describe(details[0], path, model, what, others=len(details) - 1)


def _describe(item: ErrorDetails, path: Path, model: type[BaseModel], what: str, *, others: int) -> UsageError:
    location = item["loc"]
    where = _dotted(location)
    more = f" ({others} more in this file.)" if others else ""
    if item["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        hint = nearest(str(location[-1]), known)
        listed = ", ".join(known)
        return UsageError(
            "config.unknown_key",
            f"The {what} {path} has the unknown key {where}.{hint}{more}",
            remedy=f"Remove or correct it; the keys known there: {listed}.",
        )
    if item["type"] == "missing":
        return UsageError(
            "config.missing_key",
            f"The {what} {path} lacks the key {where}.{more}",
            remedy="Add it; `isthmus-node init` writes a commented sample of every key.",
        )
    reason = item["msg"].removeprefix("Value error, ").rstrip(".")
    return UsageError(
        "config.invalid",
        f"The {what} {path}: {where}: {reason}.{more}",
        remedy="Correct this value; the comments of the sample that `isthmus-node init` writes say what is allowed.",
    )


def _dotted(location: tuple[int | str, ...]) -> str:
    """``("dataset", 0, "path")`` as ``dataset[1].path``: people count tables from one."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        elif not _is_union_tag(part):
            text += f".{part}" if text else part
    return text or "(whole file)"


def _is_union_tag(part: str) -> bool:
    """Pydantic names the branch of a union in a location (``list[...]``, ``literal[...]``): no key of the file looks so."""
    return part.startswith(("list[", "literal[", "constrained-str", "function-"))


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that a table at this place of the document may have."""
    current: Any = model
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(part))
            current = field.annotation if field else None
        else:  # inside dict[str, X] or list[X]: the key or index is the reader's, go on to X
            current = get_args(current)[-1] if get_args(current) else None
        current = _unwrap(current)
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return []


def _unwrap(annotation: Any) -> Any:
    """``X | None`` and ``Annotated[X, ...]`` as ``X``."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, types.UnionType):
            annotation = next(part for part in get_args(annotation) if part is not type(None))
        else:
            return annotation
