"""What several kinds need: a message at both its ends, a step told anew with its receipts, a job under another specification."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from audit.split import holdout_rows
from tests.second_verifier import canonical, place, sha, transcript
from tests.tampering.story import Entry, Log, Mark, Story

LABELS = ("job", "step", "round", "attempt")
Where = tuple[str, str, int, int]
OWN = {"spec": "document", "approval": "statement"}


def peer_of(name: str) -> str:
    """The other node."""
    return "platform" if name == "bank" else "bank"


def message(story: Story, sender: str, kind: str, number: int = 0) -> tuple[Entry, Entry]:
    """The ``number``-th message of a type by ``sender`` in steps of the last job that were done: as sent, and as received."""
    log = story[sender]
    done = {place(entry) for entry in log.entries("step", state="done", job=story.job)}
    sent = [entry for entry in log.entries("message", direction="sent", type=kind) if place(entry) in done][number]
    same = {name: sent[name] for name in (*LABELS, "number")}
    return sent, story[peer_of(sender)].first("message", direction="received", **same)


def hash_of(text: str) -> str:
    """Some SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()


def retell(story: Story, where: Where) -> None:
    """Both nodes number the messages of an attempt anew, sign what they then say, and report it: so it was from the beginning."""
    labels = dict(zip(LABELS, where, strict=True))
    for log in story.nodes():
        for way in ("sent", "received"):
            for number, entry in enumerate(log.entries("message", direction=way, **labels)):
                entry["number"] = number
    for log in story.nodes():
        digest = transcript(log.entries(), log.name, where, (story.holder, story.other))
        sign_receipts(story, log, where, digest)
        for done in log.entries("step", state="done", **labels):
            done["transcript_sha256"] = digest
            for way, name in (("sent", "bytes_sent"), ("received", "bytes_received")):
                done[name] = sum(entry["length"] for entry in log.entries("message", direction=way, **labels))
        for report in story["coordinator"].entries("report", party=log.name, **labels):
            report["transcript_sha256"] = digest


def sign_receipts(story: Story, log: Log, where: Where, digest: str) -> None:
    """The receipts of an attempt in one log, over ``digest``, by both."""
    labels = dict(zip(LABELS, where, strict=True))
    statement = canonical({"v": 1, "kind": "isthmus.receipt", **labels, "digest": digest})
    for way, signer in (("sent", log.name), ("received", peer_of(log.name))):
        for entry in log.entries("receipt", direction=way, **labels):
            entry["digest"], entry["signature"] = digest, story.keys[signer].sign(statement).hex()


def retell_all(story: Story) -> None:
    """Every step that was done."""
    for where in {place(entry) for log in story.nodes() for entry in log.entries("receipt")}:
        retell(story, where)


def attempt_entries(log: Log, step: str, round: int = 0) -> list[Entry]:
    """Everything a log says of a step of the last job."""
    job = next(str(item["job"]) for item in reversed(log.items) if isinstance(item, dict) and item["job"])
    return log.entries(step=step, round=round, job=job)


def labelled(entries: list[Entry], **labels: Any) -> list[Entry]:
    """Copies under other labels."""
    return [copy.deepcopy(entry) | labels for entry in entries]


def drop_step(story: Story, step: str, round: int = 0) -> None:
    """No log says anything of a step."""
    for log in story.logs.values():
        log.remove(*attempt_entries(log, step, round))
    add_up(story)


def add_up(story: Story) -> None:
    """The disclosure receipts say what the entries say."""
    for log in story.logs.values():
        for total in log.entries("disclosures"):
            sums: dict[tuple[str, ...], int] = {}
            names = ("party", "what", "to", "clause") if log.name == "coordinator" else ("what", "to", "clause")
            for entry in log.entries("disclosure", job=total["job"]):
                key = tuple(entry[name] for name in names)
                sums[key] = sums.get(key, 0) + entry["count"]
            total["items"] = [dict(zip(names, key, strict=True)) | {"count": count} for key, count in sums.items()]


def approve(story: Story, entry: Entry, by: str | None = None, **changes: Any) -> None:
    """Write an approval entry's statement anew and sign it, with its party's key or with ``by``'s."""
    statement = json.loads(entry["statement"]) | changes
    data = canonical(statement)
    entry["statement"] = data.decode()
    entry["signature"] = story.keys[by or statement["party"]].sign(data).hex()


def respecify(story: Story, change: Callable[[dict[str, Any]], None], *, canonically: bool = True) -> None:
    """The last job under another specification, from the beginning: identity, approvals and receipts follow.

    The public coin that holds rows out depends on the job's identity: nonces are tried until it holds out as many as before.
    """
    old, spec = story.job, story.spec
    change(spec)
    shared, _, held = json.loads(story["coordinator"].first("disclosure", what="rows")["value"])
    for number in range(10_000):
        spec["nonce"] = f"{number:032x}"
        document = canonical(spec).decode()
        new = hash_of(document if canonically else document + "\n")
        if int(holdout_rows(new, shared, Decimal(story.spec["model"]["holdout"])).sum()) == held:
            break
    for log in story.logs.values():
        for entry in log.entries(job=old):
            entry["job"] = new
            if entry["kind"] == "spec":
                entry["document"] = document if canonically else document + "\n"
            if entry["kind"] == "approval":
                approve(story, entry, job=new)
    story_retell(story, new, spec)


def story_retell(story: Story, job: str, spec: dict[str, Any]) -> None:
    """Receipts of one job anew, whatever its specification's form."""
    parties = (spec["label_holder"]["name"], spec["feature_holder"]["name"])
    for where in {place(entry) for log in story.nodes() for entry in log.entries("receipt", job=job)}:
        labels = dict(zip(LABELS, where, strict=True))
        for log in story.nodes():
            digest = transcript(log.entries(), log.name, where, parties)
            sign_receipts(story, log, where, digest)
            for entry in [*log.entries("step", state="done", **labels), *story["coordinator"].entries("report", **labels)]:
                entry["transcript_sha256"] = digest


def cut_after(log: Log, mark: Mark) -> None:
    """An older copy: nothing after this checkpoint was ever there."""
    log.items = log.items[: log.where(mark) + 1]


def root_of(text: str) -> str:
    """A tree head that no log has, in base64."""
    return base64.b64encode(sha(text.encode())).decode()


def place_of(entry: Entry) -> Where:
    """Job, step, round and attempt of an entry."""
    return place(entry)
