"""Where the rows come from: CSV, Parquet, SQLite and PostgreSQL, as streams of Arrow record batches of the needed columns alone.

CSV and SQL columns arrive as text and are converted later, so that an identifier never loses its leading zeros to a guessed type
and a value that does not convert can be named by its row.  No error repeats a data value, a password or a driver's text that
could hold one.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import adbc_driver_manager
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from node.config import DatasetConfig
from node.data.schema import check_present
from node.errors import DataError

BATCH_ROWS = 65_536
"""Rows in one batch of a Parquet file or a database."""

# Arrow's handler of such rows is not used: it is given the row's text, and fails aloud where that is not UTF-8.
_MALFORMED_ROW = re.compile(r"CSV parse error: (?:Row #(\d+): )?Expected (\d+) columns, got (\d+)")

_SQLSTATES = {
    "28P01": "the password was not accepted",
    "28000": "the user may not log in",
    "3D000": "the database does not exist",
    "42501": "the user may not read this table",
    "42P01": "the query names a table that does not exist",
    "42703": "the query names a column that does not exist",
    "42601": "the query has a syntax error",
    "25006": "the query tries to write: only reading is allowed",
    "57014": "the query was cancelled or took longer than the server allows",
}

_ERROR_WORDS = {
    "read-only transaction": "the query tries to write: only reading is allowed",
    "readonly database": "the query tries to write: only reading is allowed",
    "syntax error": "the query has a syntax error",
    "refused": "nothing listens at this address",
    "could not translate host name": "the host name is not known",
    "timeout expired": "the server did not answer in time",
    "password authentication failed": "the password was not accepted",
    "no password supplied": "the server asks for a password and none was given",
    "no pg_hba.conf entry": "the server does not admit this user from this machine",
    "ssl": "TLS with the server could not be agreed",
    "does not exist": "the database or the user does not exist",
}


def read_batches(dataset: DatasetConfig, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Stream the rows of a data set, the named columns in the order given.

    Args:
        dataset: the data set; ``path`` is absolute.
        columns: names of the columns, each once.

    Yields:
        Record batches whose columns are text (CSV, SQLite, PostgreSQL) or of the file's own type (Parquet).

    Raises:
        DataError: ``data.missing_file``, ``data.unreadable``, ``data.no_rows`` (an empty CSV file), ``data.malformed_row``,
            ``data.not_utf8``, ``data.missing_column``, ``data.duplicate_column``, ``data.database``.
    """
    reader = {"csv": _csv, "parquet": _parquet, "sqlite": _sqlite, "postgresql": _postgresql}[dataset.source]
    return reader(dataset, list(columns))


def describe_source(dataset: DatasetConfig) -> str:
    """The source for people: kind and place, without user or password."""
    if dataset.uri is not None:
        return redacted_uri(dataset.uri.get_secret_value())
    return f"{dataset.source} {dataset.path}"


def redacted_uri(uri: str) -> str:
    """A database URI without user, password and parameters."""
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "localhost", parts.port
    except ValueError:  # not worth guessing: a stray "@" or ":" may have put the password anywhere
        return "postgresql://(unreadable)"
    if "@" in parts.path or "@" in host:
        return "postgresql://(unreadable)"
    return f"postgresql://{host}{f':{port}' if port else ''}{parts.path}"


# --- files ------------------------------------------------------------------------------------------------------------------------


def _file(dataset: DatasetConfig) -> Path:
    path = Path(dataset.path or "")
    if not path.exists():
        raise DataError(
            "data.missing_file",
            f"The file {path} of the data set {dataset.name!r} does not exist.",
            remedy="Correct its path in node.toml; a relative path starts at the folder of node.toml.",
        )
    if not path.is_file():
        raise _unreadable(dataset, "it is not a file")
    return path


def _unreadable(dataset: DatasetConfig, reason: str) -> DataError:
    return DataError(
        "data.unreadable",
        f"The file {dataset.path} of the data set {dataset.name!r} cannot be read: {reason}.",
        remedy=f"Check the file, the rights to it and that it is {dataset.source.upper()}.",
    )


def _csv(dataset: DatasetConfig, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """A CSV file with a header line, UTF-8, fields quoted by double quotes where needed (RFC 4180)."""
    path = _file(dataset)
    delimiter = dataset.delimiter or ","
    if not path.stat().st_size:
        raise DataError(
            "data.no_rows",
            f"The file {path} of the data set {dataset.name!r} is empty: it has not even a header line.",
            remedy="Export it again, with the names of its columns in the first line.",
        )
    check_present(dataset, columns, _csv_header(dataset, path, delimiter))
    try:
        with pyarrow.csv.open_csv(
            path,
            # One thread: only then does Arrow know the number of a malformed row.
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=4 * 2**20),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=columns, column_types={name: pa.string() for name in columns}, strings_can_be_null=False
            ),
        ) as reader:
            yield from reader
    except (pa.ArrowInvalid, OSError) as error:
        if bad := _MALFORMED_ROW.search(str(error)):
            number, expected, actual = bad.groups()
            row = "A row" if number is None else f"Row {int(number) - 1} (the header not counted)"
            raise DataError(
                "data.malformed_row",
                f"{row} of {path} (data set {dataset.name!r}) has {actual} fields where the header has {expected}.",
                remedy="Correct the row; a field that holds the delimiter stands in double quotes.",
            ) from None
        if "UTF8" in str(error):
            raise _not_utf8(dataset) from None
        if "Empty CSV" in str(error):
            return
        raise _unreadable(dataset, _reason(error)) from None


def _csv_header(dataset: DatasetConfig, path: Path, delimiter: str) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return next(csv.reader(file, delimiter=delimiter), [])
    except UnicodeDecodeError:
        raise _not_utf8(dataset) from None
    except csv.Error:
        raise _unreadable(dataset, "its header line is not CSV") from None
    except OSError as error:
        raise _unreadable(dataset, _reason(error)) from None


def _not_utf8(dataset: DatasetConfig) -> DataError:
    return DataError(
        "data.not_utf8",
        f"The file {dataset.path} of the data set {dataset.name!r} is not UTF-8 text.",
        remedy="Export it as UTF-8.",
    )


def _reason(error: Exception) -> str:
    """The operating system's word for it; Arrow's own texts may quote rows and are left out."""
    return (error.strerror if isinstance(error, OSError) else None) or "its content is not of the declared kind"


def _parquet(dataset: DatasetConfig, columns: list[str]) -> Iterator[pa.RecordBatch]:
    path = _file(dataset)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            check_present(dataset, columns, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                yield batch.select(columns)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise _unreadable(dataset, _reason(error)) from None


# --- databases --------------------------------------------------------------------------------------------------------------------


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _subquery(dataset: DatasetConfig) -> str:
    # The line break ends a comment that the query may end with.
    return f"({(dataset.query or '').strip().rstrip(';')}\n) AS isthmus_source"


@contextmanager
def _connection(dataset: DatasetConfig, connect: Any, uri: str) -> Iterator[Any]:
    """A database connection whose errors are told without the driver's text where that could hold a value or a secret."""
    try:
        with connect(uri) as connection:
            yield connection
    except (adbc_driver_manager.Error, pa.ArrowException, OSError) as error:
        # While rows stream, a driver's failure arrives as Arrow's or as an OSError.
        raise _database_error(dataset, error) from None


def _database_error(dataset: DatasetConfig, error: Exception) -> DataError:
    state = getattr(error, "sqlstate", None) or ""
    reason = _SQLSTATES.get(state)
    text = str(error)
    if reason is None and not state.strip("\x00"):
        reason = next((meaning for words, meaning in _ERROR_WORDS.items() if words in text.lower()), None)
    named = re.search(r"no such (table|column): [\w.]+", text)
    if reason is None and named:
        reason = named[0]
    if reason is None and not isinstance(error, adbc_driver_manager.Error):
        reason = "the query failed while its rows were read: one of its expressions does not hold for a row, or the link broke"
    if reason is None:
        kind = f"SQLSTATE {state}" if re.fullmatch(r"[0-9A-Z]{5}", state) else type(error).__name__
        reason = f"the database refused the connection or the query ({kind})"
    return DataError(
        "data.database",
        f"The data set {dataset.name!r} cannot be read from {describe_source(dataset)}: {reason}.",
        remedy="Check uri and query of this data set in node.toml, and try the query with the database's own client.",
    )


def _sqlite(dataset: DatasetConfig, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Rows of a query on a SQLite file, opened for reading only.

    SQLite types each value, not the column, so every value is taken as text: a real number with 17 significant digits, which is
    exact; a null as empty text, since the driver fixes a column's type by its first rows and would take nulls for integers.
    """
    import adbc_driver_sqlite.dbapi

    path = _file(dataset)
    source = _subquery(dataset)
    texts = ", ".join(
        f"CASE typeof({c}) WHEN 'real' THEN printf('%!.17g', {c}) WHEN 'null' THEN '' ELSE CAST({c} AS TEXT) END AS {c}"
        for c in map(_quoted, columns)
    )
    with _connection(dataset, adbc_driver_sqlite.dbapi.connect, f"file:{quote(str(path))}?mode=ro") as connection:
        cursor = connection.cursor()
        # A double-quoted name that SQLite does not know would silently be a text constant: names are checked first.
        cursor.execute(f"SELECT * FROM {source} LIMIT 0")
        check_present(dataset, columns, [item[0] for item in cursor.description])
        cursor.execute(f"SELECT {texts} FROM {source}")
        yield from _text_batches(cursor.fetch_record_batch(), columns)
        cursor.close()


def _postgresql(dataset: DatasetConfig, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Rows of a query on a PostgreSQL server, in one read-only transaction; the server writes each value as text (floats
    exactly)."""
    import adbc_driver_postgresql.dbapi

    source = _subquery(dataset)
    uri = dataset.uri.get_secret_value() if dataset.uri else ""
    with _connection(dataset, adbc_driver_postgresql.dbapi.connect, uri) as connection:
        cursor = connection.cursor()
        cursor.execute("SET TRANSACTION READ ONLY")
        cursor.execute(f"SELECT * FROM {source} LIMIT 0")
        check_present(dataset, columns, [item[0] for item in cursor.description])
        texts = ", ".join(f"{c}::text AS {c}" for c in map(_quoted, columns))
        cursor.execute(f"SELECT {texts} FROM {source}")
        yield from _text_batches(cursor.fetch_record_batch(), columns)
        cursor.close()


def _text_batches(reader: Any, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Batches whose columns are text, also where a driver found nothing but nulls and chose another type."""
    schema = pa.schema([(name, pa.string()) for name in columns])
    for batch in reader:
        yield pa.RecordBatch.from_arrays([column.cast(pa.string()) for column in batch.columns], schema=schema)
