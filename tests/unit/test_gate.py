"""The gate before a service: streams held, streams refused, reports a second."""

from __future__ import annotations

import pytest

from audit.errors import IsthmusError, PeerError, TransportError
from operations.gate import Gate, Rate


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def refuse(gate: Gate, caller: str) -> str:
    with pytest.raises(IsthmusError) as refused, gate.passing(caller):
        raise PeerError("job.unknown", "no such job")
    return refused.value.code


def test_a_rate_allows_a_burst_and_then_so_many_a_second() -> None:
    clock = Clock()
    rate = Rate(3, 0.5, clock)
    assert [rate.take() for _ in range(5)] == [True, True, True, False, False]
    clock.now = 1.9
    assert not rate.take()
    clock.now = 4.0
    assert rate.take()
    clock.now = 1e9
    assert [rate.take() for _ in range(4)] == [True, True, True, False]


def test_one_caller_holds_so_many_streams_and_does_not_shut_out_another() -> None:
    gate = Gate("transport", streams=2)
    with gate.passing("bank"), gate.passing("bank"):
        with pytest.raises(TransportError) as refused, gate.passing("bank"):
            pass
        assert refused.value.code == "transport.too_many_streams"
        with gate.passing("shop"):
            pass
    with gate.passing("bank"):
        pass


def test_a_caller_that_is_refused_too_often_is_not_read_for_a_while() -> None:
    clock = Clock()
    gate = Gate("control", streams=2, refusals=3, per_second=0.5, clock=clock)
    assert [refuse(gate, "bank") for _ in range(5)] == ["job.unknown"] * 3 + ["control.too_often"] * 2
    assert refuse(gate, "shop") == "job.unknown"
    clock.now = 2.0
    assert [refuse(gate, "bank") for _ in range(2)] == ["job.unknown", "control.too_often"]
