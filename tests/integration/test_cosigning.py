"""Cosigning in a real job: every checkpoint finds its witnesses, and a log that was put back to an older copy is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from audit.checkpoint import parse_note, verify_checkpoint
from audit.cosignature import verify_cosignature
from audit.entries import read_lines
from audit.ledger import LogRejected
from audit.verify import verify_logs
from tests.asks import PLAIN, Ask
from tests.joint import PARTIES, joint, world

pytestmark = pytest.mark.timed

QUICK = Ask(holdout="0", rounds=1, to_feature_holder=False, to_coordinator=False)


def test_every_checkpoint_of_a_job_is_cosigned_by_the_two_others() -> None:
    made = joint(PLAIN)
    for name in PARTIES:
        files = sorted((made.folders[name] / "checkpoints").iterdir())
        assert len(files) > 6
        others = [made.keys[other].verifier for other in PARTIES if other != name]
        job_begins = min(e["seq"] for e in made.entries(name) if e["job"])
        for file in files:
            note = parse_note(file.read_bytes())
            signed = verify_checkpoint(file.read_bytes(), made.keys[name].verifier)
            if signed.size > job_begins + 2:  # the partner is a witness as soon as a job with it is known
                assert [verify_cosignature(note, key).name for key in others] == [key.name for key in others], file
        for other in PARTIES:
            if other != name:
                kept = (made.folders[name] / "witness" / other).read_bytes()
                last = sum(1 for _ in read_lines((made.folders[other] / "log.jsonl").open("rb")))
                assert verify_checkpoint(kept, made.keys[other].verifier).size == last


def test_the_verdict_counts_cosignatures_and_sightings() -> None:
    made = joint(PLAIN)
    verified = verify_logs(list(made.folders.values()), partners=made.partners)
    by_number = {result.number: result.detail for result in verified.steps}
    cosigned = sum(len(names) for source in verified.sources for names in source.cosigners.values())
    assert cosigned > 30
    assert f"{cosigned} cosignatures" in by_number[1]
    assert "6 logs continue what others cosigned of them" in by_number[2]


def test_a_log_that_is_not_what_was_cosigned_is_contradictory(tmp_path: Path) -> None:
    """The platform's whole folder, keys and all, comes from another run: only the others' memories of it can tell."""
    made = joint(PLAIN)
    folders = made.copy(tmp_path)
    witnessed = folders["bank"] / "witness" / "platform"
    head = verify_checkpoint(witnessed.read_bytes(), made.keys["platform"].verifier)
    lines = (folders["platform"] / "log.jsonl").read_bytes().splitlines(keepends=True)
    forked = _rewritten(lines, made, folders["platform"])
    assert forked == head.size
    with pytest.raises(LogRejected) as caught:
        verify_logs(list(folders.values()), partners=made.partners)
    assert (caught.value.step, caught.value.code, caught.value.log) == (2, "audit.forked", "platform")


def _rewritten(lines: list[bytes], made: object, folder: Path) -> int:
    """The platform's log once more with another software version in its first entry, chained and signed again by its own key."""
    import rfc8785

    from audit.checkpoint import Checkpoint, origin_of, sign_checkpoint
    from audit.merkle import Frontier

    tree, prev, written = Frontier(), "", []
    for line in lines:
        entry = json.loads(line) | {"prev": prev}
        if entry["seq"] == 0:
            entry["version"] = "9.9.9"
        data = rfc8785.dumps(entry)
        prev = tree.append(data).hex()
        written.append(data + b"\n")
    (folder / "log.jsonl").write_bytes(b"".join(written))
    shutil.rmtree(folder / "checkpoints")
    key = made.keys["platform"]  # type: ignore[attr-defined]
    (folder / "checkpoint").write_text(sign_checkpoint(Checkpoint(origin_of("platform"), tree.size, tree.root()), key))
    return tree.size


def test_a_log_put_back_to_an_older_copy_is_refused_and_nothing_runs_with_its_owner(tmp_path: Path) -> None:
    with world(tmp_path, QUICK) as joined:
        assert joined.run(QUICK)[1] == "finished"
        state, older = joined.layout.home("platform") / "state", tmp_path / "older"
        joined.nodes["platform"].stop()
        shutil.copytree(state, older)
        joined.nodes["platform"].start()
        assert joined.run(QUICK)[1] == "finished"
        joined.wait_cosigned()
        joined.nodes["platform"].stop()
        shutil.rmtree(state)
        shutil.move(older, state)
        joined.nodes["platform"].start()
        assert joined.run(QUICK)[1] == "failed"
        told = [line for line in joined.nodes["bank"].lines if "rolled_back" in line]
        owner = [line for line in joined.nodes["platform"].lines if "refuses to cosign" in line]
    assert told
    assert "cosigned before: isthmus.log/platform" in told[0]
    assert "shown now: isthmus.log/platform" in told[0]
    assert owner
    for name in ("bank", "coordinator"):
        log = (joined.layout.log(name) / "log.jsonl").read_text().splitlines()
        refusal = next(entry for entry in map(json.loads, log) if entry["kind"] == "refusal")
        assert (refusal["of"], refusal["code"]) == ("platform", "witness.rolled_back")
        assert refusal["kept_size"] > refusal["shown_size"]
        points = verify_logs([joined.layout.log(name)]).open_points
        assert any(point.step == 3 and "refused a checkpoint of platform" in point.text for point in points)


def test_an_auditor_may_allow_fewer_rounds_than_the_parties(tmp_path: Path) -> None:
    made = joint(PLAIN)
    roles = {"bank": "bank", "platform": "platform", "coordinator": "coordinator"}
    logs = "".join(f'[[log]]\nname = "{n}"\nrole = "{roles[n]}"\nkey = "{made.keys[n].verifier}"\n' for n in PARTIES)
    policy = tmp_path / "audit.toml"
    policy.write_text(f"quorum = 2\n{logs}[limits]\nrounds_max = 2\n")
    assert verify_logs(list(made.folders.values()), policy=policy).exit_status == 0
    policy.write_text(f"{logs}[limits]\nrounds_max = 1\n")
    with pytest.raises(LogRejected) as caught:
        verify_logs(list(made.folders.values()), policy=policy)
    assert (caught.value.step, caught.value.code) == (8, "audit.rounds")
    assert "the auditor's bound" in caught.value.message
