"""TOML files read strictly: an unknown key refuses to start, and an error names the key, the file and the remedy.

What is wrong is told without repeating what was written: a value may be a password.
"""

from __future__ import annotations

import difflib
import tomllib
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from audit.errors import UsageError

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


def load_toml(path: Path, model: type[M], *, what: str, init: str) -> M:
    """Read ``path`` into ``model``.

    Args:
        path: the file.
        model: a :class:`Strict` model.
        what: how an error calls the file, for example ``"node configuration"``.
        init: the command that writes a commented sample of the file, for the remedies.

    Raises:
        UsageError: those of :func:`read_toml` and :func:`first_error`.
    """
    document = read_toml(path, what=what, init=init)
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise first_error(error, model, f"The {what} {path}", init=init) from None


def read_toml(path: Path, *, what: str, init: str = "", parse_float: Callable[[str], Any] = float) -> dict[str, Any]:
    """The document in a TOML file.

    Args:
        path: the file.
        what: how an error calls the file.
        init: the command that writes a sample of the file; empty when none does.
        parse_float: what becomes of a number with a point or an exponent, from its text.

    Raises:
        UsageError: ``config.missing_file``, ``config.unreadable``, ``config.not_toml``.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            "config.missing_file",
            f"The {what} {path} does not exist.",
            remedy=f"Correct the path (--config names the configuration), or make one with `{init}`."
            if init
            else "Correct the path.",
        ) from None
    except OSError as error:
        raise UsageError(
            "config.unreadable",
            f"The {what} {path} cannot be read: {error.strerror}.",
            remedy="Name a file, and give this user the right to read it.",
        ) from None
    if len(data) > FILE_BYTES_MAX:
        raise UsageError(
            "config.unreadable",
            f"The {what} {path} has more than {FILE_BYTES_MAX} bytes.",
            remedy=f"Name the {what}, not a data file.",
        )
    try:
        return tomllib.loads(data.decode("utf-8"), parse_float=parse_float)
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


def first_error(error: ValidationError, model: type[BaseModel], where: str, *, init: str = "") -> UsageError:
    """The error to show of several: a misspelt key first, since it often explains a missing one.

    Args:
        error: what validating ``model`` raised.
        model: the model of the whole document.
        where: what was validated, as the subject of a sentence.
        init: the command that writes a commented sample; empty when none does.

    Returns:
        ``config.unknown_key``, ``config.missing_key`` or ``config.invalid``; it names the key and counts the other errors.
    """
    details = error.errors(include_url=False, include_input=False, include_context=False)
    item = min(details, key=lambda detail: detail["type"] != "extra_forbidden")
    location = item["loc"]
    key = _dotted(location)
    more = f" ({len(details) - 1} more to correct.)" if len(details) > 1 else ""
    if item["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        hint = nearest(str(location[-1]), known)
        return UsageError(
            "config.unknown_key",
            f"{where} has the unknown key {key}.{hint}{more}",
            remedy=f"Remove or correct it; the keys known there: {', '.join(known)}.",
        )
    if item["type"] == "missing":
        return UsageError(
            "config.missing_key",
            f"{where} lacks the key {key}.{more}",
            remedy=f"Add it; `{init}` writes a commented sample of every key." if init else "Add it.",
        )
    reason = item["msg"].removeprefix("Value error, ").rstrip(".")
    sample = f"; the comments of the sample that `{init}` writes say what is allowed" if init else ""
    return UsageError("config.invalid", f"{where}: {key}: {reason}.{more}", remedy=f"Correct this value{sample}.")


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
