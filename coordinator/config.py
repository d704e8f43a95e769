"""The coordinator's configuration: one TOML file, read strictly: an unknown key refuses to start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, PrivateAttr, StringConstraints

from audit.identity import Identity, load_identity
from audit.partner import Partner, load_partners
from audit.spec import Name
from audit.strict_toml import Strict, load_toml
from coordinator.errors import UsageError
from operations.config import MetricsSection, check_exposure
from protos.tls import TlsError, split_address


def _address(text: str) -> str:
    try:
        split_address(text)
    except TlsError as error:
        raise ValueError(error.message) from None
    return text


Address = Annotated[str, StringConstraints(max_length=320), AfterValidator(_address)]
PathText = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class CoordinatorSection(Strict):
    """Who this coordinator is and where its files are; relative paths start at the configuration file's folder."""

    name: Name
    listen: Address
    address: Address | None = None
    keys: PathText = "keys"
    partners: PathText = "partners"
    state: PathText = "state"
    stop_grace: Annotated[int, Field(ge=0, le=86_400)] = 10


class JobsSection(Strict):
    """How jobs are run."""

    detach_grace: Annotated[int, Field(ge=1, le=86_400)] = 30


class StoreSection(Strict):
    """Where jobs are kept; by default SQLite in the state folder."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None


class CoordinatorConfig(Strict):
    """The whole file."""

    coordinator: CoordinatorSection
    jobs: JobsSection = JobsSection()
    store: StoreSection = StoreSection()
    metrics: MetricsSection = MetricsSection()

    _path: Path = PrivateAttr(default=Path("coordinator.toml"))

    @property
    def name(self) -> str:
        """The coordinator's name."""
        return self.coordinator.name

    @property
    def folder(self) -> Path:
        """The folder that relative paths start from."""
        return self._path.parent

    @property
    def keys_folder(self) -> Path:
        """Where its own keys are."""
        return self.folder / self.coordinator.keys

    @property
    def partners_folder(self) -> Path:
        """Where the partner files are."""
        return self.folder / self.coordinator.partners

    @property
    def state_folder(self) -> Path:
        """Where the database and the log are."""
        return self.folder / self.coordinator.state

    def identity(self) -> Identity:
        """The coordinator's own keys.

        Raises:
            UsageError: see :func:`audit.identity.load_identity`; ``config.other_identity``.
        """
        identity = load_identity(self.keys_folder)
        if identity.name != self.name or identity.role != "coordinator":
            raise UsageError(
                "config.other_identity",
                f"The keys in {self.keys_folder} are those of the {identity.role} {identity.name!r}, not of {self.name!r}.",
                remedy="Correct `name` or `keys` under [coordinator].",
            )
        return identity

    def partners(self) -> dict[str, Partner]:
        """All partner files, by name."""
        return load_partners(self.partners_folder)

    def dial_address(self) -> str:
        """Where the operator commands, on this very machine, find the server."""
        host, port = split_address(self.coordinator.listen)
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def load_config(path: Path) -> CoordinatorConfig:
    """Read a coordinator's configuration.

    Raises:
        UsageError: see :func:`audit.strict_toml.load_toml` and :func:`operations.config.check_exposure`.
    """
    config = load_toml(path, CoordinatorConfig, what="coordinator configuration", init="isthmus-coordinator init")
    check_exposure(config.metrics)
    config._path = path.resolve()
    return config
