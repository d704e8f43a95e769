"""Where heavy loops run: in this process, in a pool of processes or on a cluster; the results are the same bits."""

from __future__ import annotations

from node.engine.base import Engine, make_engine
from node.engine.cluster import ClusterEngine
from node.engine.inline import InlineEngine
from node.engine.pool import PoolEngine

__all__ = ["ClusterEngine", "Engine", "InlineEngine", "PoolEngine", "make_engine"]
