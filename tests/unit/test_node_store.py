"""The node's state: whole files or none, attempts that never serve twice, seeds that do not show."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from audit.identity import create_identity, load_identity, seal_identity
from audit.unlocking import new_key_file
from node.errors import DataError, UsageError
from node.runtime import files as files_module
from node.runtime.disclosures import Disclosure
from node.runtime.files import JobFiles
from node.runtime.sealed_files import MAGIC, opened_parts, sealed_parts
from node.runtime.seeds import draw_seed, open_seed
from node.runtime.serve import state_lock
from node.runtime.store import FINAL, TRANSITIONS, SignedDecision, Store

JOB = "c" * 64
NOW = "2026-01-01T00:00:00Z"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "state")
    found.add_job(JOB, "{}", state="waiting", code="", now=NOW)
    return found


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = JobFiles(tmp_path / "jobs" / JOB)
    folder.write("model.json", b"first")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files_module.os, "fsync", full)
    with pytest.raises(DataError) as refused:
        folder.write("model.json", b"second")
    assert refused.value.code == "state.write_failed"
    assert refused.value.remedy
    assert folder.read("model.json") == b"first"
    assert [path.name for path in folder.folder.iterdir()] == ["model.json"]


def test_bytes_are_on_disk_before_the_name_is_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace
    monkeypatch.setattr(files_module.os, "fsync", lambda handle: (order.append("sync"), real_sync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda self, target: (order.append("rename"), real_replace(self, target))[1])
    JobFiles(tmp_path).write("x", b"data")
    assert order[:2] == ["sync", "rename"]
    assert order[2:] == ["sync"]  # the folder's own list of names


def test_files_belong_to_their_owner_alone(tmp_path: Path) -> None:
    folder = JobFiles(tmp_path / "jobs" / JOB)
    folder.write_arrays("x.npz", {"a": np.arange(3)})
    assert stat.S_IMODE(os.stat(folder.folder / "x.npz").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(folder.folder).st_mode) == 0o700


def test_arrays_return_and_no_object_is_ever_unpickled(tmp_path: Path) -> None:
    folder = JobFiles(tmp_path)
    arrays = {"a": np.arange(6, dtype=np.uint64).reshape(2, 3), "b": np.zeros((0, 4), dtype=np.int32)}
    folder.write_arrays("x.npz", arrays)
    found = folder.read_arrays("x.npz")
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[k], arrays[k]) and found[k].dtype == arrays[k].dtype for k in arrays)
    with pytest.raises(DataError) as refused:
        folder.write_arrays("y.npz", {"o": np.array([object()])})
    assert refused.value.code == "state.object_array"
    with (tmp_path / "z.npz").open("wb") as file:
        np.savez(file, o=np.array([{"evil": 1}], dtype=object))
    with pytest.raises(DataError) as refused:
        folder.read_arrays("z.npz")
    assert refused.value.code == "state.unreadable"


def test_a_missing_result_is_a_step_out_of_order(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        JobFiles(tmp_path).read_arrays("prepared.npz")
    assert refused.value.code == "job.step_order"


def test_a_job_moves_along_the_table_and_no_other_way(store: Store) -> None:
    for state, following in TRANSITIONS.items():
        for target in TRANSITIONS:
            job = f"{state}-{target}".ljust(64, "0")
            store.add_job(job, "{}", state=state, code="", now=NOW)
            if target == state or target in following:
                store.move(job, target, now=NOW)
                assert store.job(job).state == target
            else:
                with pytest.raises(UsageError) as refused:
                    store.move(job, target, now=NOW)
                assert refused.value.code == "job.illegal_transition"
                assert store.job(job).state == state
    assert {"finished", "failed", "cancelled", "rejected"} == FINAL


@pytest.mark.parametrize(
    ("used", "wanted", "allowed"),
    [
        ([("align", 0, 0)], ("align", 0, 0), False),
        ([("align", 0, 0)], ("align", 0, 1), True),
        ([("align", 0, 3)], ("align", 0, 2), False),
        ([("align", 0, 3)], ("prepare", 0, 2), False),
        ([("align", 0, 3)], ("prepare", 0, 3), True),
        ([("round", 1, 0)], ("round", 2, 0), True),
        ([("round", 1, 0), ("round", 2, 0)], ("round", 2, 1), True),
        ([("round", 1, 0), ("round", 2, 1)], ("round", 1, 2), False),  # slot 2 served round 2, attempt 1
        ([("round", 2, 1)], ("round", 3, 1), True),
    ],
)
def test_an_attempt_and_a_slot_never_serve_twice(
    store: Store, used: list[tuple[str, int, int]], wanted: tuple[str, int, int], allowed: bool
) -> None:
    for step, number, attempt in used:
        store.begin_step(JOB, step, number, attempt, now=NOW)
    if allowed:
        store.begin_step(JOB, *wanted, now=NOW)
    else:
        with pytest.raises(UsageError) as refused:
            store.begin_step(JOB, *wanted, now=NOW)
        assert refused.value.code == "job.attempt_reused"


def test_an_attempt_stays_used_after_a_crash(store: Store) -> None:
    store.begin_step(JOB, "align", 0, 0, now=NOW)
    store.close()
    again = Store(store.folder)
    assert [row.step for row in again.interrupt_steps(now=NOW)] == ["align"]
    assert again.steps(JOB)[0].code == "job.interrupted"
    assert again.interrupt_steps(now=NOW) == []
    with pytest.raises(UsageError):
        again.begin_step(JOB, "align", 0, 0, now=NOW)


def test_requests_wait_until_acted_on_and_only_waiting_jobs_take_one(store: Store) -> None:
    store.request(JOB, decision="approve", by="Ana")
    assert [r.by for r in store.requests()] == ["Ana"]
    with pytest.raises(UsageError) as refused:
        store.request(JOB, decision="reject", by="Bo")
    assert refused.value.code == "job.not_waiting"
    store.move(JOB, "approved", now=NOW)
    assert store.requests() == []


def test_a_prefix_names_one_job(store: Store) -> None:
    store.add_job("cd" + "0" * 62, "{}", state="waiting", code="", now=NOW)
    assert store.resolve("cc").job == JOB
    with pytest.raises(UsageError) as refused:
        store.resolve("c")
    assert refused.value.code == "job.ambiguous"
    for prefix in ("", "%", "e"):
        with pytest.raises(UsageError) as refused:
            store.resolve(prefix)
        assert refused.value.code == "job.unknown"


def test_the_first_decision_counts(store: Store) -> None:
    assert store.put_decision(JOB, "bank", SignedDecision("one", "00"))
    assert not store.put_decision(JOB, "bank", SignedDecision("two", "11"))
    assert store.decisions(JOB)["bank"].statement == "one"


def test_disclosures_are_kept_in_order(store: Store) -> None:
    items = [Disclosure("set_size", "platform", 1, "clause", "250"), Disclosure("rows", "coordinator", 3, "clause")]
    store.add_disclosures(JOB, "align", 0, 0, items)
    store.add_disclosures(JOB, "align", 0, 1, [])
    assert [(row["what"], row["to"], row["value"]) for row in store.disclosures(JOB)] == [
        ("set_size", "platform", "250"),
        ("rows", "coordinator", ""),
    ]


def test_arrays_are_sealed_where_the_store_has_a_key(tmp_path: Path) -> None:
    key, secret = b"k" * 32, np.arange(1000, dtype=np.uint64)
    store = Store(tmp_path / "state", key)
    files = store.files(JOB)
    files.write_arrays("prepared.npz", {"p": secret})
    assert (files.read_arrays("prepared.npz")["p"] == secret).all()
    data = files.read("prepared.npz")
    assert secret.tobytes()[8:80] not in data
    wrong = (
        (None, JOB, "prepared.npz"),
        (key, JOB, "round-1.npz"),
        (key, "d" * 64, "prepared.npz"),
        (b"l" * 32, JOB, "prepared.npz"),
    )
    for other, job, name in wrong:
        opened = Store(tmp_path / "other", other)
        opened.files(job).write(name, data)
        with pytest.raises(DataError) as refused:
            opened.files(job).read_arrays(name)
        assert refused.value.code == "state.unreadable"
        opened.close()
    Store(tmp_path / "state").files(JOB).write_arrays("align.npz", {"p": secret})
    assert (files.read_arrays("align.npz")["p"] == secret).all(), "what an older version left in clear is read"
    store.close()


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 20, 35])
def test_sealed_files_of_any_length_open_whole_or_not_at_all(length: int) -> None:
    key, data = b"k" * 32, bytes(range(length))
    sealed = b"".join(sealed_parts(key, "x", data, chunk=10))
    assert b"".join(opened_parts(key, "x", sealed, chunk=10)) == data
    for cut in range(len(sealed)):
        with pytest.raises(ValueError, match=r"sealed|damaged"):
            list(opened_parts(key, "x", sealed[:cut], chunk=10))
    head, size = len(MAGIC) + 7, 26
    chunks = [sealed[i : i + size] for i in range(head, len(sealed), size)]
    if len(chunks) > 1:
        for others in (chunks[::-1], chunks[1:], [*chunks[:-1], chunks[0]], [chunks[0], *chunks]):
            with pytest.raises(ValueError, match=r"sealed|damaged"):
                list(opened_parts(key, "x", sealed[:head] + b"".join(others), chunk=10))


def test_seeds_from_before_the_keys_were_sealed_still_open(tmp_path: Path) -> None:
    create_identity(tmp_path / "keys", name="bank", role="bank")
    plain, folder = load_identity(tmp_path / "keys"), JobFiles(tmp_path / "job")
    seed = draw_seed(folder, job=JOB, identity=plain)
    seal_identity(tmp_path / "keys", new_key_file(tmp_path / "secret.key"))
    sealed = load_identity(tmp_path / "keys")
    assert open_seed(folder, job=JOB, identity=sealed) == seed
    later = JobFiles(tmp_path / "later")
    draw_seed(later, job=JOB, identity=sealed)
    with pytest.raises(DataError):
        open_seed(later, job=JOB, identity=plain)  # the TLS key alone opens it no more


def test_a_seed_is_sealed_under_the_nodes_key_and_bound_to_its_job(tmp_path: Path) -> None:
    one = create_identity(tmp_path / "one", name="one", role="bank")
    two = create_identity(tmp_path / "two", name="two", role="bank")
    folder = JobFiles(tmp_path / "job")
    seed = draw_seed(folder, job=JOB, identity=one)
    assert seed.value not in folder.read("seed.sealed")
    assert open_seed(folder, job=JOB, identity=one) == seed
    assert draw_seed(folder, job=JOB, identity=one) == seed
    assert len(seed.commitment) == 64
    for key, job in ((two, JOB), (one, "d" * 64)):
        with pytest.raises(DataError) as refused:
            open_seed(folder, job=job, identity=key)
        assert refused.value.code == "seed.unreadable"
    data = bytearray(folder.read("seed.sealed"))
    data[20] ^= 1
    folder.write("seed.sealed", bytes(data))
    with pytest.raises(DataError):
        open_seed(folder, job=JOB, identity=one)
    for text in (repr(seed), str(seed), f"{seed}"):
        assert seed.value.hex() not in text
        assert repr(seed.value) not in text
        assert repr(seed.salt) not in text


def test_one_process_serves_a_state_folder(tmp_path: Path) -> None:
    with state_lock(tmp_path / "state"):
        with pytest.raises(UsageError) as refused, state_lock(tmp_path / "state"):
            pass
        assert refused.value.code == "state.in_use"
    with state_lock(tmp_path / "state"):
        pass


def test_many_processes_may_open_a_new_folder_at_once(tmp_path: Path) -> None:
    """The serving node and the command of the person who approves both make the database when it is not there yet."""
    script = "import sys; from pathlib import Path; from node.runtime.store import Store; Store(Path(sys.argv[1])).jobs()"
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        processes = [
            subprocess.Popen([sys.executable, "-c", script, str(folder)], stderr=subprocess.PIPE, text=True) for _ in range(6)
        ]
        ends = [(process.communicate()[1], process.returncode) for process in processes]
        assert [status for _, status in ends] == [0] * 6, ends
