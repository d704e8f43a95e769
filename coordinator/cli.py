"""``isthmus-coordinator``: schedules jobs between two nodes, without seeing their data."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import click

from audit import console
from coordinator.commands import CoordinatorContext, database, jobs, json_option, pass_context, serving, setup
from coordinator.demo import cli as demo


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=Path("coordinator.toml"),
    show_default=True,
    help="The coordinator's configuration file.",
)
@json_option
@click.version_option(version("isthmus"), prog_name="isthmus-coordinator")
@pass_context
def main_group(context: CoordinatorContext, config_path: Path) -> None:
    """Direct jobs between two nodes: which step comes next, with which public numbers.  No data passes here.

    \b
    Example, from nothing to a job:
      isthmus-coordinator init coordinator --listen 0.0.0.0:7442 --address coordinator.example:7442
      cd coordinator
      isthmus-coordinator partner export --output coordinator.partner.json    (send it to both nodes)
      isthmus-coordinator partner add bank.partner.json
      isthmus-coordinator partner add platform.partner.json
      isthmus-coordinator serve
      isthmus-coordinator submit job.toml
      isthmus-coordinator watch JOB

    To see a whole job on this machine first: isthmus-coordinator demo
    """
    context.config_path = config_path


setup.register(main_group)
serving.register(main_group)
jobs.register(main_group)
database.register(main_group)
demo.register(main_group)


def main(argv: list[str] | None = None) -> int:
    """The entry point of the command ``isthmus-coordinator``."""
    return console.run(main_group, argv)


if __name__ == "__main__":
    main()
