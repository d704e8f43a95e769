"""The policy: each clause refuses with its own code, names what was asked and what is allowed; an empty policy allows nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit.errors import IsthmusError
from audit.partner import Partner
from audit.signing import SigningKey
from audit.spec import JobSpec
from node.admission import Decision, check_spec
from node.commands.samples import POLICY_TOML
from node.config import NodeConfig
from node.errors import UsageError
from node.policy import Policy, load_policy

LOG_KEY = SigningKey.generate("isthmus.log/x").verifier


def partner(name: str, role: str) -> Partner:
    return Partner(name=name, role=role, address="", certificate_pem=b"", log_key=LOG_KEY)


PARTNERS = {"platform": partner("platform", "platform"), "coordinator": partner("coordinator", "coordinator")}


def configuration(**changes: Any) -> NodeConfig:
    document: dict[str, Any] = {
        "node": {"name": "bank", "role": "bank"},
        "dataset": [
            {
                "name": "cards",
                "source": "csv",
                "path": "cards.csv",
                "identifier": "customer_id",
                "columns": {
                    "LIMIT_BAL": {"kind": "number"},
                    "REGION": {"kind": "category", "encoding": "woe"},
                    "default": {"kind": "label"},
                },
            }
        ],
    }
    return NodeConfig.model_validate(document | changes)


def policy(**changes: Any) -> Policy:
    document: dict[str, Any] = {
        "partners": {"allow": "added"},
        "datasets": {"offer": ["label_holder", "feature_holder"]},
        "disclose": {"aggregates_to_feature_holder": True, "aggregates_to_coordinator": True},
    }
    return Policy.model_validate(document | changes)


def specification(change: Callable[[dict[str, Any]], None] | None = None) -> JobSpec:
    document: dict[str, Any] = {
        "nonce": "0" * 32,
        "coordinator": "coordinator",
        "label_holder": {"name": "bank", "role": "bank", "dataset": "cards", "features": ["LIMIT_BAL"]},
        "feature_holder": {"name": "platform", "role": "platform", "dataset": "shop", "features": ["BILL"]},
        "label": {"column": "default"},
        "align": {},
        "model": {},
        "disclose": {"aggregates_to_feature_holder": True, "aggregates_to_coordinator": True},
    }
    if change is not None:
        change(document)
    return JobSpec.model_validate(document)


def decide(
    spec: JobSpec | None = None,
    *,
    config: NodeConfig | None = None,
    rules: Policy | None = None,
    partners: dict[str, Partner] | None = None,
) -> Decision:
    return check_spec(
        spec or specification(),
        config=config or configuration(),
        policy=rules or policy(),
        partners=PARTNERS if partners is None else partners,
    )


def set_key(section: str, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document[section].update({key: value})


def swap_roles(document: dict[str, Any]) -> None:
    document["label_holder"], document["feature_holder"] = document["feature_holder"], document["label_holder"]
    document["label"] = {"column": "paid"}


def test_allowed() -> None:
    assert decide() == Decision(warnings=(), auto_rule=None)


def test_allowed_as_feature_holder() -> None:
    assert decide(specification(swap_roles)).warnings == ()


SPEC_REFUSALS: dict[str, tuple[Callable[[dict[str, Any]], None], str, str]] = {
    "another party": (set_key("label_holder", "name", "other-bank"), "policy.not_a_party", "other-bank"),
    "another role": (
        lambda d: (d["label_holder"].update(role="platform"), d["feature_holder"].update(role="bank")),  # type: ignore[dict-item]
        "policy.own_role",
        "platform",
    ),
    "another coordinator": (lambda d: d.update(coordinator="elsewhere"), "policy.coordinator", "elsewhere"),
    "unknown partner": (set_key("feature_holder", "name", "shop"), "policy.partner_unknown", "shop"),
    "unknown data set": (set_key("label_holder", "dataset", "crads"), "policy.dataset_unknown", "Did you mean 'cards'"),
    "misspelt feature": (
        set_key("label_holder", "features", ["LIMIT_BALL"]),
        "policy.feature_not_offered",
        "Did you mean 'LIMIT_BAL'",
    ),
    "identifier as feature": (set_key("label_holder", "features", ["customer_id"]), "policy.feature_not_offered", "customer_id"),
    "misspelt label": (set_key("label", "column", "defualt"), "policy.label_not_offered", "Did you mean 'default'"),
    "number as label": (
        lambda d: (d["label"].update(column="LIMIT_BAL"), d["label_holder"].update(features=["REGION"])),  # type: ignore[dict-item]
        "policy.label_kind",
        "LIMIT_BAL",
    ),
    "another normalisation": (set_key("align", "normalise", "digits"), "policy.normalise", "digits"),
    "short key": (set_key("model", "key_bits", 1024), "policy.key_too_short", "1024"),
    "small intersection": (set_key("align", "minimum", 10), "policy.minimum_intersection", "10"),
    "small sample": (set_key("model", "train_rows", 999), "policy.sample", "train_rows is 999"),
    "small sample of the evaluation": (set_key("model", "evaluate_rows", 999), "policy.sample", "evaluate_rows is 999"),
    "many rounds": (set_key("model", "rounds", 17), "policy.rounds", "17"),
    "many bands": (set_key("model", "bands", 65), "policy.bands", "65"),
}


@pytest.mark.parametrize("case", SPEC_REFUSALS, ids=str)
def test_specification_is_refused(case: str) -> None:
    change, code, named = SPEC_REFUSALS[case]
    with pytest.raises(IsthmusError) as caught:
        decide(specification(change))
    assert caught.value.code == code
    assert named in caught.value.message
    assert caught.value.remedy


POLICY_REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "partner not listed": ({"partners": {"allow": ["someone"]}}, "policy.partner_not_allowed"),
    "nothing offered": ({"datasets": {"offer": []}}, "policy.dataset_not_offered"),
    "other role": ({"dataset": [{"name": "cards", "roles": ["feature_holder"]}]}, "policy.dataset_not_offered"),
    "other partner": ({"dataset": [{"name": "cards", "roles": ["label_holder"], "partners": ["x"]}]}, "policy.dataset_partner"),
    "longer keys": ({"limits": {"key_bits_min": 4096}}, "policy.key_too_short"),
    "to feature holder": ({"disclose": {"aggregates_to_coordinator": True}}, "policy.disclose_feature_holder"),
    "to coordinator": ({"disclose": {"aggregates_to_feature_holder": True}}, "policy.disclose_coordinator"),
}


@pytest.mark.parametrize("case", POLICY_REFUSALS, ids=str)
def test_policy_refuses(case: str) -> None:
    changes, code = POLICY_REFUSALS[case]
    with pytest.raises(IsthmusError) as caught:
        decide(rules=policy(**changes))
    assert caught.value.code == code


def test_too_many_features() -> None:
    spec = specification(set_key("label_holder", "features", ["LIMIT_BAL", "REGION"]))
    assert decide(spec).warnings == ()
    with pytest.raises(IsthmusError) as caught:
        decide(spec, rules=policy(limits={"features_max": 1}))
    assert caught.value.code == "policy.features_max"


def test_empty_policy_allows_nothing() -> None:
    with pytest.raises(IsthmusError) as caught:
        decide(rules=Policy())
    assert caught.value.code == "policy.partner_not_allowed"


def test_feature_holder_needs_no_clause_to_receive_aggregates() -> None:
    assert decide(specification(swap_roles), rules=policy(disclose={"aggregates_to_coordinator": True})).auto_rule is None


def test_weight_of_evidence_needs_the_label() -> None:
    def change(document: dict[str, Any]) -> None:
        swap_roles(document)
        document["feature_holder"]["features"] = ["REGION"]

    with pytest.raises(IsthmusError) as caught:
        decide(specification(change))
    assert caught.value.code == "data.woe_needs_label"


def test_partner_roles() -> None:
    wrong = PARTNERS | {"platform": partner("platform", "coordinator")}
    with pytest.raises(IsthmusError) as caught:
        decide(partners=wrong)
    assert caught.value.code == "policy.partner_role"
    with pytest.raises(IsthmusError) as caught:
        decide(partners=PARTNERS | {"coordinator": partner("coordinator", "platform")})
    assert caught.value.code == "policy.coordinator_unknown"


def test_short_keys_only_where_asked_for_by_name() -> None:
    spec = specification(set_key("model", "key_bits", 512))
    warnings = decide(spec, config=configuration(unsafe={"small_keys": True})).warnings
    assert "unsafe.small_keys" in warnings[0]


def test_short_order_keys_only_where_the_policy_names_them() -> None:
    spec = specification(set_key("model", "key_kind", "short-order"))
    with pytest.raises(IsthmusError) as caught:
        decide(spec)
    assert caught.value.code == "policy.key_kind"
    warnings = decide(spec, rules=policy(limits={"key_kinds": ["standard", "short-order"]})).warnings
    assert any("short-order" in warning for warning in warnings)
    with pytest.raises(IsthmusError) as caught:
        decide(rules=policy(limits={"key_kinds": ["short-order"]}))
    assert caught.value.code == "policy.key_kind"


def test_2048_bits_warn() -> None:
    assert "recommended 3072" in decide(specification(set_key("model", "key_bits", 2048))).warnings[0]


def test_auto_approve_matches_all_three() -> None:
    rule = {"name": "nightly", "partner": "platform", "dataset": "cards", "coordinator": "coordinator"}
    assert decide(rules=policy(auto_approve=[rule])).auto_rule == "nightly"
    for key in ("partner", "dataset", "coordinator"):
        assert decide(rules=policy(auto_approve=[rule | {key: "other"}])).auto_rule is None
    # A rule approves nothing that a clause refuses.
    with pytest.raises(IsthmusError):
        decide(specification(set_key("model", "rounds", 40)), rules=policy(auto_approve=[rule]))


def test_patience_is_ten_minutes_unless_said_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("")
    assert load_policy(path).links.patience == 600
    path.write_text("[links]\npatience = 86400\n")
    assert load_policy(path).links.patience == 86400


def test_sample_loads_and_allows_a_default_job(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY_TOML)
    assert decide(rules=load_policy(path)) == Decision()


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        ("[limit]\n", "config.unknown_key", "limits"),
        ("[limits]\nkey_bits_min = 1024\n", "config.invalid", "limits.key_bits_min"),
        ("[links]\npatience = 0\n", "config.invalid", "links.patience"),
        ("[links]\npatience = 1.5\n", "config.invalid", "links.patience"),
        ("[links]\npatient = 5\n", "config.unknown_key", "patience"),
        ('[partners]\nallow = "everyone"\n', "config.invalid", "partners.allow"),
        ('[[auto_approve]]\nname = "a"\npartner = "p"\ndataset = "d"\n', "config.missing_key", "auto_approve[1].coordinator"),
        ('[[dataset]]\nname = "a"\nroles = []\n[[dataset]]\nname = "a"\nroles = []\n', "config.invalid", "stands twice"),
    ],
)
def test_bad_policy_file(text: str, code: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_policy(path)
    assert caught.value.code == code
    assert named in caught.value.message
    assert "policy.toml" in caught.value.message
