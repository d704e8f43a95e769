"""``isthmus-node``: the node that runs beside a bank's or a platform's data."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import click

from audit import console
from node.commands import NodeContext, jobs, json_option, pass_node, setup, watching


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=Path("node.toml"),
    show_default=True,
    help="The node's configuration file.",
)
@json_option
@click.version_option(version("isthmus"), prog_name="isthmus-node")
@pass_node
def main_group(node: NodeContext, config_path: Path) -> None:
    """Run a node beside your data: fit one model with a partner on customers you share, without showing either's data.

    \b
    Example, from nothing to a serving node:
      isthmus-node init bank --name bank --role bank
      cd bank
      isthmus-node partner export --output bank.partner.json    (send it to the partners)
      isthmus-node partner add coordinator.partner.json
      isthmus-node partner add platform.partner.json
      (offer a data set: edit node.toml)
      isthmus-node doctor
      isthmus-node serve
    """
    node.config_path = config_path


setup.register(main_group)
jobs.register(main_group)
watching.register(main_group)


def main(argv: list[str] | None = None) -> int:
    """The entry point of the command ``isthmus-node``."""
    return console.run(main_group, argv)
