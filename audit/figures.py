"""One job in all logs together: who its parties are, and the public figures that everything else is counted by.

Figures come from the messages where these tell them (a set's size is what was sent of it, a party's columns are the column products
it answered), because both nodes signed for the messages; what a log *says* of them is then checked against that in step (9).
The number of shared customers and the base rate are in no message's count: they are what most entries of all logs say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from audit.aligning import METHODS, Method
from audit.disclosed_values import count_of, counts_of, pairs_of, told_size
from audit.history import Act, Attempt, AttemptKey, ChoiceRecord, JobRecord, Shape
from audit.layout import SPARE_SLOTS, column_layout, plaintext_bits
from audit.ledger import Ledger
from audit.protocol import Figures, FilterFigures
from audit.spec import KEYS_MAX, JobSpec
from audit.split import ROWS_MAX, SplitSizes, split_sizes


def shapes_of(ledger: Ledger, job: str, attempt: Attempt, way: str) -> Iterator[tuple[Shape, int]]:
    """An attempt's messages of one direction, from memory or, where they would not fit, from the file."""
    runs = attempt.direction(way).runs
    if runs.folded:
        yield from runs
        return
    for _, message in ledger.messages(job, attempt, way):
        yield Shape(message.type, message.items, message.length), 1


@dataclass(frozen=True)
class NodeView:
    """One node's log of the job."""

    ledger: Ledger
    record: JobRecord

    @property
    def name(self) -> str:
        """The node's name."""
        return self.ledger.name

    def disclosures(self, key: AttemptKey) -> list[Act]:
        """The disclosure entries of one attempt."""
        return self._by_attempt.get(key, [])

    def choice(self, key: AttemptKey) -> ChoiceRecord | None:
        """How an attempt of the alignment chose its method, where it had the choice."""
        return self._choices.get(key)

    @cached_property
    def _choices(self) -> dict[AttemptKey, ChoiceRecord]:
        return {act.key: act.data for act in self.record.of("choice")}

    @cached_property
    def _by_attempt(self) -> dict[AttemptKey, list[Act]]:
        found: dict[AttemptKey, list[Act]] = {}
        for act in self.record.of("disclosure"):
            found.setdefault(act.key, []).append(act)
        return found


@dataclass(frozen=True)
class JobView:
    """A job whose specification is known.

    Attributes:
        nodes: the logs of its parties that were given, by name.
        coordinator: the coordinator's log of it, if given.
        strangers: logs that tell of the job and belong to neither.
    """

    job: str
    spec: JobSpec
    nodes: dict[str, NodeView]
    coordinator: NodeView | None
    strangers: list[Ledger] = field(default_factory=list)

    @property
    def parties(self) -> tuple[str, str]:
        """The label holder's name, then the feature holder's."""
        return self.spec.label_holder.name, self.spec.feature_holder.name

    @property
    def short(self) -> str:
        """The job as errors name it."""
        return f"job {self.job[:12]}"

    def views(self) -> list[NodeView]:
        """All logs of the job."""
        return [*self.nodes.values(), *([self.coordinator] if self.coordinator else [])]

    # ---- figures ----------------------------------------------------------------------------------------------------------

    def last_done(self, step: str) -> AttemptKey | None:
        """The last attempt of a step that any node recorded done."""
        done = [key for view in self.nodes.values() for key, a in view.record.attempts.items() if key.step == step and a.was_done]
        return max(done, key=lambda key: (key.round, key.attempt), default=None)

    def told(self, key: AttemptKey | None, what: str, by: str = "", to: str = "") -> list[str]:
        """What all entries of an attempt say of one figure."""
        acts = [act for view in self.views() for act in view.disclosures(key)] if key else []
        meant = (act.data for act in acts if act.data.what == what and by in ("", act.data.by) and to in ("", act.data.to))
        return [data.value for data in meant if data.value]

    @property
    def matching(self) -> str:
        """The step in which the two sets meet."""
        return "count" if self.spec.kind == "count" else "align"

    @cached_property
    def shared(self) -> int | None:
        """Shared customers n of the alignment that counts: what most entries say."""
        key = self.last_done("align")
        votes = Counter(value for text in self.told(key, "shared_customers") if (value := count_of(text)) is not None)
        for text in self.told(key, "rows"):
            sizes = counts_of(text)
            votes.update(sizes[:1])
        return votes.most_common(1)[0][0] if votes else None

    @cached_property
    def sizes(self) -> SplitSizes | None:
        """Rows that serve for training and evaluation, and those that could have, by the public coins."""
        if self.shared is None or self.shared > ROWS_MAX:
            return None
        return split_sizes(self.job, self.shared, self.spec.model)

    @property
    def split(self) -> tuple[int, int] | None:
        """Rows that serve for training and for the evaluation."""
        return (self.sizes.train, self.sizes.holdout) if self.sizes else None

    @cached_property
    def base_rate(self) -> str | None:
        """The base rate, as most entries say."""
        votes = Counter(self.told(self.last_done("prepare"), "base_rate"))
        return votes.most_common(1)[0][0] if votes else None

    @cached_property
    def columns(self) -> dict[str, int]:
        """Encoded columns by party, as the messages of the last preparation that was done show them."""
        return self._columns_in(self.last_done("prepare"))

    @cached_property
    def set_sizes(self) -> dict[str, int]:
        """Sizes of the two sets, as the messages of the last alignment that was done show them."""
        key = self.last_done(self.matching)
        if key is None:
            return {}
        if self.spec.publisher is not None:
            return self.told_sizes(key)
        for view in self.nodes.values():
            if (choice := view.choice(key)) is not None:
                return self._chosen_sizes(choice)
        return self._per_party(key, lambda attempt, way, ledger: attempt.direction(way).items.get("MaskedPoints"))

    def _chosen_sizes(self, choice: ChoiceRecord) -> dict[str, int]:
        return dict(zip(self.parties, (choice.label_holder, choice.feature_holder), strict=True))

    def sets_in(self, view: NodeView, attempt: Attempt) -> dict[str, int | None]:
        """Sizes of the two sets in one attempt, as far as it tells."""
        if (choice := view.choice(attempt.key)) is not None:
            return {**self._chosen_sizes(choice)}
        if not attempt.was_done:
            return {}
        return {party: attempt.direction(way).items.get("MaskedPoints") for party, way in _ways(view, attempt)}

    def method_in(self, view: NodeView, attempt: Attempt) -> Method | None:
        """The method of an attempt of the alignment; None where it was to be chosen and was not."""
        if self.spec.align_method == "curve":
            return "curve"
        choice = view.choice(attempt.key)
        return METHODS.get(choice.method) if choice is not None else None

    def told_sizes(self, key: AttemptKey) -> dict[str, int]:
        """By a published filter no message shows a set's size by its items: what most entries say, which the messages that open the
        alignment are held against (:mod:`audit.plain`).
        """
        found: dict[str, int] = {}
        for party in self.parties:
            votes = Counter(size for text in self.told(key, "set_size", by=party) if (size := count_of(text)) is not None)
            if votes:
                found[party] = votes.most_common(1)[0][0]
        return found

    @cached_property
    def found_by_key(self) -> tuple[int, ...]:
        """Customers found by each key in the last alignment that was done, as most entries say; empty where none says it."""
        votes: Counter[tuple[int, ...]] = Counter()
        for text in self.told(self.last_done("align"), "by_key"):
            found = tuple(pair[1] for pair in pairs_of(text))
            votes.update([found] if len(found) == len(self.spec.align.keys) else [])
        return votes.most_common(1)[0][0] if votes else ()

    def sizes_by_key(self, key: AttemptKey, party: str) -> tuple[int, ...]:
        """A party's set sizes of each key in an alignment that was done, as its messages show them."""
        for view in self.nodes.values():
            attempt = view.record.attempts.get(key)
            if attempt is not None and attempt.was_done:
                sets = self._sets(view, attempt, party)
                return tuple(own for own, _ in sets if own is not None)
        return ()

    def counted(self, key: AttemptKey) -> int | None:
        """What was told in a count, as most entries say; 0 for "below the minimum"."""
        votes = Counter(size for text in self.told(key, "rounded_size") if (size := told_size(text)) is not None)
        return votes.most_common(1)[0][0] if votes else None

    def _columns_in(self, key: AttemptKey | None) -> dict[str, int]:
        if key is None:
            return {}
        each = self._rows_each
        return self._per_party(key, lambda attempt, way, ledger: _columns(ledger, self.job, attempt, way, each)) if each else {}

    @cached_property
    def _rows_each(self) -> int | None:
        """Rows that share a ciphertext of column masks: as many products answer for one column."""
        if self.split is None:
            return None
        bits, slots = plaintext_bits(self.spec.model.key_bits), self.spec.model.rounds + SPARE_SLOTS
        return column_layout(plaintext_bits=bits, rows=self.split[0], slots=slots).rows

    def _per_party(self, key: AttemptKey, figure) -> dict[str, int]:  # type: ignore[no-untyped-def]
        found: dict[str, int] = {}
        for view in self.nodes.values():
            attempt = view.record.attempts.get(key)
            if attempt is None or not attempt.peer:
                continue
            for party, way in ((view.name, "sent"), (attempt.peer, "received")):
                value = figure(attempt, way, view.ledger)
                if value:
                    found.setdefault(party, value)
        return found

    def figures(self, view: NodeView, attempt: Attempt, sender: str) -> Figures:
        """What is known of an attempt, from the side of ``sender``."""
        model, key = self.spec.model, attempt.key
        peer = self.spec.peer_of(sender).name
        whole = attempt.was_done
        sets = self.sets_in(view, attempt)
        if self.spec.publisher is not None:
            sets = {**self.told_sizes(key)} if whole and key.step == "align" else {}
        columns = self.columns
        if key.step == "prepare":
            columns = self._columns_in(key)
        rows, held = self.split or (None, None)
        return Figures(
            holds_label=sender == self.parties[0],
            key_bits=model.key_bits,
            rounds=model.rounds,
            entries=model.lookup_entries_of(rows) if rows is not None else None,
            own_set=sets.get(sender),
            peer_set=sets.get(peer),
            method=self.method_in(view, attempt),
            rows=rows,
            held_out=held,
            own_columns=columns.get(sender),
            peer_columns=columns.get(peer),
            base_rate=self.base_rate if whole else None,
            shares_aggregates=self.spec.disclose.aggregates_to_feature_holder,
            renewed=self._renewed(key),
            sets=self._sets(view, attempt, sender) if key.step == "align" and self.spec.align.keys else (),
            learns=sender == self.spec.learner,
            tells=self.spec.count.tell_partner,
            told=self.counted(key) if whole and key.step == "count" else None,
            publishes=None if self.spec.publisher is None else self.spec.publisher.name == sender,
            filter=self._filter(view, attempt, sender) if whole and key.step == "align" else None,
        )

    def _filter(self, view: NodeView, attempt: Attempt, sender: str) -> FilterFigures | None:
        """What an alignment by a published filter exchanged; None by another method."""
        publisher = self.spec.publisher
        if publisher is None:
            return None
        items = {party: attempt.direction(way).items for party, way in _ways(view, attempt)}
        published, asked = items.get(publisher.name, {}), items.get(self.spec.peer_of(publisher.name).name, {})
        of_publisher = sender == publisher.name
        return FilterFigures(
            whole="FilterRemainders" in published,
            removed=published.get("FilterRemoved", 0),
            added=published.get("FilterAdded", 0),
            queries=asked.get("BlindedPoints", 0) if of_publisher else published.get("EvaluatedPoints", 0),
            found=asked.get("SharedValues", 0) if of_publisher else published.get("SharedConfirmed", 0),
        )

    def _sets(self, view: NodeView, attempt: Attempt, sender: str) -> tuple[tuple[int | None, int | None], ...]:
        """Set sizes of each key (own, peer's) from the side of ``sender``: what was sent, once the next key began or all is done.

        An attempt that ended earlier shows no more of the key it was at than whether there was nobody left.
        """
        shown = {party: _starts(view.ledger, self.job, attempt, way) for party, way in _ways(view, attempt)}
        begun = max(len(starts) for starts in shown.values())
        closed = begun if attempt.was_done else begun - 1

        def size(party: str, place: int) -> int | None:
            starts = shown.get(party, [])
            if place >= len(starts):
                return 0 if place < closed else None
            length, items = starts[place]
            return items if place < closed or not length else None

        peer = self.spec.peer_of(sender).name
        return tuple((size(sender, place), size(peer, place)) for place in range(len(self.spec.align.keys)))

    def _renewed(self, key: AttemptKey) -> int:
        """Directions before this round's that are exchanged once more: all, where the keys are newer than the round before."""
        if key.step != "round" or key.round == 1:
            return 0
        done = {each for view in self.nodes.values() for each, attempt in view.record.attempts.items() if attempt.was_done}
        prepared = [each.attempt for each in done if each.step == "prepare" and each.attempt <= key.attempt]
        before = [each.attempt for each in done if each[:2] == ("round", key.round - 1) and each.attempt <= key.attempt]
        return key.round - 1 if max(prepared, default=0) > max(before, default=0) else 0


def _starts(ledger: Ledger, job: str, attempt: Attempt, way: str) -> list[tuple[int, int]]:
    """Of each set that one direction announces: the length of the message that does, and the points that follow."""
    starts: list[tuple[int, int]] = []
    for shape, times in shapes_of(ledger, job, attempt, way):
        if shape.type == "PsiStart":
            starts += [(shape.length, 0)] * min(times, KEYS_MAX)
        elif shape.type == "MaskedPoints" and starts:
            length, items = starts[-1]
            starts[-1] = length, items + shape.items * times
    return starts


def _ways(view: NodeView, attempt: Attempt) -> tuple[tuple[str, str], tuple[str, str]]:
    return (view.name, "sent"), (attempt.peer, "received")


def _columns(ledger: Ledger, job: str, attempt: Attempt, way: str, each: int) -> int | None:
    """The sender's columns: it answered ``each`` column products to one group of masks for each of them.

    They are known to be all once row masks followed in either direction.
    """
    if not (attempt.sent.items.get("RowMasks") or attempt.received.items.get("RowMasks")):
        return None
    total = 0
    for shape, times in shapes_of(ledger, job, attempt, way):
        if shape.type == "ColumnProducts":
            total += shape.items * times
        elif total:
            break
    return total // each or None


Views = Sequence[tuple[str, JobView | None]]
"""Every job of all logs by its identity."""


def views_of(ledgers: Sequence[Ledger]) -> Iterator[tuple[str, JobView | None]]:
    """Every job of all logs; None where no log holds its specification."""
    given = {ledger.name: ledger for ledger in ledgers}
    for job in sorted({job for ledger in ledgers for job in ledger.jobs}):
        known = [(ledger, ledger.jobs[job]) for ledger in ledgers if job in ledger.jobs]
        spec = next((record.spec for _, record in known if record.spec is not None), None)
        yield job, None if spec is None else _view(job, spec, known, given)


def _view(job: str, spec: JobSpec, known: Iterable[tuple[Ledger, JobRecord]], given: Mapping[str, Ledger]) -> JobView:
    nodes: dict[str, NodeView] = {}
    coordinator, strangers = None, []
    for ledger, record in known:
        if ledger.name in (spec.label_holder.name, spec.feature_holder.name):
            nodes[ledger.name] = NodeView(ledger, record)
        elif ledger.name == spec.coordinator:
            coordinator = NodeView(ledger, record)
        else:
            strangers.append(ledger)
    if coordinator is None and (silent := given.get(spec.coordinator)) is not None:
        coordinator = NodeView(silent, JobRecord(job))  # its log was given and says nothing of the job
    return JobView(job, spec, nodes, coordinator, strangers)
