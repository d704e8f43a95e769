"""Databases as sources: SQLite always, PostgreSQL against a real server where its programs are installed."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from node.config import DatasetConfig
from node.data.load import load_table
from node.data.sources import describe_source, read_batches, redacted_uri
from node.errors import DataError
from tests import postgres

COLUMNS = {"amount": {"kind": "number"}, "region": {"kind": "category"}, "default": {"kind": "label"}}
ROWS = [("007", 0.1, "north", 1), ("B2", 1e-300, 'so"uth', 0), ("b3", 123456789.123456789, "north", 1)]


def declare(**changes: Any) -> DatasetConfig:
    document = {"name": "cards", "identifier": "id", "query": "select * from cards", "columns": COLUMNS}
    return DatasetConfig.model_validate(document | changes)


def check_rows(dataset: DatasetConfig) -> None:
    table = load_table(dataset, features=["amount", "region"], label="default", normalise="casefold")
    assert table.identifiers == ["007", "b2", "b3"]
    assert table.columns["amount"].tolist() == [row[1] for row in ROWS]
    assert [table.levels["region"][code] for code in table.columns["region"]] == [row[2] for row in ROWS]
    assert table.label is not None
    assert table.label.tolist() == [1, 0, 1]


# --- SQLite ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "odd #name?.db"
    connection = sqlite3.connect(path)
    connection.execute('create table cards (id text, amount real, region text, "default" integer, "na ""me" text)')
    connection.executemany('insert into cards (id, amount, region, "default") values (?, ?, ?, ?)', ROWS)
    connection.commit()
    connection.close()
    return path


def test_sqlite(database: Path) -> None:
    check_rows(declare(source="sqlite", path=str(database)))


def test_sqlite_query_may_end_with_semicolon_or_comment(database: Path) -> None:
    check_rows(declare(source="sqlite", path=str(database), query="select * from cards ; "))
    check_rows(declare(source="sqlite", path=str(database), query="select * from cards -- all of them"))


def test_sqlite_values_of_several_kinds_in_a_column(tmp_path: Path) -> None:
    path = tmp_path / "mixed.db"
    connection = sqlite3.connect(path)
    connection.execute("create table cards (id, amount)")
    connection.executemany("insert into cards values (?, ?)", [(f"c{i}", None if i < 3000 else 1) for i in range(5000)])
    connection.executemany("insert into cards values (?, ?)", [("last", 2.5), ("0815", "3")])
    connection.commit()
    connection.close()
    dataset = declare(source="sqlite", path=str(path), columns={"amount": {"kind": "number", "missing": "0"}})
    table = load_table(dataset, features=["amount"], label=None, normalise="exact")
    assert table.identifiers[-1] == "0815"
    assert table.columns["amount"][2998:3002].tolist()[2:] == [1.0, 1.0]
    assert table.columns["amount"][-2:].tolist() == [2.5, 3.0]


def test_sqlite_streams_in_batches(tmp_path: Path) -> None:
    path = tmp_path / "many.db"
    connection = sqlite3.connect(path)
    connection.execute("create table cards (id integer, wide text)")
    connection.executemany("insert into cards values (?, 'x')", ((i,) for i in range(50_000)))
    connection.commit()
    connection.close()
    batches = list(read_batches(declare(source="sqlite", path=str(path)), ["id"]))
    assert sum(batch.num_rows for batch in batches) == 50_000
    assert len(batches) > 1
    assert batches[0].schema.names == ["id"]


@pytest.mark.parametrize(
    ("query", "columns", "code", "named"),
    [
        ("select * from card", None, "data.database", "no such table"),
        ("select id, absent from cards", None, "data.database", "no such column: absent"),
        ("selec id from cards", None, "data.database", "syntax error"),
        ("select * from cards", {"amonut": {"kind": "number"}}, "data.missing_column", "Did you mean 'amount'"),
        ("delete from cards", None, "data.database", "cannot be read"),
    ],
)
def test_bad_sqlite(query: str, columns: dict[str, Any] | None, code: str, named: str, database: Path) -> None:
    dataset = declare(source="sqlite", path=str(database), query=query, columns=columns or COLUMNS)
    with pytest.raises(DataError) as caught:
        load_table(dataset, features=dataset.features, label=None, normalise="exact")
    assert caught.value.code == code
    assert named in caught.value.message
    assert caught.value.remedy
    assert len(sqlite3.connect(database).execute("select * from cards").fetchall()) == 3


def test_sqlite_file_is_never_created(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        list(read_batches(declare(source="sqlite", path=str(tmp_path / "absent.db")), ["id"]))
    assert caught.value.code == "data.missing_file"
    assert not (tmp_path / "absent.db").exists()


def test_not_sqlite(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("id,amount\n" * 1000)
    with pytest.raises(DataError) as caught:
        list(read_batches(declare(source="sqlite", path=str(tmp_path / "text.db")), ["id"]))
    assert caught.value.code == "data.database"


# --- URIs ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://reader:hunter2@db.example:5433/cards?sslmode=require", "postgresql://db.example:5433/cards"),
        ("postgresql:///cards?host=/run/postgresql&password=hunter2", "postgresql://localhost/cards"),
        ("postgresql://reader:hun/ter2@db.example/cards", "postgresql://(unreadable)"),
        ("postgresql://reader:hunter2@[::1/cards", "postgresql://(unreadable)"),
    ],
)
def test_redacted_uri(uri: str, shown: str) -> None:
    assert redacted_uri(uri) == shown


@pytest.mark.parametrize("port", ["1", "hunter2"])
def test_unreachable_server_tells_no_password(port: str) -> None:
    dataset = declare(source="postgresql", uri=f"postgresql://reader:hunter2@127.0.0.1:{port}/cards")
    with pytest.raises(DataError) as caught:
        list(read_batches(dataset, ["id"]))
    assert caught.value.code == "data.database"
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in describe_source(dataset)
    assert caught.value.__suppress_context__


# --- PostgreSQL ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> str:
    uri = postgres.server().new_database()
    _fill(uri)
    return uri


def _fill(uri: str) -> None:
    import adbc_driver_postgresql.dbapi

    with adbc_driver_postgresql.dbapi.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute('create table cards (id text, amount float8, region text, "default" boolean, exact numeric(30, 10))')
        for identifier, amount, region, default in ROWS:
            cursor.execute("insert into cards values ($1, $2, $3, $4, 1.5)", (identifier, amount, region, bool(default)))


def test_postgresql(server: str) -> None:
    check_rows(declare(source="postgresql", uri=server))


def test_postgresql_types_and_many_rows(server: str) -> None:
    query = "select i as id, i::numeric / 8 as amount from generate_series(1, 100000) as i"
    dataset = declare(source="postgresql", uri=server, query=query, columns={"amount": {"kind": "number"}})
    table = load_table(dataset, features=["amount"], label=None, normalise="exact")
    assert table.identifiers[-1] == "100000"
    assert table.columns["amount"][-1] == 12500.0
    uuids = declare(source="postgresql", uri=server, query="select '6f3c6a3e-9c5b-4e2f-8f43-3c7f1e8a9b10'::uuid as id")
    assert load_table(uuids, features=[], label=None, normalise="exact").identifiers == ["6f3c6a3e-9c5b-4e2f-8f43-3c7f1e8a9b10"]


@pytest.mark.parametrize(
    ("change", "query", "code", "named"),
    [
        (("hunter2", "wrong"), "select * from cards", "data.database", "password"),
        (("/test_", "/absent_"), "select * from cards", "data.database", "database"),
        (("", ""), "select * from card", "data.database", "table that does not exist"),
        (("", ""), "select nothing from cards", "data.database", "column that does not exist"),
        (("", ""), "selec 1", "data.database", "syntax error"),
        (("", ""), "select id, region as amnt from cards", "data.missing_column", "Did you mean 'amnt'"),
        (
            ("", ""),
            "select id, ('SECRET' || region)::float8 as amount from cards",
            "data.database",
            "failed while its rows were read",
        ),
        (("", ""), "select nextval('never') as id, 1 as amount", "data.database", "does not exist"),
        (("", ""), "with gone as (delete from cards returning *) select * from gone", "data.database", "refused"),
    ],
)
def test_bad_postgresql(change: tuple[str, str], query: str, code: str, named: str, server: str) -> None:
    uri = server.replace(*change) if change[0] else server
    dataset = declare(source="postgresql", uri=uri, query=query)
    with pytest.raises(DataError) as caught:
        load_table(dataset, features=["amount"], label=None, normalise="exact")
    assert caught.value.code == code
    assert named in caught.value.message
    for secret in ("hunter2", "SECRET", "reader"):
        assert secret not in str(caught.value)


def test_postgresql_only_reads(server: str) -> None:
    query = "select id, setval('numbers', 5) as amount from cards"
    import adbc_driver_postgresql.dbapi

    with adbc_driver_postgresql.dbapi.connect(server, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("create sequence numbers")
    with pytest.raises(DataError, match="only reading") as caught:
        load_table(declare(source="postgresql", uri=server, query=query), features=["amount"], label=None, normalise="exact")
    assert caught.value.code == "data.database"
