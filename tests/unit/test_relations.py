"""What a relation keeps on disk, and what a job that aligns by a published filter says of itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from audit.errors import DataError, PolicyError, UsageError
from audit.plain import filter_state
from audit.readers import policy_of
from audit.spec import Align, JobSpec, parse_spec
from node.commands.wording import describe_spec, will_disclose
from node.config import load_config
from node.crypto.elias_fano import VALUE
from node.doctor_filters import filters
from node.policy import Policy
from node.protocols.filter_state import Published
from node.protocols.psi import Alignment
from node.protocols.psi_filter import Outcome
from node.runtime.files import JobFiles
from node.runtime.relations import EXPIRED, Relation, keep_for_replay, kept_relation, open_relation
from node.runtime.sealed_files import MAGIC
from node.runtime.serve import policy_fields
from node.runtime.store import Store
from protos import peer_pb2
from tests.nodes import spec_of, write_node

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = bytes(range(32))
SCALAR, TAG_KEY = b"s" * 32, b"t" * 32
SPEC = spec_of(align={"method": "filter", "publisher": "feature_holder", "minimum": 50})
CLAUSE = {
    "partner": "bank", "dataset": "shop", "role": "publisher",
    "reuse_days": 30, "filter_days": 10, "queries": 100, "period_days": 7,
}  # fmt: skip
POLICY = Policy.model_validate({"filter": [CLAUSE]})


def opened(store: Store, *, now: datetime = NOW, policy: Policy = POLICY, attempt: int = 0) -> Relation:
    return open_relation(store, policy, SPEC, me="platform", job=SPEC.identity(), attempt=attempt, now=now)


def outcome(version: int = 1, *, new_key: bool = True, whole: bool = True, keeps: bool = True) -> Outcome:
    values = np.sort(np.frombuffer(bytes(range(48)), dtype=VALUE))
    state = Published(SCALAR, TAG_KEY, version, b"d" * 32, 3, values, values)
    alignment = Alignment(rows=np.arange(3), own_size=3, peer_size=3)
    return Outcome(alignment, state if keeps else None, new_key=new_key, whole=whole)


def test_a_state_is_sealed_replaced_and_found_with_its_ages(tmp_path: Path) -> None:
    store = Store(tmp_path, KEY)
    first = opened(store)
    assert (first.published, first.terms.key_age, first.terms.filter_age) == (None, EXPIRED, EXPIRED)
    first.keep(outcome())
    later = NOW + timedelta(days=4, hours=1)
    second = opened(store, now=later)
    assert second.published is not None
    assert second.published.scalar == SCALAR
    assert (second.terms.key_age, second.terms.filter_age, second.terms.reuse_days) == (4, 4, 30)
    second.keep(outcome(2, new_key=False, whole=True))
    third = opened(store, now=later + timedelta(days=1))
    assert third.published is not None
    assert (third.published.version, third.terms.key_age, third.terms.filter_age) == (2, 5, 1)
    (file,) = (tmp_path / "relations" / SPEC.relation()).glob("state-*")
    assert file.read_bytes().startswith(MAGIC)
    assert SCALAR not in file.read_bytes()
    assert file.stat().st_mode & 0o077 == 0
    third.keep(outcome(keeps=False))
    assert not (tmp_path / "relations" / SPEC.relation()).exists()


def test_another_key_or_a_clock_set_back_is_as_if_nothing_were_kept(tmp_path: Path) -> None:
    opened(Store(tmp_path, KEY)).keep(outcome())
    assert opened(Store(tmp_path, bytes(32))).published is None
    assert opened(Store(tmp_path, KEY), now=NOW - timedelta(days=1)).terms.key_age == EXPIRED


def test_queries_are_counted_in_a_sliding_period(tmp_path: Path) -> None:
    store = Store(tmp_path, KEY)
    opened(store).reserve(60)
    opened(store, now=NOW + timedelta(days=3), attempt=1).reserve(40)
    for days, count in ((3, 1), (6, 1), (7, 61)):
        with pytest.raises(PolicyError) as caught:
            opened(store, now=NOW + timedelta(days=days)).reserve(count)
        assert caught.value.code == "policy.filter_queries"
    opened(store, now=NOW + timedelta(days=7)).reserve(60)
    opened(store, now=NOW + timedelta(days=7)).reserve(0)
    assert store.queries("bank/shop", since="2000") == 160


def test_what_a_replay_needs_is_the_state_as_it_was_found(tmp_path: Path) -> None:
    store, kept = Store(tmp_path, KEY), JobFiles(tmp_path / "kept")
    keep_for_replay(kept, 0, opened(store))
    opened(store).keep(outcome())
    relation = opened(store, attempt=1)
    keep_for_replay(kept, 1, relation)
    relation.keep(outcome(2, new_key=False))
    found = {attempt: kept_relation(kept, attempt, SPEC, me="platform", state_key=KEY) for attempt in (0, 1, 2)}
    assert found[2] is None
    assert found[0] is not None
    assert (found[0].published, found[0].identity) == (None, SPEC.relation())
    assert found[1] is not None
    assert found[1].terms == relation.terms
    assert found[1].published is not None
    assert found[1].published.version == 1
    with pytest.raises(DataError):
        kept_relation(kept, 1, SPEC, me="platform", state_key=bytes(32))
    (kept.folder / "relation-1.json").write_text("[]")
    with pytest.raises(DataError):
        kept_relation(kept, 1, SPEC, me="platform", state_key=KEY)


# ---- the job ------------------------------------------------------------------------------------------------------------------


def test_the_publisher_stands_where_there_is_one() -> None:
    assert b"publisher" not in spec_of().canonical()
    assert parse_spec(SPEC.canonical()) == SPEC
    assert SPEC.publisher == SPEC.feature_holder
    assert spec_of().publisher is None
    with pytest.raises(UsageError):
        spec_of().relation()
    named = json.loads(spec_of().canonical())
    named["align"]["publisher"] = None
    with pytest.raises(UsageError, match="canonical"):
        parse_spec(json.dumps(named, sort_keys=True, separators=(",", ":")).encode())
    for bad in ({"method": "filter"}, {"publisher": "label_holder"}):
        with pytest.raises(ValidationError, match="publisher"):
            Align.model_validate(bad)
    with pytest.raises(ValidationError, match="one identifier"):
        Align.model_validate({"method": "filter", "publisher": "label_holder", "keys": [{"name": "phone", "normalise": "digits"}]})
    counted = {"kind": "count", "align": {"method": "filter", "publisher": "label_holder", "minimum": 100}}
    plain = {name: SPEC.model_dump()[name] for name in ("nonce", "coordinator")}
    parties = {side: getattr(SPEC, side).model_dump() | {"features": []} for side in ("label_holder", "feature_holder")}
    with pytest.raises(ValidationError, match="no published filter"):
        JobSpec.model_validate(plain | parties | counted)


def test_a_relation_is_of_parties_data_sets_and_normalisation_alone() -> None:
    def relation(**changes: Any) -> str:
        return JobSpec.model_validate(SPEC.model_dump() | changes).relation()

    align = SPEC.align.model_dump()
    assert SPEC.relation() == relation(nonce="1" * 32, title="another", align=align | {"minimum": 7})
    others = [{"align": align | {"publisher": "label_holder"}}, {"align": align | {"normalise": "exact"}}]
    others += [{side: getattr(SPEC, side).model_dump() | {"dataset": "x"}} for side in ("label_holder", "feature_holder")]
    assert len({SPEC.relation(), *(relation(**change) for change in others)}) == 5


def test_a_person_is_told_before_approving() -> None:
    assert any("published filter: bank is sent all customers of you" in line for line in describe_spec(SPEC, "platform"))
    assert any("came and went" in line for line in will_disclose(SPEC, "platform"))
    assert not any("came and went" in line for line in will_disclose(SPEC, "bank"))
    assert not any("filter" in line for line in describe_spec(spec_of(), "bank"))


# ---- the policy ---------------------------------------------------------------------------------------------------------------


def test_the_doctor_tells_what_is_used_up_and_kept(tmp_path: Path) -> None:
    tmp_path.joinpath("platform").mkdir()
    config = write_node(tmp_path / "platform", "platform", "")
    assert list(filters(config, NOW)) == []
    clause = "".join(f"{name} = {json.dumps(value)}\n" for name, value in CLAUSE.items())
    asks = '[[filter]]\npartner = "bank"\ndataset = "shop"\nrole = "querier"\n'
    config.policy_path.write_text(config.policy_path.read_text() + f"[[filter]]\n{clause}{asks}")
    fresh = [(check.state, check.detail) for check in filters(config, NOW)]
    assert [state for state, _ in fresh] == ["ok", "ok"]
    assert "0 of 100 queries" in fresh[0][1]
    assert "each job starts afresh" in fresh[1][1]
    relation = opened(Store(config.state_folder, KEY))
    relation.reserve(90)
    relation.keep(outcome())
    kept, used, _ = filters(config, NOW)
    assert (kept.state, kept.detail.split(" kept")[0]) == ("ok", "1")
    assert (used.state, used.code) == ("warn", "policy.filter_queries")
    assert next(check.state for check in list(filters(config, NOW + timedelta(days=8)))[1:]) == "ok"


@pytest.mark.parametrize(
    "clause", [CLAUSE | {"queries": None}, CLAUSE | {"role": "querier"}, CLAUSE | {"reuse_days": -1}, CLAUSE | {"role": "owner"}]
)
def test_a_clause_that_cannot_be_is_refused(clause: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate({"filter": [{key: value for key, value in clause.items() if value is not None}]})


def test_a_clause_stands_once() -> None:
    with pytest.raises(ValidationError, match="twice"):
        Policy.model_validate({"filter": [CLAUSE, CLAUSE | {"reuse_days": 1}]})


def test_the_log_tells_the_clauses_and_the_auditor_reads_them(tmp_path: Path) -> None:
    tmp_path.joinpath("platform").mkdir()
    config = load_config(write_node(tmp_path / "platform", "platform", "").path)
    entry = {"kind": "policy", **policy_fields(POLICY, config)}
    record = policy_of(entry)
    assert record is not None
    (clause,) = record.filters
    assert clause._asdict() == CLAUSE
    damaged = entry | {"filters": [entry["filters"][0] | {"period_days": "7"}, 5, entry["filters"][0] | {"queries": 1}]}
    read = policy_of(damaged)
    assert read is not None
    assert [one.queries for one in read.filters] == [1]


def test_the_auditor_writes_a_filter_state_as_protobuf_does() -> None:
    for numbers in ((1, 3, 0, 0, 0, False), (300, 28, 299, 1, 70_000, True)):
        version, prefix_bits, base, removed, added, reusable = numbers
        message = peer_pb2.FilterState(
            key=b"k" * 32,
            version=version,
            digest=b"d" * 32,
            prefix_bits=prefix_bits,
            base=base,
            removed=removed,
            added=added,
            reusable=reusable,
        )
        sizes = {"prefix_bits": prefix_bits, "base": base, "removed": removed, "added": added, "reusable": reusable}
        told = filter_state(b"k" * 32, version, b"d" * 32, **sizes)
        assert told == message.SerializeToString(deterministic=True)
