"""Figures as they stand in disclosure entries: written as text, and read again whatever a log holds in their place.

A text that is no figure of its kind gives none, and no error: what it means that a log holds it is for the check that asked.
"""

from __future__ import annotations

import json
from math import isfinite


def count_of(text: str) -> int | None:
    """A count in decimal digits; None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None


def counts_of(text: str) -> list[int]:
    """The counts of a list written as JSON; empty where it is none."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [value for value in values if type(value) is int and 0 <= value < 10**12] if isinstance(values, list) else []


def pairs_of(text: str) -> list[tuple[int, int]]:
    """A list of pairs of counts, written as JSON; empty where it is none."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if not isinstance(values, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in values):
        return []
    return [(a, b) for a, b in values if type(a) is type(b) is int and min(a, b) >= 0]


def told_text(size: int, minimum: int) -> str:
    """How a number told in a count stands in a log."""
    return str(size) if size else f"below {minimum}"


def told_size(text: str) -> int | None:
    """The number of :func:`told_text`; 0 for "below the minimum", None where it is no such text."""
    if text.startswith("below "):
        return 0 if count_of(text.removeprefix("below ")) is not None else None
    return count_of(text) or None


def are_numbers(text: str, count: int) -> bool:
    """Whether a text is a list, written as JSON, of just so many finite numbers, each as a string."""
    try:
        values = json.loads(text)
        return isinstance(values, list) and len(values) == count and all(isinstance(v, str) and isfinite(float(v)) for v in values)
    except (ValueError, RecursionError):
        return False
