"""Owners who write their past anew with their own keys, alone or together.  What others cosigned and kept stays as it was."""

from __future__ import annotations

import copy

from audit.signing import SigningKey
from tests.tampering.story import Log, Mark, Story
from tests.tampering.telling import add_up, cut_after, message, place_of, retell


def past_rewritten(story: Story) -> None:
    """Another software version in the bank's first entry: everything after it is chained and signed anew."""
    story["bank"].first("software")["version"] = "9.9.9"


def past_rewritten_with_stale_cosignatures(story: Story) -> None:
    """The honest cosignatures of the old tree heads are left on the new ones."""
    past_rewritten(story)


def past_rewritten_under_a_new_key(story: Story) -> None:
    """Another key signs the whole past, as if it had been the bank's all along."""
    past_rewritten(story)
    story.keys = {**story.keys, "bank": SigningKey("isthmus.log/bank", bytes(range(32)))}


def platform_s_past_rewritten(story: Story) -> None:
    story["platform"].first("software")["version"] = "9.9.9"


def coordinator_s_past_rewritten(story: Story) -> None:
    story["coordinator"].first("software")["version"] = "9.9.9"


def last_entry_rewritten(story: Story) -> None:
    """Only the very last entry: all tree heads but the last stay as they were cosigned."""
    story["bank"].last("job")["state"] = "failed"


def entries_added_in_the_middle(story: Story) -> None:
    story["bank"].insert(story["bank"].first("policy"), dict(story["bank"].first("policy")))


def message_rewritten_by_both_nodes(story: Story) -> None:
    """Both nodes agree on another conversation, receipts and all; the coordinator's log and memory are honest."""
    sent, received = message(story, "bank", "MaskedGradients")
    sent["sha256"] = received["sha256"] = "ab" * 32
    retell(story, place_of(sent))


def disclosure_hidden_by_bank_and_coordinator(story: Story) -> None:
    """The bank and the coordinator take what the bank told the coordinator out of both logs; the platform remembers their heads."""
    for name in ("bank", "coordinator"):
        log = story[name]
        _hide(log)
    add_up(story)


def _hide(log: Log) -> None:
    """Take the columns told to the coordinator out, and make up for the length at the very end."""
    hidden = log.entries("disclosure", what="columns", to="coordinator")
    log.remove(*hidden)
    last = log.last("job")
    log.insert(last, *(copy.deepcopy(log.first("software")) for _ in hidden))


def disclosure_hidden_by_platform_and_coordinator(story: Story) -> None:
    for name in ("platform", "coordinator"):
        log = story[name]
        _hide(log)
    add_up(story)


def everything_rewritten_by_all(story: Story) -> None:
    """All three agree on another past.  Only the auditor's own memory is left."""
    message_rewritten_by_both_nodes(story)


def job_erased_by_all(story: Story) -> None:
    """All three say that the job never was."""
    for log in story.logs.values():
        log.remove(*log.entries(job=story_job(story)))
        first = log.marks()[0]
        log.items = [item for item in log.items if not isinstance(item, Mark) or item is first]
    for log in story.logs.values():
        log.kept = {other: (story[other].marks()[0], time) for other, (_, time) in log.kept.items()}


def story_job(story: Story) -> str:
    """The job's identity, also where the coordinator's log holds it no more."""
    return next(str(item["job"]) for log in story.logs.values() for item in log.entries("spec"))


def older_copy(story: Story) -> None:
    """The bank gives its log as it was before the last steps."""
    cut_after(story["bank"], story["bank"].marks()[-4])


def older_copy_continued_otherwise(story: Story) -> None:
    """The bank goes back and writes another end: as long a log as before."""
    for entry in story["bank"].entries("message", step="finish"):
        entry["sha256"] = "cd" * 32


def unsigned_from_the_middle_on(story: Story) -> None:
    """The bank signs nothing after the preparation."""
    marks = story["bank"].marks()
    gone = {id(mark) for mark in marks[4:]}
    story["bank"].items = [item for item in story["bank"].items if id(item) not in gone]
    for name in ("platform", "coordinator"):
        if "bank" in story[name].kept:
            story[name].kept["bank"] = marks[3], story[name].kept["bank"][1]
