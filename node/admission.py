"""Whether this node may take part in a job: the job's specification held against the node's own policy, configuration and partners.

The coordinator is run by one of the two parties, so nothing it says is taken on trust: a job that the policy does not allow never
reaches a person for approval, and the error names the clause of the job, the clause of the policy and a stable code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from audit.partner import Partner
from audit.spec import JobSpec, Party
from node.config import DatasetConfig, NodeConfig
from node.data.schema import Role, check_features, check_keys, check_label
from node.errors import PolicyError
from node.limits import LIMITS
from node.policy import Policy

RECOMMENDED_KEY_BITS = 3072
"""Below this a key is allowed with a warning: 2048 bits give about 112 bits of security (NIST SP 800-57 part 1, table 2)."""


@dataclass(frozen=True)
class Decision:
    """The policy allows the job: what a person should know before approving, and the rule that approves in their place."""

    warnings: tuple[str, ...] = ()
    auto_rule: str | None = None


def check_spec(spec: JobSpec, *, config: NodeConfig, policy: Policy, partners: Mapping[str, Partner]) -> Decision:
    """Decide whether this node may take part in a job.

    Args:
        spec: the job, as signed.
        config: this node's configuration.
        policy: this node's policy.
        partners: the partner files, by name.

    Returns:
        Warnings for the person who approves, and the auto-approval rule that matches, if any.

    Raises:
        PolicyError: the first clause that forbids it: ``policy.not_a_party``, ``policy.own_role``, ``policy.coordinator``,
            ``policy.coordinator_unknown``, ``policy.partner_unknown``, ``policy.partner_role``, ``policy.partner_not_allowed``,
            ``policy.dataset_unknown``, ``policy.dataset_not_offered``, ``policy.dataset_partner``, ``policy.features_max``,
            ``policy.feature_not_offered``, ``policy.feature_is_label``, ``policy.label_not_offered``, ``policy.label_kind``,
            ``policy.filter``,
            ``policy.normalise``, ``policy.key_too_short``, ``policy.key_kind``, ``policy.minimum_intersection``, ``policy.sample``,
            ``policy.rounds``, ``policy.bands``, ``policy.disclose_feature_holder``, ``policy.disclose_coordinator``,
            ``policy.key_not_offered``, ``policy.count``, ``policy.count_learner``, ``policy.count_step``.
        DataError: ``data.woe_needs_label``.
    """
    own, peer = _parties(spec, config)
    role: Role = "label_holder" if own is spec.label_holder else "feature_holder"
    _check_people(spec, peer, config=config, policy=policy, partners=partners)
    dataset = _check_dataset(own, peer, role, config=config, policy=policy)
    if len(own.features) > policy.limits.features_max:
        raise _over(
            "policy.features_max", f"{own.name} features", len(own.features), "limits.features_max", policy.limits.features_max
        )
    check_features(dataset, own.features, role=role)
    label = spec.label_of(own.name)
    if label is not None:
        check_label(dataset, label)
    check_keys(dataset, spec.align.keys)
    if not spec.align.keys and spec.align.normalise != dataset.normalise:
        raise PolicyError(
            "policy.normalise",
            f"The job's align.normalise is {spec.align.normalise!r}; the data set {dataset.name!r} declares {dataset.normalise!r}.",
            remedy="Both nodes must declare the rule that the job names: agree on one with the partner.",
        )
    if spec.publisher is not None:
        policy.filter_clause(spec, own.name)
    _check_minimum(spec, policy)
    if spec.kind == "count":
        warnings = _check_count(spec, own, policy)
    else:
        warnings = _check_numbers(spec, config=config, policy=policy)
        _check_disclosure(spec, role, policy)
    rule = next(
        (
            rule.name
            for rule in policy.auto_approve
            if (rule.partner, rule.dataset, rule.coordinator) == (peer.name, dataset.name, spec.coordinator)
            and spec.kind in rule.kinds
        ),
        None,
    )
    return Decision(warnings=tuple(warnings), auto_rule=rule)


def _parties(spec: JobSpec, config: NodeConfig) -> tuple[Party, Party]:
    if config.name not in (spec.label_holder.name, spec.feature_holder.name):
        raise PolicyError(
            "policy.not_a_party",
            f"The job is between {spec.label_holder.name!r} and {spec.feature_holder.name!r}; this node is {config.name!r}.",
            remedy="Submit a job that names this node, or correct node.name in node.toml.",
        )
    own = spec.party(config.name)
    if own.role != config.role:
        raise PolicyError(
            "policy.own_role",
            f"The job calls {own.name!r} a {own.role}; this node is a {config.role}.",
            remedy="Correct the party's role in the job.",
        )
    return own, spec.peer_of(config.name)


def _check_people(spec: JobSpec, peer: Party, *, config: NodeConfig, policy: Policy, partners: Mapping[str, Partner]) -> None:
    """The coordinator is the configured one; the peer is known, is what the job calls it, and is allowed."""
    expected = config.coordinator.partner
    if spec.coordinator != expected:
        raise PolicyError(
            "policy.coordinator",
            f"The job's coordinator is {spec.coordinator!r}; node.toml coordinator.partner is {expected!r}.",
            remedy="Submit the job through the coordinator that this node is configured for.",
        )
    coordinator = partners.get(expected)
    if coordinator is None or coordinator.role != "coordinator":
        raise PolicyError(
            "policy.coordinator_unknown",
            f"No partner file names {expected!r} as a coordinator.",
            remedy="Add the coordinator's partner file with `isthmus-node partner add FILE`.",
        )
    partner = partners.get(peer.name)
    if partner is None:
        raise PolicyError(
            "policy.partner_unknown",
            f"The job's other party {peer.name!r} is no partner of this node.",
            remedy="Add its partner file with `isthmus-node partner add FILE`.",
        )
    if partner.role != peer.role:
        raise PolicyError(
            "policy.partner_role",
            f"The job calls {peer.name!r} a {peer.role}; its partner file says {partner.role}.",
            remedy="Correct the party's role in the job.",
        )
    allowed = policy.partners.allow
    if allowed != "added" and peer.name not in allowed:
        raise PolicyError(
            "policy.partner_not_allowed",
            f"The job's other party is {peer.name!r}; policy partners.allow does not name it.",
            remedy='Add it to partners.allow in the policy, or set allow = "added".',
        )


def _check_dataset(own: Party, peer: Party, role: Role, *, config: NodeConfig, policy: Policy) -> DatasetConfig:
    dataset = config.dataset_named(own.dataset)
    clause = next((clause for clause in policy.dataset if clause.name == dataset.name), None)
    roles = policy.datasets.offer if clause is None else clause.roles
    where = "datasets.offer" if clause is None else f"[[dataset]] {dataset.name}: roles"
    if role not in roles:
        raise PolicyError(
            "policy.dataset_not_offered",
            f"The job uses the data set {dataset.name!r} as {role}; policy {where} allows {', '.join(roles) or 'no role'}.",
            remedy="Add the role there if this data set may serve for it.",
        )
    if clause is not None and clause.partners is not None and peer.name not in clause.partners:
        raise PolicyError(
            "policy.dataset_partner",
            f"The job uses the data set {dataset.name!r} with {peer.name!r}; policy [[dataset]] {dataset.name}: "
            "partners does not name it.",
            remedy="Add the partner there if this data set may serve with it.",
        )
    return dataset


def _check_minimum(spec: JobSpec, policy: Policy) -> None:
    if spec.align.minimum < policy.limits.minimum_intersection:
        raise PolicyError(
            "policy.minimum_intersection",
            f"The job's align.minimum is {spec.align.minimum}; policy limits.minimum_intersection is "
            f"{policy.limits.minimum_intersection}.",
            remedy="Submit the job with a minimum that both policies allow.",
        )


def _check_count(spec: JobSpec, own: Party, policy: Policy) -> list[str]:
    """Whether this node counts, who learns the exact number, and how it is rounded.  Returns warnings."""
    allowed = policy.count
    if not allowed.allow:
        raise PolicyError(
            "policy.count",
            "The job asks how many customers are shared; policy count.allow is false.",
            remedy="Set allow = true under [count] in the policy if such questions may be answered.",
        )
    if spec.learner != own.name and not allowed.partner_learns:
        raise PolicyError(
            "policy.count_learner",
            f"In the job {spec.learner!r} learns the exact number of shared customers; policy count.partner_learns is false.",
            remedy="Submit the job with this node as count.learner, or set partner_learns = true under [count] in the policy.",
        )
    if spec.count.step < allowed.step:
        raise PolicyError(
            "policy.count_step",
            f"The job's count.step is {spec.count.step}; policy count.step is {allowed.step}.",
            remedy="Submit the job with that step or a larger one.",
        )
    if spec.learner != own.name:
        return [f"{spec.learner} learns the exact number of shared customers, however small: the rounding is its own node's."]
    return []


def _check_numbers(spec: JobSpec, *, config: NodeConfig, policy: Policy) -> list[str]:
    """Key size, rounds, bands.  Returns warnings."""
    limits = policy.limits
    warnings = []
    bits = spec.model.key_bits
    if bits < limits.key_bits_min and not config.unsafe.small_keys:
        raise PolicyError(
            "policy.key_too_short",
            f"The job's model.key_bits is {bits}; policy limits.key_bits_min is {limits.key_bits_min}.",
            remedy=f"Submit the job with at least {max(limits.key_bits_min, RECOMMENDED_KEY_BITS)} bits.",
        )
    if bits < LIMITS.key_bits_min:
        warnings.append(f"model.key_bits = {bits} protects nothing: allowed only because node.toml sets unsafe.small_keys.")
    elif bits < RECOMMENDED_KEY_BITS:
        warnings.append(f"model.key_bits = {bits} is below the recommended {RECOMMENDED_KEY_BITS}.")
    kind = spec.model.key_kind
    if kind not in limits.key_kinds:
        raise PolicyError(
            "policy.key_kind",
            f"The job's model.key_kind is {kind!r}; policy limits.key_kinds is {', '.join(limits.key_kinds) or 'empty'}.",
            remedy='Submit the job with "standard" keys, or name the kind there (docs/threat-model.md says what it assumes).',
        )
    if kind != "standard":
        warnings.append("model.key_kind = short-order: rests on one assumption more than standard keys (docs/threat-model.md).")
    for name, rows in (("train_rows", spec.model.train_rows), ("evaluate_rows", spec.model.evaluate_rows)):
        if rows is not None and rows < limits.minimum_intersection:
            raise PolicyError(
                "policy.sample",
                f"The job's model.{name} is {rows}; policy limits.minimum_intersection is {limits.minimum_intersection}.",
                remedy=f"Submit the job with at least {limits.minimum_intersection}, or without {name} to take all rows.",
            )
    if spec.model.rounds > limits.rounds_max:
        raise _over("policy.rounds", "model.rounds", spec.model.rounds, "limits.rounds_max", limits.rounds_max)
    if spec.model.bands > limits.bands_max:
        raise _over("policy.bands", "model.bands", spec.model.bands, "limits.bands_max", limits.bands_max)
    if Decimal(spec.model.holdout) == 0:
        warnings.append("model.holdout = 0: no row is held out, so the model is not evaluated.")
    return warnings


def _check_disclosure(spec: JobSpec, role: Role, policy: Policy) -> None:
    # The feature holder gains from the first clause and gives nothing away by it, so only the label holder's policy decides.
    if role == "label_holder" and spec.disclose.aggregates_to_feature_holder and not policy.disclose.aggregates_to_feature_holder:
        raise PolicyError(
            "policy.disclose_feature_holder",
            "The job's disclose.aggregates_to_feature_holder is true; the policy's is false.",
            remedy="Submit the job with false, or allow it in the policy.",
        )
    if spec.disclose.aggregates_to_coordinator and not policy.disclose.aggregates_to_coordinator:
        raise PolicyError(
            "policy.disclose_coordinator",
            "The job's disclose.aggregates_to_coordinator is true; the policy's is false.",
            remedy="Submit the job with false, or allow it in the policy.",
        )


def _over(code: str, asked: str, value: int, clause: str, allowed: int) -> PolicyError:
    return PolicyError(
        code,
        f"The job's {asked} is {value}; policy {clause} is {allowed}.",
        remedy=f"Submit the job with at most {allowed}, or raise the policy's bound.",
    )
