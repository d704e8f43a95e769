"""A small set against a large one that was masked once: a first job, a later one, and the filter at its size.

    python -m bench.asymmetric [--large N] [--small N] [--changed FRACTION] [--filter-elements N] [--json FILE]

Two parties run two jobs in this process, the second after a fraction of the large set was exchanged: processor seconds of each side
(its own thread's) and bytes of each direction.  The filter's code is then built, asked and changed at ``--filter-elements``, from
uniform 16-byte values, which is what masked customers are; masking as many would take hours.  Elements of a set that is not in the
filter are asked about too: how many it says yes to is counted.

What stands under "by multiplication" was not run: it is the rate of one core, measured here, times the elements named.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from audit.layout import FILTER_CHANGE_BYTES, POINT_BYTES, filter_prefix_bits
from bench.common import machine
from node.crypto.drbg import Drbg
from node.crypto.elias_fano import VALUE, changed, code_bytes, contains, encode, shortened
from node.engine import InlineEngine
from node.limits import LIMITS
from node.protocols.filter_state import Setting, Terms
from node.protocols.psi_filter import Outcome, publish, query
from tests.pair import run_pair

TERMS = Terms(reuse_days=30, filter_days=30)
MILLION, HUNDRED_MILLION = 10**6, 10**8


def setting(identifiers: list[str], side: int, job: int) -> Setting:
    return Setting(
        relation="00" * 32,
        identifiers=identifiers,
        minimum=1,
        drbg=Drbg(bytes([side]) * 32, job=f"{job:064x}", step="align"),
        engine=InlineEngine(),
        limits=LIMITS,
        terms=TERMS,
        commit=lambda what, sha256, **sizes: None,
    )


def job(large: list[str], small: list[str], states: tuple[Any, Any], number: int) -> tuple[dict[str, Any], tuple[Any, Any]]:
    """One job: processor seconds and bytes sent of publisher and querier, shared customers; and what both keep."""
    seconds: dict[str, float] = {}

    def timed(name: str, half: Callable[[Any], Outcome]) -> Callable[[Any], Outcome]:
        def run(ch: Any) -> Outcome:
            start = time.thread_time()
            outcome = half(ch)
            seconds[name] = time.thread_time() - start
            return outcome

        return run

    pair = run_pair(
        timed("publisher", lambda ch: publish(ch, setting(large, 1, number), state=states[0], reserve=lambda count: None)),
        timed("querier", lambda ch: query(ch, setting(small, 2, number), state=states[1])),
        timeout=3600,
    )
    left, right = pair.results()
    rows = [large[i] for i in left.alignment.rows]
    if rows != [small[i] for i in right.alignment.rows] or set(rows) != set(large) & set(small):
        raise RuntimeError("the two sides, or the plain sets, disagree about the shared rows")
    figures = {
        "cpu_seconds": seconds,
        "bytes_sent": {
            name: sum(len(data) for _, data in sent) for name, sent in (("publisher", pair.left_sent), ("querier", pair.right_sent))
        },
        "shared": len(rows),
    }
    return figures, (left.state, right.state)


def filter_figures(elements: int, fraction: float) -> dict[str, Any]:
    """Building, asking and changing the code of a filter."""
    rng = np.random.default_rng(1)
    values = np.frombuffer(rng.bytes(16 * elements), dtype=VALUE)
    bits = filter_prefix_bits(elements)
    figures: dict[str, Any] = {"elements": elements, "prefix_bits": bits}

    def clocked(name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = work()
        figures[name] = time.process_time() - start
        return result

    values = clocked("sort_seconds", lambda: np.sort(values))
    coded = clocked("encode_seconds", lambda: encode(values, bits))
    figures["bytes_an_element"] = coded.size / elements
    strangers = np.frombuffer(rng.bytes(16 * MILLION), dtype=VALUE)
    figures["strangers_asked"] = len(strangers)
    figures["strangers_found"] = int(clocked("ask_seconds", lambda: contains(coded, strangers)).sum())
    members = values[:: max(1, elements // MILLION)]
    figures["members_asked"], figures["members_found"] = len(members), int(contains(coded, members).sum())
    count = int(elements * fraction)
    gone = np.sort(shortened(values[:: max(1, elements // max(count, 1))][:count], bits))
    come = np.sort(shortened(strangers[:count], bits))
    figures["changes"] = len(gone) + len(come)
    clocked("change_seconds", lambda: changed(coded, removed=gone, added=come))
    return figures


def measure(large: int, small: int, fraction: float, filter_elements: int) -> dict[str, Any]:
    """All figures, as the JSON document holds them."""
    names = [f"customer-{i:012d}" for i in range(large)]
    asked = [f"customer-{i:012d}" for i in range(large - small // 2, large + small - small // 2)]
    first, states = job(names, asked, (None, None), 1)
    moved = int(large * fraction)
    later, _ = job(names[moved:] + [f"new-{i:012d}" for i in range(moved)], asked, states, 2)
    publisher = first["cpu_seconds"]["publisher"] / (large + small)
    querier = first["cpu_seconds"]["querier"] / small
    bits = filter_prefix_bits(HUNDRED_MILLION)
    return {
        "benchmark": "asymmetric alignment",
        "machine": machine(),
        "large": large,
        "small": small,
        "changed": fraction,
        "first_job": first,
        "later_job": later,
        "filter": filter_figures(filter_elements, fraction),
        "by_multiplication": {
            "large": HUNDRED_MILLION,
            "small": MILLION,
            "publisher_core_hours_once": publisher * HUNDRED_MILLION / 3600,
            "publisher_core_minutes_for_changes": publisher * HUNDRED_MILLION * fraction / 60,
            "publisher_core_minutes_for_queries": publisher * MILLION / 60,
            "querier_core_minutes_for_queries": querier * MILLION / 60,
            "filter_bytes": sum(code_bytes(HUNDRED_MILLION, bits)),
            "change_bytes": int(2 * HUNDRED_MILLION * fraction * FILTER_CHANGE_BYTES),
            "query_bytes_each_way": MILLION * POINT_BYTES,
        },
    }


def show(figures: dict[str, Any], console: Console) -> None:
    table = Table(
        title=f"{figures['small']:,} against {figures['large']:,}; {figures['changed']:.1%} exchanged before the later job"
    )
    for name in ("job", "publisher CPU s", "querier CPU s", "publisher sends", "querier sends", "shared"):
        table.add_column(name, justify="left" if name == "job" else "right")
    for name in ("first_job", "later_job"):
        one = figures[name]
        seconds, sent = one["cpu_seconds"], one["bytes_sent"]
        table.add_row(
            name.replace("_", " "),
            f"{seconds['publisher']:.2f}",
            f"{seconds['querier']:.2f}",
            f"{sent['publisher']:,}",
            f"{sent['querier']:,}",
            f"{one['shared']:,}",
        )
    console.print(table)
    for part in ("filter", "by_multiplication"):
        console.print(part.replace("_", " "))
        for name, value in figures[part].items():
            console.print(
                f"  {name.replace('_', ' ')}: {value:,.3f}"
                if isinstance(value, float)
                else f"  {name.replace('_', ' ')}: {value:,}"
            )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.asymmetric", description="Measure a small set against a published filter."
    )
    parser.add_argument("--large", type=int, default=100_000, help="customers of the publisher")
    parser.add_argument("--small", type=int, default=5_000, help="customers of the querier")
    parser.add_argument("--changed", type=float, default=0.01, help="fraction of the large set that is exchanged between the jobs")
    parser.add_argument("--filter-elements", type=int, default=10_000_000, help="elements of the filter that is built")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    chosen = parser.parse_args(argv)
    figures = measure(chosen.large, chosen.small, chosen.changed, chosen.filter_elements)
    show(figures, Console())
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
