"""The columns that customers are found by where a job names several, each with values missing or shared here and there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from node.config import KeyConfig
from node.data.identifiers import Unfit, normaliser, unfit_identifier
from node.errors import DataError


class KeyColumn:
    """Collects one key's values; afterwards no value stands twice, by the rule that its declaration states.

    Attributes:
        raw: (rows,), as the source has them; empty where a row's value is missing or does not count.
    """

    def __init__(self, dataset: str, name: str, config: KeyConfig) -> None:
        self.dataset, self.name, self.config = dataset, name, config
        self.raw: list[str] = []
        self._values: list[str] = []
        self._normalise = normaliser(config.normalise)
        self._rows: dict[str, int] = {}
        """The first row of each value."""
        self._shared: set[str] = set()

    def add(self, texts: Sequence[str | None], first_row: int, keep: NDArray[np.bool_]) -> None:
        """Take the kept rows of a batch, whose first is row ``first_row`` of the source.

        Raises:
            DataError: ``data.unfit_identifier``; ``data.empty_identifier`` where none may be missing; ``data.duplicate_key``.
        """
        for position in np.flatnonzero(keep).tolist():
            text, row = texts[position] or "", first_row + position
            try:
                value = "" if text.isspace() else self._normalise(text)
            except Unfit as error:
                raise unfit_identifier(self.dataset, self.config.column, row, str(error)) from None
            if not value and self.config.missing == "refuse":
                raise DataError(
                    "data.empty_identifier",
                    f"The identifier column {self.config.column!r} of the data set {self.dataset!r} is empty in row {row}.",
                    remedy=f'Fill it in, leave the row out of the source, or declare missing = "skip" for the key {self.name!r} in '
                    "node.toml if customers may lack it.",
                )
            if value and value in self._rows:
                value = self._repeated(value, row)
            elif value:
                self._rows[value] = len(self._values)
            self._values.append(value)
            self.raw.append(text if value else "")

    def _repeated(self, value: str, row: int) -> str:
        """What counts of a value that an earlier row has."""
        if self.config.duplicates == "refuse":
            raise DataError(
                "data.duplicate_key",
                f"The identifier column {self.config.column!r} of the data set {self.dataset!r} repeats in row {row} a value of an "
                "earlier row.",
                remedy=f'Correct the source, or declare for the key {self.name!r} in node.toml duplicates = "first" (only the '
                'first row is found by it) or "none" (no row is).',
            )
        if self.config.duplicates == "none":
            self._shared.add(value)
        return ""

    def result(self) -> list[str]:
        """The normalised values, (rows,); ``raw`` is final from here on."""
        for value in self._shared:
            row = self._rows[value]
            self._values[row] = self.raw[row] = ""
        self._shared.clear()
        return self._values
