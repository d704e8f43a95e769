"""Identifiers, normalised the same way on both sides (protocols.md, section 1).

The rule stands in the job specification and in each node's configuration; both nodes must apply the same one, or nobody matches.

| rule | what it does |
|---|---|
| ``exact`` | nothing |
| ``casefold`` | Unicode NFKC, surrounding white space removed, case folded, NFKC again |
| ``digits`` | only the decimal digits are kept, any script's as ASCII |
| ``email`` | as ``casefold``, and exactly one ``@`` with something on both sides |
| ``sha256`` | already hashed: 64 hexadecimal digits, lower-cased |
| ``phone-e164:CC`` | E.164 by the rules of region ``CC`` where the number has no country code |
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

import phonenumbers

from node.errors import DataError, UsageError

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Unfit(ValueError):
    """An identifier that the rule cannot normalise; the text says why without repeating it."""


def normaliser(rule: str) -> Callable[[str], str]:
    """The function that normalises one identifier.

    The function returns ``""`` for an identifier of which nothing is left, and raises :class:`Unfit` for one the rule does not
    accept.

    Raises:
        UsageError: ``config.invalid`` for an unknown rule or phone region.
    """
    if rule.startswith("phone-e164:"):
        return _phone(rule.partition(":")[2])
    rules = {"exact": _exact, "casefold": _casefold, "digits": _digits, "email": _email, "sha256": _sha256}
    if rule not in rules:
        raise UsageError(
            "config.invalid",
            f"The normalisation rule {rule!r} is not known.",
            remedy=f"Use one of {', '.join(rules)} or phone-e164:CC, CC being a country code such as DE.",
        )
    return rules[rule]


def _exact(text: str) -> str:
    return text


def _casefold(text: str) -> str:
    if text.isascii():
        return text.strip().lower()
    # Folding may undo the composition that NFKC made (Unicode 15, section 3.13, D146): once more.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).strip().casefold())


def _digits(text: str) -> str:
    return "".join(str(unicodedata.decimal(c)) for c in text if c.isdecimal())


def _email(text: str) -> str:
    folded = _casefold(text)
    if not folded:
        return ""
    if any(c.isspace() for c in folded):
        raise Unfit("it holds white space")
    local, at, domain = folded.partition("@")
    if not (at and local and domain) or "@" in domain:
        raise Unfit("an e-mail address has exactly one @ with something on both sides")
    return folded


def _sha256(text: str) -> str:
    lowered = text.strip().lower()
    if lowered and not _SHA256.fullmatch(lowered):
        raise Unfit("a SHA-256 has 64 hexadecimal digits")
    return lowered


def _phone(region: str) -> Callable[[str], str]:
    if region not in phonenumbers.SUPPORTED_REGIONS:
        raise UsageError(
            "config.invalid",
            f"The phone region {region!r} is not known.",
            remedy="Use a two-letter country code, for example phone-e164:DE.",
        )

    def normalise(text: str) -> str:
        if not text.strip():
            return ""
        try:
            number = phonenumbers.parse(text, region)
        except phonenumbers.NumberParseException:
            raise Unfit("it is not a telephone number") from None
        if not phonenumbers.is_possible_number(number):
            raise Unfit(f"it is not a possible telephone number in {region} or with its country code")
        return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)

    return normalise


def unfit_identifier(dataset: str, column: str, row: int, reason: str) -> DataError:
    """The error for an identifier that its rule refuses, named by its row."""
    return DataError(
        "data.unfit_identifier",
        f"The identifier column {column!r} of the data set {dataset!r}, row {row}: {reason}.",
        remedy="Correct the row or leave it out, or declare the rule (`normalise`) that fits the column.",
    )
