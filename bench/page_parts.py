"""The page's sections on single parts: alignment by each method, Paillier, lookups, logs, faults, links.

The readers are tolerant: a figure that a file lacks is "not measured", one that they do not know is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill
from typing import Any

from bench.page_format import ABSENT, Machines, Results, not_measured, number, seconds, table

Row = dict[str, Any]


def sections(results: Results, machines: Machines, plots: Mapping[str, str]) -> list[str]:
    """All sections made from the parts' own files."""
    return [
        _alignment(results.get("alignment"), machines, plots),
        _asymmetric(results.get("asymmetric"), machines),
        _crypto(results.get("crypto"), machines),
        _lookup(results.get("lookup"), machines),
        _audit(results.get("audit"), machines),
        _chaos(results.get("chaos"), machines),
        _links(results.get("link"), results.get("links"), machines),
    ]


def _listed(document: Any, *names: str) -> list[Row]:
    """The first of the named members that is a list, of it the objects."""
    for name in names:
        found = document.get(name) if isinstance(document, Mapping) else None
        if isinstance(found, list):
            return [row for row in found if isinstance(row, Mapping)]  # type: ignore[misc]
    return []


# ---- alignment -----------------------------------------------------------------------------------------------------


def alignment_rows(document: Any) -> list[Row]:
    """Every measured run in the document, however it is nested: an object that has ``seconds``.

    What an object does not say itself it has from those around it.  ``where`` is the names on the way, ``bytes`` and ``memory`` are
    sums and the larger of a member for each role.
    """
    return list(_runs(document, {}, ()))


def _runs(node: Any, above: Row, path: tuple[str, ...]) -> Iterator[Row]:
    if isinstance(node, list):
        for item in node:
            yield from _runs(item, above, path)
    if not isinstance(node, Mapping):
        return
    known = above | {key: value for key, value in node.items() if isinstance(value, int | float | str)}
    if isinstance(node.get("seconds"), int | float):
        sent, grown = (_numbers(node.get(name)) for name in ("bytes_sent", "rss_growth_bytes"))
        peaks = grown or _numbers(node.get("peak_rss_bytes"))
        yield known | {
            "where": " ".join(path),
            "bytes": sum(sent) if sent else None,
            "memory": max(peaks, default=None),
            "memory_each": peaks,
            "sent_each": sent,
            "cpu": _numbers(node.get("cpu_seconds")),
            "scratch_each": _numbers(node.get("scratch_bytes")),
        }
    for key, value in node.items():
        if isinstance(value, Mapping | list) and key not in ("machine", "parts_per_second"):
            yield from _runs(value, known, path if key in ("runs", "results") else (*path, str(key)))


def _numbers(value: Any) -> list[float]:
    values = value.values() if isinstance(value, Mapping) else [value]
    return [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]


def elements_of(row: Row) -> tuple[Any, Any]:
    """Identifiers of the label holder and of the feature holder."""
    own = row.get("label_holder_elements", row.get("elements", row.get("rows")))
    return own, row.get("feature_holder_elements", row.get("peer_elements", own))


def series_of(row: Row) -> str:
    """What distinguishes a run from another of the same size: the method or program, and the kind of run."""
    named = [str(row[key]) for key in ("method", "implementation", "program", "library", "protocol") if row.get(key)]
    return ", ".join(dict.fromkeys([*named, *([row["where"]] if row["where"] else [])])) or "curve"


def _alignment(document: Any, machines: Machines, plots: Mapping[str, str]) -> str:
    command = "python -m bench.alignment --json bench/results/alignment.json"
    parts = ["## Alignment\n"]
    rows = alignment_rows(document)
    if not rows:
        return "\n".join([*parts, not_measured(command)])
    parts.append(f"Private set intersection alone, without reading data: `{command}`. {_machine(document, machines)}")
    parts.append("Of two figures with a plus sign the label holder's comes first.\n")
    cells = []
    for row in rows:
        own, peer = elements_of(row)
        rate = row.get("elements_per_second")
        if rate is None and isinstance(own, int | float) and isinstance(peer, int | float) and row["seconds"]:
            rate = (own + peer) / row["seconds"]
        sent = None if row["bytes"] is None else row["bytes"] / 1e6
        known = isinstance(own, int | float) and own
        cells.append(
            [
                series_of(row),
                number(own, 0),
                number(peer, 0),
                seconds(row["seconds"]),
                number(rate, 0),
                both(row["cpu"], 1),
                number(sent),
                both(row["sent_each"], 1e6),
                number(row["bytes"] / own if known and row["bytes"] is not None else None),
                both(row["memory_each"], 1e6, 0),
                both(row["scratch_each"], 1e6, 0),
            ]
        )
    headings = (
        "run",
        "label holder",
        "feature holder",
        "seconds",
        "identifiers a second, both sets",
        "CPU seconds",
        "MB sent, both",
        "MB sent, each way",
        "bytes an element",
        "peak memory, MB",
        "in a scratch file, MB",
    )
    parts.append(table(headings, cells))
    parts.append(_phases(document))
    if "alignment" in plots:
        parts.append(f"![seconds of an alignment by identifiers]({plots['alignment']})\n")
    return "\n".join(parts)


def both(values: Sequence[float], unit: float, digits: int = 1) -> str:
    """One figure for each side, in ``unit``s."""
    return " + ".join(number(value / unit, digits) for value in values) if values else ABSENT


def _phases(document: Any) -> str:
    """What each part of the two methods costs, on one core."""
    phases = document.get("parts") if isinstance(document, Mapping) else None
    rows = []
    for method, times in phases.items() if isinstance(phases, Mapping) else ():
        for name, value in times.items() if isinstance(times, Mapping) else ():
            once = "base transfers" in name  # of all elements together
            rows.append([str(method), name, number(1e3 * value, 1) if once else "", "" if once else number(1e6 * value, 2)])
    if not rows:
        return ""
    return "Their parts, on one core:\n\n" + table(("method", "part", "ms in all", "us an element"), rows)


def _machine(document: Any, machines: Machines) -> str:
    if not isinstance(document, Mapping):
        return ""
    records = [document] if "machine" in document else _listed(document, "runs", "results")
    return machines.of(records) if records else ""


def _asymmetric(document: Any, machines: Machines) -> str:
    rows = []
    for size in _listed(document, "results"):
        for name in ("first_job", "later_job"):
            job = size.get(name, {})
            rows.append(
                [
                    number(size.get("large"), 0),
                    number(size.get("small"), 0),
                    name.replace("_", " ") + ", busy" * bool(size.get("busy")),
                    seconds(job.get("seconds")),
                    both(_numbers(job.get("cpu_seconds")), 1),
                    both(_numbers(job.get("bytes_sent")), 1e6),
                    both(_numbers(job.get("peak_rss_bytes")), 1e6, 0),
                    both(_numbers(job.get("scratch_bytes")), 1e6, 0),
                ]
            )
    headings = ("publisher", "querier", "job", "seconds", "CPU seconds", "MB sent", "peak memory, MB", "in a scratch file, MB")
    section = _simple("A small set against a published filter", "python -m bench.asymmetric", document, machines, headings, rows)
    coded = document.get("filter") if rows else None
    if not isinstance(coded, Mapping):
        return section
    names = ("elements", "strangers_asked", "strangers_found", "members_asked", "members_found")
    elements, asked, found, members, members_found = (number(coded.get(name), 0) for name in names)
    words = (
        "The first job masks the large set and publishes it. Before the later one a part of the large set was exchanged"
        " (`--changed`, one in a hundred). Of two figures the publisher's comes first; processor time has the workers of both,"
        f" memory is each party's own process. A filter of {elements} elements has {number(coded.get('bytes_an_element'), 2)}"
        f" bytes for each; of {asked} strangers asked about it held {found}, of {members} members {members_found}."
    )
    if any(size.get("busy") for size in _listed(document, "results")):
        words += " Lines marked busy were measured beside other work: their seconds on the clock are upper bounds."
    return f"{section}\n{fill(words, 132)}\n"


# ---- the others ----------------------------------------------------------------------------------------------------


def _simple(title: str, command: str, document: Any, machines: Machines, headings: Sequence[str], rows: list[list[str]]) -> str:
    if not rows:
        return f"## {title}\n\n{not_measured(command)}"
    return f"## {title}\n\n`{command}`. {_machine(document, machines)}\n{table(headings, rows)}"


def _crypto(document: Any, machines: Machines) -> str:
    rows = [
        [
            str(row.get("work", "")),
            str(row.get("bits", "")),
            number(row.get("per_second"), 0),
            number(row.get("phe_per_second"), 0),
            number(row.get("ratio")),
        ]
        for row in _listed(document, "results")
    ]
    headings = ("work", "bits", "ours, a second", "phe's, a second", "ratio")
    title = "Paillier's operations beside phe's, one core"
    return _simple(title, "python -m bench.crypto --json bench/results/crypto.json", document, machines, headings, rows)


def _lookup(document: Any, machines: Machines) -> str:
    rows = [
        [
            str(row.get("entries", "")),
            number(row.get("rows"), 0),
            number(row.get("lookups_per_second"), 0),
            number(row.get("table_holder_us_per_row"), 2),
            number(row.get("index_holder_us_per_row"), 2),
            number(row.get("table_holder_bytes_per_row")),
            number(row.get("index_holder_bytes_per_row")),
        ]
        for row in _listed(document, "results")
    ]
    headings = (
        "entries",
        "rows",
        "lookups a second",
        "label holder, CPU us",
        "feature holder, CPU us",
        "bytes a row",
        "bytes a row back",
    )
    return _simple(
        "Oblivious lookups", "python -m bench.lookup --json bench/results/lookup.json", document, machines, headings, rows
    )


def _audit(document: Any, machines: Machines) -> str:
    rows = [
        [
            number(row.get("entries"), 0),
            number(row.get("jobs"), 0),
            _scaled(row, "bytes"),
            seconds(row.get("seconds")),
            number(row.get("rate"), 0),
            _scaled(row, "peak_bytes"),
        ]
        for row in _listed(document, "results")
    ]
    headings = ("entries", "jobs", "MB", "seconds", "entries a second", "peak memory, MB")
    return _simple("Verification of logs, one core", "python -m bench.audit", document, machines, headings, rows)


def _scaled(row: Row, name: str) -> str:
    value = row.get(name)
    return number(value / 1e6 if isinstance(value, int | float) else None, 0)


def _chaos(document: Any, machines: Machines) -> str:
    found = document.get("chaos") if isinstance(document, Mapping) else None
    rows = []
    if isinstance(found, Mapping):
        failed = found.get("failed")
        lost = str(len(failed)) if isinstance(failed, list) else ABSENT
        logs = {0: "whole and lawful", 2: "incomplete"}.get(found.get("verify_exit_status", -1), "NOT verified")
        worst = found.get("worst_difference")
        rows.append(
            [
                number(found.get("faults"), 0),
                number(found.get("jobs"), 0),
                number(found.get("finished"), 0),
                lost,
                number(found.get("wrong_models"), 0),
                f"{worst:.0e}" if isinstance(worst, int | float) else ABSENT,
                logs,
            ]
        )
    headings = ("faults", "jobs", "finished", "lost", "wrong models", "worst log-loss above scikit-learn", "logs")
    title = "Processes killed and links cut"
    return _simple(title, "python -m bench.chaos", document, machines, headings, rows)


def _links(link: Any, links: Any, machines: Machines) -> str:
    rows = []
    for way in ("direct", "relay"):
        found = link.get(way) if isinstance(link, Mapping) else None
        if isinstance(found, Mapping):
            rate, trip = found.get("bytes_per_second"), found.get("trip_seconds")
            mib = number(rate / 2**20, 0) if isinstance(rate, int | float) else ABSENT
            ms = number(trip * 1e3, 2) if isinstance(trip, int | float) else ABSENT
            rows.append([way, mib, ms, number(found.get("coordinator_cpu_seconds_per_gib"), 2)])
    headings = ("way", "MiB a second", "to and fro, ms", "coordinator, CPU s a GiB")
    first = _simple(
        "A direct link beside the relay", "python -m bench.link --json bench/results/link.json", link, machines, headings, rows
    )
    bulk = [
        [number(row.get("bytes"), 0), *(number(row.get(name), 0) for name in ("bare_mb_s", "session_mb_s"))]
        for row in _listed(links, "bulk")
    ]
    columns = ("bytes a message", "bare gRPC stream, MB a second", "session, MB a second")
    second = _simple("A session over a bare stream", "python -m bench.links", links, machines, columns, bulk)
    recovery = links.get("recovery") if isinstance(links, Mapping) else None
    if isinstance(recovery, Mapping) and bulk:
        told = [
            f"{kind} {number(r.get('median_s'), 2)} (worst {number(r.get('worst_s'), 2)})"
            for kind, r in recovery.items()
            if isinstance(r, Mapping)
        ]
        second += f"\nSeconds until the next message arrives after the link failed, median: {'; '.join(told)}.\n"
    return f"{first}\n{second}"
