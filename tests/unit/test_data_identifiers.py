"""Identifier rules: both sides of a pair written differently meet, what is no identifier is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.data.identifiers import Unfit, normaliser
from node.errors import UsageError


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        ("exact", " CUST-01 ", " CUST-01 "),
        ("casefold", " CUST-000123\t", "cust-000123"),
        ("casefold", "Straße", "strasse"),
        ("casefold", "STRASSE", "strasse"),
        ("casefold", "ＣＵＳＴ１", "cust1"),  # full-width letters and digit
        ("casefold", "e\u0301", "\u00e9"),
        ("casefold", "   ", ""),
        ("digits", "DE 00-12/34", "001234"),
        ("digits", "\u0661\u0662", "12"),  # Arabic-Indic
        ("digits", "none", ""),
        ("email", " Ann.Lee@Example.ORG ", "ann.lee@example.org"),
        ("email", "", ""),
        ("sha256", " " + "AB" * 32, "ab" * 32),
        ("phone-e164:DE", "030 901820", "+4930901820"),
        ("phone-e164:DE", "+49 (0)30 901820", "+4930901820"),
        ("phone-e164:DE", "0044 20 7946 0958", "+442079460958"),
        ("phone-e164:US", "(650) 253-0000", "+16502530000"),
        ("phone-e164:US", " ", ""),
    ],
)
def test_rule(rule: str, text: str, expected: str) -> None:
    assert normaliser(rule)(text) == expected


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("email", "ann.example.org"),
        ("email", "a@b@c"),
        ("email", "@example.org"),
        ("email", "ann@"),
        ("email", "an n@example.org"),
        ("sha256", "ab" * 31),
        ("sha256", "zz" * 32),
        ("phone-e164:DE", "call me"),
        ("phone-e164:DE", "+1 650 253"),
    ],
)
def test_refused_without_repeating_it(rule: str, text: str) -> None:
    with pytest.raises(Unfit) as caught:
        normaliser(rule)(text)
    assert text not in str(caught.value)


@pytest.mark.parametrize("rule", ["phone-e164:XX", "soundex", ""])
def test_unknown_rule(rule: str) -> None:
    with pytest.raises(UsageError) as caught:
        normaliser(rule)
    assert caught.value.code == "config.invalid"


@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing(text: str) -> None:
    for rule in ("exact", "casefold", "digits"):
        normalise = normaliser(rule)
        assert normalise(normalise(text)) == normalise(text)


@given(st.text(st.characters(codec="ascii"), max_size=30))
def test_the_quick_way_for_ascii_is_the_same(text: str) -> None:
    import unicodedata

    slow = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).strip().casefold())
    assert normaliser("casefold")(text) == slow
