"""Kinds of bad logs of joins by several keys and of counts: each told live by those who cheat, with receipts that agree.

They stand beside :data:`tests.tampering.kinds.KINDS`, whose kinds change the last job of a story, a training by one identifier.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from protos import peer_pb2
from tests.tampering.story import Entry, Story
from tests.tampering.telling import LABELS, add_up, hash_of, retell


@dataclass(frozen=True)
class SharingKind:
    """One kind: ``change`` gets the story and the identity of the job that it changes."""

    change: Callable[[Story, str], None]
    fails_at: int
    code: str

    @property
    def name(self) -> str:
        """As a test is called."""
        return self.change.__name__.replace("_", "-")

    def make(self, story: Story, job: str, folder: Path) -> dict[str, Path]:
        """Write the bad logs; the story given stays as it is."""
        changed = story.copy()
        self.change(changed, job)
        return changed.write(folder)


def _said(story: Story, job: str, sender: str, kind: str, number: int = 0) -> list[Entry]:
    """A message where it was sent and where it was received."""
    sent = story[sender].entries("message", job=job, direction="sent", type=kind)[number]
    same = {name: sent[name] for name in (*LABELS, "number")}
    return [sent, story["platform" if sender == "bank" else "bank"].first("message", direction="received", **same)]


def _alter(story: Story, job: str, sender: str, kind: str, number: int = 0, **changes: object) -> None:
    """Another message of this kind, from the beginning: both nodes and their receipts tell of it."""
    for entry in _said(story, job, sender, kind, number):
        entry.update(changes)
    retell(story, (job, entry["step"], entry["round"], entry["attempt"]))


def _disclosures(story: Story, job: str, what: str, **fields: object) -> list[Entry]:
    return [entry for log in story.logs.values() for entry in log.entries("disclosure", job=job, what=what, **fields)]


# ---- counts ---------------------------------------------------------------------------------------------------------------------


def number_told_altered_everywhere(story: Story, job: str) -> None:
    """Learner and coordinator write down a smaller number than the teller was told."""
    for entry in _disclosures(story, job, "rounded_size"):
        entry["value"] = "150"


def number_told_is_not_rounded(story: Story, job: str) -> None:
    """Message, logs and receipts agree on a number that says more than the job allows."""
    for entry in _disclosures(story, job, "rounded_size"):
        entry["value"] = "173"
    data = peer_pb2.IntersectionSize(size=173).SerializeToString()
    _alter(story, job, "bank", "IntersectionSize", sha256=hashlib.sha256(data).hexdigest(), length=len(data))


def number_told_is_below_the_minimum(story: Story, job: str) -> None:
    for entry in _disclosures(story, job, "rounded_size"):
        entry["value"] = "50"
    data = peer_pb2.IntersectionSize(size=50).SerializeToString()
    _alter(story, job, "bank", "IntersectionSize", sha256=hashlib.sha256(data).hexdigest(), length=len(data))


def exact_number_not_listed(story: Story, job: str) -> None:
    """The teller does not write down that the learner learned the exact number."""
    story["platform"].remove(*story["platform"].entries("disclosure", job=job, what="intersection_size"))
    add_up(story)


def number_by_the_teller(story: Story, job: str) -> None:
    """The coordinator's log has the number from the party that was told it."""
    log = story["coordinator"]
    entry = log.first("disclosure", job=job, what="set_size", party="platform")
    clause = "spec: count.tell_coordinator"
    log.insert(entry, copy.deepcopy(entry) | {"what": "rounded_size", "value": "170", "clause": clause})
    add_up(story)


def list_returned_is_too_short(story: Story, job: str) -> None:
    last = story["platform"].entries("message", job=job, direction="sent", type="SortedDoublyMasked")[-1]
    first = story["platform"].entries("message", job=job, direction="sent", type="SortedDoublyMasked")[:-1]
    count, place = last["items"] - 1, sum(entry["items"] for entry in first)
    message = peer_pb2.SortedDoublyMasked(first=place, count=count, values=bytes(16 * count))
    _alter(story, job, "platform", "SortedDoublyMasked", -1, items=count, length=message.ByteSize())


def count_run_as_an_alignment(story: Story, job: str) -> None:
    """The customers of a count were aligned: everyone knows which they are."""
    for log in story.logs.values():
        for entry in log.entries(job=job, step="count"):
            entry["step"] = "align"
    retell(story, (job, "align", 0, 0))


def number_told_against_the_specification(story: Story, job: str) -> None:
    """The learner writes that it told the partner, which the job does not allow."""
    log = story["platform"]
    entry = log.first("disclosure", job=job, what="set_size", to="bank")
    log.insert(entry, copy.deepcopy(entry) | {"what": "rounded_size", "value": "below 160", "clause": "spec: count.tell_partner"})
    add_up(story)


# ---- joins ----------------------------------------------------------------------------------------------------------------------


def keys_do_not_add_up(story: Story, job: str) -> None:
    for entry in _disclosures(story, job, "by_key"):
        (first, found), second = json.loads(entry["value"])
        entry["value"] = json.dumps([[first, found - 1], second])


def keys_found_more_than_was_brought(story: Story, job: str) -> None:
    for entry in _disclosures(story, job, "by_key"):
        (first, found), (second, later) = json.loads(entry["value"])
        entry["value"] = json.dumps([[first, found + later - 1000], [second, 1000]])


def key_s_size_altered(story: Story, job: str) -> None:
    entry = story["bank"].first("disclosure", job=job, what="by_key")
    (first, found), second = json.loads(entry["value"])
    entry["value"] = json.dumps([[first + 1, found], second])


def keys_not_listed(story: Story, job: str) -> None:
    """A node does not write down that the other learned by which key each customer was found."""
    story["bank"].remove(*story["bank"].entries("disclosure", job=job, what="by_key"))
    add_up(story)


def second_key_s_size_message_altered(story: Story, job: str) -> None:
    _alter(story, job, "bank", "PsiStart", 1, sha256=hash_of("another size"))


def second_key_left_out(story: Story, job: str) -> None:
    """The logs tell of an alignment that ended after its first key."""
    for log in story.nodes():
        for way in ("sent", "received"):
            messages = log.entries("message", job=job, step="align", direction=way)
            start = [place for place, entry in enumerate(messages) if entry["type"] == "PsiStart"][1]
            log.remove(*messages[start:])
    retell(story, (job, "align", 0, 0))


def fewer_customers_committed_to_than_identifiers(story: Story, job: str) -> None:
    story["bank"].first("commitment", job=job, what="dataset", step="align")["rows"] = 3


COUNT_KINDS = (
    SharingKind(count_run_as_an_alignment, 7, "audit.step_order"),
    SharingKind(list_returned_is_too_short, 7, "audit.message_order"),
    SharingKind(number_told_is_not_rounded, 8, "audit.rounding"),
    SharingKind(number_told_is_below_the_minimum, 8, "audit.intersection"),
    SharingKind(number_told_altered_everywhere, 9, "audit.disclosure_differs"),
    SharingKind(exact_number_not_listed, 9, "audit.disclosure_missing"),
    SharingKind(number_by_the_teller, 9, "audit.disclosure_differs"),
)
"""Of a count whose learner is the bank, which tells everyone."""
QUIET_KINDS = (SharingKind(number_told_against_the_specification, 9, "audit.disclosure_forbidden"),)
"""Of a count whose learner is the platform, which does not tell the bank."""
JOIN_KINDS = (
    SharingKind(keys_do_not_add_up, 7, "audit.by_key"),
    SharingKind(keys_found_more_than_was_brought, 7, "audit.by_key"),
    SharingKind(second_key_left_out, 7, "audit.message_order"),
    SharingKind(fewer_customers_committed_to_than_identifiers, 7, "audit.commitment_sizes"),
    SharingKind(key_s_size_altered, 9, "audit.disclosure_differs"),
    SharingKind(keys_not_listed, 9, "audit.disclosure_missing"),
    SharingKind(second_key_s_size_message_altered, 9, "audit.disclosure_differs"),
)
"""Of a training by two keys."""
