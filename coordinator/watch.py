"""A job followed live: on a terminal one changing page, elsewhere one line whenever a step ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

View = Mapping[str, Any]

MARKS = {"done": "✓", "failed": "✗", "restarted": "↻", "running": "…"}
REFRESH = 8


@dataclass
class Rates:
    """Rows per second of each party's phase, from two looks at its progress.

    Args:
        clock: monotonic seconds.
    """

    clock: Callable[[], float] = time.monotonic
    _since: dict[tuple[Any, ...], tuple[float, int]] = field(default_factory=dict)

    def of(self, view: View, party: View) -> float | None:
        """Items a second since the phase was first seen; ``None`` while there is nothing to tell."""
        key = (party["party"], view["step"], view["round"], view["attempt"], party["phase"])
        now, done = self.clock(), int(party["done"])
        first_time, first_done = self._since.setdefault(key, (now, done))
        return (done - first_done) / (now - first_time) if done > first_done and now - first_time > 0.2 else None


def step_name(step: View) -> str:
    """``round 3``, or the step's own name."""
    return f"round {step['round']}" if step["step"] == "round" else str(step["step"])


def step_line(step: View, rows: int | None) -> str:
    """One step that has ended, as a line."""
    words = [f"{MARKS[step['state']]} {step_name(step):<9} {step['seconds']:8.1f} s"]
    if step["state"] != "done":
        words.append("started again" if step["state"] == "restarted" else str(step["state"]))
    if step["decrement"] is not None:
        words.append(f"decrement {step['decrement']:.1e}")
    if step["step"] in ("prepare", "round") and rows and step["seconds"] > 0:
        words.append(f"{rows / step['seconds']:,.0f} rows/s")
    if step["bytes_relayed"]:
        words.append(f"{step['bytes_relayed'] / 2**20:,.1f} MiB relayed")
    if step["step"] == "align" and step["reports"]:
        words.append(f"{step['reports'][0]['intersection']:,} shared")
    return "   ".join(words)


def page(view: View, rates: Rates) -> RenderableType:
    """The whole job as it stands."""
    head = Text(f"{view['title'] or 'job'} {view['job'][:12]}  ", style="bold")
    head.append(
        outcome(view), style={"finished": "green", "failed": "red", "rejected": "red", "cancelled": "yellow"}.get(view["state"], "")
    )
    lines: list[RenderableType] = [head]
    lines += [Text("  " + step_line(step, view["rows_train"])) for step in view["steps"] if step["state"] != "running"]
    lines.append(_parties(view, rates))
    if view["metrics"]:
        lines.append(Text("  " + metrics_line(view["metrics"]), style="bold"))
    return Group(*lines)


def outcome(view: View) -> str:
    """The state in words."""
    if view["state"] == "finished" and view["kind"] == "count":
        return f"finished, {counted_line(view['counted'])}"
    if view["state"] == "finished":
        return f"finished, {view['rounds']} rounds, {'converged' if view['converged'] else 'not converged'}"
    if view["code"]:
        return f"{view['state']} [{view['code']}]"
    if view["state"] in ("submitted", "approved"):
        waiting = [p["party"] for p in view["parties"] if p["decision"] == "waiting"] or [
            f"{p['party']} to attach" for p in view["parties"] if not p["attached"]
        ]
        return f"{view['state']}, waiting for {', '.join(waiting)}" if waiting else str(view["state"])
    running = f"round {view['round']} of at most {view['rounds_max']}" if view["state"] == "round" else str(view["state"])
    return running + (f", attempt {view['attempt']}" if view["attempt"] else "")


def counted_line(counted: View | None) -> str:
    """What a count told."""
    if counted is None:
        return "the number stays with the two parties"
    if counted["told"] is None:
        return f"below {counted['minimum']:,} shared customers"
    rounded = f" (rounded down to a multiple of {counted['step']:,})" if counted["step"] > 1 else ""
    return f"{counted['told']:,} shared customers{rounded}"


def rows_line(view: View) -> str:
    """The shared rows and what they serve for."""
    shared, train, held_out = (view[name] for name in ("intersection", "rows_train", "rows_holdout"))
    left = shared - train - held_out
    return f"{shared:,} shared: {train:,} train, {held_out:,} held out" + (f", {left:,} not drawn" if left else "")


def metrics_line(metrics: View) -> str:
    """The evaluation's aggregates on held-out rows, the AUC with its standard error."""
    error = metrics.get("auc_standard_error")
    sure = f" ± {error:.4f}" if error is not None else ""
    return (
        f"held out: AUC {metrics['auc']:.4f}{sure}   KS {metrics['ks']:.4f}   log-loss {metrics['log_loss']:.4f}   "
        f"base rate {metrics['base_rate']:.4f}   {metrics['rows']:,} rows"
    )


def _parties(view: View, rates: Rates) -> Table:
    table = Table.grid(padding=(0, 2))
    ended = view["state"] in ("finished", "failed", "cancelled", "rejected")
    for party in view["parties"]:
        rate = rates.of(view, party)
        state = "attached" if party["attached"] else "away"
        moving = party["total"] and not ended
        table.add_row(
            f"  {party['party']}",
            party["decision"] if view["state"] == "submitted" else state,
            party["phase"] if moving else "",
            ProgressBar(total=party["total"], completed=party["done"], width=24) if moving else "",
            f"{rate:,.0f} rows/s" if rate and moving else "",
        )
    return table


def follow(views: Iterable[View], console: Console, *, as_json: bool) -> View | None:
    """Show views as they come, until the last; returns it."""
    last: View | None = None
    if as_json:
        for last in views:
            click.echo(json.dumps(last, sort_keys=True))
        return last
    with _display(console) as show:
        for last in views:
            show(last)
    return last


@contextmanager
def _display(console: Console) -> Iterator[Callable[[View], None]]:
    rates = Rates()
    if console.is_terminal:
        with Live(console=console, refresh_per_second=REFRESH) as live:
            yield lambda view: live.update(page(view, rates))
        return
    told: set[tuple[Any, ...]] = set()

    def lines(view: View) -> None:
        for step in view["steps"]:
            key = (step["step"], step["round"], step["attempt"])
            if step["state"] != "running" and key not in told:
                told.add(key)
                console.print(step_line(step, view["rows_train"]))
        if ("state", outcome(view)) not in told:
            told.add(("state", outcome(view)))
            console.print(outcome(view))
        if view["metrics"] and ("metrics",) not in told:
            told.add(("metrics",))
            console.print(metrics_line(view["metrics"]))

    yield lines
