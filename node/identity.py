"""The node's own identity and its partners, found through the configuration."""

from __future__ import annotations

from collections.abc import Mapping

from audit.identity import Identity, load_identity
from audit.partner import Partner, load_partners
from node.config import NodeConfig
from node.errors import UsageError


def own_identity(config: NodeConfig) -> Identity:
    """The keys in the configured folder, which must be those of the configured name and role.

    Raises:
        UsageError: ``identity.mismatch``, and those of :func:`audit.identity.load_identity`.
    """
    identity = load_identity(config.keys_folder, key_file=config.key_file)
    if (identity.name, identity.role) != (config.name, config.role):
        raise UsageError(
            "identity.mismatch",
            f"The keys in {config.keys_folder} belong to {identity.name!r} ({identity.role}); {config.path.name} says "
            f"{config.name!r} ({config.role}).",
            remedy="Correct node.name, node.role or node.keys: partners know the name that the certificate holds.",
        )
    return identity


def known_partners(config: NodeConfig) -> dict[str, Partner]:
    """Every partner file, by name.

    Raises:
        UsageError: see :func:`audit.partner.load_partners`.
    """
    return load_partners(config.partners_folder)


def coordinator_of(config: NodeConfig, partners: Mapping[str, Partner]) -> Partner:
    """The coordinator's partner file.

    Raises:
        UsageError: ``partner.no_coordinator`` when it is missing or of another role, or has no address to dial.
    """
    name = config.coordinator.partner
    partner = partners.get(name)
    if partner is None:
        reason = f"no file in {config.partners_folder} is the partner file of {name!r}"
    elif partner.role != "coordinator":
        reason = f"{name!r} is a {partner.role} by its partner file"
    elif not partner.address:
        reason = f"the partner file of {name!r} has no address"
    else:
        return partner
    raise UsageError(
        "partner.no_coordinator",
        f"The coordinator of this node cannot be dialled: {reason}.",
        remedy="Add the coordinator's partner file with `isthmus-node partner add FILE`, or correct "
        "coordinator.partner in node.toml.",
    )
