"""The configuration file: what loads, and that each mistake names the key, the file and the remedy, and no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.config import load_config, parse_address
from node.errors import PolicyError, UsageError

GOOD = """
[node]
name = "bank"
role = "bank"

[[dataset]]
name = "cards"
source = "csv"
path = "cards.csv"
identifier = "customer_id"

[dataset.columns.LIMIT_BAL]
kind = "number"
missing = "0"

[dataset.columns.REGION]
kind = "category"

[dataset.columns.default]
kind = "label"

[[dataset]]
name = "warehouse"
source = "postgresql"
uri = "postgresql://reader:hunter2@db.example/cards"
query = "select * from customers"
identifier = "id"
normalise = "phone-e164:DE"
"""


def load(folder: Path, text: str) -> object:
    path = folder / "node.toml"
    path.write_text(text)
    return load_config(path)


def test_defaults_and_paths(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(GOOD)
    config = load_config(path)
    assert (config.name, config.role, config.node.listen) == ("bank", "bank", None)
    assert (config.engine.kind, config.engine.workers, config.unsafe.small_keys) == ("processes", None, False)
    assert config.keys_folder == tmp_path / "keys"
    assert config.policy_path == tmp_path / "policy.toml"
    cards = config.dataset_named("cards")
    assert cards.path == str(tmp_path / "cards.csv")
    assert cards.normalise == "casefold"
    assert (cards.features, cards.labels) == (["LIMIT_BAL", "REGION"], ["default"])


def test_relative_configuration_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node.toml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    assert load_config(Path("node.toml")).dataset_named("cards").path == str(tmp_path / "cards.csv")


def test_password_shows_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(GOOD)
    config = load_config(path)
    shown = repr(config) + str(config) + config.model_dump_json() + str(config.model_dump()) + repr(config.dataset[1])
    assert "hunter2" not in shown
    uri = config.dataset[1].uri
    assert uri is not None
    assert "hunter2" in uri.get_secret_value()


BAD = {
    "misspelt key": ('identifier = "customer_id"', 'identifer = "customer_id"', "config.unknown_key", "dataset[1].identifer"),
    "misspelt table": ("[node]", "[nodes]", "config.unknown_key", "nodes"),
    "misspelt column key": ('missing = "0"', 'mising = "0"', "config.unknown_key", "dataset[1].columns.LIMIT_BAL.mising"),
    "missing key": ('role = "bank"', "", "config.missing_key", "node.role"),
    "bad name": ('name = "bank"', 'name = "Bank!"', "config.invalid", "node.name"),
    "bad role": ('role = "bank"', 'role = "coordinator"', "config.invalid", "node.role"),
    "bad kind": ('kind = "number"', 'kind = "numeric"', "config.invalid", "dataset[1].columns.LIMIT_BAL.kind"),
    "number for text": ('identifier = "id"', "identifier = 5", "config.invalid", "dataset[2].identifier"),
    "bad address": ('role = "bank"', 'role = "bank"\nlisten = "7443"', "config.invalid", "node.listen"),
    "bad port": ('role = "bank"', 'role = "bank"\nlisten = "[::1]:70000"', "config.invalid", "node.listen"),
    "address alone": ('role = "bank"', 'role = "bank"\naddress = "a.example:1"', "config.invalid", "listen must be set"),
    "bad imputation": ('missing = "0"', 'missing = "zero"', "config.invalid", "missing must be"),
    "infinite imputation": ('missing = "0"', 'missing = "Infinity"', "config.invalid", "missing must be"),
    "imputed label": ('kind = "label"', 'kind = "label"\nmissing = "0"', "config.invalid", "label is never imputed"),
    "category mean": ('kind = "category"', 'kind = "category"\nmissing = "mean"', "config.invalid", "no mean"),
    "encoded number": ('missing = "0"', 'encoding = "woe"', "config.invalid", "encoding"),
    "positive number": ('missing = "0"', 'positive = "1"', "config.invalid", "positive"),
    "no path": ('path = "cards.csv"', "", "config.invalid", "needs path"),
    "query for csv": ('path = "cards.csv"', 'path = "cards.csv"\nquery = "select 1"', "config.invalid", "takes no query"),
    "no query": ('query = "select * from customers"', "", "config.invalid", "needs query"),
    "other database": ("postgresql://reader:hunter2", "mysql://reader:hunter2", "config.invalid", "must start with postgresql://"),
    "bad rule": ('normalise = "phone-e164:DE"', 'normalise = "phone"', "config.invalid", "dataset[2].normalise"),
    "twice": ('name = "warehouse"', 'name = "cards"', "config.invalid", "declared twice"),
    "identifier offered": ("[dataset.columns.REGION]", "[dataset.columns.customer_id]", "config.invalid", "identifier column"),
    "not TOML": ('role = "bank"', "role = bank", "config.not_toml", "line 4"),
    "unknown unsafe": ("[node]", "[unsafe]\nno_tls = true\n[node]", "config.unknown_key", "unsafe.no_tls"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_mistake_is_named(case: str, tmp_path: Path) -> None:
    old, new, code, named = BAD[case]
    assert old in GOOD
    with pytest.raises(UsageError) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    error = caught.value
    assert error.code == code
    assert named in error.message
    assert "node.toml" in error.message
    assert error.remedy
    assert "hunter2" not in str(error)
    assert error.__cause__ is None
    assert error.__suppress_context__


def test_nearest_key_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'identifier'"):
        load(tmp_path, GOOD.replace("identifier =", "identifer =", 1))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(tmp_path / "node.toml")
    assert caught.value.code == "config.missing_file"


def test_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(tmp_path)
    assert caught.value.code == "config.unreadable"


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(UsageError) as caught:
        load_config(path)
    assert caught.value.code == "config.not_toml"


def test_unknown_dataset_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(GOOD)
    with pytest.raises(PolicyError, match="Did you mean 'cards'") as caught:
        load_config(path).dataset_named("card")
    assert caught.value.code == "policy.dataset_unknown"


def test_parse_address() -> None:
    assert parse_address("127.0.0.1:7443") == ("127.0.0.1", 7443)
    assert parse_address("[::1]:1") == ("::1", 1)
    for text in ("host", "host:", "host:0", ":1", "host:99999", "ho st:1", "host:1\n", "::1:7443"):
        with pytest.raises(ValueError, match=r"port|HOST"):
            parse_address(text)


TLS = 'ca = "ca.pem"\ncertificate = "node.pem"\nkey = "node.key"\n'


@pytest.mark.parametrize(
    ("engine", "unsafe", "said"),
    [
        ('kind = "dask"\naddress = "tls://c:8786"\ntrust = "data"\n' + TLS, "", ""),
        ('kind = "dask"\naddress = "tcp://c:8786"\ntrust = "data"', "cluster_without_tls = true", ""),
        ('kind = "dask"\naddress = "tcp://c:8786"\ntrust = "data"', "", "unsafe.cluster_without_tls"),
        ('kind = "dask"\naddress = "tls://c:8786"\ntrust = "data"', "", "needs ca"),
        ('kind = "dask"\naddress = "tls://c:8786"\n' + TLS, "", "needs trust"),
        ('kind = "dask"\ntrust = "keys"\n' + TLS, "", "needs address"),
        ('kind = "dask"\naddress = "c:8786"\ntrust = "data"\n' + TLS, "", "tls://HOST:PORT"),
        ('kind = "dask"\naddress = "tcp://c:8786"\ntrust = "data"\n' + TLS, "cluster_without_tls = true", "takes no ca"),
        ('kind = "processes"\ntrust = "keys"', "", "takes no trust"),
        ("workers = 0", "", "workers"),
        ("workers = 257", "", "workers"),
    ],
)
def test_engines(tmp_path: Path, engine: str, unsafe: str, said: str) -> None:
    text = GOOD.replace("[engine]\n", "") + f"\n[engine]\n{engine}\n[unsafe]\n{unsafe}\n"
    if not said:
        config = load(tmp_path, text)
        assert config.engine.address == ("tcp" if unsafe else "tls") + "://c:8786"
        return
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert said in caught.value.message
