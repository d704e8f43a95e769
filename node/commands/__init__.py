"""What the commands of ``isthmus-node`` share: the files they were pointed to, and ``--json`` on every one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from node.config import NodeConfig, load_config

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class NodeContext:
    """The global options of one call."""

    config_path: Path = Path("node.toml")
    as_json: bool = False

    def config(self) -> NodeConfig:
        """Read the configuration.

        Raises:
            UsageError: see :func:`node.config.load_config`.
        """
        return load_config(self.config_path)


pass_node = click.make_pass_decorator(NodeContext, ensure=True)
"""Gives a command its :class:`NodeContext` as first argument."""


def _set_json(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(NodeContext).as_json = True


def json_option(command: F) -> F:
    """Adds ``--json``; the choice arrives in :attr:`NodeContext.as_json`, whether it was given before or after the command."""
    option = click.option("--json", is_flag=True, expose_value=False, callback=_set_json, help="Print the result as JSON.")
    return option(command)
