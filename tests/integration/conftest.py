"""What several integration tests look at and none changes, made once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.replay_world import World, finished_world


@pytest.fixture(scope="session")
def finished_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], World]:
    """The nodes of one finished job by who holds the label; to be spoilt only as a copy."""
    made: dict[str, World] = {}

    def world_of(label_holder: str) -> World:
        if label_holder not in made:
            made[label_holder] = finished_world(tmp_path_factory.mktemp("finished"), label_holder=label_holder)
        return made[label_holder]

    return world_of
