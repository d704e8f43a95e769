"""Both nodes and the coordinator tell the same, and it is not what the protocol allows (step 7)."""

from __future__ import annotations

import copy
import hashlib

from protos import peer_pb2
from tests.tampering.story import Entry, Log, Story
from tests.tampering.telling import (
    add_up,
    attempt_entries,
    drop_step,
    hash_of,
    labelled,
    message,
    peer_of,
    place_of,
    retell,
    retell_all,
)


def preparation_skipped(story: Story) -> None:
    drop_step(story, "prepare")


def first_round_skipped(story: Story) -> None:
    drop_step(story, "round", 1)


def last_step_skipped(story: Story) -> None:
    """The job is said to be finished without its last step."""
    drop_step(story, "evaluate" if story.spec["model"]["holdout"] != "0" else "finish")


def step_repeated(story: Story) -> None:
    """The alignment is run once more after the preparation."""
    for log in story.logs.values():
        for entry in log.entries(job=story.job):
            if entry["step"] not in ("", "align", "prepare"):
                entry["attempt"] = 1
        log.insert(attempt_entries(log, "prepare")[-1], *labelled(attempt_entries(log, "align"), attempt=1))
    retell_all(story)
    add_up(story)


def attempt_number_used_again(story: Story) -> None:
    """The alignment is run twice under one number: the same random numbers twice."""
    for log in story.logs.values():
        log.insert(attempt_entries(log, "align")[-1], *labelled(attempt_entries(log, "align")))
    retell_all(story)
    add_up(story)


def rounds_swapped(story: Story) -> None:
    """What was the first round is told as the second, and the other way round."""
    for log in story.logs.values():
        for entry in log.entries(step="round", job=story.job):
            entry["round"] = {1: 2, 2: 1}.get(entry["round"], entry["round"])
    retell_all(story)


def attempts_backwards(story: Story) -> None:
    """The first step runs as attempt 1, everything after it as attempt 0."""
    for log in story.logs.values():
        for entry in attempt_entries(log, "align"):
            entry["attempt"] = 1
    retell_all(story)


def step_unknown(story: Story) -> None:
    for log in story.logs.values():
        for entry in attempt_entries(log, "finish"):
            entry["step"] = "export"
    retell_all(story)


def _twice(story: Story, sent: Entry, received: Entry, **changes: object) -> None:
    for log, entry in ((story[str(sent["log"])], sent), (story[peer_of(str(sent["log"]))], received)):
        log.insert(entry, copy.deepcopy(entry) | changes)
    retell(story, place_of(sent))


def message_left_out(story: Story) -> None:
    sent, received = message(story, "bank", "MaskedGradients")
    story["bank"].remove(sent)
    story["platform"].remove(received)
    retell(story, place_of(sent))


def message_too_many(story: Story) -> None:
    _twice(story, *message(story, "bank", "MaskedGradients"), sha256=hash_of("another"))


def message_of_another_step(story: Story) -> None:
    """A message of weights in a round: what the finish alone may open."""
    _twice(story, *message(story, story.holder, "InnerProductParts"), type="WeightShares", sha256=hash_of("weights"))


def message_of_an_unknown_type(story: Story) -> None:
    _twice(story, *message(story, story.holder, "InnerProductParts"), type="PlainFeatures", sha256=hash_of("features"))


def more_bytes_than_the_items_take(story: Story) -> None:
    for entry in message(story, "bank", "MaskedGradients"):
        entry["length"] += 32
    retell(story, place_of(message(story, "bank", "MaskedGradients")[0]))


def more_items_than_the_job_has(story: Story) -> None:
    for entry in message(story, story.other, "MaskedResiduals"):
        entry["items"], entry["length"] = entry["items"] + 1, entry["length"] + 8
    retell(story, place_of(message(story, story.other, "MaskedResiduals")[0]))


def messages_in_another_order(story: Story) -> None:
    pairs = message(story, "bank", "MaskedGradients"), message(story, "bank", "DotOperands")
    for one, other in zip(*pairs, strict=True):
        for name in ("type", "length", "sha256", "items"):
            one[name], other[name] = other[name], one[name]
    retell(story, place_of(pairs[0][0]))


def message_after_done(story: Story) -> None:
    """The bank's log dates a message after the step's end; numbers and receipts fit."""
    sent = story["bank"].last("message", direction="sent", step="finish", job=story.job)
    done = story["bank"].last("step", state="done", step="finish", job=story.job)
    story["bank"].remove(sent)
    story["bank"].insert(done, sent)


def entry_after_the_end(story: Story) -> None:
    """The bank goes on disclosing after the job's end."""
    log = story["bank"]
    log.insert(log.last("job"), copy.deepcopy(log.first("disclosure")))


def another_end_after_the_end(story: Story) -> None:
    log = story["bank"]
    log.insert(log.last("job"), copy.deepcopy(log.last("job")) | {"state": "failed", "code": "job.interrupted"})


def ends_that_contradict(story: Story) -> None:
    """The bank says that the job failed, the others that it finished."""
    story["bank"].last("job").update(state="failed", code="transport.closed")


def end_left_out(story: Story) -> None:
    """The bank leaves the job open: lawful so far."""
    story["bank"].remove(story["bank"].last("job"))


def numbers_of_one_node(story: Story) -> None:
    """The bank ran the second round on other coefficients than the platform."""
    story["bank"].first("step", state="start", step="round", round=2, job=story.job)["coefficients"] = ["0.5"]


def numbers_not_the_coordinator_s(story: Story) -> None:
    for log in story.nodes():
        log.first("step", state="start", step="round", round=2, job=story.job)["coefficients"] = ["0.5"]


def coefficient_too_many(story: Story) -> None:
    for log in story.logs.values():
        kind = "directive" if log.name == "coordinator" else "step"
        log.first(kind, step="round", round=2, job=story.job)["coefficients"].append("0.5")


def directive_missing(story: Story) -> None:
    story["coordinator"].remove(story["coordinator"].first("directive", step="finish", job=story.job))


def report_before_its_directive(story: Story) -> None:
    log = story["coordinator"]
    log.swap(log.first("directive", step="prepare", job=story.job), log.first("report", step="prepare", job=story.job))


def seed_not_committed(story: Story) -> None:
    """The bank approves without having bound itself to its random numbers."""
    story["bank"].remove(story["bank"].first("commitment", what="seed", job=story.job))


def seed_committed_after_the_approval(story: Story) -> None:
    log = story["bank"]
    seed = log.first("commitment", what="seed", job=story.job)
    log.remove(seed)
    log.insert(log.entries("approval", job=story.job)[-1], seed)


def _commitment(log: Log, what: str, job: str) -> Entry:
    return log.first("commitment", what=what, job=job)


def data_committed_after_the_first_message(story: Story) -> None:
    log = story["bank"]
    late = _commitment(log, "dataset", story.job)
    log.remove(late)
    log.insert(log.last("message", step="align", job=story.job), late)


def data_not_committed(story: Story) -> None:
    story["bank"].remove(_commitment(story["bank"], "dataset", story.job))


def encoded_rows_not_committed(story: Story) -> None:
    story["platform"].remove(_commitment(story["platform"], "encoded", story.job))


def key_not_committed(story: Story) -> None:
    story["bank"].remove(_commitment(story["bank"], "paillier key", story.job))


def data_committed_twice(story: Story) -> None:
    """Two roots before one alignment: the bank may later show either data set."""
    log = story["bank"]
    one = _commitment(log, "dataset", story.job)
    log.insert(one, copy.deepcopy(one) | {"sha256": hash_of("other rows")})


def specification_missing(story: Story) -> None:
    story["bank"].remove(story["bank"].first("spec", job=story.job))


def inner_products_told_otherwise(story: Story) -> None:
    entry = story["coordinator"].first("disclosure", what="inner_products", party="bank", job=story.job)
    entry["value"] = '["0.5"]'


def submitted_twice(story: Story) -> None:
    log = story["coordinator"]
    log.insert(log.first("job", state="submitted"), copy.deepcopy(log.first("job", state="submitted")))


def specification_after_the_approval(story: Story) -> None:
    log = story["bank"]
    late = log.first("spec", job=story.job)
    log.remove(late)
    log.insert(log.entries("approval", job=story.job)[-1], late)


def report_missing(story: Story) -> None:
    """The coordinator went on without having heard from the platform."""
    log = story["coordinator"]
    log.remove(log.first("report", party="platform", step="prepare"), *log.entries("disclosure", party="platform", step="prepare"))
    add_up(story)


def two_seeds(story: Story) -> None:
    """The bank binds itself to two seeds, to choose between them later."""
    log = story["bank"]
    seed = log.first("commitment", what="seed", job=story.job)
    log.insert(seed, copy.deepcopy(seed) | {"sha256": hash_of("another seed")})


def fewer_rows_committed_than_sent(story: Story) -> None:
    _commitment(story["bank"], "dataset", story.job)["rows"] = 10


def other_rows_encoded_than_shared(story: Story) -> None:
    _commitment(story["bank"], "encoded", story.job)["rows"] += 1


def other_columns_encoded_than_used(story: Story) -> None:
    _commitment(story["platform"], "encoded", story.job)["columns"] += 1


def numbers_told_otherwise(story: Story) -> None:
    """The nodes told each other other numbers than those that all three logs say the round ran on."""
    for sender in ("bank", "platform"):
        for entry in message(story, sender, "DirectiveEcho", 1):
            entry["sha256"] = hash_of("other numbers")
    retell(story, place_of(message(story, "bank", "DirectiveEcho", 1)[0]))


def lookup_range_of_no_power_of_two(story: Story) -> None:
    """A range that no honest coordinator directs, told by all."""
    _direct(story, "round", 2, "3.0")


def lookup_range_negative(story: Story) -> None:
    _direct(story, "round", 2, "-16.0")


def coefficient_not_finite(story: Story) -> None:
    _direct(story, "round", 2, "16.0", "nan")


def _direct(story: Story, step: str, round: int, lookup_range: str, coefficient: str = "") -> None:
    for log in story.logs.values():
        for entry in log.entries(step=step, round=round, job=story.job):
            if "lookup_range" in entry:
                entry["lookup_range"] = lookup_range
                entry["coefficients"] = [coefficient or value for value in entry["coefficients"]]
                numbers = [float(value) for value in entry["coefficients"]]
    data = peer_pb2.DirectiveEcho(coefficients=numbers, lookup_range=float(lookup_range)).SerializeToString()
    for log in story.nodes():
        for entry in log.entries("message", type="DirectiveEcho", step=step, round=round, job=story.job):
            entry["length"], entry["sha256"] = len(data), hashlib.sha256(data).hexdigest()
    retell_all(story)


def sizes_not_committed(story: Story) -> None:
    """The commitment to the encoded rows does not say how many they are."""
    del _commitment(story["bank"], "encoded", story.job)["rows"]
