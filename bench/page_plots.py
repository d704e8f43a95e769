"""The plots of the benchmarks' page, as SVG whose bytes depend on the figures and matplotlib's version alone."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.page_format import Results
from bench.page_parts import alignment_rows, elements_of, series_of
from bench.page_scale import NAIVE_AIM, latest

STYLE: Any = {
    "svg.hashsalt": "isthmus",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
}
METADATA = {"Date": None}
SIZE = (6.4, 3.6)
RATIOS = {
    "prepare": "whole preparation",
    "prepare_per_round": "a round's share of it",
    "training_per_round": "a round with everything",
}
FEATURES, ROWS = 24, 30_000
"""What is held fixed in the plots by rows and by features."""
Points = dict[str, list[tuple[float, float]]]


def draw(results: Results) -> dict[str, bytes]:
    """Every plot for which there are figures, by name."""
    runs = latest(results.get("scale"))
    generated = [run for run in runs if run["job"] == "generated"]
    by_rows, by_features, aligned = Points(), Points(), Points()
    for run in generated:
        series = f"{run['bits']} bits, {run['cores']} core{'s' if run['cores'] > 1 else ''}"
        if run["features"] == FEATURES:
            by_rows.setdefault(series, []).append((run["rows"], run["seconds_steps"]))
        if run["rows"] == ROWS:
            by_features.setdefault(series, []).append((run["features"], run["seconds_steps"]))
    for row in alignment_rows(results.get("alignment")):
        own, _ = elements_of(row)
        if isinstance(own, int | float):
            aligned.setdefault(series_of(row), []).append((own, row["seconds"]))
    drawn = {
        "scale-rows": _lines(by_rows, "shared customers", "seconds, all steps"),
        "scale-features": _lines(by_features, "features of both sides", "seconds, all steps"),
        "naive": _ratios([run for run in runs if "naive" in run]),
        "alignment": _lines(aligned, "identifiers of the label holder", "seconds"),
    }
    return {name: content for name, content in drawn.items() if content is not None}


def _lines(series: Points, x: str, y: str) -> bytes | None:
    """One line a series on two logarithmic axes; None without a point."""
    if not series:
        return None

    def onto(axes: Axes) -> None:
        for name, points in sorted(series.items()):
            ordered = sorted(points)
            axes.plot([p[0] for p in ordered], [p[1] for p in ordered], marker="o", markersize=4, linewidth=1.2, label=name)
        axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
        axes.grid(visible=True, which="major", linewidth=0.4)
        axes.legend(frameon=False)

    return _svg(onto)


def _ratios(runs: list[Any]) -> bytes | None:
    """Three bars a run; None without a run."""
    if not runs:
        return None
    values: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for name in RATIOS:
            values[name].append(run["naive"]["ratios"][name])
    labels = [f"{run['job']} {run['rows']:,} x {run['features']}, {run['bits']} bits, {run['cores']} c." for run in runs]

    def onto(axes: Axes) -> None:
        for number, (name, words) in enumerate(RATIOS.items()):
            axes.barh([i + (number - 1) * 0.27 for i in range(len(runs))], values[name], height=0.25, label=words)
        axes.axvline(NAIVE_AIM, color="black", linewidth=0.8, linestyle="--", label=f"the aim, {NAIVE_AIM}")
        axes.set(xscale="log", xlabel="times as fast as a naive pass through phe, in processor time", yticks=range(len(runs)))
        axes.set_yticklabels(labels)
        axes.invert_yaxis()
        axes.legend(frameon=False, fontsize=7.0)

    return _svg(onto, height=1.6 + 0.42 * len(runs))


def _svg(onto: Callable[[Axes], None], height: float = SIZE[1]) -> bytes:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], height), layout="constrained")
        onto(figure.add_subplot())
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata=METADATA)
    return b"\n".join(line.rstrip() for line in out.getvalue().splitlines()) + b"\n"
