"""The columns that customers are found by where a job names several, each with values missing or shared here and there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from node.config import KeyConfig
from node.data.identifiers import Unfit, normaliser, unfit_identifier
from node.data.seen import Seen
from node.errors import DataError
from node.scratch import CHUNK_ROWS, Scratch, TextsBuilder


class KeyColumn:
    """Collects one key's values; afterwards no value stands twice, by the rule that its declaration states.

    Attributes:
        raw: (rows,), as the source has them; empty where a row's value is missing or does not count.  There once :meth:`result` is.
    """

    def __init__(self, dataset: str, name: str, config: KeyConfig, scratch: Scratch | None = None) -> None:
        self.dataset, self.name, self.config = dataset, name, config
        self.raw: Sequence[str] = []
        self._scratch = scratch
        self._values, self._raw = TextsBuilder(scratch), TextsBuilder(scratch)
        self._normalise = normaliser(config.normalise)
        self._seen = Seen()
        self._shared: list[NDArray[np.int64]] = []
        """Rows whose value came again, where it then counts for none."""

    def add(self, texts: Sequence[str | None], first_row: int, keep: NDArray[np.bool_]) -> None:
        """Take the kept rows of a batch, whose first is row ``first_row`` of the source.

        Raises:
            DataError: ``data.unfit_identifier``; ``data.empty_identifier`` where none may be missing; ``data.duplicate_key``.
        """
        places = np.flatnonzero(keep)
        values, wrong = self._normalised([(texts[place] or "", first_row + place) for place in places.tolist()])
        known = np.array([bool(value) for value in values], dtype=bool)
        earlier = np.full(len(values), -1, dtype=np.int64)
        earlier[known] = self._seen.add([value for value in values if value], len(self._values) + np.flatnonzero(known))
        repeated = np.flatnonzero(earlier >= 0)
        if len(repeated) and self.config.duplicates == "refuse":
            raise DataError(
                "data.duplicate_key",
                f"The identifier column {self.config.column!r} of the data set {self.dataset!r} repeats in row "
                f"{first_row + int(places[repeated[0]])} a value of an earlier row.",
                remedy=f'Correct the source, or declare for the key {self.name!r} in node.toml duplicates = "first" (only the '
                'first row is found by it) or "none" (no row is).',
            )
        if wrong is not None:
            raise wrong
        if self.config.duplicates == "none":
            self._shared.append(earlier[repeated])
        for place in repeated.tolist():
            values[place] = ""
        self._values.extend(values)
        self._raw.extend([(texts[place] or "") if value else "" for place, value in zip(places.tolist(), values, strict=True)])

    def _normalised(self, texts: Sequence[tuple[str, int]]) -> tuple[list[str], DataError | None]:
        """The normalised values up to the first that is none, and what is wrong with that; texts come with their rows."""
        found: list[str] = []
        for text, row in texts:
            try:
                value = "" if text.isspace() else self._normalise(text)
            except Unfit as error:
                return found, unfit_identifier(self.dataset, self.config.column, row, str(error))
            if not value and self.config.missing == "refuse":
                return found, DataError(
                    "data.empty_identifier",
                    f"The identifier column {self.config.column!r} of the data set {self.dataset!r} is empty in row {row}.",
                    remedy=f'Fill it in, leave the row out of the source, or declare missing = "skip" for the key {self.name!r} in '
                    "node.toml if customers may lack it.",
                )
            found.append(value)
        return found, None

    def result(self) -> Sequence[str]:
        """The normalised values, (rows,)."""
        shared = np.unique(np.concatenate(self._shared)) if self._shared else np.zeros(0, dtype=np.int64)
        self.raw = self._without(self._raw.result(), shared)
        return self._without(self._values.result(), shared)

    def _without(self, texts: Sequence[str], shared: NDArray[np.int64]) -> Sequence[str]:
        """The texts, empty in the rows ``shared`` (ascending)."""
        if not len(shared):
            return texts
        built = TextsBuilder(self._scratch)
        for first in range(0, len(texts), CHUNK_ROWS):
            part = list(texts[first : first + CHUNK_ROWS])
            bounds = np.searchsorted(shared, [first, first + len(part)])
            for row in shared[bounds[0] : bounds[1]].tolist():
                part[row - first] = ""
            built.extend(part)
        return built.result()
