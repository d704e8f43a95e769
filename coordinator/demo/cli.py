"""``isthmus-coordinator demo``: its options."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.errors import UsageError
from audit.spec import decimal_text

# Everything else is imported when the demo runs: `isthmus-coordinator jobs` must not wait for the demo's libraries.
if TYPE_CHECKING:
    from coordinator.demo.datasets import DemoData, UserFiles
    from coordinator.demo.run import Options

KEY_BITS = 2048
"""The demo's own default.  A job's default is 3072; at 2048 bits the demo ends within a minute on two ordinary cores, and it
protects nobody's data: both parties run on one machine.  The warning that the nodes give for it is shown all the same."""

SMALL_KEYS_FROM = 2048
HELP = """Train one joint model on this machine, end to end.

Starts a coordinator, a bank's node and a platform's node as three processes with keys, TLS and logs of their own, runs one
job, verifies the logs, prints the result and ends the processes.

\b
Examples:
  isthmus-coordinator demo
  isthmus-coordinator demo --dataset breast-cancer --json result.json
  isthmus-coordinator demo --bank cards.csv --bank-id customer_id --label default_12m \\
      --platform shoppers.csv --platform-id user_id --keep kept
"""


class _DecimalText(click.ParamType):
    """A decimal number in the plain form that a job has."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return decimal_text(value)
        except UsageError as error:
            self.fail(error.message, param, ctx)


BREAST_CANCER = {"l2": "0.01", "rounds": 12}
"""569 rows of thirty nearly collinear columns that almost separate the classes: with l2 = 0.0001 even the pooled optimum lies far
out, where it follows single rows and where eight rounds do not lead."""
DEFAULTS = {"l2": "0.0001", "rounds": 8}


_PATH = click.Path(path_type=Path)
_OPTIONS = [
    click.option("--dataset", type=click.Choice(["synthetic", "breast-cancer"]), help="Built-in data.  [default: synthetic]"),
    click.option("--bank", type=_PATH, metavar="FILE", help="The bank's own file, CSV or Parquet."),
    click.option("--bank-id", metavar="COL", help="Its identifier column."),
    click.option("--label", metavar="COL", help="The two-valued column to predict, in the label holder's file."),
    click.option("--platform", type=_PATH, metavar="FILE", help="The platform's own file, CSV or Parquet."),
    click.option("--platform-id", metavar="COL", help="Its identifier column."),
    click.option("--bank-features", metavar="COL,COL", help="The bank's columns to use.  [default: all others]"),
    click.option("--platform-features", metavar="COL,COL", help="The platform's columns to use.  [default: all others]"),
    click.option("--positive", metavar="VALUE", help="The label's value to predict.  [default: 1 or true]"),
    click.option("--label-holder", type=click.Choice(["bank", "platform"]), default="bank", show_default=True),
    click.option("--normalise", default="casefold", show_default=True, metavar="RULE", help="How identifiers are made comparable."),
    click.option(
        "--missing", default="refuse", show_default=True, metavar="RULE", help="Empty numbers: refuse, mean, median or a number."
    ),
    click.option("--minimum", type=click.IntRange(min=1), help="Fewest shared customers.  [default: 1000; breast-cancer: 500]"),
    click.option("--key-bits", type=int, default=KEY_BITS, show_default=True, help="Paillier modulus."),
    click.option("--rounds", type=click.IntRange(1, 64), help="Most rounds.  [default: 8; breast-cancer: 12]"),
    click.option("--l2", type=_DecimalText(), help="L2 penalty on the mean log-loss.  [default: 0.0001; breast-cancer: 0.01]"),
    click.option("--train-rows", type=click.IntRange(0), default=0, help="Train on a sample of at most so many rows; 0 for all."),
    click.option("--holdout", type=_DecimalText(), default="0.2", show_default=True, help="Share of rows held out."),
    click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes of each node."),
    click.option("--json", "json_file", type=_PATH, metavar="FILE", help="Write the result as JSON."),
    click.option("--keep", type=_PATH, metavar="DIR", help="Keep keys, configuration, logs and models in DIR."),
    click.option("--unsafe-small-keys", is_flag=True, help="Allow keys under 2048 bits: for tests, protects nothing."),
]


def register(group: click.Group) -> None:
    """Add the ``demo`` command to the coordinator's command line."""
    command: Any = demo
    for option in reversed(_OPTIONS):
        command = option(command)
    group.add_command(click.command("demo", help=HELP)(command))


def demo(**given: Any) -> None:
    """Check the options, then run."""
    from coordinator.demo.datasets import open_user_files, write_breast_cancer, write_synthetic
    from coordinator.demo.run import Options, run_demo

    defaults = BREAST_CANCER if given["dataset"] == "breast-cancer" else DEFAULTS
    given = {name: defaults.get(name) if value is None else value for name, value in given.items()}
    options = Options(
        key_bits=given["key_bits"],
        rounds=given["rounds"],
        l2=given["l2"],
        holdout=given["holdout"],
        train_rows=given["train_rows"],
        workers=given["workers"],
        small_keys=given["unsafe_small_keys"],
        json_file=given["json_file"],
        keep=given["keep"],
    )
    check_options(options)
    files = user_files(given)
    holder = given["label_holder"]
    minimum = given["minimum"]
    if files is not None:
        opened = open_user_files(
            files, label_holder=holder, normalise=given["normalise"], minimum=minimum, missing=given["missing"]
        )

    def prepare(folder: Path) -> DemoData:
        if files is not None:
            return opened
        if given["dataset"] == "breast-cancer":
            return write_breast_cancer(folder, label_holder=holder, minimum=minimum)
        return write_synthetic(folder, label_holder=holder, minimum=minimum)

    run_demo(prepare, options)


def check_options(options: Options) -> None:
    """Refuse what cannot work before anything is started.

    Raises:
        UsageError: ``demo.small_key``, ``demo.key_bits``, ``demo.holdout``, ``demo.l2``, ``demo.json_unwritable``.
    """
    if options.key_bits < SMALL_KEYS_FROM and not options.small_keys:
        raise UsageError(
            "demo.small_key",
            f"--key-bits {options.key_bits} is too short: keys under {SMALL_KEYS_FROM} bits protect nothing.",
            remedy=f"Use {SMALL_KEYS_FROM} or more (3072 in earnest), or ask for it by name with --unsafe-small-keys.",
        )
    if options.key_bits % 256 or not 512 <= options.key_bits <= 8192:
        raise UsageError(
            "demo.key_bits",
            f"--key-bits {options.key_bits} is not a multiple of 256 between 512 and 8192.",
            remedy="Use 2048 or 3072.",
        )
    if not 0 <= Decimal(options.holdout) < 1:
        raise UsageError("demo.holdout", f"--holdout {options.holdout} is not at least 0 and below 1.", remedy="Use 0.2.")
    if Decimal(options.l2) < 0:
        raise UsageError("demo.l2", f"--l2 {options.l2} is negative.", remedy="Use 0.0001.")
    if options.json_file is not None and not options.json_file.absolute().parent.is_dir():
        raise UsageError(
            "demo.json_unwritable",
            f"There is no folder {options.json_file.parent} to write {options.json_file.name} into.",
            remedy="Make it first, or name a file elsewhere.",
        )


def user_files(given: dict[str, Any]) -> UserFiles | None:
    """The user's own files, or None for built-in data.

    Raises:
        UsageError: ``demo.options_mixed``, ``demo.option_missing``.
    """
    needed = {
        "--bank": "bank",
        "--bank-id": "bank_id",
        "--label": "label",
        "--platform": "platform",
        "--platform-id": "platform_id",
    }
    own = {option: given[key] for option, key in needed.items() if given[key] is not None}
    extra = [name for name in ("bank_features", "platform_features", "positive") if given[name] is not None]
    if not own and not extra:
        return None
    if given["dataset"] is not None:
        named = [*own, *("--" + name.replace("_", "-") for name in extra)]
        raise UsageError(
            "demo.options_mixed",
            f"--dataset names built-in data; {', '.join(named)} belong to files of your own.",
            remedy="Leave one of them out.",
        )
    missing = [option for option in needed if option not in own]
    if missing:
        raise UsageError(
            "demo.option_missing",
            f"Own files need all of {', '.join(needed)}; missing: {', '.join(missing)}.",
            remedy="Add the missing options, or leave all of them out for the synthetic data.",
        )
    from coordinator.demo.datasets import UserFiles

    return UserFiles(
        bank=given["bank"],
        bank_id=given["bank_id"],
        platform=given["platform"],
        platform_id=given["platform_id"],
        label=given["label"],
        bank_features=_split(given["bank_features"]),
        platform_features=_split(given["platform_features"]),
        positive=given["positive"],
    )


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()
