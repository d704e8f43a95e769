"""From what an operator writes (a TOML file, options, or both) to the one canonical job specification.

The file is the specification without what can be filled in: ``v``, ``kind``, ``coordinator`` and ``nonce``, and a party's ``role``,
which its partner file tells.  Decimals may be written as numbers, with an exponent too; they get one plain form.  Options win over
the file.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from audit.partner import Partner
from audit.spec import JobSpec, decimal_text, parse_spec
from audit.strict_toml import first_error, read_toml
from coordinator.errors import UsageError

_DECIMALS = ("l2", "tolerance", "holdout")
_PARTIES = ("label_holder", "feature_holder")


def read_document(path: Path) -> dict[str, Any]:
    """The file of a job as a document; decimals become text as written.

    Raises:
        UsageError: ``config.missing_file``, ``config.unreadable``, ``config.not_toml``.
    """
    return read_toml(path, what="job specification", parse_float=str)


def merge_options(document: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The document with options over it.

    Args:
        options: dotted keys (``"model.l2"``) to values; ``None`` is an option that was not given.
    """
    merged: dict[str, Any] = {key: dict(value) if isinstance(value, dict) else value for key, value in document.items()}
    for dotted, value in options.items():
        if value is None:
            continue
        table, _, key = dotted.rpartition(".")
        target = merged.setdefault(table, {}) if table else merged
        if not isinstance(target, dict):
            raise UsageError(
                "spec.invalid", f"The key {table} of the job specification is not a table.", remedy=f"Write [{table}]."
            )
        target[key] = value
    return merged


def build_spec(
    document: Mapping[str, Any],
    *,
    coordinator: str,
    partners: Mapping[str, Partner],
    nonce: Callable[[], str] = lambda: secrets.token_hex(16),
) -> JobSpec:
    """The specification, complete and checked.

    Raises:
        UsageError: ``config.unknown_key``, ``config.missing_key``, ``config.invalid`` (each names the key), ``spec.invalid`` for
        what
            concerns several keys, ``coordinator.unknown_party``, ``coordinator.wrong_role``.
    """
    filled: dict[str, Any] = {"coordinator": coordinator, **document}
    filled.setdefault("nonce", nonce())
    for key in _PARTIES:
        party = filled.get(key)
        if isinstance(party, dict) and "role" not in party and str(party.get("name")) in partners:
            filled[key] = {**party, "role": partners[str(party["name"])].role}
    model = filled.get("model")
    if isinstance(model, dict):
        filled["model"] = {key: _text(value) if key in _DECIMALS else value for key, value in model.items()}
    try:
        spec = JobSpec.model_validate(filled)
    except ValidationError as error:
        raise first_error(error, JobSpec, "The job specification") from None
    for party in (spec.label_holder, spec.feature_holder):
        check_party(party.name, party.role, partners)
    return parse_spec(spec.canonical())


def check_party(name: str, role: str, partners: Mapping[str, Partner]) -> None:
    """A party of a specification must be a partner of that role.

    Raises:
        UsageError: ``coordinator.unknown_party``, ``coordinator.wrong_role``.
    """
    partner = partners.get(name)
    if partner is None:
        raise UsageError(
            "coordinator.unknown_party",
            f"There is no partner file for {name!r}.",
            remedy="Add it with `isthmus-coordinator partner add FILE` and start the server again.",
        )
    if partner.role != role:
        raise UsageError(
            "coordinator.wrong_role",
            f"{name!r} is a {partner.role}; the specification calls it a {role}.",
            remedy="Correct the key `role`, or leave it out.",
        )


def _text(value: Any) -> Any:
    """A decimal as the specification writes it: text without an exponent.  The rest is left for the check that names the key."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return value
    try:
        return decimal_text(value)
    except UsageError:
        return value


def spec_for(coordinator: str, data: bytes, partners: Mapping[str, Partner]) -> JobSpec:
    """The specification of a job that this coordinator may direct.

    Raises:
        UsageError: see :func:`audit.spec.parse_spec`; ``coordinator.other_coordinator``, ``coordinator.unknown_party``,
            ``coordinator.wrong_role``.
    """
    spec = parse_spec(data)
    if spec.coordinator != coordinator:
        raise UsageError(
            "coordinator.other_coordinator",
            f"The specification names the coordinator {spec.coordinator!r}; this one is {coordinator!r}.",
            remedy="Correct the key `coordinator`, or submit it there.",
        )
    for party in (spec.label_holder, spec.feature_holder):
        check_party(party.name, party.role, partners)
    return spec
