"""The commitments of a node, held against the table (:data:`audit.orders.COMMITTED`) and the sizes that the messages show.

A node binds itself to its data, its encoded columns and its keys before the first message of an attempt, once, so that nothing it
hears can change them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from audit.figures import JobView, NodeView
from audit.history import Act, Attempt, AttemptKey
from audit.orders import COMMITTED, FILTER_COMMITTED


def bad_commitments(view: JobView, node: NodeView) -> Iterator[tuple[int, str, str]]:
    """What is wrong with a node's commitments: the entry's number, a code and a reason.

    They come before the first message of their attempt, and name the sizes that the messages show.
    """
    made: dict[AttemptKey, dict[str, Act]] = {}
    for act in node.record.of("commitment"):
        earlier = made.setdefault(act.key, {}).setdefault(act.data.what, act)
        # What a crash kept from being signed is written once more, the same; a second digest would leave a choice.
        if earlier is not act and (act.key.step or earlier.data.sha256 != act.data.sha256):
            yield act.seq, "audit.commitment_twice", f"it bound itself a second time to {act.data.what!r}"
    for attempt in node.record.attempts.values():
        acts, first = made.get(attempt.key, {}), attempt.first_message
        for act in acts.values():
            if first is not None and act.seq > first and act.data.what not in FILTER_COMMITTED:
                reason = f"{attempt.key}: the commitment to {act.data.what!r} comes after the first message"
                yield act.seq, "audit.commitment_late", reason
        for what in COMMITTED.get(attempt.key.step, ()):
            if first is not None and what not in acts:
                reason = f"{attempt.key}: there is no commitment to {what!r} before its first message"
                yield first, "audit.commitment_missing", reason
        if attempt.was_done:
            for seq, reason in _sizes(view, node, attempt, acts):
                yield seq, "audit.commitment_sizes", reason
        for reason in _filter_missing(view, attempt, acts):
            yield attempt.state_seq, "audit.commitment_missing", reason


def _filter_missing(view: JobView, attempt: Attempt, acts: Mapping[str, Act]) -> Iterator[str]:
    """An alignment by a published filter names its key and version: where it was done, and at the publisher before it tells."""
    if attempt.key.step != "align" or view.spec.publisher is None:
        return
    for what in FILTER_COMMITTED:
        if what not in acts and (attempt.was_done or attempt.sent.items.get("FilterState")):
            yield f"{attempt.key}: there is no commitment to the {what!r}"


def _sizes(view: JobView, node: NodeView, attempt: Attempt, acts: Mapping[str, Act]) -> Iterator[tuple[int, str]]:
    """The rows and columns committed to are those of the set that was aligned, and of the rows and columns that serve."""
    intercept = int(node.name == view.parties[0])
    columns = view.columns.get(node.name)
    sets = _own_sets(view, node, attempt)
    shown = {
        ("dataset", "rows"): _dataset_rows(view, node.name, attempt, sets),
        ("filter", "rows"): _size_of(view, view.spec.publisher.name, attempt) if view.spec.publisher else None,
        ("encoded", "rows"): sum(view.split) if view.split else None,
        ("encoded", "columns"): columns - intercept if columns is not None else None,
    }
    for what, act in acts.items():
        for name in ("rows", "columns"):
            wanted, said = shown.get((what, name)), getattr(act.data, name)
            if wanted is not None and said != wanted:
                yield act.seq, f"{attempt.key}: the commitment to {what!r} names {said} {name}; {wanted} follow from the log"
        if what == "dataset" and act.data.rows is not None and act.data.rows < max(sets, default=0):
            # Not every customer has every key; none has one twice.
            yield (
                act.seq,
                f"{attempt.key}: the commitment to {what!r} names {act.data.rows} rows; {max(sets)} identifiers were sent",
            )


def _own_sets(view: JobView, node: NodeView, attempt: Attempt) -> tuple[int, ...]:
    """Identifiers that a node sent in an attempt, of each key."""
    if attempt.key.step == "align" and view.spec.align.keys:
        return view.sizes_by_key(attempt.key, node.name)
    sent = view.sets_in(node, attempt).get(node.name)
    return () if sent is None else (sent,)


def _dataset_rows(view: JobView, party: str, attempt: Attempt, sets: Sequence[int]) -> int | None:
    """Rows of a data set that was aligned by one identifier."""
    if view.spec.publisher is not None:
        return _size_of(view, party, attempt)
    return sets[0] if sets and not view.spec.align.keys else None


def _size_of(view: JobView, party: str, attempt: Attempt) -> int | None:
    """A set's size where no message counts it: in an alignment by a published filter."""
    counted = attempt.key.step == "align" and view.spec.publisher is not None
    return view.told_sizes(attempt.key).get(party) if counted else None
