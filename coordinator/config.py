"""The coordinator's configuration: one TOML file, read strictly: an unknown key refuses to start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, PrivateAttr, SecretStr, StringConstraints, model_validator

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
URL_BYTES_MAX = 4096
PathText = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class CoordinatorSection(Strict):
    """Who this coordinator is and where its files are; relative paths start at the configuration file's folder."""

    name: Name
    listen: Address
    address: Address | None = None
    keys: PathText = "keys"
    key_file: PathText | None = None
    partners: PathText = "partners"
    state: PathText = "state"
    stop_grace: Annotated[int, Field(ge=0, le=86_400)] = 10


class JobsSection(Strict):
    """How jobs are run."""

    detach_grace: Annotated[int, Field(ge=1, le=86_400)] = 30
    open: Annotated[int, Field(ge=1, le=100_000)] = 256


class StoreSection(Strict):
    """Where jobs are kept; by default SQLite in the state folder.

    ``url``, or ``url_file`` that holds it, for PostgreSQL; ``lease``: seconds without a sign of life after which a standby takes
    over.
    """

    url: Annotated[SecretStr, Field(min_length=1, max_length=4096)] | None = None
    url_file: PathText | None = None
    lease: Annotated[int, Field(ge=2, le=300)] = 10

    @model_validator(mode="after")
    def _one_url(self) -> StoreSection:
        if self.url is not None and self.url_file is not None:
            raise ValueError("url and url_file say the same thing: keep one")
        return self


class RelaySection(Strict):
    """Whether and how far this coordinator passes on sealed frames of nodes that cannot reach each other.

    ``mebibytes_per_second`` is of one room, both directions together; 0 sets no limit.
    """

    enabled: bool = True
    rooms: Annotated[int, Field(ge=1, le=32)] = 16
    mebibytes_per_second: Annotated[int, Field(ge=0, le=100_000)] = 0


class CoordinatorConfig(Strict):
    """The whole file."""

    coordinator: CoordinatorSection
    jobs: JobsSection = JobsSection()
    relay: RelaySection = RelaySection()
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
    def key_file(self) -> Path | None:
        """What opens the keys, where the configuration names it."""
        return None if self.coordinator.key_file is None else self.folder / self.coordinator.key_file

    @property
    def partners_folder(self) -> Path:
        """Where the partner files are."""
        return self.folder / self.coordinator.partners

    @property
    def state_folder(self) -> Path:
        """Where the database and the log are."""
        return self.folder / self.coordinator.state

    def store_url(self) -> str | None:
        """The database's URL, which may hold a password; None for SQLite in the state folder.

        Raises:
            UsageError: ``config.unreadable``, ``config.readable_by_others``: the file that ``url_file`` names.
        """
        if self.store.url_file is None:
            return self.store.url.get_secret_value() if self.store.url is not None else None
        path = self.folder / self.store.url_file
        try:
            with path.open("rb") as file:
                others, data = os.fstat(file.fileno()).st_mode & 0o007, file.read(URL_BYTES_MAX + 1)
            text = data.decode().strip()
        except (OSError, UnicodeDecodeError):
            others, data, text = 0, b"", ""
        if others:
            raise UsageError(
                "config.readable_by_others",
                f"Everybody on this machine can read {path}, which `url_file` names and which may hold a password.",
                remedy=f"chmod o= {path}",
            )
        if not text or len(data) > URL_BYTES_MAX or "\n" in text:
            raise UsageError(
                "config.unreadable",
                f"The file {path}, which `url_file` names, cannot be read or does not hold one line with the database's URL.",
                remedy="Write the URL and nothing else into it, and give this user the right to read it.",
            )
        return text

    def identity(self) -> Identity:
        """The coordinator's own keys.

        Raises:
            UsageError: see :func:`audit.identity.load_identity`; ``config.other_identity``.
        """
        identity = load_identity(self.keys_folder, key_file=self.key_file)
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
