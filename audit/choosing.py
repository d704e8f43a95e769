"""The entries that say how an alignment's method was chosen, held against the rule (:mod:`audit.aligning`) and the messages.

An alignment whose method the specification leaves to the sizes, or whose messages do not show them, says once which method it took
and why, with both sizes; it says so after both ``PsiStart`` and before all else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from audit.aligning import chosen_method, reason
from audit.figures import JobView, NodeView
from audit.history import Act, Attempt, AttemptKey, ChoiceRecord
from audit.plain import psi_start


def bad_choices(view: JobView, node: NodeView) -> Iterator[tuple[int, str]]:
    """What is wrong with a node's choices: the entry's number and a reason."""
    method, made = view.spec.align_method, set[AttemptKey]()
    for act in node.record.of("choice"):
        attempt = node.record.attempts.get(act.key)
        if method == "curve" or act.key.step != "align" or act.key in made or attempt is None:
            yield act.seq, f"{act.key}: there was nothing to choose"
            continue
        made.add(act.key)
        sizes = act.data.label_holder, act.data.feature_holder
        if act.data != ChoiceRecord("alignment", chosen_method(method, *sizes), reason(method, *sizes), *sizes):
            yield act.seq, f"{act.key}: another method follows from the sizes"
        for fault in _against_messages(view, node, attempt, act):
            yield act.seq, f"{act.key}: {fault}"
    for attempt in node.record.attempts.values():
        if method != "curve" and attempt.key.step == "align" and attempt.was_done and attempt.key not in made:
            yield attempt.state_seq, f"{attempt.key}: it does not say which method it took"


def _against_messages(view: JobView, node: NodeView, attempt: Attempt, act: Act) -> Iterator[str]:
    sizes = dict(zip(view.parties, (act.data.label_holder, act.data.feature_holder), strict=True))
    for sender, way in ((node.name, "sent"), (attempt.peer, "received")):
        declared = hashlib.sha256(psi_start(sizes.get(sender, 0))).hexdigest()
        if attempt.direction(way).plain.get(("PsiStart", 0)) != declared:
            yield f"{sender} declared another size"
        messages = node.ledger.messages(view.job, attempt, way)
        first = next((seq for seq, message in messages if message.type != "PsiStart"), None)
        if first is not None and first < act.seq:
            yield "the method was chosen too late"
