"""A node's offers reach its witnesses in the order of its log, whoever hands them over."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from audit.identity import create_identity
from audit.partner import partner_of
from audit.record import LogWriter
from audit.witness import Witness, size_of
from node.runtime.cosigning import CosignedLog
from protos import control_pb2


def clock() -> datetime:
    return datetime.now(UTC)


def _world(tmp_path: Path, offered: list[int], pause: float) -> tuple[CosignedLog, LogWriter]:
    own = create_identity(tmp_path / "bank", name="bank", role="bank")
    other = create_identity(tmp_path / "coordinator", name="coordinator", role="coordinator")
    log = LogWriter.open(tmp_path / "log", key=own.log_key, clock=clock)

    def report(report: control_pb2.Report) -> None:
        size = size_of(report.checkpoint.note.encode())
        time.sleep(pause if size % 2 else 0)  # every other one is slow to be handed over
        offered.append(size)

    cosigned = CosignedLog(
        log,
        Witness(tmp_path / "log", key=own.log_key, clock=clock),
        partners={"coordinator": partner_of(other, address="")},
        coordinator="coordinator",
        report=report,
        notify=lambda line: None,
    )
    return cosigned, log


def test_offers_of_several_threads_do_not_overtake_each_other(tmp_path: Path) -> None:
    """A witness that saw the newer checkpoint first would take the older one for a log that was rolled back."""
    offered: list[int] = []
    cosigned, log = _world(tmp_path, offered, 0.02)

    def write() -> None:
        for _ in range(15):
            cosigned.append("software", version="1")
            cosigned.checkpoint()

    def attach() -> None:
        for _ in range(15):
            cosigned.offer()

    threads = [threading.Thread(target=target) for target in (write, write, attach)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert len(offered) >= 30
    assert offered == sorted(offered)
    assert offered[-1] == 30


def test_an_answer_from_another_size_is_followed_up_once(tmp_path: Path) -> None:
    offered: list[int] = []
    cosigned, log = _world(tmp_path, offered, 0.0)
    for _ in range(3):
        cosigned.append("software", version="1")
        cosigned.checkpoint()
    answer = control_pb2.Cosignature(log="bank", witness="coordinator", size=2)
    for _ in range(4):
        cosigned.cosigned(answer)
    log.close()
    assert offered == [1, 2, 3, 3], "asked once more, from where the witness stands, and not again"
