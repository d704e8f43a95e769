"""Owners who lied as they wrote, so that their witnesses cosigned the lie: approvals, messages, receipts (steps 4 to 6)."""

from __future__ import annotations

import copy
import json

from tests.tampering.story import Story
from tests.tampering.telling import (
    approve,
    hash_of,
    labelled,
    message,
    place_of,
    respecify,
    retell,
    sign_receipts,
)

# ---- (3): a chain that was wrong from the beginning ------------------------------------------------------------------------------


def clock_backwards(story: Story) -> None:
    entries = story["bank"].entries()
    entries[30]["time"] = entries[10]["time"]


def clock_malformed(story: Story) -> None:
    for entry in story["bank"].entries():
        entry["time"] = entry["time"].replace("T", " ")


def entry_under_another_name(story: Story) -> None:
    story["bank"].entries()[9]["log"] = "platform"


# ---- (4) ------------------------------------------------------------------------------------------------------------------------


def _approval(story: Story, party: str, log: str = "bank") -> dict:
    return next(e for e in story[log].entries("approval", job=story.job) if json.loads(e["statement"])["party"] == party)


def approval_missing(story: Story) -> None:
    story["bank"].remove(_approval(story, "platform"))


def own_approval_missing(story: Story) -> None:
    story["platform"].remove(_approval(story, "platform", "platform"))


def approval_after_the_start(story: Story) -> None:
    late = _approval(story, "platform")
    story["bank"].remove(late)
    story["bank"].insert(story["bank"].first("step", state="start", job=story.job), late)


def approval_of_another_job(story: Story) -> None:
    approve(story, _approval(story, "platform"), job=hash_of("another job"))


def approval_forged(story: Story) -> None:
    """The bank signs the platform's approval itself."""
    approve(story, _approval(story, "platform"), by="bank")


def approval_statement_altered(story: Story) -> None:
    entry = _approval(story, "platform")
    entry["statement"] = entry["statement"].replace("a person", "a policy")


def approval_not_canonical(story: Story) -> None:
    entry = _approval(story, "platform")
    entry["statement"] += " "
    entry["signature"] = story.keys["platform"].sign(entry["statement"].encode()).hex()


def rejected_and_run(story: Story) -> None:
    for log in story.logs.values():
        approve(story, _approval(story, "platform", log.name), decision="reject")


def approval_with_another_peer(story: Story) -> None:
    for log in story.logs.values():
        approve(story, _approval(story, "platform", log.name), peer="coordinator")


def approved_by_one_twice(story: Story) -> None:
    """The bank's approval stands where the platform's should."""
    entry = _approval(story, "platform")
    entry.update({name: _approval(story, "bank")[name] for name in ("statement", "signature")})


def directed_before_approved(story: Story) -> None:
    log = story["coordinator"]
    late = _approval(story, "platform", "coordinator")
    log.remove(late)
    log.insert(log.first("directive", job=story.job), late)


def specification_altered(story: Story) -> None:
    """The document in the bank's log asks for fewer shared customers than the one whose hash was approved."""
    entry = story["bank"].first("spec", job=story.job)
    entry["document"] = entry["document"].replace('"minimum":100', '"minimum":1')


def specification_changed_after_the_approval(story: Story) -> None:
    """The job that ran is another than the one both signed."""
    before = {log.name: copy.deepcopy(log.entries("approval")) for log in story.logs.values()}
    respecify(story, lambda spec: spec["model"].update(tolerance="0.1"))
    for log in story.logs.values():
        for entry, old in zip(log.entries("approval"), before[log.name], strict=True):
            entry.update({name: old[name] for name in ("statement", "signature")})


def specification_not_canonical(story: Story) -> None:
    respecify(story, lambda spec: None, canonically=False)


def specification_with_an_unknown_key(story: Story) -> None:
    respecify(story, lambda spec: spec.update(arbiter="coordinator"))


# ---- (5) ------------------------------------------------------------------------------------------------------------------------


def digest_on_one_side(story: Story) -> None:
    message(story, "bank", "MaskedGradients")[1]["sha256"] = hash_of("other bytes")


def length_on_one_side(story: Story) -> None:
    message(story, "platform", "MaskedGradients")[0]["length"] += 1


def type_on_one_side(story: Story) -> None:
    message(story, "platform", "RowProducts")[1]["type"] = "RowMasks"


def items_on_one_side(story: Story) -> None:
    message(story, "platform", "InnerProductParts")[1]["items"] += 1


def received_and_not_logged(story: Story) -> None:
    sent, received = message(story, "bank", "MaskedGradients")
    story["platform"].remove(received)
    retell(story, place_of(sent))


def sent_and_not_logged(story: Story) -> None:
    sent, _ = message(story, "bank", "MaskedGradients")
    story["bank"].remove(sent)
    retell(story, place_of(sent))


def received_and_never_sent(story: Story) -> None:
    _, received = message(story, "bank", "InnerProductParts")
    story["platform"].insert(received, copy.deepcopy(received) | {"sha256": hash_of("invented")})
    retell(story, place_of(received))


def step_hidden_by_one_side(story: Story) -> None:
    """The bank says nothing of the finish, and goes on."""
    log = story["bank"]
    log.remove(*log.entries(step="finish", job=story.job))


def number_twice(story: Story) -> None:
    message(story, "bank", "MaskedGradients")[0]["number"] -= 1


def order_on_one_side(story: Story) -> None:
    log = story["bank"]
    first, second = log.entries("message", step="prepare", direction="received", job=story.job)[:2]
    for name in ("type", "length", "sha256", "items"):
        first[name], second[name] = second[name], first[name]
    retell(story, place_of(first))


def two_peers(story: Story) -> None:
    message(story, "bank", "MaskedGradients")[0]["peer"] = "coordinator"


def message_malformed(story: Story) -> None:
    for entry in message(story, "bank", "MaskedGradients"):
        entry["sha256"] = entry["sha256"].upper()


# ---- (6) ------------------------------------------------------------------------------------------------------------------------


def digest_on_both_sides(story: Story) -> None:
    """Both logs agree about the message, and not with what both signed."""
    for entry in message(story, "bank", "MaskedGradients"):
        entry["sha256"] = hash_of("other bytes")


def length_on_both_sides(story: Story) -> None:
    """Another length would carry more than the items: the transcript covers it."""
    for entry in message(story, "bank", "MaskedGradients"):
        entry["length"] += 1


def _receipt(story: Story, name: str, direction: str) -> dict:
    return story[name].last("receipt", direction=direction, job=story.job)


def receipt_forged(story: Story) -> None:
    """The bank signs the platform's receipt itself."""
    received, sent = _receipt(story, "bank", "received"), _receipt(story, "bank", "sent")
    received["signature"] = sent["signature"]


def receipt_missing(story: Story) -> None:
    story["bank"].remove(_receipt(story, "bank", "received"))


def receipt_after_done(story: Story) -> None:
    log, late = story["bank"], _receipt(story, "bank", "received")
    log.remove(late)
    log.insert(log.last("step", state="done", job=story.job), late)


def receipt_twice(story: Story) -> None:
    log, entry = story["bank"], _receipt(story, "bank", "received")
    log.insert(entry, copy.deepcopy(entry))


def receipt_of_another_step(story: Story) -> None:
    """A receipt of the platform's over an earlier step's messages, signed by it."""
    log = story["bank"]
    first, last = log.first("receipt", direction="received", job=story.job), _receipt(story, "bank", "received")
    last.update({name: first[name] for name in ("digest", "signature")})


def receipt_not_of_bytes(story: Story) -> None:
    _receipt(story, "bank", "received")["digest"] = "00"


def transcript_of_another_step(story: Story) -> None:
    log = story["bank"]
    log.last("step", state="done", job=story.job)["transcript_sha256"] = _receipt(story, "bank", "sent")["digest"][::-1]


def roles_changed(story: Story) -> None:
    """Both sign the last step as if the label holder were the other one."""
    from tests.second_verifier import transcript

    where = place_of(_receipt(story, "bank", "sent"))
    for log in story.nodes():
        digest = transcript(log.entries(), log.name, where, (story.other, story.holder))
        sign_receipts(story, log, where, digest)
        log.last("step", state="done", job=story.job)["transcript_sha256"] = digest
        story["coordinator"].last("report", party=log.name, job=story.job)["transcript_sha256"] = digest


def report_of_another_transcript(story: Story) -> None:
    story["coordinator"].last("report", party="bank", job=story.job)["transcript_sha256"] = hash_of("another")


def report_of_a_failed_step(story: Story) -> None:
    """The coordinator says that the platform reported a further attempt done; the platform's log has it as failed."""
    log = story["platform"]
    start = log.first("step", state="start", step="align", job=story.job)
    done = log.first("step", state="done", step="align", job=story.job)
    again, failed = labelled([start, start], attempt=1)
    failed.update(state="failed", code="transport.closed")
    del failed["coefficients"], failed["lookup_range"]
    log.insert(done, again, failed)
    report = story["coordinator"].first("report", party="platform", job=story.job)
    story["coordinator"].insert(report, labelled([report], attempt=1)[0])


def messages_to_oneself(story: Story) -> None:
    """The peer of a message is its own sender."""
    sent, _ = message(story, "bank", "MaskedGradients")
    for entry in story["bank"].entries("message", **{name: sent[name] for name in ("step", "round", "attempt")}):
        entry["peer"] = "bank"


def log_key_of_another(story: Story) -> None:
    """The run's commitment is to another log key than the one that signs."""
    story["bank"].first("commitment", what="log key")["sha256"] = hash_of("another key")


def message_outside_any_job(story: Story) -> None:
    """The nodes exchange a message that belongs to no job."""
    for log, entry in zip(story.nodes(), message(story, "bank", "MaskedGradients"), strict=True):
        own = copy.deepcopy(entry) | {"job": "", "step": "", "round": 0, "attempt": 0}
        log.insert(log.first("policy"), own)


def disclosure_outside_any_job(story: Story) -> None:
    log = story["bank"]
    log.insert(log.first("policy"), copy.deepcopy(log.first("disclosure")) | {"job": "", "step": ""})


def job_hidden_by_the_coordinator(story: Story) -> None:
    """The coordinator's log says nothing of the job that the nodes ran."""
    log = story["coordinator"]
    log.remove(*log.entries(job=story.job))


def job_hidden_by_a_node(story: Story) -> None:
    """The platform's log says nothing of the job: it may be an older copy, so that it is only missing."""
    log = story["platform"]
    log.remove(*log.entries(job=story.job))


def number_malformed(story: Story) -> None:
    """A lookup range that is no number."""
    story["bank"].first("step", state="start", step="round", round=2, job=story.job)["lookup_range"] = "1e"


def number_in_another_form(story: Story) -> None:
    story["bank"].first("step", state="start", step="round", round=2, job=story.job)["lookup_range"] = "16"
