"""Every sample under deploy/ is loaded by what would load it in earnest."""

from __future__ import annotations

import configparser
import tomllib
from pathlib import Path

import click
import pytest
import yaml

from audit.errors import UsageError
from audit.spec import JobSpec
from coordinator.cli import main_group as coordinator_commands
from coordinator.config import RelaySection as RelayOfCoordinator
from coordinator.config import StoreSection
from coordinator.config import load_config as load_coordinator_config
from coordinator.store.engine import make_engine
from node.admission import check_spec
from node.cli import main_group as node_commands
from node.config import (
    ColumnConfig,
    CoordinatorSection,
    DatasetConfig,
    EngineSection,
    NodeSection,
    RelaySection,
    UnsafeSection,
    load_config,
)
from node.policy import AutoApprove, RetentionSection, load_policy
from operations.config import MetricsSection, check_exposure

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
LOADED_HERE = {
    "bank/node.toml",
    "bank/policy.toml",
    "platform/node.toml",
    "platform/policy.toml",
    "coordinator/coordinator.toml",
    "coordinator/postgresql.toml",
    "systemd/isthmus-node.service",
    "systemd/isthmus-coordinator.service",
    "compose/compose.yaml",
    "compose/Containerfile",
}
COMMANDS: dict[str, click.Command] = {"isthmus-node": node_commands, "isthmus-coordinator": coordinator_commands}


def test_no_sample_is_left_out() -> None:
    assert {path.relative_to(DEPLOY).as_posix() for path in DEPLOY.rglob("*") if path.is_file()} == LOADED_HERE


@pytest.mark.parametrize("party", ["bank", "platform"])
def test_node_samples_load(party: str) -> None:
    config = load_config(DEPLOY / party / "node.toml")
    policy = load_policy(DEPLOY / party / "policy.toml")
    assert (config.name, config.role) == (party, party)
    where = check_exposure(config.metrics)
    assert where is not None
    assert not config.metrics.expose
    assert not config.unsafe.small_keys, "no sample asks for anything unsafe"
    assert (config.node.listen is None) == (party == "bank"), "the bank's sample opens no port"
    assert {clause.name for clause in policy.dataset} == {dataset.name for dataset in config.dataset}
    assert policy.limits.key_bits_min >= 3072
    assert policy.retention.keeps, "an audit can replay what the samples' nodes said"


def test_every_key_of_a_node_is_described() -> None:
    """As the bank's sample says."""
    page = (ROOT / "docs" / "bank-it.md").read_text()
    rows = "\n".join(line for line in page.splitlines() if line.startswith("|"))
    for model in (
        NodeSection,
        CoordinatorSection,
        RelaySection,
        EngineSection,
        MetricsSection,
        UnsafeSection,
        DatasetConfig,
        ColumnConfig,
        AutoApprove,
        RetentionSection,
    ):
        for key in model.model_fields:
            assert f"`{key}`" in rows or key == "columns", f"{model.__name__}.{key}"
    assert "`[dataset.columns.NAME]`" in rows
    page = (ROOT / "docs" / "platform-operator.md").read_text()
    rows = "\n".join(line for line in page.splitlines() if line.startswith("|"))
    for key in RelayOfCoordinator.model_fields:
        assert f"`{key}`" in rows, key


def test_an_unknown_key_in_a_sample_would_be_noticed(tmp_path: Path) -> None:
    text = (DEPLOY / "bank" / "node.toml").read_text()
    (tmp_path / "node.toml").write_text(text.replace('kind = "processes"', "wrokers = 4"))
    with pytest.raises(UsageError, match="wrokers"):
        load_config(tmp_path / "node.toml")


def test_the_samples_fit_each_other() -> None:
    """A job that both sample policies allow exists: same normalisation, roles that complement each other."""
    bank, platform = (load_config(DEPLOY / party / "node.toml") for party in ("bank", "platform"))
    cards, shoppers = bank.dataset[0], platform.dataset[0]
    spec = JobSpec.model_validate(
        {
            "nonce": "0" * 32,
            "coordinator": "coordinator",
            "label_holder": {"name": "bank", "role": "bank", "dataset": cards.name, "features": cards.features},
            "feature_holder": {"name": "platform", "role": "platform", "dataset": shoppers.name, "features": shoppers.features},
            "label": {"column": cards.labels[0]},
            "align": {"normalise": cards.normalise, "minimum": 5000},
            "disclose": {"aggregates_to_feature_holder": True, "aggregates_to_coordinator": False},
        }
    )
    partners = {name: _partner(name) for name in ("bank", "platform", "coordinator")}
    for config, party in ((bank, "bank"), (platform, "platform")):
        decision = check_spec(spec, config=config, policy=load_policy(DEPLOY / party / "policy.toml"), partners=partners)
        assert decision.warnings == ()
        assert decision.auto_rule == ("the bank's card jobs" if party == "platform" else None)


def _partner(name: str):  # type: ignore[no-untyped-def]
    from audit.partner import Partner
    from audit.signing import SigningKey

    return Partner(name=name, role=name, address="", certificate_pem=b"", log_key=SigningKey.generate(name).verifier)


@pytest.mark.parametrize("sample", ["coordinator.toml", "postgresql.toml"])
def test_coordinator_samples_load(sample: str) -> None:
    config = load_coordinator_config(DEPLOY / "coordinator" / sample)
    assert config.coordinator.name == "coordinator"
    url = config.store_url()
    assert (url is not None) == (sample == "postgresql.toml")
    if url is not None:
        made = make_engine(url)
        assert made.url.password is None, "no sample has a password in it"
        assert made.url.query["sslmode"] == "verify-full"


def test_every_key_of_the_database_is_described() -> None:
    page = (ROOT / "docs" / "platform-operator.md").read_text()
    for key in StoreSection.model_fields:
        assert f"`{key}`" in page, key


@pytest.mark.parametrize("unit", ["isthmus-node", "isthmus-coordinator"])
def test_systemd_units_name_commands_that_exist(unit: str) -> None:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((DEPLOY / "systemd" / f"{unit}.service").read_text())
    assert set(parser.sections()) == {"Unit", "Service", "Install"}
    service = parser["Service"]
    _check_command(service["ExecStart"].split())
    assert service["User"] != "root"
    assert service["UMask"] == "0077"
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) > NodeSection.model_fields["stop_grace"].default + 10
    folder = {"isthmus-node": "bank/node.toml", "isthmus-coordinator": "coordinator/coordinator.toml"}[unit]
    state = tomllib.loads((DEPLOY / folder).read_text())[unit.removeprefix("isthmus-")]["state"]
    assert state == f"/var/lib/{service['StateDirectory']}", "the sample's state is the folder that the unit makes"


def test_compose_names_files_and_commands_that_exist() -> None:
    services = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]
    assert set(services) == {"coordinator", "node"}
    for service in services.values():
        command, probe, build = service["command"], service["healthcheck"]["test"], service["build"]
        _check_command(command)
        _check_command(probe[1:])
        assert probe[0] == "CMD"
        assert probe[1:] == [*command[:3], "health"], "it asks the process that the service runs"
        assert int(service["stop_grace_period"].removesuffix("s")) > NodeSection.model_fields["stop_grace"].default + 10
        assert (DEPLOY / "compose" / build["context"] / build["dockerfile"]).resolve().is_file()
        assert (DEPLOY / "compose" / build["context"] / "pyproject.toml").resolve().is_file()
    assert "COPY" in (DEPLOY / "compose" / "Containerfile").read_text()


def _check_command(words: list[str]) -> None:
    """`isthmus-x --config FILE sub ...`: the script is one that the package installs, the subcommand has these options."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    name = Path(words[0]).name
    assert name in scripts
    assert words[1] == "--config"
    group = COMMANDS[name]
    assert isinstance(group, click.Group)
    assert words[3] in group.commands
    group.commands[words[3]].make_context(words[3], list(words[4:]), resilient_parsing=False)
