"""A test run ends: what keeps the interpreter from leaving after the last test is shown, and fails the run."""

from __future__ import annotations

import faulthandler

import pytest

LEAVING_SECONDS = 60


def pytest_unconfigure(config: pytest.Config) -> None:
    """Python waits without end for threads that are no daemons: after a minute it shows all stacks and ends with 1."""
    faulthandler.dump_traceback_later(LEAVING_SECONDS, exit=True)
