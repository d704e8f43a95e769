"""The public coin of the hold-out and the job specification."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from audit.errors import UsageError
from audit.spec import SPEC_BYTES_MAX, JobSpec, decimal_text, parse_spec
from audit.split import count_held_out, holdout_rows


def document(**change: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "nonce": "0" * 32,
        "coordinator": "coordinator",
        "label_holder": {"name": "bank", "role": "bank", "dataset": "cards", "features": ["a", "b"]},
        "feature_holder": {"name": "shop", "role": "platform", "dataset": "orders", "features": ["c"]},
        "label": {"column": "default"},
    }
    return base | change


def test_the_split_is_the_documented_coin() -> None:
    words = hashlib.shake_256(b"isthmus holdout v1\x00" + b"ab").digest(8 * 1000)
    expected = [int.from_bytes(words[8 * i : 8 * i + 8]) < 2**64 // 5 for i in range(1000)]
    assert holdout_rows("ab", 1000, Decimal("0.2")).tolist() == expected
    assert 150 < sum(expected) < 250
    assert not holdout_rows("ab", 1000, Decimal(0)).any()
    # a longer alignment does not move earlier rows
    assert holdout_rows("ab", 2000, Decimal("0.2"))[:1000].tolist() == expected


def test_a_spec_has_one_identity_and_one_form() -> None:
    spec = JobSpec.model_validate(document())
    assert parse_spec(spec.canonical()) == spec
    assert spec.identity() == hashlib.sha256(spec.canonical()).hexdigest()
    assert JobSpec.model_validate(document(nonce="1" * 32)).identity() != spec.identity()
    assert not spec.disclose.aggregates_to_feature_holder
    assert not spec.disclose.aggregates_to_coordinator
    assert spec.party("bank").dataset == "cards"
    assert spec.peer_of("bank").name == "shop"
    with pytest.raises(UsageError) as caught:
        spec.party("mallory")
    assert caught.value.code == "spec.not_a_party"


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"nonce": "xyz"},
        {"label": {"column": "a"}},
        {"model": {"l2": "-1"}},
        {"model": {"l2": "1e999999999999"}},
        {"model": {"l2": 0.1}},
        {"model": {"holdout": "1"}},
        {"model": {"key_bits": 2050}},
        {"model": {"rounds": 0}},
        {"model": {"tolerance": "0"}},
        {"align": {"normalise": "soundex"}},
        {"feature_holder": {"name": "bank", "role": "platform", "dataset": "d", "features": ["c"]}},
        {"feature_holder": {"name": "shop", "role": "bank", "dataset": "d", "features": ["c"]}},
        {"feature_holder": {"name": "shop", "role": "platform", "dataset": "d", "features": ["c", "c"]}},
        {"feature_holder": {"name": "Shop!", "role": "platform", "dataset": "d", "features": ["c"]}},
        {"feature_holder": {"name": "shop", "role": "platform", "dataset": "d", "features": []}},
        {"title": "approved\x1b[2J\x1b[H"},
        {"title": "two\nlines"},
        {"title": "right\u202eto left"},
        {"feature_holder": {"name": "shop", "role": "platform", "dataset": "d\x1b[31m", "features": ["c"]}},
        {"feature_holder": {"name": "shop", "role": "platform", "dataset": "d", "features": ["c\nd"]}},
    ],
)
def test_what_is_not_a_job_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate(document(**change))


@pytest.mark.parametrize(
    ("written", "plain"),
    [("1e-4", "0.0001"), (0.0001, "0.0001"), ("0", "0"), ("12", "12"), (" 0.20 ", "0.2"), ("1E2", "100"), ("-0.5", "-0.5")],
)
def test_numbers_have_one_plain_form(written: Any, plain: str) -> None:
    assert decimal_text(written) == plain


@pytest.mark.parametrize("written", ["", "x", "nan", "inf", "1e13", "1e-13", "1e999999999"])
def test_what_is_no_reasonable_number_is_refused(written: str) -> None:
    with pytest.raises(UsageError) as caught:
        decimal_text(written)
    assert caught.value.code == "spec.not_a_number"


def test_parsing_names_the_key_and_never_the_value() -> None:
    spec = JobSpec.model_validate(document())
    for data, code in (
        (b"{}", "spec.invalid"),
        (b"not json", "spec.invalid"),
        (b" " + spec.canonical(), "spec.not_canonical"),
        (spec.canonical().replace(b'"v":1', b'"v":2'), "spec.invalid"),
        (b"x" * (SPEC_BYTES_MAX + 1), "spec.too_large"),
    ):
        with pytest.raises(UsageError) as caught:
            parse_spec(data)
        assert caught.value.code == code
        assert caught.value.remedy
    with pytest.raises(UsageError) as caught:
        parse_spec(spec.canonical().replace(b'"dataset":"cards"', b'"datasets":"secret-value"'))
    assert "datasets" in caught.value.message
    assert "secret-value" not in str(caught.value)


@given(st.binary(max_size=300))
def test_any_bytes_are_accepted_or_refused_with_an_error(data: bytes) -> None:
    with pytest.raises(UsageError):
        parse_spec(data)


@pytest.mark.parametrize("fraction", ["0", "0.000001", "0.2", "0.5", "0.999"])
@pytest.mark.parametrize("rows", [0, 1, 1000, 131_071, 131_072, 131_073, 300_000])
def test_rows_held_out_are_counted_in_pieces(rows: int, fraction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = int(holdout_rows("ab" * 32, rows, Decimal(fraction)).sum())
    assert count_held_out("ab" * 32, rows, Decimal(fraction)) == expected
    monkeypatch.delattr("cryptography.hazmat.primitives.hashes.XOFHash", raising=False)
    assert count_held_out("ab" * 32, rows, Decimal(fraction)) == expected
