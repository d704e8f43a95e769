"""Whether a sequence of messages is the one that a step's table lists (:mod:`audit.protocol`), or the beginning of it.

The messages come as shapes with a number of repetitions (:class:`audit.history.Runs`), so that a million of them take a few
steps: within a repetition the length a message must have only grows with its position, hence the first and the last decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from audit.history import Shape
from audit.protocol import Part, Phase, Single, Turns


class Unlawful(Exception):
    """A message that may not stand where it does; ``index`` counts from 0 within its direction, None when messages are missing."""

    def __init__(self, index: int | None, reason: str) -> None:
        super().__init__(reason)
        self.index, self.reason = index, reason


class _Progress:
    """How far a phase has come."""

    def __init__(self, phase: Phase) -> None:
        self.phase, self.items, self.closed = phase, 0, phase.items == 0

    @property
    def through(self) -> bool:
        """Whether nothing of it is left to come."""
        return self.closed or (self.phase.items is not None and self.items == self.phase.items)

    @property
    def may_end(self) -> bool:
        """Whether another phase may follow now."""
        return self.through or (self.phase.items is None and (self.items > 0 or self.phase.optional))

    def take(self, shape: Shape, times: int, index: int) -> int:
        """Take as many of ``times`` messages as belong to this phase."""
        kind, count, length = shape
        if count < 1:
            raise Unlawful(index, f"{kind} without an item")
        left = None if self.phase.items is None else self.phase.items - self.items
        fits = times if left is None else min(times, left // count)
        if fits == 0:
            raise Unlawful(index, f"{kind}: {self.items + count} items where {self.phase.items} follow from the job's figures")
        for number in (0, fits - 1):
            wanted = self.phase.length(self.items + number * count, count)
            if length != wanted:
                place = self.items + number * count
                raise Unlawful(index + number, f"{kind} of {count} items from {place} has {length} bytes where it takes {wanted}")
        self.items += fits * count
        return fits


class _Matcher:
    """Walks along the parts."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)
        self.index = 0
        self.current: _Progress | tuple[_Progress, _Progress] | None = None
        self._turn = 0

    def take(self, shape: Shape, times: int) -> None:
        while times:
            taken = self._step(shape, times)
            self.index += taken
            times -= taken

    def _step(self, shape: Shape, times: int) -> int:
        """Take some of the messages with the part that is due; 0 when only the part changed."""
        if not self.parts:
            raise Unlawful(self.index, f"{shape.type} after the step's last message")
        part = self.parts[0]
        if isinstance(part, Single):
            return self._single(part, shape)
        if isinstance(part, Turns):
            return self._turns(part, shape, times)
        if not isinstance(self.current, _Progress):
            self.current = _Progress(part)
        if self.current.through or (shape.type != part.type and self.current.may_end):
            return self._next()
        if shape.type != part.type:
            raise Unlawful(self.index, f"{shape.type} where {part.type} is due ({self.current.items} of {part.items} items so far)")
        return self.current.take(shape, times, self.index)

    def _next(self) -> int:
        del self.parts[0]
        self.current, self._turn = None, 0
        return 0

    def _single(self, part: Single, shape: Shape) -> int:
        if shape.type != part.type:
            raise Unlawful(self.index, f"{shape.type} where {part.type} is due")
        if shape.items != 1 or not part.shortest <= shape.length <= part.longest:
            wanted = f"{part.shortest}" if part.shortest == part.longest else f"{part.shortest} to {part.longest}"
            raise Unlawful(self.index, f"{shape.type} has {shape.length} bytes where it takes {wanted}")
        self._next()
        return 1

    def _turns(self, part: Turns, shape: Shape, times: int) -> int:
        if not isinstance(self.current, tuple):
            self.current = _Progress(part.first), _Progress(part.second)
        pair = self.current
        if pair[0].through and pair[1].through:
            return self._next()
        due, other = pair[self._turn], pair[1 - self._turn]
        if due.through:
            due, other = other, due
        elif shape.type != due.phase.type and due.phase.items is None and shape.type == other.phase.type and due.items:
            due.closed = True
            due, other = other, due
        if shape.type != due.phase.type:
            if all(progress.may_end for progress in pair):
                return self._next()
            raise Unlawful(self.index, f"{shape.type} where {due.phase.type} is due")
        taken = due.take(shape, times if other.through else 1, self.index)
        self._turn = pair.index(other)
        return taken

    def check_end(self) -> None:
        """Raise unless every part is through."""
        for place, part in enumerate(self.parts):
            progress = self.current if place == 0 else None
            if isinstance(part, Turns) and isinstance(progress, tuple):
                through = all(each.may_end for each in progress)
            elif isinstance(part, Phase):
                through = progress.may_end if isinstance(progress, _Progress) else part.items == 0 or part.optional
            else:
                through = isinstance(part, Turns) and part.first.items == 0 and part.second.items == 0
            if not through:
                name = part.first.type if isinstance(part, Turns) else part.type
                raise Unlawful(None, f"the step is done, but {name} is missing or incomplete")


def check_sequence(parts: Sequence[Part], shapes: Iterable[tuple[Shape, int]], *, complete: bool) -> None:
    """Raise :class:`Unlawful` unless the messages are those of ``parts``, or, where not ``complete``, the beginning of them."""
    matcher = _Matcher(parts)
    for shape, times in shapes:
        matcher.take(shape, times)
    if complete:
        matcher.check_end()
