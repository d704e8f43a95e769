"""One line of what ``doctor`` says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from node.errors import IsthmusError


@dataclass(frozen=True)
class Check:
    """One line of the result."""

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str = ""
    code: str = ""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def failed(name: str, error: IsthmusError, *, state: Literal["warn", "fail"] = "fail") -> Check:
    """The check that an error ended."""
    return Check(name, state, error.message, error.remedy, error.code)
