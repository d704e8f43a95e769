"""Commands about jobs: ``submit``, ``jobs``, ``show``, ``watch``, ``cancel``; all speak to the running server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from audit import console as manners
from audit.accuracy import Accuracy
from audit.console import emit
from audit.wording import given_up
from coordinator.client import connect
from coordinator.commands import CoordinatorContext, json_option, pass_context
from coordinator.errors import UsageError
from coordinator.submit import build_spec, merge_options, read_document
from coordinator.views import as_json as view_json
from coordinator.watch import follow, metrics_line, outcome, rows_line, step_line

FAILED = ("failed", "cancelled", "rejected")


def register(group: click.Group) -> None:
    """Add the commands of this module to the group."""
    for command in (submit, jobs, show, watch, cancel):
        group.add_command(command)


_SPEC_OPTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (
        "--kind",
        "kind",
        {"type": click.Choice(["train", "count"]), "help": "Fit a model, or only count the shared customers (train if left out)."},
    ),
    ("--title", "title", {"help": "What people will call the job."}),
    ("--label-holder", "label_holder.name", {"metavar": "NAME", "help": "The party that holds the label."}),
    ("--label-dataset", "label_holder.dataset", {"metavar": "DATASET", "help": "Its data set, as its node calls it."}),
    ("--label-features", "label_holder.features", {"metavar": "COL,COL", "help": "Its columns that serve as features."}),
    ("--label", "label.column", {"metavar": "COL", "help": "The two-valued column to predict."}),
    ("--feature-holder", "feature_holder.name", {"metavar": "NAME", "help": "The other party."}),
    ("--feature-dataset", "feature_holder.dataset", {"metavar": "DATASET", "help": "Its data set."}),
    ("--features", "feature_holder.features", {"metavar": "COL,COL", "help": "Its columns."}),
    (
        "--normalise",
        "align.normalise",
        {"metavar": "RULE", "help": "How identifiers are made comparable: exact, casefold, digits, ..."},
    ),
    (
        "--keys",
        "align.keys",
        {
            "metavar": "NAME=RULE,...",
            "help": "Identifiers tried in this order: phone=phone-e164:DE,email=email.",
        },
    ),
    ("--minimum", "align.minimum", {"type": int, "help": "Fewest shared customers."}),
    (
        "--align-method",
        "align.method",
        {
            "metavar": "METHOD",
            "help": "How they are found: auto (by the sizes), curve, ot (oblivious transfer), or filter (published by one side).",
        },
    ),
    ("--publisher", "align.publisher", {"metavar": "SIDE", "help": "Whose filter: label_holder or feature_holder."}),
    ("--l2", "model.l2", {"help": "Penalty on the mean log-loss, a decimal."}),
    ("--rounds", "model.rounds", {"type": int, "help": "Most rounds."}),
    ("--tolerance", "model.tolerance", {"help": "Stop when the decrement is below this decimal."}),
    ("--key-bits", "model.key_bits", {"type": int, "help": "Paillier modulus: 2048, 3072, 4096."}),
    ("--key-kind", "model.key_kind", {"help": "standard, or short-order where both policies name it."}),
    ("--holdout", "model.holdout", {"help": "Share of the rows held out, a decimal; 0 for none."}),
    ("--train-rows", "model.train_rows", {"type": int, "help": "Train on a sample of at most so many rows; 0 for all."}),
    ("--evaluate-rows", "model.evaluate_rows", {"type": int, "help": "Evaluate on at most so many of those held out; 0 for all."}),
    ("--lookup-entries", "model.lookup_entries", {"type": int, "help": "Entries of the sigmoid's table (by rows if left out)."}),
    ("--bands", "model.bands", {"type": int, "help": "Score bands of the evaluation."}),
    (
        "--aggregates-to-feature-holder/--no-aggregates-to-feature-holder",
        "disclose.aggregates_to_feature_holder",
        {"default": None, "help": "Whether the feature holder learns AUC, KS and the like."},
    ),
    (
        "--aggregates-to-coordinator/--no-aggregates-to-coordinator",
        "disclose.aggregates_to_coordinator",
        {"default": None, "help": "Whether the coordinator does."},
    ),
    (
        "--learner",
        "count.learner",
        {"type": click.Choice(["label_holder", "feature_holder"]), "help": "Who learns a count's exact number."},
    ),
    ("--step", "count.step", {"type": int, "help": "What a count tells onwards is rounded down to a multiple of this."}),
    (
        "--tell-partner/--no-tell-partner",
        "count.tell_partner",
        {"default": None, "help": "Whether the learner of a count tells the other party the rounded number."},
    ),
    (
        "--tell-coordinator/--no-tell-coordinator",
        "count.tell_coordinator",
        {"default": None, "help": "Whether it tells the coordinator."},
    ),
)
_LISTS = ("label_holder.features", "feature_holder.features")


def _spec_options(command: Any) -> Any:
    for flags, key, settings in reversed(_SPEC_OPTIONS):
        command = click.option(flags, key.replace(".", "__"), **settings)(command)
    return command


@click.command()
@click.argument("file", required=False, metavar="[SPEC.toml]", type=click.Path(path_type=Path, dir_okay=False))
@_spec_options
@json_option
@pass_context
def submit(context: CoordinatorContext, file: Path | None, **given: Any) -> None:
    """Submit a job from a TOML file, from options, or both (options win).  Prints the job's hash.

    With --kind count the job tells how many customers both share, and nothing else: the file, if there is one, has the tables
    [label_holder] and [feature_holder] (name, dataset), [align] and [count] (learner, step, tell_partner, tell_coordinator).

    Otherwise the file has the tables [label_holder] and [feature_holder] (name, dataset, features), [label] (column), and, where
    the defaults do not suit, [align] (normalise or keys, minimum, method, publisher), [model] (l2, rounds, tolerance, key_bits,
    key_kind, holdout, train_rows, evaluate_rows, lookup_entries, bands) and [disclose].

    \b
    Examples:
      isthmus-coordinator submit job.toml
      isthmus-coordinator submit job.toml --rounds 6 --holdout 0
      isthmus-coordinator submit --label-holder bank --label-dataset cards --label default --label-features limit,age \\
          --feature-holder platform --feature-dataset shoppers --features spend,visits
      isthmus-coordinator submit --kind count --label-holder bank --label-dataset cards --feature-holder platform \\
          --feature-dataset shoppers --minimum 1000 --step 100
    """
    config = context.config()
    options = {name.replace("__", "."): value for name, value in given.items()}
    for key in _LISTS:
        if options[key] is not None:
            options[key] = [part.strip() for part in options[key].split(",") if part.strip()]
    if options["align.keys"] is not None:
        pairs = [part.strip().partition("=") for part in options["align.keys"].split(",") if part.strip()]
        options["align.keys"] = [{"name": name, "normalise": rule} for name, _, rule in pairs]
    if file is None and all(value is None for value in options.values()):
        raise UsageError(
            "spec.empty", "Neither a file nor options describe the job.", remedy="See `isthmus-coordinator submit --help`."
        )
    document = merge_options(read_document(file) if file else {}, options)
    spec = build_spec(document, coordinator=config.name, partners=config.partners())
    with connect(config) as client:
        job = client.submit(spec.canonical())

    def human(console: Console) -> None:
        console.print(f"job {job}")
        for party in (spec.label_holder, spec.feature_holder):
            console.print(f"  {party.name}: isthmus-node show {job[:12]}, then isthmus-node approve {job[:12]}")
        console.print(f"  follow it with: isthmus-coordinator watch {job[:12]}")
        if spec.kind == "train" and spec.model.key_bits < 3072:
            console.print(f"  warning: keys of {spec.model.key_bits} bits; 3072 is the recommended size")

    emit({"job": job, "spec": spec.model_dump(mode="json")}, as_json=context.as_json, human=human)


@click.command()
@json_option
@pass_context
def jobs(context: CoordinatorContext) -> None:
    """List the newest jobs.

    \b
    Example:
      isthmus-coordinator jobs --json
    """
    with connect(context.config()) as client:
        views = [view_json(view) for view in client.jobs()]

    def human(console: Console) -> None:
        if not views:
            console.print("No job yet: submit one with `isthmus-coordinator submit`.")
            return
        for view in views:  # a line each, so that it can be searched; a table would wrap where it is narrow
            submitted = view["submitted"][:16].replace("T", " ")
            words = [
                view["job"][:12],
                submitted,
                f"{view['label_holder']} + {view['feature_holder']}",
                outcome(view),
                view["title"],
            ]
            console.print("   ".join(word for word in words if word))

    emit({"jobs": views}, as_json=context.as_json, human=human)


@click.command()
@click.argument("job")
@json_option
@pass_context
def show(context: CoordinatorContext, job: str) -> None:
    """Show one JOB (the first digits of its hash are enough): state, steps, what both nodes reported.

    \b
    Example:
      isthmus-coordinator show 3fa9c2d17b04
    """
    with connect(context.config()) as client:
        view = view_json(client.show(job))
    emit(view, as_json=context.as_json, human=lambda console: _print(console, view))


@click.command()
@click.argument("job")
@json_option
@pass_context
def watch(context: CoordinatorContext, job: str) -> int:
    """Follow one JOB until it has ended.  Exit status 1 when it did not finish.  With --json one view a line.

    \b
    Example:
      isthmus-coordinator watch 3fa9c2d17b04
    """
    with connect(context.config()) as client:
        views = (view_json(view) for view in client.watch(job))
        last = follow(views, manners.console(), as_json=context.as_json)
    return 0 if last is not None and last["state"] == "finished" else 1


@click.command()
@click.argument("job")
@json_option
@pass_context
def cancel(context: CoordinatorContext, job: str) -> None:
    """Give one JOB up; both nodes are told.

    \b
    Example:
      isthmus-coordinator cancel 3fa9c2d17b04
    """
    with connect(context.config()) as client:
        view = view_json(client.cancel(job))
    emit(view, as_json=context.as_json, human=lambda console: console.print(f"job {view['job'][:12]} {outcome(view)}"))


def _print(console: Console, view: dict[str, Any]) -> None:
    console.print(f"job        {view['job']}")
    if view["title"]:
        console.print(f"title      {view['title']}")
    console.print(f"state      {outcome(view)}")
    console.print(f"submitted  {view['submitted']}")
    for party in view["parties"]:
        role = "label holder" if party["party"] == view["label_holder"] else "feature holder"
        console.print(f"{party['party']:<10} {role}, {party['decision']}, {'attached' if party['attached'] else 'away'}")
    if view["intersection"] is not None:
        console.print("rows       " + rows_line(view))
    if view["accuracy"]:
        console.print("accuracy   " + given_up(Accuracy.of(view["accuracy"])))
    if view["base_rate"]:
        console.print(f"base rate  {view['base_rate']}")
    for step in view["steps"]:
        console.print("  " + step_line(step, view["rows_train"]))
    if view["metrics"]:
        console.print(metrics_line(view["metrics"]))
        for row in view["metrics"]["gains"]:
            console.print(f"  decile {row['decile']:2d}   {row['rows']:6,} rows   {row['positives']:6,} positives")
