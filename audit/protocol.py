"""What is said in each step of a job: its messages in order, with their counts and lengths.

What a step's two parties say follows from public figures alone: the sizes of the two sets, the shared rows, encoded columns, rounds
and key bits.  :func:`legal_messages` lists one party's messages of one attempt in order; the two directions are not tied to each
other beyond that.  Into how many messages a phase is cut is the sender's choice: totals and positions are fixed, and with
them the length of every message, so that none can carry more than its items.

A message's serialised length (proto3): a field that is zero is left out; the others take a byte for number and type, a varint, and
for bytes and text the value itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from audit.aligning import BASE_TRANSFERS, COORDINATES, SYMBOL_BITS, Method, bin_shape, label_holder_receives
from audit.history import Directive
from audit.layout import (
    BAND_BYTES,
    BAND_ENTRIES,
    BASE_OTS,
    FILTER_CHANGE_BYTES,
    FILTER_REMAINDER_BITS,
    KEPT_BYTES,
    ORDER_BYTES,
    POINT_BYTES,
    SHORT_BITS,
    SPARE_SLOTS,
    WORD_BYTES,
    SlotLayout,
    ciphertext_bytes,
    column_layout,
    filter_prefix_bits,
    plaintext_bits,
    preconditioner_layout,
    score_bits,
    score_layout,
)

# ---- lengths ---------------------------------------------------------------------------------------------------------------------


def varint(value: int) -> int:
    """Bytes of an unsigned integer: seven bits each."""
    return max(1, -(-value.bit_length() // 7))


def number_field(value: int) -> int:
    """Bytes of an integer field."""
    return 1 + varint(value) if value else 0


def bytes_field(size: int) -> int:
    """Bytes of a field of bytes or text."""
    return 1 + varint(size) + size if size else 0


@dataclass(frozen=True)
class Phase:
    """Items of one type, one after the other, in as many messages as the sender likes.

    Attributes:
        items: how many in all; None where no figure in the log tells.
        bits, lanes: an item takes ``bits`` in each of ``lanes`` rows of a message's values, each row filled up to whole bytes.
        stride: what one item adds to the position of the next message.
        optional: where ``items`` is None, whether there may be none at all.
    """

    type: str
    items: int | None
    bits: int
    lanes: int = 1
    stride: int = 1
    optional: bool = False

    def length(self, position: int, count: int) -> int:
        """Serialised length of a message of ``count`` items after ``position`` others."""
        values = self.lanes * (-(-count * self.bits // 8))
        return number_field(position * self.stride) + number_field(count) + bytes_field(values)


@dataclass(frozen=True)
class Single:
    """One message of its own form; its length lies in a range, mostly of one value."""

    type: str
    shortest: int
    longest: int


@dataclass(frozen=True)
class Turns:
    """Two phases whose messages take turns, ``first`` beginning, until one of them is through."""

    first: Phase
    second: Phase


Part = Phase | Single | Turns


# ---- what each step says ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FilterFigures:
    """What crossed in an alignment by a published filter that was done.

    Attributes:
        whole: whether the filter was sent as a whole.
        removed, added: its changes.
        queries, found: identifiers asked about, and values of the filter that the querier found, as *the other* side than the
            sender of a message counted them: so that each direction is held against the other.
    """

    whole: bool
    removed: int
    added: int
    queries: int
    found: int


@dataclass(frozen=True)
class Figures:
    """The public figures of one attempt, from the sender's side; None where the log does not tell.

    Attributes:
        own_set, peer_set: identifiers of the two sets.
        method: of the alignment; None before it was chosen.
        sets: the same of each key, where a job names its keys.
        rows, held_out: shared rows for training and evaluation.
        own_columns, peer_columns: encoded columns, the label holder's intercept counted.
        rounds: most rounds of the job.
        base_rate: as disclosed; None where an attempt ended before that.
        publishes: in an alignment by a published filter, whether the sender is its publisher; None by another method.
        filter: what both directions of such an attempt exchanged, where it was done.
        renewed: earlier directions whose ciphertexts a round exchanges once more, because the keys are new since.
        learns, tells, told: in a count: whether the sender learns the number, whether the learner tells it, and what it tells.
    """

    holds_label: bool
    key_bits: int
    rounds: int
    entries: int | None = None
    own_set: int | None = None
    peer_set: int | None = None
    method: Method | None = "curve"
    rows: int | None = None
    held_out: int | None = None
    own_columns: int | None = None
    peer_columns: int | None = None
    base_rate: str | None = None
    shares_aggregates: bool = False
    renewed: int = 0
    sets: tuple[tuple[int | None, int | None], ...] = ()
    learns: bool = False
    tells: bool = False
    told: int | None = None
    publishes: bool | None = None
    filter: FilterFigures | None = None

    @property
    def slots(self) -> int:
        """Masks prepared."""
        return self.rounds + SPARE_SLOTS


def _align(f: Figures, round: int, directive: Directive) -> tuple[Part, ...]:
    if f.publishes is not None:
        return (_start(f.own_set), *(_published(f) if f.publishes else _queried(f)))
    if f.method is None:
        return (_start(f.own_set),)
    if f.method == "ot":
        return _start(f.own_set), *_align_by_ot(f, f.own_set or 0, f.peer_set or 0)
    parts: list[Part] = []
    for own, peer in f.sets or ((f.own_set, f.peer_set),):
        parts.append(_start(own, shortest=0 if f.sets else 2))  # after other keys nobody may be left
        parts.append(Turns(Phase("MaskedPoints", own, 8 * POINT_BYTES), Phase("DoublyMasked", peer, 8 * KEPT_BYTES)))
    return tuple(parts)


def _align_by_ot(f: Figures, own: int, peer: int) -> tuple[Part, ...]:
    receives = label_holder_receives(*((own, peer) if f.holds_label else (peer, own))) == f.holds_label
    shape = bin_shape(own, peer) if receives else bin_shape(peer, own)
    if not receives:
        choices = Phase("BaseChoices", BASE_TRANSFERS, 8 * POINT_BYTES)
        return choices, Phase("ItemTags", shape.all_tags, 8 * shape.tag_bytes)
    return (
        Phase("BasePoint", 1, 8 * POINT_BYTES),
        Phase("TreeSums", BASE_TRANSFERS, 2 * 128),
        Phase("StoreColumns", shape.all_slots, 1, lanes=COORDINATES * SYMBOL_BITS),
        Phase("SharedMarks", shape.all_tags, 1),
    )


def _start(own: int | None, *, shortest: int = 2) -> Single:
    return Single("PsiStart", *((shortest, 1 + 5) if own is None else (number_field(own),) * 2))


def _count(f: Figures, round: int, directive: Directive) -> tuple[Part, ...]:
    start, masked = _start(f.own_set), Phase("MaskedPoints", f.own_set, 8 * POINT_BYTES)
    if not f.learns:
        return start, masked, Phase("SortedDoublyMasked", f.peer_set, 8 * KEPT_BYTES)
    if not f.tells:
        return start, masked
    return start, masked, Single("IntersectionSize", *((0, 1 + 5) if f.told is None else (number_field(f.told),) * 2))


_HASH_FIELD = bytes_field(32)
_NUMBER_MAX = 1 + varint(2**32 - 1)
_ORDER = Single("CommonOrder", bytes_field(ORDER_BYTES), bytes_field(ORDER_BYTES))


def _optional(kind: str, items: int | None, bits: int) -> Phase:
    return Phase(kind, items, bits, optional=True)


def _published(f: Figures) -> tuple[Part, ...]:
    """The publisher of a filter: the filter or its changes, the answers, which of the values found are its own."""
    size, c = f.own_set, f.filter
    index: int | None = None
    if c is not None and size is not None:
        index = size + (1 << filter_prefix_bits(size)) if c.whole else 0
    state = 2 * _HASH_FIELD + number_field(1) + number_field(3)
    return (
        _ORDER,
        Single("FilterState", state, 2 * _HASH_FIELD + number_field(3) + 4 * _NUMBER_MAX + number_field(1)),
        _optional("FilterIndex", index, 1),
        _optional("FilterRemainders", (size if c.whole else 0) if c else None, FILTER_REMAINDER_BITS),
        _optional("FilterRemoved", c.removed if c else None, 8 * FILTER_CHANGE_BYTES),
        _optional("FilterAdded", c.added if c else None, 8 * FILTER_CHANGE_BYTES),
        _optional("EvaluatedPoints", c.queries if c else None, 8 * POINT_BYTES),
        _optional("SharedConfirmed", c.found if c else None, 1),
    )


def _queried(f: Figures) -> tuple[Part, ...]:
    """The querier: what it holds, how many it asks about, these, how many values it found, and those."""
    c = f.filter
    queries, found = (None, None) if c is None else (c.queries, c.found)
    return (
        _ORDER,
        Single("FilterAsk", 0, 2 * _HASH_FIELD + 2 * _NUMBER_MAX + number_field(1)),
        Single("FilterQueries", *((0, _NUMBER_MAX) if queries is None else (number_field(queries),) * 2)),
        _optional("BlindedPoints", queries, 8 * POINT_BYTES),
        Single("SharedCount", *((0, _NUMBER_MAX) if found is None else (number_field(found),) * 2)),
        _optional("SharedValues", found, 8 * KEPT_BYTES),
    )


def _ciphertexts(f: Figures, kind: str, items: int | None, stride: int = 1) -> Phase:
    return Phase(kind, items, 8 * ciphertext_bytes(f.key_bits), stride=stride)


def _prepare(f: Figures, round: int, directive: Directive) -> tuple[Part, ...]:
    size = f.key_bits // 8
    key = number_field(f.key_bits) + bytes_field(size) + bytes_field(2 * size)
    parts: list[Part] = [Single("PaillierKey", key, key), _figures(f)]
    plain, slots = plaintext_bits(f.key_bits), f.slots
    groups, each, masks = 1, 1, None
    if f.rows is not None:
        layout = column_layout(plaintext_bits=plain, rows=f.rows, slots=slots)
        groups, each, masks = layout.groups, layout.rows, -(-f.rows // layout.rows)
    products = None if f.own_columns is None else each * f.own_columns
    for _ in range(groups):
        parts += [_ciphertexts(f, "ColumnMasks", masks, each), _ciphertexts(f, "ColumnProducts", products)]
    if f.own_columns is None or f.peer_columns is None or f.rows is None:
        return tuple(parts)  # it went no further, or the columns would be known
    k = score_bits(plaintext_bits=plain, columns=max(f.own_columns, f.peer_columns), slots=slots - 1)
    own, peer = (
        score_layout(plaintext_bits=plain, columns=columns, slots=slots - 1, ring_bits=k)
        for columns in (f.own_columns, f.peer_columns)
    )
    products = -(-f.rows // own.rows)
    parts += _by_groups(f, own, peer, slots - 1, ("RowMasks", f.peer_columns), ("RowProducts", products), own.rows)
    own, peer = (
        preconditioner_layout(plaintext_bits=plain, columns=columns, slots=slots) for columns in (f.own_columns, f.peer_columns)
    )
    kinds = ("PreconditionerMasks", f.peer_columns), ("PreconditionerProducts", f.own_columns)
    parts += _by_groups(f, own, peer, slots, *kinds, 1)
    parts.append(_ciphertexts(f, "BaseOtChoices" if f.holds_label else "BaseOtReplies", BASE_OTS))
    return tuple(parts)


def _by_groups(
    f: Figures, own: SlotLayout, peer: SlotLayout, slots: int, masks: tuple[str, int], products: tuple[str, int], stride: int
) -> list[Part]:
    """Masks for the peer's matrix and products of the own one, a group of slots after the other."""
    own_groups, peer_groups = (len(layout.groups_of(slots)) for layout in (own, peer))
    parts: list[Part] = []
    for group in range(max(own_groups, peer_groups)):
        if group < peer_groups:
            parts.append(_ciphertexts(f, *masks))
        if group < own_groups:
            parts.append(_ciphertexts(f, *products, stride))
    return parts


def _figures(f: Figures) -> Single:
    """Rows, columns and, from the label holder, the base rate: ``0.`` and up to eight more digits."""
    rows = (number_field(f.rows),) * 2 if f.rows is not None else (0, 1 + 5)
    columns = (2, 1 + 3) if f.own_columns is None else (number_field(f.own_columns),) * 2
    if not f.holds_label:
        rate = (0, 0)
    else:
        rate = (bytes_field(3), bytes_field(10)) if f.base_rate is None else (bytes_field(len(f.base_rate)),) * 2
    return Single("JobFigures", rows[0] + columns[0] + rate[0], rows[1] + columns[1] + rate[1])


def _echo(coefficients: int, lookup_range: str) -> Single:
    length = bytes_field(8 * coefficients) + (9 if lookup_range and float(lookup_range) else 0)
    return Single("DirectiveEcho", length, length)


def _round(f: Figures, round: int, directive: Directive) -> tuple[Part, ...]:
    echo = _echo(len(directive.coefficients), directive.lookup_range)
    if f.own_columns is None or f.peer_columns is None or f.rows is None or f.entries is None:
        return (echo,)
    k = score_bits(plaintext_bits=plaintext_bits(f.key_bits), columns=max(f.own_columns, f.peer_columns), slots=f.slots - 1)
    weights = Phase("MaskedWeights", f.peer_columns, 8 * -(-k // 8))
    table = Phase("LookupTables", f.rows, 8 * WORD_BYTES * f.entries)
    choices = Phase("OtColumns", f.rows, f.entries.bit_length() - 1, lanes=BASE_OTS)
    first = Phase("FirstResiduals", f.rows, 8 * WORD_BYTES)
    residuals = Phase("MaskedResiduals", f.rows, 8 * WORD_BYTES)
    return (
        echo,
        *(() if round == 1 else (weights, table if f.holds_label else choices)),
        *((first,) if round == 1 and f.holds_label else ()),
        *(() if f.holds_label else (residuals,)),
        Phase("MaskedGradients", f.peer_columns, SHORT_BITS),
        _ciphertexts(f, "DotOperands", (1 + f.renewed) * (f.own_columns + f.peer_columns)),
        _ciphertexts(f, "DotResults", round),
        Phase("InnerProductParts", round, SHORT_BITS),
    )


def _finish(f: Figures, round: int, directive: Directive) -> tuple[Part, ...]:
    return _echo(len(directive.coefficients), ""), Phase("WeightShares", f.peer_columns, SHORT_BITS)


def _evaluate(f: Figures, round: int, directive: Directive) -> tuple[Part, ...]:
    echo, bits = _echo(0, directive.lookup_range), BAND_ENTRIES.bit_length() - 1
    if not f.holds_label:
        return (
            echo,
            _ciphertexts(f, "BaseOtChoices", BASE_OTS),
            Phase("BandTables", f.held_out, 8 * BAND_BYTES * BAND_ENTRIES),
        )
    replies, choices = _ciphertexts(f, "BaseOtReplies", BASE_OTS), Phase("OtColumns", f.held_out, bits, lanes=BASE_OTS)
    if not f.shares_aggregates:
        return echo, replies, choices
    # Four decimals of six places: shares have one digit before the point, the log-loss up to four.
    shortest = 4 * bytes_field(8) + (number_field(f.held_out) if f.held_out is not None else 0)
    return echo, replies, choices, Single("Aggregates", shortest, shortest + (3 if f.held_out is not None else 3 + 6))


LEGAL_MESSAGES: Mapping[str, Callable[[Figures, int, Directive], tuple[Part, ...]]] = MappingProxyType(
    {"align": _align, "count": _count, "prepare": _prepare, "round": _round, "finish": _finish, "evaluate": _evaluate}
)


def legal_messages(step: str, figures: Figures, *, round: int, directive: Directive) -> tuple[Part, ...]:
    """What one party says in one attempt of a step, in order."""
    return LEGAL_MESSAGES[step](figures, round, directive)
