"""Columns in PostgreSQL's binary form, read back by PostgreSQL itself."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.arrays import (
    BIGINT,
    BYTEA,
    DATE,
    INTEGER,
    JSON,
    LABEL,
    TEXT,
    TIMESTAMP,
    UUID,
    ColumnType,
    register,
)
from deploy.servers import PostgresServer

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Connection = psycopg.Connection[tuple[Any, ...]]
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
moments = st.datetimes(timezones=st.just(UTC))
COLUMNS = pytest.mark.parametrize(
    ("kind", "values", "read"),
    [
        (TEXT, texts, None),
        (LABEL, texts, None),
        (JSON, texts.map(str.encode), bytes.decode),
        (BYTEA, st.binary(), None),
        (INTEGER, st.integers(-(2**31), 2**31 - 1), None),
        (BIGINT, st.integers(-(2**63), 2**63 - 1), None),
        (TIMESTAMP, moments.map(lambda at: (at - EPOCH) // timedelta(microseconds=1)), None),
        (UUID, st.binary(min_size=16, max_size=16), lambda data: uuid.UUID(bytes=data)),
        (DATE, st.integers(-700_000, 2_900_000), lambda day: (EPOCH + timedelta(days=day)).date()),
    ],
    ids=["text", "label", "json", "bytea", "integer", "bigint", "timestamp", "uuid", "date"],
)


@pytest.fixture(scope="module")
def connection(postgres: PostgresServer) -> Iterator[Connection]:
    postgres.start()
    environment = postgres.environment()
    with psycopg.connect(
        host=environment["SLATE_DB_HOST"],
        port=environment["SLATE_DB_PORT"],
        user=environment["SLATE_DB_USER"],
        password=environment["SLATE_DB_PASSWORD"],
        dbname="postgres",
        autocommit=True,
    ) as connection:
        connection.execute("SET timezone TO 'UTC'")
        register(connection.adapters)
        yield connection


def read_back(connection: Connection, kind: ColumnType, values: list[Any]) -> list[Any]:
    row = connection.execute(f"SELECT %(x)b::{kind.name}[]", {"x": kind.array(values)}).fetchone()
    assert row is not None
    found: list[Any] = row[0]
    return found


def as_read(kind: ColumnType, values: list[Any], read: Any) -> list[Any]:
    if kind is TIMESTAMP:
        return [None if us is None else EPOCH + timedelta(microseconds=us) for us in values]
    return [value if value is None or read is None else read(value) for value in values]


@COLUMNS
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_postgresql_reads_what_was_written(
    connection: Connection, kind: ColumnType, values: st.SearchStrategy[Any], read: Any, data: st.DataObject
) -> None:
    column = data.draw(st.lists(st.none() | values))
    expected = as_read(kind, column, read) if any(value is not None for value in column) else []
    assert read_back(connection, kind, column) == expected


@COLUMNS
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_column_of_nulls_only_is_as_long_as_the_columns_beside_it(
    connection: Connection, kind: ColumnType, values: st.SearchStrategy[Any], read: Any, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, 20))
    other = data.draw(st.lists(values, min_size=count, max_size=count))
    numbers = list(range(count))
    rows = connection.execute(
        f"SELECT * FROM unnest(%(a)b::integer[], %(b)b::{kind.name}[], %(c)b::{kind.name}[])",
        {"a": INTEGER.array(numbers), "b": kind.array([None] * count), "c": kind.array(other)},
    ).fetchall()
    assert rows == list(zip(numbers, [None] * count, as_read(kind, other, read), strict=True))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (INTEGER, [-(2**31), -1, 0, None, 2**31 - 1]),
        (BIGINT, [-(2**63), -1, 0, None, 2**63 - 1]),
        (TEXT, ["", None, "\x01\x7f", "\ufffe\U0010ffff", "語" * 100_000]),
        (LABEL, ["", None, "null", "NULL", "{}", '"', "\\", "語" * 255]),
        (BYTEA, [b"", None, b"\0\xff", b"\0" * (1 << 20)]),
    ],
    ids=["integer", "bigint", "text", "label", "bytea"],
)
def test_the_ends_of_each_range_are_kept(connection: Connection, kind: ColumnType, values: list[Any]) -> None:
    assert read_back(connection, kind, values) == values


@pytest.mark.parametrize(
    "at",
    [
        datetime(2000, 1, 1, tzinfo=UTC),
        datetime(1999, 12, 31, 23, 59, 59, 999_999, UTC),
        datetime(2020, 1, 1, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC),
    ],
)
def test_a_time_is_exact_to_the_microsecond(connection: Connection, at: datetime) -> None:
    assert read_back(connection, TIMESTAMP, [(at - EPOCH) // timedelta(microseconds=1)]) == [at]


def test_json_keeps_the_digits_that_were_published(connection: Connection) -> None:
    row = connection.execute(
        "SELECT unnest(%(x)b::text[])::jsonb::text",
        {"x": JSON.array([b"[0.1234567890123456789,12345678901234567890]"])},
    ).fetchone()
    assert row == ("[0.1234567890123456789, 12345678901234567890]",)


def test_more_labels_than_are_remembered_are_still_written_right(connection: Connection) -> None:
    labels = [f"session-{number}" for number in range(100_010)]
    assert read_back(connection, LABEL, labels) == labels
    assert read_back(connection, LABEL, labels[::-1]) == labels[::-1]


@pytest.mark.parametrize(("kind", "value"), [(INTEGER, 2**31), (INTEGER, -(2**31) - 1), (BIGINT, 2**63)])
def test_a_number_that_overflows_its_column_is_never_written_cut(kind: ColumnType, value: int) -> None:
    with pytest.raises(Exception, match=r"format requires|int too large"):
        kind.array([value])
