"""The engine of a cluster: a real scheduler over TLS and two worker processes, one of which is killed at work."""

from __future__ import annotations

import datetime
import os
import pickle
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed import LocalCluster
from distributed.security import Security

from node import doctor_engine
from node.config import load_config
from node.crypto.drbg import Drbg, Stream
from node.crypto.paillier_keys import generate_key
from node.engine import ClusterEngine, InlineEngine, PoolEngine, batches, cluster
from node.engine.cluster import Cluster, call_in_worker, check_versions
from node.engine.executor import Item, Refusal
from node.errors import PeerError, TransportError, UsageError


def stream(purpose: str) -> Stream:
    return Drbg(b"\x0a" * 32, job="test", step="cluster").stream(purpose)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate, which is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cluster")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "cluster.pem", folder / "cluster.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    paths[1].write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return paths


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    pem, key = (str(path) for path in certificate(folder))
    files = {f"tls_{who}_{what}": path for who in ("client", "scheduler", "worker") for what, path in (("cert", pem), ("key", key))}
    with (
        dask.config.set({"temporary-directory": str(folder)}),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            protocol="tls://",
            security=Security(require_encryption=True, tls_ca_file=pem, **files),
            dashboard_address=None,
            local_directory=str(folder),
            silence_logs=60,
        ) as made,
    ):
        yield Cluster(made.scheduler_address, "keys", Path(pem), Path(pem), Path(key))


@pytest.fixture(scope="module")
def engine(settings: Cluster) -> Iterator[ClusterEngine]:
    made = ClusterEngine(settings)
    yield made
    made.close()


def where(value: int) -> tuple[int, int]:
    time.sleep(0.02)
    return value, os.getpid()


def die_once(item: tuple[int, str]) -> int:
    """Item 3 kills its worker at the first try; the file says that it did."""
    value, marker = item
    if value == 3 and not os.path.exists(marker):
        with open(marker, "w") as file:
            file.write(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return value * value


def refuse(value: int) -> int:
    raise PeerError("test.refused", f"It is {value}.", remedy="Take another.")


def test_items_go_to_both_workers_and_few_are_in_flight(engine: ClusterEngine) -> None:
    assert engine.workers == 2
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results, pids = engine.map(where, items()), set()
    for k in range(1, 12):
        value, pid = next(results)
        assert value == k
        assert taken - k < 4
        pids.add(pid)
    results.close()  # type: ignore[attr-defined]
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_an_error_of_a_function_arrives_whole(engine: ClusterEngine) -> None:
    with pytest.raises(PeerError) as caught:
        list(engine.map(refuse, [7]))
    assert (caught.value.code, caught.value.message, caught.value.remedy) == ("test.refused", "It is 7.", "Take another.")


def test_a_killed_workers_item_runs_elsewhere_with_the_same_bits(engine: ClusterEngine, tmp_path: Path) -> None:
    marker = tmp_path / "killed"
    assert list(engine.map(die_once, [(value, str(marker)) for value in range(8)])) == [value * value for value in range(8)]
    assert not psutil.pid_exists(int(marker.read_text()))


def test_the_bits_are_those_of_this_process(engine: ClusterEngine) -> None:
    key = generate_key(512, stream("key"))
    plaintexts = [[1, 2, 3], [2**300], list(range(20))]
    runs = []
    for one in (InlineEngine(), engine):
        encrypted = list(batches.encrypt(one, key, plaintexts, stream("encrypt")))
        hidden = list(batches.rerandomise(one, key.public, [(batch, [5] * len(batch)) for batch in encrypted], stream("hide")))
        matrix = np.arange(60).reshape(20, 3)
        columns = batches.column_products(one, key.public, [(encrypted[2], matrix)], columns=3, entry_bits=14, expected_rows=20)
        runs.append((encrypted, hidden, columns, list(batches.decrypt(one, key, [*hidden, columns]))))
    assert runs[0] == runs[1]
    assert runs[1][3][1] == [2**300 + 5]


def test_without_trust_in_keys_they_stay_on_this_machine(settings: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    key = generate_key(512, stream("key"))
    primes = {int(key.p), int(key.q)}
    one = ClusterEngine(replace(settings, trust="data"))
    try:
        assert isinstance(one.private, PoolEngine)
        one._local = InlineEngine()  # type: ignore[assignment]
        sent: list[Item[Any, Any]] = []
        submit = one.executor().submit
        monkeypatch.setattr(one.executor(), "submit", lambda run, item: sent.append(item) or submit(run, item))
        encrypted = list(batches.encrypt(one, key, [[1, 2]], stream("encrypt")))
        list(batches.rerandomise(one, key.public, [(encrypted[0], None)], stream("hide")))
        assert list(batches.decrypt(one, key, encrypted)) == [[1, 2]]
        assert len(sent) == 1, "the re-randomisation alone went to the cluster"
        assert not any(str(prime) in repr(sent[0].argument) for prime in primes)
    finally:
        one.close()


def test_what_a_worker_might_log_holds_no_secret() -> None:
    item = Item(refuse, 123456789)
    assert "123456789" not in repr(item)
    assert call_in_worker(item) == Refusal(PeerError, "test.refused", "It is 123456789.", "Take another.")
    assert b"test_cluster" in pickle.dumps(item.function), "functions travel by name: the worker needs the package alone"


def test_a_cluster_that_is_not_there(settings: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.3)
    with pytest.raises(TransportError) as caught:
        ClusterEngine(replace(settings, address="tls://127.0.0.1:9"))
    assert caught.value.code == "engine.cluster_unreachable"
    with pytest.raises(UsageError) as refused:
        ClusterEngine(replace(settings, key=Path("/nowhere/cluster.key")))
    assert refused.value.code == "engine.cluster_files"


def test_a_stranger_without_a_certificate_is_refused(settings: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    pem, key = certificate(tmp_path)
    with pytest.raises(TransportError) as caught:
        ClusterEngine(replace(settings, ca=pem, certificate=pem, key=key))
    assert caught.value.code == "engine.cluster_unreachable"


def test_a_package_that_is_missing(settings: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        ClusterEngine(settings)
    assert caught.value.code == "engine.no_dask"
    assert "isthmus[dask]" in caught.value.remedy


def test_other_versions_are_refused(engine: ClusterEngine, settings: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    real = cluster.versions_here()
    said = check_versions(engine._client, settings)
    assert "scheduler" in said
    assert len(said) >= 2  # a worker that was killed may not be back yet
    assert all(versions == real for versions in said.values())

    class Says:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def run(self, function: Any, on_error: str) -> dict[str, Any]:
            return self.answer

        def run_on_scheduler(self, function: Any) -> dict[str, str]:
            return real

    for answer, code in (
        ({"tls://w:1": real | {"isthmus": "0.0.9"}}, "engine.versions_differ"),
        ({"tls://w:1": real, "tls://w:2": ModuleNotFoundError("node")}, "engine.versions_differ"),
        ({}, "engine.no_workers"),
    ):
        with pytest.raises((UsageError, TransportError)) as caught:
            check_versions(Says(answer), settings)
        assert caught.value.code == code


def test_a_connection_that_is_lost_is_named_and_made_again(settings: Cluster) -> None:
    one = ClusterEngine(settings)
    try:
        results = one.map(where, range(50))
        assert next(results)[0] == 0
        one._client.close()
        with pytest.raises(TransportError) as caught:
            list(results)
        assert caught.value.code == "engine.cluster_lost"
        assert [value for value, _ in one.map(where, range(3))] == [0, 1, 2]
    finally:
        one.close()
    with pytest.raises(UsageError) as closed:
        list(one.map(where, [1]))
    assert closed.value.code == "engine.closed"


def test_doctor_asks_the_cluster(settings: Cluster, tmp_path: Path) -> None:
    assert settings.ca is not None
    (tmp_path / "node.toml").write_text(
        '[node]\nname = "bank"\nrole = "bank"\n[engine]\nkind = "dask"\ntrust = "keys"\n'
        f'address = "{settings.address}"\nca = "{settings.ca}"\ncertificate = "{settings.certificate}"\nkey = "{settings.key}"\n'
    )
    (check,) = doctor_engine.engine(load_config(tmp_path / "node.toml"))
    assert check.state == "ok"
    assert "trusted with keys" in check.detail
    assert f"isthmus {cluster.versions_here()['isthmus']}" in check.detail
