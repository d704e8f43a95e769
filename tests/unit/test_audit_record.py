"""The log writer: what stands on disk, what a crash leaves, what it refuses."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import rfc8785

from audit.checkpoint import verify_checkpoint
from audit.entries import LINE_BYTES_MAX
from audit.errors import DataError, IsthmusError, UsageError, VerificationError
from audit.merkle import leaf_hash, root_of
from audit.record import LogWriter
from audit.signing import SigningKey

KEY = SigningKey("isthmus.log/bank", bytes(range(32)))
START = datetime(2025, 1, 1, tzinfo=UTC)


def ticking() -> Callable[[], datetime]:
    moments = iter(range(10**9))
    return lambda: START + timedelta(seconds=next(moments))


def open_log(folder: Path) -> LogWriter:
    return LogWriter.open(folder, key=KEY, clock=ticking())


def lines(folder: Path) -> list[bytes]:
    return (folder / "log.jsonl").read_bytes().splitlines()


def test_entries_are_canonical_chained_and_signed(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    assert log.append("software", version="0.1.0", python="3.11", lock_sha256="00" * 32) == 0
    assert log.append("message", job="ab" * 32, step="align", attempt=1, round=2, direction="sent", seq=7, items=3) == 1
    note = log.checkpoint()
    log.close()
    first, second = lines(tmp_path)
    assert all(rfc8785.dumps(json.loads(line)) == line for line in (first, second))
    assert json.loads(first)["prev"] == ""
    assert json.loads(second)["prev"] == leaf_hash(first).hex()
    entry = json.loads(second)
    assert (entry["seq"], entry["number"], entry["log"], entry["step"], entry["attempt"], entry["round"]) == (
        1,
        7,
        "bank",
        "align",
        1,
        2,
    )
    checkpoint = verify_checkpoint(note.encode(), KEY.verifier)
    assert (checkpoint.origin, checkpoint.size) == ("isthmus.log/bank", 2)
    assert checkpoint.root == root_of([leaf_hash(first), leaf_hash(second)])
    assert (tmp_path / "checkpoint").read_text() == note
    assert (tmp_path / "checkpoints" / "000000000002").read_text() == note


def test_a_log_is_continued(tmp_path: Path) -> None:
    whole = open_log(tmp_path / "whole")
    for _ in range(9):
        whole.append("note")
    whole.close()
    for session in range(3):
        part = LogWriter.open(tmp_path / "parts", key=KEY, clock=lambda s=session: START + timedelta(days=s))  # type: ignore[misc]
        assert part.size == 3 * session
        for _ in range(3):
            part.append("note")
        part.close()
    assert len(lines(tmp_path / "parts")) == 9
    size = verify_checkpoint((tmp_path / "parts" / "checkpoint").read_bytes(), KEY.verifier).size
    assert size == 9, "close signs what was not yet signed"


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_torn_last_line_is_cut_off_and_recorded(tmp_path: Path, cut: int) -> None:
    log = open_log(tmp_path)
    log.append("first")
    log.checkpoint()
    log.append("second", text="x" * 300)
    log.close()
    (tmp_path / "checkpoint").write_bytes((tmp_path / "checkpoints" / "000000000001").read_bytes())
    data = (tmp_path / "log.jsonl").read_bytes()
    (tmp_path / "log.jsonl").write_bytes(data[:-cut])
    again = open_log(tmp_path)
    assert again.append("third") == 2
    again.close()
    kinds = [json.loads(line)["kind"] for line in lines(tmp_path)]
    assert kinds == ["first", "recovery", "third"]
    torn = data.splitlines(keepends=True)[1][:-cut]
    assert json.loads(lines(tmp_path)[1])["cut_bytes"] == len(torn)


def test_a_log_that_is_not_the_signed_one_is_not_continued(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for name in ("first", "second", "third"):
        log.append(name)
    log.close()
    path = tmp_path / "log.jsonl"
    data = path.read_bytes()
    for code, changed in {
        "log.shortened": b"".join(data.splitlines(keepends=True)[:2]),
        "log.broken": data.replace(b'"first"', b'"worst"'),
        "log.altered": data.replace(b'"third"', b'"thirt"'),
    }.items():
        path.write_bytes(changed)
        with pytest.raises(VerificationError) as caught:
            open_log(tmp_path)
        assert caught.value.code == code
        assert path.read_bytes() == changed
    path.write_bytes(b"\n".join([b"no entry", data]))
    with pytest.raises(VerificationError, match="byte 0"):
        open_log(tmp_path)


def test_another_key_or_owner(tmp_path: Path) -> None:
    open_log(tmp_path).close()
    with pytest.raises(VerificationError, match=r"audit\.not_signed"):
        LogWriter.open(tmp_path, key=SigningKey("isthmus.log/bank", bytes(32)), clock=ticking())
    log = open_log(tmp_path / "b")
    log.append("first")
    log.close()
    (tmp_path / "b" / "checkpoint").unlink()
    with pytest.raises(UsageError, match=r"log\.other_owner"):
        LogWriter.open(tmp_path / "b", key=SigningKey("isthmus.log/platform", bytes(32)), clock=ticking())


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    with pytest.raises(UsageError, match=r"log\.in_use"):
        open_log(tmp_path)
    log.close()
    log.close()
    open_log(tmp_path).close()
    with pytest.raises(UsageError, match=r"log\.closed"):
        log.append("late")
    with pytest.raises(UsageError, match=r"log\.closed"):
        log.checkpoint()


def test_the_clock_never_goes_back(tmp_path: Path) -> None:
    moments = iter([START, START - timedelta(hours=1), START + timedelta(microseconds=1)])
    log = LogWriter.open(tmp_path, key=KEY, clock=lambda: next(moments))
    for _ in range(3):
        log.append("note")
    log.close()
    assert [json.loads(line)["time"] for line in lines(tmp_path)] == [
        "2025-01-01T00:00:00.000000Z",
        "2025-01-01T00:00:00.000000Z",
        "2025-01-01T00:00:00.000001Z",
    ]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"value": 0.5}, "log.number"),
        ({"value": [{"deep": 1e300}]}, "log.number"),
        ({"value": 2**53}, "log.number"),
        ({"value": b"bytes"}, "log.field"),
        ({"prev": "x"}, "log.field"),
        ({"seq": 1, "number": 2}, "log.field"),
        ({"value": "x" * LINE_BYTES_MAX}, "log.entry_too_large"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_entries_that_are_refused(tmp_path: Path, fields: dict[str, object], code: str) -> None:
    log = open_log(tmp_path)
    with pytest.raises(UsageError) as caught:
        log.append("note", **fields)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert log.append("note") == 0
    log.close()


def test_threads_share_a_log(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    threads = [threading.Thread(target=lambda: [log.append("note") for _ in range(20)]) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert open_log(tmp_path).size == 100


def test_a_full_disk_leaves_a_log_that_can_be_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log(tmp_path)
    log.append("first")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("audit.record.os.fsync", full)
        with pytest.raises(DataError, match="No space left"):
            log.append("second")
    with pytest.raises(IsthmusError, match=r"log\.closed"):
        log.append("third")
    log.close()
    again = open_log(tmp_path)
    assert again.size == 1
    again.close()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"log\.unwritable"):
        open_log(tmp_path / "file" / "log")
