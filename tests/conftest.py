"""A test run is quick where nothing is tested, and ends: what keeps the interpreter from leaving is shown, and fails the run."""

from __future__ import annotations

import faulthandler
import gc

import pytest

LEAVING_SECONDS = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A timed test that fails is tried once more, for a machine that stood still says nothing of the code; both tries are shown."""
    for item in items:
        if item.get_closest_marker("timed"):
            item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=2))


def pytest_collection_finish(session: pytest.Session) -> None:
    """The modules and thousands of tests stay to the end: no collection of garbage needs to go through them again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Python waits without end for threads that are no daemons: after a minute it shows all stacks and ends with 1."""
    faulthandler.dump_traceback_later(LEAVING_SECONDS, exit=True)
