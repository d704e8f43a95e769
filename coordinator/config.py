"""The coordinator's configuration: one TOML file, read strictly: an unknown key refuses to start."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints, ValidationError

from audit.identity import Identity, load_identity
from audit.partner import Partner, load_partners
from audit.spec import Name
from coordinator.errors import UsageError
from protos.tls import TlsError, split_address

FILE_BYTES_MAX = 2**20
M = TypeVar("M", bound=BaseModel)


def _address(text: str) -> str:
    try:
        split_address(text)
    except TlsError as error:
        raise ValueError(error.message) from None
    return text


Address = Annotated[str, StringConstraints(max_length=320), AfterValidator(_address)]
PathText = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class Strict(BaseModel):
    """Base of every table: unknown keys refused, no silent conversion, values never repeated in errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class CoordinatorSection(Strict):
    """Who this coordinator is and where its files are; relative paths start at the configuration file's folder."""

    name: Name
    listen: Address
    address: Address | None = None
    keys: PathText = "keys"
    partners: PathText = "partners"
    state: PathText = "state"


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
        UsageError: see :func:`load_toml`.
    """
    config = load_toml(path, CoordinatorConfig, what="coordinator configuration")
    config._path = path.resolve()
    return config


def read_toml(path: Path, *, what: str, parse_float: Any = float) -> dict[str, Any]:
    """The document in a TOML file.

    Raises:
        UsageError: ``config.missing_file``, ``config.unreadable``, ``config.not_toml``.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            "config.missing_file",
            f"The {what} {path} does not exist.",
            remedy="Check the path; `isthmus-coordinator init FOLDER` makes a configuration, and --config names one.",
        ) from None
    except OSError as error:
        raise UsageError("config.unreadable", f"The {what} {path} cannot be read: {error.strerror}.") from None
    if len(data) > FILE_BYTES_MAX:
        raise UsageError("config.unreadable", f"The {what} {path} has more than {FILE_BYTES_MAX} bytes.")
    try:
        return tomllib.loads(data.decode("utf-8"), parse_float=parse_float)
    except UnicodeDecodeError:
        raise UsageError("config.not_toml", f"The {what} {path} is not UTF-8 text.", remedy="Save it as UTF-8.") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            "config.not_toml",
            f"The {what} {path} is not valid TOML: {error}.",
            remedy="Correct that line; text values stand in double quotes.",
        ) from None


def load_toml(path: Path, model: type[M], *, what: str) -> M:
    """A TOML file as ``model``.

    Raises:
        UsageError: those of :func:`read_toml`; ``config.unknown_key``, ``config.missing_key``, ``config.invalid``.
    """
    document = read_toml(path, what=what)
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise first_error(error, model, f"The {what} {path}") from None


def first_error(error: ValidationError, model: type[BaseModel], where: str) -> UsageError:
    """The error to show of several: a misspelt key first, since it often explains a missing one."""
    details = error.errors(include_url=False, include_input=False, include_context=False)
    item = min(details, key=lambda detail: detail["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in item["loc"]) or "(whole file)"
    if item["type"] == "extra_forbidden":
        known = keys_at(model, item["loc"][:-1])
        close = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return UsageError(
            "config.unknown_key",
            f"{where} has the unknown key {key}.{hint}",
            remedy=f"Remove or correct it; the keys known there: {', '.join(known)}.",
        )
    if item["type"] == "missing":
        return UsageError("config.missing_key", f"{where} lacks the key {key}.", remedy="Add it.")
    reason = item["msg"].removeprefix("Value error, ").rstrip(".")
    return UsageError("config.invalid", f"{where}: {key}: {reason}.", remedy="Correct this value.")


def keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that the table at ``location`` may have."""
    current: Any = model
    for part in location:
        field = current.model_fields.get(str(part)) if isinstance(current, type) and issubclass(current, BaseModel) else None
        current = field.annotation if field else None
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []
