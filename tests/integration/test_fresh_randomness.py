"""A step that runs again uses fresh randomness and fresh masks: over a job with restarts and a second preparation, no random stream
is opened twice and no prepared mask or lookup session serves twice.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from node.crypto.drbg import Drbg, Stream
from node.protocols import logistic
from node.protocols.lookup import IndexHolder, TableHolder
from tests.asks import REPREPARED
from tests.joint import world

Used = Counter[tuple[str, str]]


def _noting_streams(used: Used) -> Callable[..., Stream]:
    open_stream = Drbg.stream

    def noted(self: Drbg, purpose: str) -> Stream:
        # What decides a stream's bytes: the seed, the labels of the attempt, the purpose.
        used["stream", hashlib.sha256(self._seed + self._context + purpose.encode()).hexdigest()] += 1
        return open_stream(self, purpose)

    return noted


def _noting_masks(used: Used) -> Callable[..., Any]:
    run_round = logistic.run_round

    def noted(*arguments: Any, **named: Any) -> Any:
        prepared, slot = named["prepared"], named["slot"]
        masks = {
            "residual masks": prepared.residual_masks[slot].tobytes(),
            "gradient masks": repr(prepared.gradient_masks[slot]).encode(),
            "score masks": repr(prepared.score_masks[slot - 1]).encode() if named["round"] > 1 else b"",
        }
        for kind, value in masks.items():
            if value:
                used[kind, hashlib.sha256(value).hexdigest()] += 1
        return run_round(*arguments, **named)

    return noted


def _noting_sessions(kind: type[Any], used: Used) -> Callable[..., Any]:
    claim = kind.open

    def noted(self: Any, session: int) -> Any:
        used["lookup session", hashlib.sha256(self.keys.tobytes() + bytes([session])).hexdigest()] += 1
        return claim(self, session)

    return noted


def test_nothing_random_serves_twice_across_attempts(tmp_path: Path) -> None:
    used: Used = Counter()
    with (
        mock.patch.object(Drbg, "stream", _noting_streams(used)),
        mock.patch.object(logistic, "run_round", _noting_masks(used)),
        mock.patch.object(TableHolder, "open", _noting_sessions(TableHolder, used)),
        mock.patch.object(IndexHolder, "open", _noting_sessions(IndexHolder, used)),
        world(tmp_path, REPREPARED) as joined,
    ):
        assert joined.run(REPREPARED)[1] == "finished"
    kinds = Counter(kind for kind, _ in used)
    assert kinds["stream"] > 60
    assert kinds["residual masks"] >= 8, "two nodes, round 1 and at least three attempts of round 2"
    assert kinds["lookup session"] >= 2
    assert [what for what, times in used.items() if times > 1] == []
