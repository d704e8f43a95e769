"""Commitments, a part of step (7): what an attempt must bind itself to before its first message, once, and to how much.

    align     dataset: no fewer rows than identifiers were sent
    prepare   encoded: the shared rows and the sender's columns;  paillier key

A digest itself says nothing here: it is opened in a replay.  But a party that bound itself to nothing could not be held to
anything there, and one that bound itself twice could choose.
"""

from __future__ import annotations

from collections.abc import Callable

from audit.figures import JobView, NodeView
from audit.history import Act, Attempt
from audit.ledger import LogRejected

REQUIRED = {"align": ("dataset",), "prepare": ("encoded", "paillier key")}

Refuse = Callable[[str, int | None, str, str], LogRejected]


def check_commitments(view: JobView, node: NodeView, refuse: Refuse) -> None:
    """Every attempt of a node's that sent or received a message.

    Raises:
        LogRejected: step 7: ``audit.commitment_missing``, ``audit.commitment_twice``, ``audit.commitment_late``,
        ``audit.commitment_differs``.
    """
    made: dict[object, dict[str, list[Act]]] = {}
    for act in node.record.of("commitment"):
        made.setdefault(act.key, {}).setdefault(act.data.what, []).append(act)
    seeds = [act for act in node.record.of("commitment") if act.data.what == "seed"]
    if len({act.data.sha256 for act in seeds}) > 1:
        raise refuse(node.name, seeds[-1].seq, "audit.commitment_twice", "it bound itself to more than one seed")
    for attempt in node.record.attempts.values():
        first = attempt.first_message
        if first is None:
            continue
        own = made.get(attempt.key, {})
        for what, acts in own.items():
            late = next((act for act in acts if act.seq > first), None)
            if late is not None:
                reason = f"{attempt.key}: the commitment to {what!r} comes after the first message"
                raise refuse(node.name, late.seq, "audit.commitment_late", reason)
            if len(acts) > 1:
                reason = f"{attempt.key}: there are {len(acts)} commitments to {what!r}"
                raise refuse(node.name, acts[1].seq, "audit.commitment_twice", reason)
        for what in REQUIRED.get(attempt.key.step, ()):
            if what not in own:
                reason = f"{attempt.key}: the first message was exchanged without a commitment to {what!r}"
                raise refuse(node.name, first, "audit.commitment_missing", reason)
            if attempt.was_done and (reason := _differs(view, node, attempt, own[what][0])):
                raise refuse(node.name, own[what][0].seq, "audit.commitment_differs", f"{attempt.key}: {reason}")


def _differs(view: JobView, node: NodeView, attempt: Attempt, act: Act) -> str:
    """What is wrong with a commitment's sizes, or nothing."""
    data, sent = act.data, attempt.sent.items.get("MaskedPoints", 0)
    if data.what == "dataset" and (data.rows is None or data.rows < sent):
        return f"it committed to {data.rows} rows and sent {sent} identifiers"
    if data.what != "encoded":
        return ""
    if view.shared is not None and data.rows != view.shared:
        return f"it committed to {data.rows} encoded rows where {view.shared} customers are shared"
    columns = view.columns.get(node.name)
    if columns is not None and data.columns != columns - (node.name == view.parties[0]):
        return f"it committed to {data.columns} columns, and its messages have {columns}"
    return ""
