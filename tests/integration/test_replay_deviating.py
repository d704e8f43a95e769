"""A node that deviates by one bit in one message, whichever it is, is caught by the replay of its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.cli import cli
from audit.console import run
from node.runtime.journal import JournalChannel
from tests.replay_world import BY_OT, PARTIES, World, differing, make_world


@pytest.fixture(scope="module", params=PARTIES)
def finished(request: pytest.FixtureRequest, finished_of: Callable[[str], World]) -> World:
    return finished_of(request.param)


def flipped(message: Any) -> Any:
    """The message with one bit turned round, still of its type and in canonical form."""
    changed = type(message)()
    changed.CopyFrom(message)
    name = message.DESCRIPTOR.name
    field = {"PsiStart": "elements", "PaillierKey": "modulus", "JobFigures": "columns", "Aggregates": "auc"}.get(name, "values")
    if name == "DirectiveEcho":
        field = "lookup_range" if message.lookup_range else "coefficients"
    value = getattr(message, field)
    if field == "coefficients":
        bits = np.array(list(value)).view(np.uint64)
        bits[0] ^= np.uint64(1)
        changed.ClearField(field)
        changed.coefficients.extend(bits.view(np.float64).tolist())
    elif isinstance(value, float):
        setattr(changed, field, float((np.array([value]).view(np.uint64) ^ np.uint64(1)).view(np.float64)[0]))
    elif isinstance(value, int):
        setattr(changed, field, value ^ 1)
    elif isinstance(value, str):
        setattr(changed, field, value[:-1] + chr(ord(value[-1]) ^ 1))
    else:
        place = len(value) - 1 if name == "PaillierKey" else 0  # of the modulus the lowest bit, of a batch its first byte's
        setattr(changed, field, value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :])
    return changed


BOTH = ("label_holder", "feature_holder")


def by_ot(receiver: int) -> dict[str, tuple[str, ...]]:
    """The alignment's messages by oblivious transfer; ``receiver`` is whose set is the smaller."""
    said = dict.fromkeys(("BasePoint", "TreeSums", "StoreColumns", "SharedMarks"), (BOTH[receiver],))
    return {"PsiStart": BOTH, **said, **dict.fromkeys(("BaseChoices", "ItemTags"), (BOTH[1 - receiver],))}


SENDERS: dict[str, dict[str, tuple[str, ...]]] = {
    "align": dict.fromkeys(("PsiStart", "MaskedPoints", "DoublyMasked"), BOTH),
    "prepare": {
        **dict.fromkeys(("PaillierKey", "JobFigures", "ColumnMasks", "ColumnProducts", "RowMasks", "RowProducts"), BOTH),
        **dict.fromkeys(("PreconditionerMasks", "PreconditionerProducts"), BOTH),
        "BaseOtChoices": BOTH[:1],
        "BaseOtReplies": BOTH[1:],
    },
    "round": {
        **dict.fromkeys(
            ("DirectiveEcho", "MaskedWeights", "MaskedGradients", "DotOperands", "DotResults", "InnerProductParts"), BOTH
        ),
        "FirstResiduals": BOTH[:1],
        "MaskedResiduals": BOTH[1:],
        "OtColumns": BOTH[1:],
        "LookupTables": BOTH[:1],
    },
    "finish": dict.fromkeys(("DirectiveEcho", "WeightShares"), BOTH),
    "evaluate": {
        "DirectiveEcho": BOTH,
        "BaseOtChoices": BOTH[1:],
        "BaseOtReplies": BOTH[:1],
        "OtColumns": BOTH[:1],
        "BandTables": BOTH[1:],
        "Aggregates": BOTH[:1],
    },
}
"""Every message that crosses, by step and by the role of its sender."""


@pytest.fixture(scope="module")
def deviants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], World]]:
    """Two running nodes for each step: one log for all deviations would grow long."""
    found: dict[str, World] = {}
    with ExitStack() as stack:

        def world_of(step: str) -> World:
            if step not in found:
                found[step] = stack.enter_context(make_world(tmp_path_factory.mktemp("deviants"), shared=100).nodes())
            return found[step]

        yield world_of


def test_the_table_names_every_message_that_crosses(finished: World) -> None:
    roles = {finished.label_holder: "label_holder"}
    seen: dict[str, dict[str, set[str]]] = {}
    for name in PARTIES:
        for line in (finished.home(name) / "state" / "log" / "log.jsonl").read_bytes().splitlines():
            entry = json.loads(line)
            if entry["kind"] == "message" and entry["direction"] == "sent":
                role = roles.get(name, "feature_holder")
                seen.setdefault(entry["step"], {}).setdefault(entry["type"], set()).add(role)
    senders = SENDERS | ({"align": by_ot(1)} if finished.label_holder == "platform" else {})
    assert seen == {step: {kind: set(roles) for kind, roles in kinds.items()} for step, kinds in senders.items()}


@pytest.mark.parametrize(
    ("step", "kind", "role"),
    [
        *((step, kind, role) for step, kinds in SENDERS.items() for kind, senders in kinds.items() for role in senders),
        *(("align", kind, role) for kind, (role, *rest) in by_ot(0).items() if not rest),
    ],
)
def test_one_bit_in_one_message_is_caught(
    deviants: Callable[[str], World], monkeypatch: pytest.MonkeyPatch, step: str, kind: str, role: str
) -> None:
    """The node sends and logs another bit than it computed; whether the peer refuses it or not, the replay names that message."""
    name = "bank" if role == "label_holder" else "platform"
    original, done = JournalChannel.send, []

    def deviating(self: JournalChannel, message: Any) -> None:
        if not done and (self._me, self._labels.step, message.DESCRIPTOR.name) == (name, step, kind):
            done.append(len(message.SerializeToString()))
            message = flipped(message)
        original(self, message)

    monkeypatch.setattr(JournalChannel, "send", deviating)
    world = deviants(step)
    changes = {"align": BY_OT} if kind in by_ot(0) and kind != "PsiStart" else {}
    job = world.run_job(world.spec(title=f"{step} {kind} {role}", **changes), may_fail=True)
    assert done, "the message crossed"
    found = world.replay(name, job=job)
    (result, *_) = differing(found)
    assert found.exit_status == 1
    assert (result.name.step, result.type, result.code) == (step, kind, "replay.differs"), result
    log = (world.home(name) / "state" / "log" / "log.jsonl").read_bytes().splitlines()
    entry = json.loads(log[result.seq])
    sent = [json.loads(line) for line in log if job.encode() in line]
    sent = [e for e in sent if e["kind"] == "message" and e["direction"] == "sent" and (e["step"], e["type"]) == (step, kind)]
    assert entry == sent[0], "the very message, and the first of its kind"
    assert found.reproduced < found.sent
    assert kind in result.detail
    assert f"entry {result.seq}" in result.detail
    assert result.explanation
    peer = world.replay("platform" if name == "bank" else "bank", job=job)
    assert (peer.exit_status, peer.reproduced) == (0, peer.sent), "the other node said what it computed from what it received"


def test_the_first_difference_and_what_the_step_does_are_printed(
    deviants: Callable[[str], World], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    world, original = deviants("round"), JournalChannel.send

    def deviating(self: JournalChannel, message: Any) -> None:
        mine = (self._me, message.DESCRIPTOR.name) == ("bank", "FirstResiduals")
        original(self, flipped(message) if mine else message)

    monkeypatch.setattr(JournalChannel, "send", deviating)
    job = world.run_job(world.spec(title="printed"))  # so small a change spoils nothing
    out = tmp_path / "replay.json"
    arguments = ["replay", str(world.home("bank")), "--job", job[:10], "--json", str(out)]
    assert run(cli, arguments, usage_status=3) == 1
    text = capsys.readouterr().out
    document = json.loads(out.read_text())
    assert f"{document['reproduced']} of {document['sent']} messages reproduced" in text
    first = document["first_difference"]
    assert (first["step"], first["round"], first["type"]) == ("round", 1, "FirstResiduals")
    assert f"the first that differs: bank entry {first['seq']}, round 1" in text
    assert "the residuals at the start" in text
    assert "something differs" in text
    left_out = [attempt for attempt in document["jobs"][0]["attempts"] if attempt["code"] == "replay.builds_on_lost"]
    assert {attempt["step"] for attempt in left_out} == {"round", "finish", "evaluate"}
