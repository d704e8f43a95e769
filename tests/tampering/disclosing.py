"""Bounds and disclosures: what was allowed, and what was said of it (steps 8 and 9)."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

from protos import peer_pb2
from tests.tampering.story import Entry, Story
from tests.tampering.telling import add_up, hash_of, labelled, message, place_of, respecify, retell, retell_all

# ---- (8) ------------------------------------------------------------------------------------------------------------------------


def _policy(story: Story, name: str = "bank", **bounds: int) -> None:
    for entry in story[name].entries("policy"):
        entry.update(bounds)


def keys_under_the_policy(story: Story) -> None:
    """The platform's configuration does not allow small keys, and the job's are."""
    _policy(story, "platform", small_keys=0)


def key_under_the_specification(story: Story) -> None:
    """The bank's own key is smaller than the one that was approved."""
    story["bank"].first("commitment", what="paillier key", job=story.job)["bits"] = 256


def intersection_under_the_policy(story: Story) -> None:
    _policy(story, minimum_intersection=5000)


def intersection_under_the_specification(story: Story) -> None:
    """Fewer customers were shared than both parties had signed for."""
    respecify(story, lambda spec: spec["align"].update(minimum=171))


def rounds_over_the_policy(story: Story) -> None:
    _policy(story, rounds_max=1)


def bands_over_the_policy(story: Story) -> None:
    _policy(story, "platform", bands_max=8)


def sample_under_the_policy(story: Story) -> None:
    """The job draws a sample smaller than the number of customers that the bank's policy asks figures to be over."""
    rows = _rows_trained_on(story)
    respecify(story, lambda spec: spec["model"].update(train_rows=rows))
    _policy(story, minimum_intersection=rows + 1)


def more_rows_trained_on_than_drawn(story: Story) -> None:
    """All three tell of a training on a row more than the sample that was approved."""
    rows = _rows_trained_on(story)
    respecify(story, lambda spec: spec["model"].update(train_rows=rows - 1))


def rows_told_for_a_sample(story: Story) -> None:
    """A sample is told of, and agreed on by both nodes and the coordinator, in a job that draws none."""
    for log in story.logs.values():
        for entry in log.entries("disclosure", what="rows", job=story.job):
            shared, train, held = json.loads(entry["value"])
            entry["value"] = json.dumps([shared, train - 1, held])


def _rows_trained_on(story: Story) -> int:
    return int(json.loads(story["coordinator"].first("disclosure", what="rows", job=story.job)["value"])[1])


def more_rounds_than_approved(story: Story) -> None:
    """A third round where two were approved, told by all three as such a round would be."""
    width = story.spec["model"]["key_bits"] // 4
    for log in story.logs.values():
        entries = labelled(log.entries(step="round", round=2, job=story.job), round=3)
        for entry in entries:
            if entry.get("coefficients"):
                entry["coefficients"] = ["0.5", "0.25"]
            if entry["kind"] == "disclosure":
                entry["count"], entry["value"] = 3, '["0.5", "0.25", "0.125"]'
            if entry["kind"] == "message" and entry["type"] in ("DotResults", "InnerProductParts"):
                values = bytes(3 * (width if entry["type"] == "DotResults" else 24))
                entry["items"], entry["length"] = (
                    3,
                    len(getattr(peer_pb2, entry["type"])(count=3, values=values).SerializeToString()),
                )
            if entry["kind"] == "message" and entry["type"] == "DirectiveEcho":
                _echo(entry, peer_pb2.DirectiveEcho(coefficients=[0.5, 0.25], lookup_range=_range(story)))
        log.insert(log.last(step="round", round=2, job=story.job, kind=""), *entries)
        for entry in log.entries(job=story.job):
            if entry["step"] in ("finish", "evaluate") and "coefficients" in entry:
                entry["coefficients"] = ["0.5", "0.25", "0.125"]
            if entry["kind"] == "message" and entry["step"] == "finish" and entry["type"] == "DirectiveEcho":
                _echo(entry, peer_pb2.DirectiveEcho(coefficients=[0.5, 0.25, 0.125]))
    retell_all(story)
    add_up(story)


def _echo(entry: Entry, said: peer_pb2.DirectiveEcho) -> None:
    data = said.SerializeToString()
    entry["length"], entry["sha256"] = len(data), hashlib.sha256(data).hexdigest()


def _range(story: Story) -> float:
    return float(story["coordinator"].first("directive", step="round", round=2, job=story.job)["lookup_range"])


def disclosed_to_a_stranger(story: Story) -> None:
    story["bank"].first("disclosure", what="set_size", to="platform")["to"] = "regulator"
    add_up(story)


def disclosed_by_another(story: Story) -> None:
    """The coordinator's log names a party that the job has not."""
    story["coordinator"].first("disclosure", what="columns", party="bank")["party"] = "broker"
    add_up(story)


# ---- (9) ------------------------------------------------------------------------------------------------------------------------


def _disclosure(story: Story, name: str, what: str, **fields: Any) -> Entry:
    return story[name].first("disclosure", what=what, job=story.job, **fields)


def disclosure_omitted(story: Story) -> None:
    """Not even the totals name it."""
    log = story["bank"]
    log.remove(_disclosure(story, "bank", "shared_customers"))
    add_up(story)


def disclosure_to_the_coordinator_omitted(story: Story) -> None:
    story["platform"].remove(_disclosure(story, "platform", "columns", to="coordinator"))
    add_up(story)


def disclosure_added(story: Story) -> None:
    entry = _disclosure(story, "bank", "inner_products", to="platform")
    story["bank"].insert(entry, copy.deepcopy(entry))
    add_up(story)


def disclosure_of_something_else(story: Story) -> None:
    _disclosure(story, "bank", "set_size", to="platform")["what"] = "incomes"
    add_up(story)


def disclosure_count_altered(story: Story) -> None:
    _disclosure(story, "bank", "shared_customers")["count"] -= 1
    add_up(story)


def disclosure_clause_altered(story: Story) -> None:
    _disclosure(story, "bank", "set_size", to="platform")["clause"] = "protocols.md: weights"
    add_up(story)


def disclosure_under_another_step(story: Story) -> None:
    log = story["bank"]
    entry = _disclosure(story, "bank", "weights_of_the_receiver")
    log.remove(entry)
    entry["step"] = "prepare"
    log.insert(log.last("disclosure", step="prepare", job=story.job), entry)
    add_up(story)


def set_size_altered(story: Story) -> None:
    _disclosure(story, "bank", "set_size", to="platform")["value"] = "999"


def columns_altered(story: Story) -> None:
    _disclosure(story, "platform", "columns", to="bank")["value"] = "77"


def shared_customers_altered(story: Story) -> None:
    _disclosure(story, "bank", "shared_customers")["value"] = "169"


def base_rate_altered(story: Story) -> None:
    """The label holder's log gives the feature holder another base rate than the coordinator heard."""
    _disclosure(story, story.holder, "base_rate", to=story.other)["value"] = "0.99"


def base_rate_altered_everywhere(story: Story) -> None:
    """The label holder and the coordinator agree on another base rate than the message carried."""
    for log in story.logs.values():
        for entry in log.entries("disclosure", what="base_rate", job=story.job):
            entry["value"] = _other_digit(entry["value"])


def _other_digit(value: str) -> str:
    return value[:-1] + ("1" if value[-1] != "1" else "2")


def totals_omit_an_item(story: Story) -> None:
    story["bank"].last("disclosures")["items"].pop()


def totals_add_an_item(story: Story) -> None:
    items = story["bank"].last("disclosures")["items"]
    items.append({"what": "weights_of_the_receiver", "to": "coordinator", "count": 1, "clause": "protocols.md: weights"})


def totals_altered(story: Story) -> None:
    story["platform"].last("disclosures")["items"][0]["count"] += 1


def totals_name_an_item_twice(story: Story) -> None:
    items = story["bank"].last("disclosures")["items"]
    items.append(dict(items[0]))


def totals_left_out(story: Story) -> None:
    story["bank"].remove(story["bank"].last("disclosures"))


def coordinator_heard_less(story: Story) -> None:
    log = story["coordinator"]
    log.remove(_disclosure(story, "coordinator", "columns", party="platform"))
    add_up(story)


def coordinator_heard_more(story: Story) -> None:
    log = story["coordinator"]
    entry = _disclosure(story, "coordinator", "columns", party="bank")
    log.insert(entry, copy.deepcopy(entry) | {"what": "weights", "clause": "protocols.md: weights"})
    add_up(story)


def coordinator_heard_otherwise(story: Story) -> None:
    _disclosure(story, "coordinator", "set_size", party="bank")["value"] = "999"


def coordinator_s_totals_altered(story: Story) -> None:
    story["coordinator"].last("disclosures")["items"][0]["count"] += 5


def aggregates_altered(story: Story) -> None:
    """The label holder's log flatters what it told the feature holder."""
    _flatter(_disclosure(story, story.holder, "aggregates", to=story.other))


def aggregates_altered_everywhere(story: Story) -> None:
    """The label holder and the coordinator agree on better aggregates than the message carried."""
    for log in story.logs.values():
        for entry in log.entries("disclosure", what="aggregates", job=story.job):
            _flatter(entry)


def _flatter(entry: Entry) -> None:
    values = json.loads(entry["value"])
    values["auc"] = "0.99"
    entry["value"] = json.dumps(values, sort_keys=True)


def aggregates_against_the_specification(story: Story) -> None:
    """The label holder tells the coordinator aggregates that the specification keeps from it."""
    respecify(story, lambda spec: spec["disclose"].update(aggregates_to_coordinator=False))


def aggregates_sent_against_the_specification(story: Story) -> None:
    respecify(story, lambda spec: spec["disclose"].update(aggregates_to_feature_holder=False))


def weights_to_the_coordinator(story: Story) -> None:
    log = story["bank"]
    entry = _disclosure(story, "bank", "weights_of_the_receiver")
    log.insert(entry, copy.deepcopy(entry) | {"to": "coordinator"})
    add_up(story)


def inner_products_altered_everywhere(story: Story) -> None:
    for log in story.logs.values():
        for entry in log.entries("disclosure", what="inner_products", round=1, job=story.job):
            entry["value"] = '["nan"]'


def set_size_message_altered(story: Story) -> None:
    """Both nodes and their receipts tell of another first message than the set's size gives."""
    for entry in message(story, "bank", "PsiStart"):
        entry["sha256"] = hash_of("another size")
    retell(story, place_of(message(story, "bank", "PsiStart")[0]))


def policy_missing(story: Story) -> None:
    """The bank's log does not say which bounds it had."""
    story["bank"].remove(*story["bank"].entries("policy"))


def policy_laxer_after_the_approval(story: Story) -> None:
    """The bank approved under bounds that the job breaks, and widened them before it began."""
    log = story["bank"]
    log.insert(log.entries("approval", job=story.job)[-1], copy.deepcopy(log.first("policy")))
    log.first("policy")["rounds_max"] = 1


def salt_missing(story: Story) -> None:
    """Without its salt an entry's leaf hash lets its value be guessed."""
    del _disclosure(story, "bank", "set_size", to="platform")["salt"]


def salt_short(story: Story) -> None:
    _disclosure(story, "bank", "set_size", to="platform")["salt"] = "00"


def salt_used_again(story: Story) -> None:
    """Once it was shown with one entry, the values of all others can be guessed."""
    for entry in story["bank"].entries("disclosure"):
        entry["salt"] = "00" * 16


def bytes_altered(story: Story) -> None:
    """The bank says that it sent less than its messages have."""
    story["bank"].first("step", state="done", step="prepare")["bytes_sent"] -= 1


def totals_told_twice_and_otherwise(story: Story) -> None:
    log = story["bank"]
    total = log.last("disclosures")
    log.insert(log.entries(job=story.job)[-3], copy.deepcopy(total) | {"items": []})


def aggregates_to_the_coordinator_altered(story: Story) -> None:
    """The label holder and the coordinator agree on better aggregates than the feature holder was sent."""
    for log in story.logs.values():
        for entry in log.entries("disclosure", what="aggregates", to="coordinator", job=story.job):
            _flatter(entry)


def base_rate_only_the_coordinator_was_told_altered(story: Story) -> None:
    for log in (story[story.holder], story["coordinator"]):
        for entry in log.entries("disclosure", what="base_rate", to="coordinator", job=story.job):
            entry["value"] = _other_digit(entry["value"])
