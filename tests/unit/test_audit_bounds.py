"""Step (8): logs that are whole and signed, and tell of what a node's policy or the auditor's bounds do not allow."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from audit.ledger import LogRejected
from audit.spec import JobSpec
from audit.verify import verify_logs
from tests.unit import audit_world
from tests.unit.audit_world import BANK, JOB, PLATFORM, POLICY, SPEC, events, of, policy, refused, write


@pytest.mark.parametrize(
    ("bound", "value", "code"),
    [
        ("key_bits_min", 4096, "audit.key_bits"),
        ("minimum_intersection", 6, "audit.intersection"),
        ("rounds_max", 0, "audit.rounds"),
        ("bands_max", 39, "audit.bands"),
    ],
)
def test_beyond_a_nodes_policy(tmp_path: Path, bound: str, value: int, code: str) -> None:
    with mock.patch.dict(POLICY, {bound: value}):
        told = events()
    error = refused(tmp_path, told)
    assert (error.step, error.code) == (8, code)
    assert error.log == BANK


def _of_job(defaults: Any, job: str) -> Any:
    """A function's defaults, for another job."""
    if isinstance(defaults, dict):
        return {name: job if value == JOB else value for name, value in defaults.items()}
    return defaults and tuple(job if value == JOB else value for value in defaults)


def test_short_order_keys_only_where_a_nodes_policy_names_them(tmp_path: Path) -> None:
    """The specification asks for them; the nodes' policies, as their logs tell them, decide."""
    document = SPEC.model_dump()
    document["model"]["key_kind"] = "short-order"
    spec = JobSpec.model_validate(document)
    for allowed, code in ((0, "audit.key_kind"), (1, None)):
        with ExitStack() as stack:
            stack.enter_context(mock.patch.multiple(audit_world, SPEC=spec, JOB=spec.identity()))
            stack.enter_context(mock.patch.dict(POLICY, {"short_order_keys": allowed}))
            for function in (audit_world.approvals, audit_world.attempt):
                for kind in ("__defaults__", "__kwdefaults__"):
                    stack.enter_context(mock.patch.object(function, kind, _of_job(getattr(function, kind), spec.identity())))
            told = events()
        (folder := tmp_path / str(allowed)).mkdir()
        if code is None:
            assert verify_logs(list(write(folder, told).values()), policy=policy(folder)).exit_status == 0
        else:
            error = refused(folder, told)
            assert (error.step, error.code, error.log) == (8, code, BANK)


def test_small_keys_are_a_warning_where_they_are_allowed(tmp_path: Path) -> None:
    with mock.patch.dict(POLICY, {"key_bits_min": 4096, "small_keys": 1}):
        told = events()
    verified = verify_logs(list(write(tmp_path, told).values()), policy=policy(tmp_path))
    assert verified.exit_status == 0
    assert verified.steps[8].state == "warning"
    assert "keys of 3072 bits, which bank allows as unsafe" in verified.steps[8].detail


@pytest.mark.parametrize(
    ("bounds", "code"),
    [
        ("key_bits_min = 4096", "audit.key_bits"),
        ("minimum_intersection = 6", "audit.intersection"),
    ],
)
def test_beyond_the_auditors_bounds(tmp_path: Path, bounds: str, code: str) -> None:
    trusted = policy(tmp_path)
    trusted.write_text(f"{trusted.read_text()}\n[limits]\n{bounds}\n")
    with pytest.raises(LogRejected) as caught:
        verify_logs(list(write(tmp_path, events()).values()), policy=trusted)
    error = caught.value
    assert (error.step, error.code) == (8, code)


def test_a_policy_that_names_no_bounds_is_incomplete(tmp_path: Path) -> None:
    told = events()
    of(told, BANK, "policy").fields = {"sha256": "11" * 32}
    verified = verify_logs(list(write(tmp_path, told).values()), policy=policy(tmp_path))
    assert verified.exit_status == 2
    assert verified.steps[8].state == "open"


def test_fewer_shared_customers_than_the_job_asks_for(tmp_path: Path) -> None:
    with mock.patch.object(audit_world, "SHARED", 4):
        told = events()
    error = refused(tmp_path, told)
    assert (error.step, error.code) == (8, "audit.intersection")


def test_a_disclosure_to_a_stranger(tmp_path: Path) -> None:
    told = events()
    of(told, BANK, "disclosure", what="columns", to=PLATFORM).fields["to"] = "somebody"
    error = refused(tmp_path, told)
    assert (error.step, error.code, error.log) == (8, "audit.recipient", BANK)


def test_a_key_of_another_size_than_the_jobs(tmp_path: Path) -> None:
    told = events()
    of(told, BANK, "commitment", what="paillier key").fields["bits"] = 2048
    error = refused(tmp_path, told)
    assert (error.step, error.code) == (8, "audit.key_bits")
