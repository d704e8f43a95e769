"""What the sections of the benchmarks' page share: tables, figures as text, the list of machines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Results = dict[str, dict[str, Any]]
Record = Mapping[str, Any]
ABSENT = "not measured"


def number(value: Any, digits: int = 1) -> str:
    """A figure with so many decimals and thousands separated; ``not measured`` for None."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return ABSENT
    return f"{value:,.{digits}f}"


def seconds(value: Any) -> str:
    """Seconds with three significant digits or so."""
    if not isinstance(value, int | float):
        return ABSENT
    return number(value, 0 if value >= 100 else 1 if value >= 1 else 2)


def scientific(value: Any) -> str:
    """A small difference with its sign."""
    return f"{value:+.1e}" if isinstance(value, int | float) and math.isfinite(value) else ABSENT


def cores_text(cores: int) -> str:
    """``1 core``, ``2 cores``."""
    return f"{cores} core{'' if cores == 1 else 's'}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right; pipes in cells are escaped."""
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def not_measured(command: str) -> str:
    """What a section without figures says."""
    return f"Not measured. `{command}` measures it.\n"


@dataclass
class Machines:
    """The machines that figures come from, numbered in the order in which the page first names them."""

    found: list[tuple[str, ...]] = field(default_factory=list)

    def name(self, machine: Any) -> str:
        """``machine 1``; adds it if it is new."""
        if not isinstance(machine, Mapping):
            return "an unnamed machine"
        key = tuple(str(machine.get(part, "")) for part in ("processor", "cores", "system", "python"))
        if key not in self.found:
            self.found.append(key)
        return f"machine {self.found.index(key) + 1}"

    def of(self, records: Sequence[Record]) -> str:
        """One sentence for figures of several runs: where, at which commits, under which load of others."""
        names = list(dict.fromkeys(self.name(record.get("machine")) for record in records))
        commits = list(dict.fromkeys(str(record["commit"]) for record in records if record.get("commit")))
        loads = [
            float(m["load_1min"]) for record in records if isinstance(m := record.get("machine"), Mapping) and "load_1min" in m
        ]
        text = "Measured on " + " and ".join(names)
        if commits:
            text += f", commit {', '.join(commits)}"
        if loads:
            busiest = f"{min(loads):.1f}" if min(loads) == max(loads) else f"{min(loads):.1f} to {max(loads):.1f}"
            text += f"; others' load (one-minute average) before it began: {busiest}"
        return text + ".\n"

    def section(self) -> str:
        """The list, complete once all sections are made."""
        lines = ["## Machines\n"]
        if not self.found:
            return "\n".join([*lines, "Nothing is measured yet.\n"])
        rows = [
            (str(i), processor or "unknown", cores, system, python)
            for i, (processor, cores, system, python) in enumerate(self.found, 1)
        ]
        return "\n".join([*lines, table(("machine", "processor", "cores", "system", "Python"), rows)])
