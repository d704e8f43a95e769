"""The demo's result: one dictionary for machines (``--json``), the same as a page for people."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from audit.accuracy import Accuracy
from audit.errors import UsageError
from audit.wording import given_up
from coordinator.demo.datasets import PARTIES, DemoData

STEP_ORDER = ("align", "prepare", "round", "finish", "evaluate")


def steps_by_name(view: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds, and bytes by direction, of every step (the rounds added up), from a job view (``show --json``).

    Returns:
        ``{"seconds": {step: s}, "bytes": {step: {"bank_to_platform": n, "platform_to_bank": n}}, "rounds": [{"round", "seconds",
        "decrement"}], "peak_rss": {party: bytes}}``.  Only attempts that were done count.
    """
    seconds: dict[str, float] = {}
    sent: dict[str, dict[str, int]] = {}
    rounds: list[dict[str, Any]] = []
    peak: dict[str, int] = {}
    for step in view.get("steps", []):
        if step.get("state") != "done":
            continue
        name = str(step["step"])
        took = float(step.get("seconds") or 0.0)
        seconds[name] = seconds.get(name, 0.0) + took
        directions = sent.setdefault(name, {"bank_to_platform": 0, "platform_to_bank": 0})
        for report in step["reports"]:
            reporter = str(report["party"])
            directions["bank_to_platform" if reporter == "bank" else "platform_to_bank"] += int(report.get("bytes_sent") or 0)
            peak[reporter] = max(peak.get(reporter, 0), int(report.get("peak_rss_bytes") or 0))
        if name == "round":
            rounds.append({"round": int(step.get("round") or 0), "seconds": took, "decrement": float(step.get("decrement") or 0.0)})
    return {"seconds": seconds, "bytes": sent, "rounds": rounds, "peak_rss": peak}


def sizes(view: Mapping[str, Any]) -> dict[str, Any]:
    """Set sizes, intersection, split and encoded columns (the label holder's intercept counted) as the nodes reported them."""
    found: dict[str, Any] = {key: view.get(key) for key in ("intersection", "rows_train", "rows_holdout")}
    for name, step_name, key in (("set_sizes", "align", "set_size"), ("encoded_columns", "prepare", "columns")):
        done = [step for step in view.get("steps", []) if step["step"] == step_name and step["state"] == "done"]
        found[name] = {str(report["party"]): int(report[key]) for step in done for report in step["reports"]}
    return found


def versions() -> dict[str, str]:
    """What ran: this machine's Python and the packages that do the work."""
    names = ("isthmus", "numpy", "phe", "gmpy2", "grpcio", "cryptography", "scikit-learn")
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write the result; the file appears whole or not at all.

    Raises:
        UsageError: ``demo.json_unwritable``.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(json.dumps(result, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UsageError(
            "demo.json_unwritable",
            f"{path} cannot be written: {error.strerror}.",
            remedy="Name a file in a folder that you may write to.",
        ) from None


def show(console: Console, data: DemoData, result: Mapping[str, Any]) -> None:
    """The whole result for people."""
    console.print()
    _show_sizes(console, data, result)
    _show_quality(console, data, result)
    if result["gains"]:
        _show_gains(console, result)
    _show_cost(console, result)
    _show_disclosures(console, result["disclosures"])
    _show_audit(console, result)


def _show_sizes(console: Console, data: DemoData, result: Mapping[str, Any]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    own = ", ".join(f"{party} {result['set_sizes'].get(party, 0):,}" for party in PARTIES)
    table.add_row("shared customers", f"{result['intersection']:,}  ({own})")
    left = result["intersection"] - result["rows_train"] - result["rows_holdout"]
    drawn = f", {left:,} not drawn" if left else ""
    table.add_row("rows", f"{result['rows_train']:,} to train on, {result['rows_holdout']:,} held out{drawn}")
    columns = ", ".join(f"{party} {len(data.side(party).features)}" for party in PARTIES)
    table.add_row("columns", f"{columns}; the {data.label_holder} holds the label, base rate {_percent(result['base_rate'])}")
    ended = "converged" if result["converged"] else "stopped at the last round allowed"
    table.add_row("rounds", f"{result['rounds']}, {ended}; Paillier keys of {result['key_bits']} bits, two-party")
    if result["accuracy"]:
        table.add_row("accuracy", given_up(Accuracy.of(result["accuracy"])))
    console.print(table)
    console.print()


def _show_quality(console: Console, data: DemoData, result: Mapping[str, Any]) -> None:
    table = Table(box=box.SIMPLE_HEAD, title="the model", title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("")
    for heading in ("joint", "joint, exact", "pooled", f"{data.label_holder} alone"):
        table.add_column(heading, justify="right")
    table.add_row(
        "AUC, held out",
        _figure(result["auc"]) + _sure(result["auc_standard_error"]),
        _figure(result["auc_exact"]),
        _figure(result["auc_pooled"]),
        _figure(result["auc_label_holder_alone"]),
    )
    table.add_row("KS, held out", _figure(result["ks"]), "", "", "")
    table.add_row(
        "log-loss, held out", _figure(result["log_loss"]), _figure(result["log_loss_exact"]), _figure(result["log_loss_pooled"]), ""
    )
    table.add_row(
        "AUC, training rows",
        "",
        _figure(result["auc_train_exact"], 5),
        _figure(result["auc_train_pooled"], 5),
        _figure(result["auc_train_label_holder_alone"], 5),
    )
    table.add_row(
        "log-loss, training rows", "", _figure(result["log_loss_train_exact"], 6), _figure(result["log_loss_train_pooled"], 6), ""
    )
    console.print(table)
    console.print(
        "joint: what the label holder learns, from score bands. Only a demo, which holds both files, can tell the rest:\n"
        "joint, exact is the same model scored row by row; pooled is scikit-learn on the openly joined rows.",
        style="dim",
    )
    console.print()


def _show_gains(console: Console, result: Mapping[str, Any]) -> None:
    table = Table(box=box.SIMPLE_HEAD, title="gains, held out", title_justify="left", title_style="bold", pad_edge=False)
    for heading in ("tenth", "rows", "positives", "rate", "of all positives so far"):
        table.add_column(heading, justify="right")
    total = sum(row["positives"] for row in result["gains"]) or 1
    so_far = 0
    for row in result["gains"]:
        so_far += row["positives"]
        rate = row["positives"] / row["rows"] if row["rows"] else 0.0
        table.add_row(str(row["decile"]), f"{row['rows']:,}", f"{row['positives']:,}", _percent(rate), _percent(so_far / total))
    console.print(table)


def _show_cost(console: Console, result: Mapping[str, Any]) -> None:
    table = Table(box=box.SIMPLE_HEAD, title="time and traffic", title_justify="left", title_style="bold", pad_edge=False)
    for heading in ("step", "seconds", "bank to platform", "platform to bank"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for step in STEP_ORDER:
        if step in result["seconds"]:
            traffic = result["bytes"][step]
            name = f"rounds 1-{result['rounds']}" if step == "round" else step
            table.add_row(
                name, f"{result['seconds'][step]:.1f}", _size(traffic["bank_to_platform"]), _size(traffic["platform_to_bank"])
            )
    console.print(table)
    memory = ", ".join(f"{name} {_size(peak)}" for name, peak in result["peak_rss_bytes"].items())
    console.print(f"peak memory: {memory}; {result['total_seconds']:.1f} seconds from start to end", style="dim")
    console.print()


def _show_disclosures(console: Console, disclosures: Sequence[Mapping[str, Any]]) -> None:
    table = Table(
        box=box.SIMPLE_HEAD,
        title="what each party disclosed (its log's receipt)",
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    for heading in ("by", "to", "what", "values", "allowed by"):
        table.add_column(heading, justify="right" if heading == "values" else "left", overflow="fold")
    for item in disclosures:
        table.add_row(
            str(item["by"]),
            str(item["to"]),
            str(item["what"]).replace("_", " "),
            f"{int(item['count']):,}",
            str(item["clause"]).replace("protocols.md", "protocol"),
        )
    console.print(table)


def _show_audit(console: Console, result: Mapping[str, Any]) -> None:
    good = result["audit"]["exit_status"] == 0
    console.print(
        f"audit of the three logs: {result['audit']['result']}  (isthmus-audit verify)", style="bold green" if good else "bold red"
    )


def _sure(error: float | None) -> str:
    return "" if error is None else f" ± {error:.4f}"


def _figure(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(value: float | str | None) -> str:
    return "-" if value in (None, "") else f"{100 * float(value):.0f} %"


def _size(count: int) -> str:
    if count < 10_000:
        return f"{count:,} B"
    if count < 10_000_000:
        return f"{count / 1e3:,.0f} kB"
    return f"{count / 1e6:,.1f} MB"
