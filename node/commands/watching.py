"""The command ``health``, for people and for the probes of containers and services."""

from __future__ import annotations

import click

from node.commands import NodeContext, json_option, pass_node
from operations.commands import report_health


def register(group: click.Group) -> None:
    """Add the commands of this module to the group."""
    group.add_command(health)


@click.command()
@click.option("--live", is_flag=True, help="Ask only whether the process is alive, not whether it could take a step.")
@json_option
@pass_node
def health(node: NodeContext, live: bool) -> int:
    """Ask the serving node on this machine whether it is ready: attached, log writable, disk not full.  Exit status 0 or 1.

    \b
    Example:
      isthmus-node --config bank/node.toml health
    """
    return report_health(node.config().state_folder, live=live, as_json=node.as_json)
