"""A real primary with a streaming replica: where reads go while one of them lags, freezes or dies."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import psycopg
import pytest
from prometheus_client import REGISTRY

from connectors.errors import ConnectionFailedError
from connectors.reads import Reader
from connectors.settings import Settings
from deploy.servers import PostgresServer
from tests.support.redis_client import in_loop
from tests.support.replica import REPLICA_HOST, ReplicaServer
from tests.support.stack import Stack, connect
from tests.support.waiting import eventually

WHERE = "SELECT pg_is_in_recovery() AS replica, host(inet_server_addr()) AS address"


class Where(NamedTuple):
    replica: bool
    address: str


class Number(NamedTuple):
    n: int


ON_PRIMARY = Where(False, "127.0.0.1")
ON_REPLICA = Where(True, REPLICA_HOST)


@pytest.fixture(scope="module")
def replica_server(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaServer]:
    stack.ensure_running()
    server = ReplicaServer(tmp_path_factory.mktemp("replica"), stack.postgres)
    server.start()
    yield server
    stack.ensure_running()
    server.forget()


@pytest.fixture
def replicated(settings: Settings, replica_server: ReplicaServer) -> Settings:
    """Settings with a replica that runs and has this test's database."""
    replica_server.resume()
    replica_server.start()
    replica_server.query("SELECT pg_wal_replay_resume()")
    with connect(settings) as connection:
        connection.execute("CREATE TABLE t (n int)")
        connection.execute("INSERT INTO t VALUES (1)")
    both = settings.model_copy(update={"db_replica_host": REPLICA_HOST})
    eventually(lambda: has_table(both), 30, what="the replica has the database")
    return both


def has_table(settings: Settings) -> bool:
    try:
        with connect(settings, host=REPLICA_HOST) as connection:
            return connection.execute("SELECT count(*) FROM t").fetchone() == (1,)
    except psycopg.Error:
        return False


async def where(reader: Reader, *, fresh: bool = False) -> Where:
    (row,) = await reader.fetch(WHERE, {}, Where, fresh=fresh)
    return row


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.02)


async def until_on(reader: Reader, wanted: Where) -> None:
    async def there() -> bool:
        return await where(reader) == wanted

    await until(there)


@asynccontextmanager
async def busy(reader: Reader, slowest: list[float]) -> AsyncIterator[list[Where]]:
    """Sixteen people who read all the time: none of them may see an error."""
    seen: list[Where] = []
    done = False

    async def person() -> None:
        while not done:
            begun = time.monotonic()
            seen.append(await where(reader))
            slowest.append(time.monotonic() - begun)
            await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as people:
        for _ in range(16):
            people.create_task(person())
        yield seen
        done = True


def fallbacks(reason: str) -> float:
    return REGISTRY.get_sample_value("spark_read_fallbacks_total", {"reason": reason}) or 0.0


def gauge() -> float:
    return REGISTRY.get_sample_value("spark_replica_lag_seconds") or 0.0


@in_loop
async def test_reads_go_to_the_replica_and_fresh_ones_to_the_primary(replicated: Settings) -> None:
    async with Reader(replicated) as reader:
        assert {await where(reader) for _ in range(20)} == {ON_REPLICA}
        assert await where(reader, fresh=True) == ON_PRIMARY
        assert await reader.health() == {"primary": True, "replica": True, "replica_lag_s": 0.0}


@in_loop
async def test_an_idle_primary_does_not_make_the_replica_look_late(replicated: Settings) -> None:
    before = fallbacks("lag")
    async with Reader(replicated, max_lag_s=0.2) as reader:
        await until_on(reader, ON_REPLICA)
        before = fallbacks("lag")
        for _ in range(30):
            assert await where(reader) == ON_REPLICA
            await asyncio.sleep(0.1)
    assert fallbacks("lag") == before


@in_loop
async def test_a_replica_that_lags_is_left_alone_until_it_has_caught_up(
    replicated: Settings, replica_server: ReplicaServer
) -> None:
    async with Reader(replicated, max_lag_s=1.5) as reader:
        before = fallbacks("lag")
        replica_server.query("SELECT pg_wal_replay_pause()")
        with connect(replicated) as connection:
            connection.execute("INSERT INTO t VALUES (2)")
        assert await where(reader) == ON_REPLICA
        begun = time.monotonic()
        await until_on(reader, ON_PRIMARY)
        assert 1.0 < time.monotonic() - begun < 5.0
        health = await reader.health()
        assert health["replica"] is True
        assert health["replica_lag_s"] == gauge() > 1.5
        assert fallbacks("lag") > before
        replica_server.query("SELECT pg_wal_replay_resume()")
        await until_on(reader, ON_REPLICA)
        assert await reader.fetch("SELECT n FROM t ORDER BY n", {}, Number) == [(1,), (2,)]
        assert gauge() < 1.5


@in_loop
async def test_a_replica_that_was_behind_before_we_began_is_not_read_from(
    replicated: Settings, replica_server: ReplicaServer
) -> None:
    with connect(replicated) as connection:
        connection.execute("INSERT INTO t VALUES (2)")
        eventually(lambda: replica_server.query("SELECT pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()"))
        replica_server.query("SELECT pg_wal_replay_pause()")
        await asyncio.sleep(1.2)
        connection.execute("INSERT INTO t VALUES (3)")
    async with Reader(replicated, max_lag_s=1.0) as reader:
        assert await where(reader) == ON_PRIMARY


@in_loop
async def test_a_replica_that_is_cut_off_from_the_primary_is_left_alone(
    replicated: Settings, replica_server: ReplicaServer
) -> None:
    conninfo = replica_server.query("SELECT current_setting('primary_conninfo')")
    async with Reader(replicated, max_lag_s=1.0) as reader:
        replica_server.query("ALTER SYSTEM SET primary_conninfo = ''")
        replica_server.query("SELECT pg_reload_conf()")
        try:
            eventually(lambda: replica_server.query("SELECT count(*) FROM pg_stat_wal_receiver") == 0)
            with connect(replicated) as connection:
                connection.execute("INSERT INTO t VALUES (2)")
            await until_on(reader, ON_PRIMARY)
        finally:
            replica_server.query(f"ALTER SYSTEM SET primary_conninfo = $x${conninfo}$x$")
            replica_server.query("SELECT pg_reload_conf()")
        await until_on(reader, ON_REPLICA)


@pytest.mark.parametrize("how", ["kill", "stop", "pause"])
@in_loop
async def test_nobody_sees_an_error_while_the_replica_goes_and_comes_back(
    replicated: Settings, replica_server: ReplicaServer, how: str
) -> None:
    slowest: list[float] = []
    async with Reader(replicated) as reader, busy(reader, slowest) as seen:
        await until_on(reader, ON_REPLICA)
        before = fallbacks("replica_away")
        await asyncio.to_thread(getattr(replica_server, how))
        await until_on(reader, ON_PRIMARY)
        assert (await reader.health())["replica"] is False
        assert fallbacks("replica_away") > before
        if how == "pause":
            replica_server.resume()
        else:
            replica_server.start()  # from this thread, with which it would end
        await until_on(reader, ON_REPLICA)
        assert set(seen) == {ON_PRIMARY, ON_REPLICA}
    assert max(slowest) < 5.0


@pytest.mark.parametrize("how", ["kill", "pause"])
@in_loop
async def test_while_the_primary_is_away_the_replica_serves(
    replicated: Settings, postgres: PostgresServer, how: str
) -> None:
    slowest: list[float] = []
    async with Reader(replicated) as reader:
        assert await where(reader, fresh=True) == ON_PRIMARY
        async with busy(reader, slowest):
            await asyncio.to_thread(getattr(postgres, how))
            asked = await where(reader, fresh=True)
            assert asked == ON_REPLICA
            await until(lambda: primary_is(reader, False))
            assert (await reader.health())["replica"] is True
            if how == "pause":
                postgres.resume()
            else:
                postgres.start()
            await until(lambda: primary_is(reader, True))
            assert await where(reader, fresh=True) == ON_PRIMARY
    assert max(slowest) < 5.0


async def primary_is(reader: Reader, up: bool) -> bool:
    return (await reader.health())["primary"] is up


@in_loop
async def test_a_reader_that_begins_while_the_primary_is_away_reads_from_the_replica(
    replicated: Settings, postgres: PostgresServer
) -> None:
    postgres.kill()
    async with Reader(replicated) as reader:
        assert await where(reader) == ON_REPLICA
        assert await reader.health() == {"primary": False, "replica": True, "replica_lag_s": None}
        postgres.start()
        await until(lambda: primary_is(reader, True))
        assert await where(reader, fresh=True) == ON_PRIMARY


@in_loop
async def test_what_recovery_cancels_on_the_replica_is_asked_of_the_primary(replicated: Settings) -> None:
    async with Reader(replicated) as reader:
        await until_on(reader, ON_REPLICA)
        before = fallbacks("recovery_conflict")
        slow = "SELECT count(*) AS n FROM t CROSS JOIN (SELECT pg_sleep(1.5)) AS s"
        asked = asyncio.create_task(reader.fetch(slow, {}, Number))
        with connect(replicated, host=REPLICA_HOST) as replica:
            active = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'slate-api' AND state = 'active'"
            running = lambda: replica.execute(f"{active} AND query LIKE '%pg_sleep%'").fetchone() == (1,)  # noqa: E731
            await until(lambda: asyncio.to_thread(running))
        with connect(replicated) as connection:
            await asyncio.to_thread(connection.execute, "TRUNCATE t")
        assert await asked == [(0,)]
        assert fallbacks("recovery_conflict") == before + 1
        await until_on(reader, ON_REPLICA)


@in_loop
async def test_where_nobody_answers_that_is_said_at_once(
    replicated: Settings, postgres: PostgresServer, replica_server: ReplicaServer
) -> None:
    async with Reader(replicated) as reader:
        replica_server.kill()
        postgres.kill()
        for _ in range(3):
            begun = time.monotonic()
            with pytest.raises(ConnectionFailedError, match="SLATE_DB_HOST and SLATE_DB_REPLICA_HOST"):
                await where(reader)
            assert time.monotonic() - begun < 3
        assert await reader.health() == {"primary": False, "replica": False, "replica_lag_s": None}
        postgres.start()
        assert await where(reader) == ON_PRIMARY
