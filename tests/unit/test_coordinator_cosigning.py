"""Checkpoints that the coordinator passes on between nodes: none is lost because its witness was away."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from audit.errors import VerificationError
from audit.identity import create_identity
from audit.record import LogWriter
from coordinator.cosigning import Cosigning
from protos import control_pb2


class Stream:
    """What was said to a node."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []

    def send(self, **body: Any) -> None:
        self.said += body.items()


@pytest.fixture
def cosigning(tmp_path: Path) -> Any:
    own = create_identity(tmp_path / "keys", name="bank", role="bank")
    log = LogWriter.open(tmp_path / "log", key=own.log_key, clock=lambda: datetime.now(UTC))
    log.append("software", version="1")
    note = log.checkpoint()
    attached: dict[str, Stream] = {}
    found = Cosigning(
        SimpleNamespace(name="coordinator"),  # type: ignore[arg-type]
        SimpleNamespace(),  # type: ignore[arg-type]
        partners={},
        attached=attached,
        refused=lambda refused: None,
    )
    found.met(SimpleNamespace(parties=("bank", "platform")))  # type: ignore[arg-type]
    return SimpleNamespace(it=found, attached=attached, body=control_pb2.Checkpoint(log="bank", witness="platform", note=note))


def test_a_partner_that_was_away_is_asked_when_it_attaches_until_it_answers(cosigning: Any) -> None:
    it, attached, body = cosigning.it, cosigning.attached, cosigning.body
    it.offered("bank", body)
    for _ in range(2):  # the first stream may be cut before it is read
        attached["platform"] = Stream()
        it.attached("platform")
        assert attached["platform"].said == [("checkpoint", body)]
    it.answered("platform", control_pb2.Cosignature(log="bank", witness="platform", size=0))
    attached["platform"] = Stream()
    it.attached("platform")
    assert attached["platform"].said == [("checkpoint", body)], "it has answered for an older one"
    it.answered("platform", control_pb2.Cosignature(log="bank", witness="platform", size=1, line="x"))
    attached["platform"] = Stream()
    it.attached("platform")
    assert attached["platform"].said == []


def test_what_is_no_checkpoint_is_refused_to_its_sender(cosigning: Any) -> None:
    cosigning.body.note = "nothing"
    with pytest.raises(VerificationError):
        cosigning.it.offered("bank", cosigning.body)
    cosigning.attached["platform"] = Stream()
    cosigning.it.attached("platform")
    assert cosigning.attached["platform"].said == []
