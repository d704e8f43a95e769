"""What the commands of ``isthmus-coordinator`` share: the configuration they were pointed to, and ``--json`` on each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from coordinator.config import CoordinatorConfig, load_config

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class CoordinatorContext:
    """The global options of one call."""

    config_path: Path = Path("coordinator.toml")
    as_json: bool = False

    def config(self) -> CoordinatorConfig:
        """Read the configuration; raises ``UsageError`` as :func:`coordinator.config.load_config` does."""
        return load_config(self.config_path)


pass_context = click.make_pass_decorator(CoordinatorContext, ensure=True)
"""Gives a command its :class:`CoordinatorContext` as first argument."""


def _set_json(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(CoordinatorContext).as_json = True


def json_option(command: F) -> F:
    """Adds ``--json``, before or after the command's name alike."""
    option = click.option("--json", is_flag=True, expose_value=False, callback=_set_json, help="Print the result as JSON.")
    return option(command)
