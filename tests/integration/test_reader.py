"""Reading from one server: its limits, what happens when it restarts, a pooler before it, and plans on large tables."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import psycopg
import pytest
from prometheus_client import REGISTRY

from connectors.errors import ConfigurationError, ConnectionFailedError, SchemaError
from connectors.reads import Reader, ReadTimeoutError
from connectors.replica_lag import Lag
from connectors.settings import Settings
from deploy.servers import PostgresServer
from realtime import queries
from tests.bench.reads import Watched, reads
from tests.integration.test_pgbouncer import pooled  # noqa: F401 - a fixture
from tests.integration.test_queries import nodes
from tests.support.many_rows import fill
from tests.support.redis_client import in_loop
from tests.support.stack import Stack, connect

LARGE = 10_000
"""Rows from which on nothing may read a table whole."""


class Number(NamedTuple):
    n: int


class Setting(NamedTuple):
    value: str


async def one(reader: Reader) -> int:
    (row,) = await reader.fetch("SELECT 1 AS n", {}, Number)
    return row.n


@in_loop
async def test_without_a_replica_the_primary_answers(settings: Settings) -> None:
    before = REGISTRY.get_sample_value("spark_reads_seconds_count", {"source": "primary"}) or 0.0
    async with Reader(settings) as reader:
        assert await one(reader) == 1
        assert await reader.health() == {"primary": True, "replica": None, "replica_lag_s": None}
    assert REGISTRY.get_sample_value("spark_reads_seconds_count", {"source": "primary"}) == before + 1


@in_loop
async def test_nothing_can_be_written(settings: Settings) -> None:
    async with Reader(settings) as reader:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await reader.fetch("INSERT INTO slate.dropped_months VALUES (now()) RETURNING 1 AS n", {}, Number)
        assert await one(reader) == 1


@in_loop
async def test_a_read_that_takes_too_long_is_ended_and_the_next_is_not(settings: Settings) -> None:
    async with Reader(settings) as reader:
        begun = time.monotonic()
        with pytest.raises(ReadTimeoutError, match="longer than 5 s"):
            await reader.fetch("SELECT 1 AS n FROM pg_sleep(20)", {}, Number)
        assert 4.5 < time.monotonic() - begun < 8
        assert await one(reader) == 1
        with connect(settings) as connection:
            still = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(20)%'"
            assert connection.execute(f"{still} AND pid <> pg_backend_pid()".encode()).fetchone() == (0,)


@in_loop
async def test_a_read_that_nobody_waits_for_any_more_is_ended(settings: Settings) -> None:
    async with Reader(settings) as reader:
        for _ in range(20):  # more than there are connections
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await reader.fetch("SELECT 1 AS n FROM pg_sleep(4)", {}, Number)
        begun = time.monotonic()
        assert await one(reader) == 1
        assert time.monotonic() - begun < 2


@in_loop
async def test_connections_are_few_and_named(settings: Settings) -> None:
    async with Reader(settings) as reader:
        slow = "SELECT 1 AS n FROM pg_sleep(0.3)"
        reading = asyncio.gather(*(reader.fetch(slow, {}, Number) for _ in range(40)), return_exceptions=True)
        most = 0
        with connect(settings) as connection:
            while not reading.done():
                count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'slate-api'"
                (now,) = (await asyncio.to_thread(connection.execute, count)).fetchone() or (0,)
                most = max(most, now)
                await asyncio.sleep(0.02)
        assert await reading == [[(1,)]] * 40
        assert 2 < most <= 9  # one of them looks whether the server is well


@in_loop
async def test_where_all_connections_are_busy_that_is_said(settings: Settings) -> None:
    async with Reader(settings) as reader:
        slow = [asyncio.create_task(reader.fetch("SELECT 1 AS n FROM pg_sleep(4.8)", {}, Number)) for _ in range(8)]
        await asyncio.sleep(0.3)
        with pytest.raises(ConnectionFailedError, match="all 8 connections for reads were busy"):
            await one(reader)
        assert await asyncio.gather(*slow) == [[(1,)]] * 8


@in_loop
async def test_after_a_restart_the_first_read_is_answered(settings: Settings, postgres: PostgresServer) -> None:
    async with Reader(settings) as reader:
        await asyncio.gather(*(one(reader) for _ in range(8)))
        for how in ("kill", "stop"):
            getattr(postgres, how)()
            postgres.start()
            assert await asyncio.gather(*(one(reader) for _ in range(20))) == [1] * 20
        postgres.kill()
        with pytest.raises(ConnectionFailedError, match="SLATE_DB_HOST"):
            await one(reader)
        assert (await reader.health())["primary"] is False
        postgres.start()
        assert await one(reader) == 1


@in_loop
async def test_a_frozen_server_is_given_up_soon_also_by_reads_that_are_under_way(
    settings: Settings, postgres: PostgresServer
) -> None:
    async with Reader(settings) as reader:
        under_way = asyncio.create_task(reader.fetch("SELECT 1 AS n FROM pg_sleep(0.5)", {}, Number))
        await asyncio.sleep(0.2)
        postgres.pause()
        try:
            begun = time.monotonic()
            with pytest.raises(ConnectionFailedError):
                await under_way
            assert time.monotonic() - begun < 6
        finally:
            postgres.resume()
        assert await one(reader) == 1


@in_loop
async def test_what_is_missing_is_said_with_what_to_do(empty_settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="SLATE_DB_HOST"):
        Reader(Settings.load(local=False))
    async with Reader(empty_settings) as reader:
        with pytest.raises(SchemaError, match="slate migrate"):
            await queries.sessions(reader, None)
    nowhere = empty_settings.model_copy(update={"db_port": 1})
    async with Reader(nowhere) as reader:
        with pytest.raises(ConnectionFailedError, match="SLATE_DB_HOST"):
            await one(reader)


@in_loop
async def test_it_works_behind_a_pooler_in_transaction_mode(pooled: Settings) -> None:  # noqa: F811
    async with Reader(pooled) as reader:
        for _ in range(10):
            found = await asyncio.gather(
                *(reader.fetch("SELECT current_setting('TimeZone') AS value", {}, Setting) for _ in range(20))
            )
            assert {row.value for (row,) in found} == {"UTC"}
            limits = await asyncio.gather(
                *(reader.fetch("SELECT current_setting('statement_timeout') AS value", {}, Setting) for _ in range(20))
            )
            assert {row.value for (row,) in limits} == {"5s"}
            assert (await queries.sessions(reader, None)).items == []


@pytest.fixture(scope="module")
def full(stack: Stack) -> Iterator[Settings]:
    """Three hundred thousand rows."""
    with stack.provide() as settings, connect(settings) as connection:
        assert fill(connection, 300_000) > 250_000
        yield settings


@in_loop
async def test_no_read_reads_a_large_table_whole(full: Settings) -> None:
    seen: dict[str, list[str]] = {}
    with connect(full) as connection:
        large = {
            name
            for (name,) in connection.execute(
                "SELECT relname FROM pg_class WHERE reltuples >= %s AND relkind = 'r'", (LARGE,)
            )
        }
        assert {"spark_function_calls", "spark_usage", "spark_previews", "alerts", "windows"} <= large
        async with Watched(full) as reader:
            for name, read in reads(connection, datetime.now(UTC)).items():
                if "31 days" in name:
                    continue  # a third of what there is, which is quicker read whole
                await read(reader)
                row = connection.execute(f"EXPLAIN (FORMAT JSON) {reader.sql}".encode(), reader.parameters).fetchone()
                assert row is not None
                seen[name] = [
                    node["Relation Name"]
                    for node in nodes(row[0][0]["Plan"])
                    if node["Node Type"] == "Seq Scan" and node["Relation Name"] in large
                ]
    assert len(seen) > 30
    assert {name: tables for name, tables in seen.items() if tables} == {}


def test_lag_is_the_time_since_when_the_primary_has_been_further_on() -> None:
    lag = Lag()
    assert lag.replica(0.0, 100, 9.0) is None
    lag.primary(1.0, 100)
    assert lag.replica(1.0, 100, 3600.0) == 0.0  # idle, however long
    lag.primary(2.0, 100)
    lag.primary(3.0, 200)
    assert lag.replica(3.5, 100, 3600.0) == 0.5
    lag.primary(4.0, 300)
    assert lag.replica(5.0, 100, 3600.0) == 2.0
    assert lag.replica(5.0, 250, 3600.0) == 1.0
    assert lag.replica(6.0, 300, 3600.0) == 0.0
    lag.primary(7.0, 50)  # restored to a point before
    assert lag.replica(7.5, 40, None) == 0.5


def test_a_replica_that_was_behind_from_the_beginning_is_as_late_as_it_says() -> None:
    lag = Lag()
    lag.primary(1.0, 100)
    assert lag.replica(1.0, 50, 3600.0) == 3600.0
    lag.primary(2.0, 110)
    assert lag.replica(2.0, 60, 3000.0) == 3000.0
    assert lag.replica(3.0, 105, 3000.0) == 1.0


def test_a_replica_that_is_away_for_days_takes_no_memory_and_is_still_late() -> None:
    lag = Lag()
    for second in range(20_000):
        lag.primary(float(second), 10 * second)
    assert len(lag._ahead) <= 3600
    late = lag.replica(20_000.0, 100_000, None)
    assert late == pytest.approx(10_000, rel=0.01)
