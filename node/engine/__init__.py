"""Where heavy loops run: in this process or in a pool of processes; the results are the same bits."""

from __future__ import annotations

from node.engine.base import Engine, make_engine
from node.engine.inline import InlineEngine
from node.engine.pool import PoolEngine

__all__ = ["Engine", "InlineEngine", "PoolEngine", "make_engine"]
