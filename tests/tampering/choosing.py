"""How an alignment's method was chosen, and the sizes of what it sends (step 7)."""

from __future__ import annotations

import copy

from tests.tampering.story import Entry, Story
from tests.tampering.telling import message, place_of, retell


def _choice(story: Story, name: str) -> Entry:
    return story[name].last("choice", job=story.job)


def choice_missing(story: Story) -> None:
    story["bank"].remove(_choice(story, "bank"))


def choice_twice(story: Story) -> None:
    one = _choice(story, "platform")
    story["platform"].insert(one, copy.deepcopy(one))


def method_against_the_rule(story: Story) -> None:
    """Both say that they took the other method, whose messages are not there."""
    for log in story.nodes():
        entry = _choice(story, log.name)
        entry["method"] = {"ot": "curve", "curve": "ot"}[entry["method"]]


def chosen_for_another_reason(story: Story) -> None:
    _choice(story, "bank")["reason"] = "it was Tuesday"


def chosen_for_other_sizes(story: Story) -> None:
    """The bank says that the platform brought more than it declared."""
    _choice(story, "bank")["feature_holder" if story.holder == "bank" else "label_holder"] += 1


def chosen_after_the_method_began(story: Story) -> None:
    log, late = story["bank"], _choice(story, "bank")
    log.remove(late)
    log.insert(log.last("message", step="align", job=story.job), late)


def _one_item_fewer(story: Story, sender: str, kind: str, size: int) -> None:
    pair = message(story, sender, kind)
    for entry in pair:
        entry["items"] -= 1
        entry["length"] -= size
    retell(story, place_of(pair[0]))


def padding_left_out(story: Story) -> None:
    """Fewer tags than a bin holds would show how full it is."""
    _one_item_fewer(story, story.other, "ItemTags", 7)


def marks_left_out(story: Story) -> None:
    _one_item_fewer(story, story.holder, "SharedMarks", 0)
