"""A log with altered entries, chained anew: what its owner could write, had nobody cosigned it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rfc8785

from audit.merkle import leaf_hash


def rechain(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Rewrite a log file, each entry as ``change`` returns it."""
    previous, lines = "", []
    for line in path.read_bytes().splitlines():
        data = rfc8785.dumps(change(json.loads(line)) | {"prev": previous})
        previous = leaf_hash(data).hex()
        lines.append(data + b"\n")
    path.write_bytes(b"".join(lines))
