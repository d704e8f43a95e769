"""The node's configuration: one TOML file, read strictly.

Everything that a partner's job may touch is named here: data sets, their identifier column and the columns offered.  What jobs
may do with them stands in the policy file (:mod:`node.policy`).  Unsafe settings are absent by default and asked for by name.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PrivateAttr, SecretStr, StringConstraints, model_validator

from audit.spec import KEYS_MAX, Column, DatasetName, KeyName, Name
from audit.strict_toml import Strict, load_toml, nearest
from node.errors import PolicyError
from operations.config import MetricsSection, check_exposure

NodeRole = Literal["bank", "platform"]
SourceKind = Literal["csv", "parquet", "sqlite", "postgresql"]
NORMALISE_PATTERN = r"^(exact|casefold|digits|sha256|email|phone-e164:[A-Z]{2})$"
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]{0,252}):([0-9]{1,5})")


def parse_address(text: str) -> tuple[str, int]:
    """``"host:port"`` (an IPv6 host in brackets) as host and port.

    Raises:
        ValueError: it is not of that form or the port is not in 1..65535.
    """
    found = _HOST_PORT.fullmatch(text)
    if not found:
        raise ValueError('must be "HOST:PORT", for example "127.0.0.1:7443" (an IPv6 host stands in brackets)')
    port = int(found[2])
    if not 1 <= port <= 65535:
        raise ValueError("the port must be between 1 and 65535")
    return found[1].strip("[]"), port


def _address(text: str) -> str:
    parse_address(text)
    return text


Address = Annotated[str, StringConstraints(max_length=320), AfterValidator(_address)]
PathText = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


def _scheduler(text: str) -> str:
    scheme, _, rest = text.partition("://")
    if scheme not in ("tls", "tcp"):
        raise ValueError('must be "tls://HOST:PORT", as the scheduler shows it')
    parse_address(rest)
    return text


class NodeSection(Strict):
    """Who this node is and where its files are; relative paths start at the configuration file's folder.

    ``scratch``: where a step puts rows that are too many for memory, encrypted and gone with it; a folder of ``state`` when absent.
    """

    name: Name
    role: NodeRole
    listen: Address | None = None
    address: Address | None = None
    keys: PathText = "keys"
    key_file: PathText | None = None
    partners: PathText = "partners"
    state: PathText = "state"
    scratch: PathText | None = None
    policy: PathText = "policy.toml"
    stop_grace: Annotated[int, Field(ge=0, le=86_400)] = 20

    @model_validator(mode="after")
    def _address_needs_listen(self) -> NodeSection:
        if self.address is not None and self.listen is None:
            raise ValueError("address is how partners dial this node, so listen must be set too")
        return self


class CoordinatorSection(Strict):
    """Which partner file is the coordinator's."""

    partner: Name = "coordinator"


class RelaySection(Strict):
    """When the frames to a partner go, sealed, through the coordinator's relay.

    ``use``: ``auto`` where neither node can reach the other, or ``never``.  ``always_with``: partners with whom every link takes
    the relay whatever the addresses say; they name this node likewise.
    """

    use: Literal["auto", "never"] = "auto"
    always_with: Annotated[list[Name], Field(max_length=256)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _consistent(self) -> RelaySection:
        if self.use == "never" and self.always_with:
            raise ValueError('always_with contradicts use = "never"')
        return self


class EngineSection(Strict):
    """Where the heavy loops run.

    ``workers``: processes on this machine; all cores but one when absent.  The rest is for ``kind = "dask"``, a cluster of this
    node's operator: the scheduler's ``address``, what it is trusted with (``data``: encoded rows, masks and ciphertexts; ``keys``:
    also private keys, and the identifiers of an alignment), and the PEM files of its TLS.
    """

    kind: Literal["inline", "processes", "dask"] = "processes"
    workers: Annotated[int, Field(ge=1, le=256)] | None = None
    address: Annotated[str, StringConstraints(max_length=320), AfterValidator(_scheduler)] | None = None
    trust: Literal["data", "keys"] | None = None
    ca: PathText | None = None
    certificate: PathText | None = None
    key: PathText | None = None

    @model_validator(mode="after")
    def _consistent(self) -> EngineSection:
        given = [name for name in ("address", "trust", "ca", "certificate", "key") if getattr(self, name) is not None]
        wanted = []
        if self.kind == "dask":
            wanted = ["address", "trust"]
            if self.address is None or self.address.startswith("tls://"):
                wanted += ["ca", "certificate", "key"]
        for name in wanted:
            if name not in given:
                raise ValueError(f'kind = "dask" needs {name}')
        for name in given:
            if name not in wanted:
                where = "a cluster over tcp://" if self.kind == "dask" else f'kind = "{self.kind}"'
                raise ValueError(f"{where} takes no {name}")
        return self


class UnsafeSection(Strict):
    """Settings that give protection up; each is asked for by name."""

    small_keys: bool = False
    cluster_without_tls: bool = False


class ColumnConfig(Strict):
    """One column that the data set offers.

    ``missing``: ``refuse``; for a number ``mean``, ``median`` (of the aligned training rows) or a number as text; for a category
    the level that an empty value counts as.  ``encoding`` is a category's.  ``positive`` is the label's value that counts as 1.
    """

    kind: Literal["number", "category", "label"]
    missing: Annotated[str, StringConstraints(min_length=1, max_length=256)] = "refuse"
    encoding: Literal["one-hot", "woe"] | None = None
    positive: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ColumnConfig:
        if self.kind != "category" and self.encoding is not None:
            raise ValueError('encoding is an option of kind = "category"')
        if self.kind != "label" and self.positive is not None:
            raise ValueError('positive is an option of kind = "label"')
        if self.kind == "label" and self.missing != "refuse":
            raise ValueError("a missing label is never imputed: leave `missing` out")
        if self.kind == "category" and self.missing in ("mean", "median"):
            raise ValueError("a category has no mean or median: name the level that a missing value counts as")
        if self.kind == "number" and self.missing not in ("refuse", "mean", "median"):
            try:
                finite = Decimal(self.missing).is_finite()
            except InvalidOperation:
                finite = False
            if not finite:
                raise ValueError('missing must be "refuse", "mean", "median" or a number in quotes')
        return self


def _postgresql_uri(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("postgresql://", "postgres://")):
        raise ValueError("uri must start with postgresql://")
    return value


class KeyConfig(Strict):
    """A column that customers may be found by, under the name that jobs call it.

    ``missing``: whether a customer may lack it; one that does is not looked for by it (``skip``).
    ``duplicates``: what becomes of a value that several customers have: the job is refused, only the ``first`` is found by it, or
    ``none`` is.
    """

    column: Column
    normalise: Annotated[str, StringConstraints(pattern=NORMALISE_PATTERN)] = "casefold"
    missing: Literal["refuse", "skip"] = "refuse"
    duplicates: Literal["refuse", "first", "none"] = "refuse"


class DatasetConfig(Strict):
    """One data set.  ``path`` is absolute once :func:`load_config` returned it; ``uri`` shows in no representation.

    ``identifier`` names a customer, and is what jobs find customers by that name no keys; ``keys`` are for those that do.
    ``duplicates``: what becomes of rows that repeat an identifier; ``first`` keeps the first row of each.
    """

    name: DatasetName
    source: SourceKind
    path: PathText | None = None
    uri: Annotated[SecretStr, AfterValidator(_postgresql_uri)] | None = None
    query: Annotated[str, StringConstraints(min_length=1, max_length=65_536)] | None = None
    delimiter: Annotated[str, StringConstraints(pattern=r"^[,;|\t]$")] | None = None
    identifier: Column
    normalise: Annotated[str, StringConstraints(pattern=NORMALISE_PATTERN)] = "casefold"
    duplicates: Literal["refuse", "first"] = "refuse"
    keys: Annotated[dict[KeyName, KeyConfig], Field(max_length=4 * KEYS_MAX)] = Field(default_factory=dict)
    columns: Annotated[dict[Column, ColumnConfig], Field(max_length=4096, default_factory=dict)]

    @model_validator(mode="after")
    def _consistent(self) -> DatasetConfig:
        wanted = {
            "csv": ("path",),
            "parquet": ("path",),
            "sqlite": ("path", "query"),
            "postgresql": ("uri", "query"),
        }[self.source]
        for key in ("path", "uri", "query"):
            given = getattr(self, key) is not None
            if given and key not in wanted:
                raise ValueError(f'source = "{self.source}" takes no {key}')
            if not given and key in wanted:
                raise ValueError(f'source = "{self.source}" needs {key}')
        if self.delimiter is not None and self.source != "csv":
            raise ValueError('delimiter is an option of source = "csv"')
        if self.identifier in self.columns:
            raise ValueError(f"the identifier column {self.identifier!r} must not be offered as a column")
        for name, declared in self.keys.items():
            if declared.column in self.columns:
                raise ValueError(f"the column {declared.column!r} of the key {name!r} must not be offered as a column")
        return self

    @property
    def features(self) -> list[str]:
        """The columns that may serve as features, in the order of the file."""
        return [name for name, column in self.columns.items() if column.kind != "label"]

    @property
    def labels(self) -> list[str]:
        """The columns that may serve as the label."""
        return [name for name, column in self.columns.items() if column.kind == "label"]


class NodeConfig(Strict):
    """The whole file.  ``folder`` and the ``*_folder`` properties are absolute."""

    node: NodeSection
    coordinator: CoordinatorSection = CoordinatorSection()
    relay: RelaySection = Field(default_factory=RelaySection)
    engine: EngineSection = EngineSection()
    metrics: MetricsSection = MetricsSection()
    unsafe: UnsafeSection = UnsafeSection()
    dataset: list[DatasetConfig] = Field(default_factory=list)

    _path: Path = PrivateAttr(default=Path("node.toml"))

    @model_validator(mode="after")
    def _names_once(self) -> NodeConfig:
        names = [dataset.name for dataset in self.dataset]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the data set {name!r} is declared twice")
        return self

    @model_validator(mode="after")
    def _cluster_is_protected(self) -> NodeConfig:
        if (self.engine.address or "").startswith("tcp://") and not self.unsafe.cluster_without_tls:
            raise ValueError(
                "engine.address is tcp://: whoever reaches the cluster's ports could run code on this node; give the cluster "
                "certificates and tls://, or set unsafe.cluster_without_tls"
            )
        return self

    @property
    def path(self) -> Path:
        """The configuration file itself."""
        return self._path

    @property
    def folder(self) -> Path:
        """The folder that relative paths start from."""
        return self._path.parent

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    @property
    def role(self) -> NodeRole:
        """``bank`` or ``platform``."""
        return self.node.role

    @property
    def keys_folder(self) -> Path:
        """Where the node's own keys are."""
        return self.folder / self.node.keys

    @property
    def key_file(self) -> Path | None:
        """What opens the keys, where the configuration names it."""
        return None if self.node.key_file is None else self.folder / self.node.key_file

    @property
    def partners_folder(self) -> Path:
        """Where the partner files are."""
        return self.folder / self.node.partners

    @property
    def state_folder(self) -> Path:
        """Where the database, job files and the log are."""
        return self.folder / self.node.state

    @property
    def scratch_folder(self) -> Path:
        """Where steps put rows that are too many for memory."""
        return self.state_folder / "scratch" if self.node.scratch is None else self.folder / self.node.scratch

    @property
    def policy_path(self) -> Path:
        """The policy file."""
        return self.folder / self.node.policy

    def dataset_named(self, name: str) -> DatasetConfig:
        """The data set called ``name``.

        Raises:
            PolicyError: ``policy.dataset_unknown``.
        """
        for dataset in self.dataset:
            if dataset.name == name:
                return dataset
        raise PolicyError(
            "policy.dataset_unknown",
            f"The data set {name!r} is not configured on {self.name}.{nearest(name, [d.name for d in self.dataset])}",
            remedy=f"Correct the name in the job, or add a [[dataset]] to {self.path.name}; `isthmus-node datasets` "
            "lists what there is.",
        )


def load_config(path: Path) -> NodeConfig:
    """Read a node's configuration and make the paths of its data sets absolute.

    Raises:
        UsageError: see :func:`audit.strict_toml.load_toml` and :func:`operations.config.check_exposure`.
    """
    config = load_toml(path, NodeConfig, what="node configuration", init="isthmus-node init")
    check_exposure(config.metrics)
    absolute = path.resolve()
    datasets = [
        dataset if dataset.path is None else dataset.model_copy(update={"path": str(absolute.parent / dataset.path)})
        for dataset in config.dataset
    ]
    resolved = config.model_copy(update={"dataset": datasets})
    resolved._path = absolute
    return resolved
