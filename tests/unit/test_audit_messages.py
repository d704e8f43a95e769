"""Step (7): messages that both nodes tell alike and signed for, and that the protocol does not have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from audit.history import Shape
from audit.protocol import legal_messages
from audit.sequence import Unlawful, check_sequence
from tests.unit import audit_world
from tests.unit.audit_world import BANK, NUMBERS, PLATFORM, Event, events, refused

Message = tuple[str, int, int]


def told_with(change: Callable[[list[Message]], None], step: str, sender: str) -> list[Event]:
    """The honest job but for what one party says in one step; receipts and disclosures are over what it says then."""
    honest = audit_world.messages_of

    def said(name: str, number: int, who: str, **more: object) -> list[Message]:
        messages = honest(name, number, who, **more)  # type: ignore[arg-type]
        if (name, who) == (step, sender):
            change(messages)
        return messages

    with mock.patch.object(audit_world, "messages_of", said):
        return events()


def place(messages: list[Message], kind: str) -> int:
    return next(i for i, message in enumerate(messages) if message[0] == kind)


def one_item_more(messages: list[Message], kind: str) -> None:
    at = place(messages, kind)
    messages[at] = (kind, messages[at][1] + 1, messages[at][2])


def one_byte_more(messages: list[Message], kind: str) -> None:
    at = place(messages, kind)
    messages[at] = (kind, messages[at][1], messages[at][2] + 1)


def left_out(messages: list[Message], kind: str) -> None:
    del messages[place(messages, kind)]


def twice(messages: list[Message], kind: str) -> None:
    at = place(messages, kind)
    messages.insert(at, messages[at])


def first(messages: list[Message], kind: str) -> None:
    messages.insert(0, messages.pop(place(messages, kind)))


def last(messages: list[Message], kind: str) -> None:
    messages.append(messages.pop(place(messages, kind)))


KINDS = [
    ("align", BANK, "PsiStart"),
    ("align", PLATFORM, "MaskedPoints"),
    ("align", PLATFORM, "DoublyMasked"),
    ("prepare", BANK, "PaillierKey"),
    ("prepare", PLATFORM, "JobFigures"),
    ("prepare", BANK, "ColumnMasks"),
    ("prepare", PLATFORM, "ColumnProducts"),
    ("prepare", PLATFORM, "RowMasks"),
    ("prepare", BANK, "RowProducts"),
    ("prepare", BANK, "PreconditionerMasks"),
    ("prepare", PLATFORM, "PreconditionerProducts"),
    ("prepare", BANK, "BaseOtChoices"),
    ("prepare", PLATFORM, "BaseOtReplies"),
    ("round", BANK, "DirectiveEcho"),
    ("round", BANK, "FirstResiduals"),
    ("round", PLATFORM, "MaskedResiduals"),
    ("round", BANK, "MaskedGradients"),
    ("round", PLATFORM, "DotOperands"),
    ("round", BANK, "DotResults"),
    ("round", BANK, "InnerProductParts"),
    ("finish", PLATFORM, "WeightShares"),
]


@pytest.mark.parametrize(("step", "sender", "kind"), KINDS)
def test_no_kind_of_message_may_be_changed(step: str, sender: str, kind: str) -> None:
    """Left out, told twice, moved, or with an item or a byte more: each is refused, whichever kind it is."""
    number = int(step == "round")
    honest = audit_world.messages_of(step, number, sender, sets=audit_world.SETS, batch=3)
    parts = legal_messages(step, audit_world.figures(sender, audit_world.SETS), round=number, directive=NUMBERS[step])
    check_sequence(parts, [(Shape(*message), 1) for message in honest], complete=True)
    refused = 0
    for change in (one_item_more, one_byte_more, left_out, twice, first, last):
        messages = list(honest)
        change(messages, kind)
        if messages != honest:  # what stands first or last already cannot be moved there
            with pytest.raises(Unlawful):
                check_sequence(parts, [(Shape(*message), 1) for message in messages], complete=True)
            refused += 1
    assert refused >= 5


@pytest.mark.parametrize(("step", "sender", "kind"), KINDS)
def test_no_message_carries_more_than_its_items(tmp_path: Path, step: str, sender: str, kind: str) -> None:
    error = refused(tmp_path, told_with(lambda messages: one_byte_more(messages, kind), step, sender))
    assert (error.step, error.code) == (7, "audit.message_order"), error.message
    assert b'"type":"%s"' % kind.encode() in (tmp_path / error.log / "log.jsonl").read_bytes().splitlines()[error.seq or 0]


def test_a_message_of_another_step(tmp_path: Path) -> None:
    error = refused(tmp_path, told_with(lambda messages: messages.append(("WeightShares", 2, 52)), "round", BANK))
    assert (error.step, error.code) == (7, "audit.message_order")
    assert "WeightShares after the step's last message" in error.message
