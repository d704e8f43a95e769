"""The page's sections on whole jobs: by size, beside naive phe, and the two jobs that others have measured too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.page_format import ABSENT, Machines, Record, cores_text, not_measured, number, scientific, seconds, table
from bench.scale import SAMPLED, SIZES, identity

STEPS = ("align", "prepare", "round", "finish", "evaluate")
BITS, CORES = (2048, 3072), (1, 2)
CARD_AIMS = {2048: 30, 3072: 75}
"""Seconds that the project aims at for the card job, on two cores."""
NAIVE_AIM = 100
MEMORY_AIM = 2 * 10**9
OTHER_SYSTEMS = (
    ("SecretFlow, HESS-LR", "67 to 80", "0.095"),
    ("FATE, coordinated LR", "84 to 89", "0.283"),
    ("FATE, SSHE-LR", "155 to 181", "0.283"),
)
"""Of the breast cancer data, three epochs, 2048 bits: seconds and final log-loss as handed to this project; not measured here."""
OPTIMUM = "0.053"


BY_SIZE = """`{command}`: two `isthmus-node serve` and one `isthmus-coordinator serve` over TLS, each a process, one worker
a node. Rows are the shared customers; each side has a third more that the other does not know; a fifth of the shared rows
is held out for the evaluation. All of {rounds} rounds are run, whether or not the model has converged before.
"""
BYTES = """### Bytes by direction

Between the nodes: the messages as both report them. To and from the coordinator: what passed on the wire, TLS and HTTP/2
included. The bank holds the label.

"""
PROCESSES = """### Peak memory and processor time of each process

MB of resident memory at its highest, and processor seconds from start to end of the job. The bound of 2,000 MB a process is
{verdict}: the most was {worst} MB.

"""
QUALITY = """### The model beside scikit-learn's

Mean log-loss on the training rows of the joint model, and how much it lies above scikit-learn's optimum on the openly
joined rows at the same penalty; AUC on the held-out rows of both; what `isthmus-audit verify` says of the three logs.

"""
NAIVE = """A *naive pass* is what one iteration of logistic regression costs when it is written with phe's own objects: for
n training rows and d features, n residuals encrypted, X'[[e]] for all columns and X [[w]] for all rows, on floats as they
come; its decryptions are not counted. It ran on one core in the same run, half before and half after the job. Where it
would take too long, as many of its rows were done as the table says, and the time is extrapolated from them: every row
costs the same.

Against it stand the processor seconds of *both* nodes together. Our Paillier work is not done once an iteration but once a
training, in the preparation, for all rounds at once. So there are three ratios: the naive pass over the *whole*
preparation; over the preparation's share of *one round*; and over one round with everything: its share of the preparation,
lookups, messages and logs. The preparation counts whole: reading and checking the data again, making keys, encryption,
products, decryption, messages, logs. The last column is on the clock: the seconds of the naive pass, which is one thread,
over the seconds that all steps of the training took on its cores for each round.
"""
BREAST_CANCER = """scikit-learn's breast cancer data, 569 rows, 30 features, 15 on each side, all rows trained on at
scikit-learn's default penalty (C = 1).
"""
OTHERS = """The other systems' figures were handed down with the aims of this project, as measured on a machine of this kind with
both parties on it; nothing here measures them again, and no source is known that others could look up. Their three epochs
are not our rounds, so seconds and log-loss belong together.
"""
CARD = f"""18,000 shared customers of 24,000 on each side, 9 and 12 features, as in a split of the UCI data "default of
credit card clients". On two cores the aims are {CARD_AIMS[2048]} s at 2048 bits and {CARD_AIMS[3072]} s at 3072 bits for
eight rounds.
"""


SAMPLED_WORDS = """`{command}`: each side has a third more customers than are shared. Every row is read, committed to and
aligned, and read again before the training; rows beyond a bound go to the step's encrypted scratch file. Memory is each
process's peak; the aim is 4,000 MB.
"""


def latest(document: Any) -> list[Record]:
    """The last run of each identity, in the order of size; those of no known form are left out."""
    runs = document.get("runs") if isinstance(document, Mapping) else None
    found: dict[tuple[Any, ...], Record] = {}
    for run in runs if isinstance(runs, list) else []:
        if isinstance(run, Mapping) and isinstance(run.get("seconds"), Mapping):
            found[identity(dict(run))] = run
    return sorted(found.values(), key=lambda r: (r["job"], r["features"], r["rows"], r["bits"], r["cores"], str(r["holdout"])))


def sections(document: Any, machines: Machines, plots: Mapping[str, str]) -> list[str]:
    """All sections made from ``scale.json``."""
    runs = latest(document)
    generated = [run for run in runs if run["job"] == "generated"]
    return [
        _by_size(generated, machines, plots),
        _beside_naive(runs, machines, plots),
        _breast_cancer([run for run in runs if run["job"] == "breast-cancer"], machines),
        _card_default([run for run in runs if run["job"] == "card-default"], machines),
        _sampled([run for run in runs if run["job"] == SAMPLED], machines),
    ]


def _plot(plots: Mapping[str, str], name: str, words: str) -> str:
    return f"![{words}]({plots[name]})\n" if name in plots else f"Plot of {words}: {ABSENT}.\n"


def _matrix(generated: Sequence[Record]) -> list[tuple[tuple[int, int, int, int], Record | None]]:
    """Every (rows, features, bits, cores) that the whole matrix has or that was run, with its run."""
    there = {(run["rows"], run["features"], run["bits"], run["cores"]): run for run in generated}
    wanted = {(rows, features, bits, cores) for rows, features in SIZES for bits in BITS for cores in CORES}
    ordered = sorted(wanted | set(there), key=lambda key: (key[1], key[0], key[2], key[3]))
    return [(key, there.get(key)) for key in ordered]


def _by_size(generated: Sequence[Record], machines: Machines, plots: Mapping[str, str]) -> str:
    command = "python -m bench.scale --job generated"
    parts = ["## Whole jobs by size\n"]
    if not generated:
        return "\n".join([*parts, not_measured(command)])
    rounds = sorted({run["rounds_done"] for run in generated})
    parts.append(BY_SIZE.format(command=command, rounds=", ".join(map(str, rounds))) + machines.of(generated))
    parts.append("### Seconds of each step\n")
    rows = []
    for key, run in _matrix(generated):
        cells = [seconds(run["seconds"].get(step)) if run else ABSENT for step in STEPS]
        where = machines.name(run.get("machine")).removeprefix("machine ") + ", busy" * bool(run.get("busy")) if run else ""
        rows.append([*_key_cells(key), *cells, seconds(run["seconds_steps"]) if run else ABSENT, where])
    headings = ("rows", "features", "bits", "cores", "align", "prepare", "rounds", "finish", "evaluate", "all", "machine")
    parts.append(table(headings, rows))
    if any(run.get("busy") for run in generated):
        parts.append('"Busy": other work took turns on these cores for part of the time, so the seconds are an upper bound.\n')
    parts.append(_plot(plots, "scale-rows", "seconds of all steps by rows, 24 features"))
    parts.append(_plot(plots, "scale-features", "seconds of all steps by features, 30,000 rows"))
    parts.append(_bytes(generated))
    parts.append(_processes(generated))
    parts.append(_quality(generated))
    return "\n".join(parts)


def _key_cells(key: tuple[int, int, int, int]) -> list[str]:
    return [f"{key[0]:,}", *map(str, key[1:])]


def _bytes(generated: Sequence[Record]) -> str:
    """Bytes do not depend on the cores: one line for each size and key."""
    chosen = {(run["features"], run["rows"], run["bits"]): run for run in generated}
    rows = []
    for (features, count, bits), run in sorted(chosen.items()):
        ways = [sum(step[way] for step in run["bytes"].values()) for way in ("bank_to_platform", "platform_to_bank")]
        told = [sum(run[name].values()) / 1e3 for name in ("bytes_to_coordinator", "bytes_from_coordinator")]
        cells = [*(number(way / 1e6) for way in ways), number(sum(ways) / count, 0), *(number(value, 0) for value in told)]
        rows.append([f"{count:,}", str(features), str(bits), *cells])
    headings = ["rows", "features", "bits", "bank to platform, MB", "platform to bank, MB", "bytes a row"]
    return BYTES + table([*headings, "nodes to coordinator, kB", "back, kB"], rows)


def _processes(generated: Sequence[Record]) -> str:
    rows = []
    for key, run in _matrix(generated):
        if run is None:
            continue
        peaks = [number(run["peak_rss_bytes"][name] / 1e6, 0) for name in ("bank", "platform", "coordinator")]
        used = [seconds(run["cpu_seconds"][name]) for name in ("bank", "platform", "coordinator")]
        rows.append([*_key_cells(key), *peaks, *used])
    worst = max(max(run["peak_rss_bytes"].values()) for run in generated)
    verdict = "kept" if worst < MEMORY_AIM else "NOT kept"
    head = PROCESSES.format(verdict=verdict, worst=number(worst / 1e6, 0))
    headings = ["rows", "features", "bits", "cores"]
    headings += [f"{name}, MB" for name in ("bank", "platform", "coordinator")]
    return head + table([*headings, *(f"{name}, CPU s" for name in ("bank", "platform", "coordinator"))], rows)


def _quality(generated: Sequence[Record]) -> str:
    rows = []
    for run in generated:
        quality = run.get("quality") or {}
        cells = [number(quality.get("log_loss_train_exact"), 6), scientific(quality.get("log_loss_train_difference"))]
        cells += [number(quality.get("auc_exact"), 4), number(quality.get("auc_pooled"), 4), _verdict(run)]
        rows.append([*_key_cells((run["rows"], run["features"], run["bits"], run["cores"])), *cells])
    return QUALITY + table(("rows", "features", "bits", "cores", "log-loss", "excess", "AUC", "AUC, pooled", "logs"), rows)


def _verdict(run: Record) -> str:
    return {0: "whole and lawful", 2: "incomplete"}.get(run.get("verify_exit_status", -1), "NOT verified")


def _beside_naive(runs: Sequence[Record], machines: Machines, plots: Mapping[str, str]) -> str:
    compared = [run for run in runs if isinstance(run.get("naive"), Mapping)]
    parts = ["## Beside the naive way, through phe\n"]
    if not compared:
        return "\n".join([*parts, not_measured("python -m bench.scale")])
    parts.append(NAIVE)
    values = [run["naive"]["ratios"]["prepare_per_round"] for run in compared]
    reached = sum(value >= NAIVE_AIM for value in values)
    span = f"{number(min(values))} to {number(max(values))}"
    parts.append(
        f"The aim is a pass at least {NAIVE_AIM} times as fast. Measured for each round's share of the preparation: {span} times;\n"
        f"{reached} of {len(values)} runs reach the aim. {machines.of(compared)}"
    )
    rows = []
    for run in compared:
        naive, used = run["naive"], [run["cpu_seconds_by_step"][party] for party in ("bank", "platform")]
        prepare, rounds = (sum(part.get(step, 0.0) for part in used) for step in ("prepare", "round"))
        done = f"{naive['rows_measured']:,} of {naive['rows']:,}" if naive["extrapolated"] else f"all {naive['rows']:,}"
        cells = [seconds(naive["cpu_seconds"]), done, seconds(prepare), seconds(rounds), str(run["rounds_done"])]
        cells += [number(naive["ratios"][name]) for name in ("prepare", "prepare_per_round", "training_per_round")]
        cells.append(number(naive["cpu_seconds"] * run["rounds_done"] / run["seconds_steps"]))
        rows.append([f"{run['job']}, {run['rows']:,} x {run['features']}", str(run["bits"]), str(run["cores"]), *cells])
    headings = [
        "job",
        "bits",
        "cores",
        "naive pass, CPU s",
        "rows measured",
        "our preparation, CPU s",
        "our rounds, CPU s",
        "rounds",
    ]
    headings += ["over the whole preparation", "over a round's share of it", "over a round with everything", "on the clock"]
    parts.append(table(headings, rows))
    parts.append(_plot(plots, "naive", "the three ratios to a naive pass"))
    return "\n".join(parts)


def _breast_cancer(runs: Sequence[Record], machines: Machines) -> str:
    parts = ["## Breast cancer, 569 rows, beside other systems\n"]
    parts.append(BREAST_CANCER)
    rows = []
    for run in runs:
        quality = run.get("quality") or {}
        loss, excess = number(quality.get("log_loss_train_exact"), 4), scientific(quality.get("log_loss_train_difference"))
        named = f"isthmus, {run['rounds_done']} rounds, {run['bits']} bits, {cores_text(run['cores'])}"
        rows.append([named, seconds(run["seconds_steps"]), loss, excess, "measured"])
    if not runs:
        rows.append(["isthmus", ABSENT, ABSENT, ABSENT, "`python -m bench.scale --job breast-cancer`"])
    handed = "handed down, not measured here"
    rows += [[f"{name}, three epochs, 2048 bits", took, loss, "", handed] for name, took, loss in OTHER_SYSTEMS]
    rows.append(["scikit-learn on the pooled rows, its optimum", "", OPTIMUM, "0", "the bound for all of them"])
    parts.append(table(("system", "seconds", "log-loss", "above scikit-learn", "where from"), rows))
    parts.append(OTHERS)
    if runs:
        parts.append(f"`python -m bench.scale --job breast-cancer`; seconds are those of all steps. {machines.of(runs)}")
    return "\n".join(parts)


def _card_default(runs: Sequence[Record], machines: Machines) -> str:
    parts = ["## Card default, 18,000 shared customers\n"]
    parts.append(CARD)
    if not runs:
        return "\n".join([*parts, not_measured("python -m bench.scale --job card-default")])
    parts.append(f"`python -m bench.scale --job card-default`. {machines.of(runs)}")
    rows = []
    for run in runs:
        aim = CARD_AIMS.get(run["bits"]) if run["cores"] == 2 and run["rounds_done"] == 8 else None
        judged = "" if aim is None else f"{aim} s: {'reached' if run['seconds_steps'] <= aim else 'not reached'}"
        source = "the UCI files" if run["data"] == "file" else "generated in that shape"
        cells = [f"{run['rows_train']:,}", str(run["bits"]), str(run["cores"]), str(run["rounds_done"])]
        cells += [seconds(run["seconds"].get("prepare")), seconds(run["seconds_steps"]), judged]
        rows.append([source, *cells, scientific((run.get("quality") or {}).get("log_loss_train_difference"))])
    headings = ("data", "rows trained on", "bits", "cores", "rounds", "prepare, s", "all steps, s", "aim", "above scikit-learn")
    parts.append(table(headings, rows))
    return "\n".join(parts)


def _sampled(runs: Sequence[Record], machines: Machines) -> str:
    command = "python -m bench.scale --job sampled --bits 2048 --cores 2"
    parts = ["## Ten million shared customers, trained on a sample\n"]
    if not runs:
        return "\n".join([*parts, not_measured(command)])
    parts.append(SAMPLED_WORDS.format(command=command) + machines.of(runs))
    rows = []
    for run in runs:
        peaks = [number(run["peak_rss_bytes"][name] / 1e6, 0) for name in ("bank", "platform", "coordinator")]
        cells = [f"{run['rows']:,}", f"{run['rows_train']:,}", str(run["bits"]), str(run["cores"])]
        cells += [seconds(run["seconds"].get(step)) for step in STEPS]
        rows.append([*cells, *peaks, number(sum(run["bytes"]["align"].values()) / run["rows"]), _verdict(run)])
    headings = ["shared", "trained on", "bits", "cores", *STEPS[:2], "rounds", *STEPS[3:]]
    headings += [f"{name}, MB" for name in ("bank", "platform", "coordinator")]
    parts.append(table([*headings, "alignment, bytes a shared row", "logs"], rows))
    return "\n".join(parts)
