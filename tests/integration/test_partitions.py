"""The number of partitions may rise while the stream is full and workers run; nothing is left behind or read twice."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import nats
import psycopg
import pytest

from connectors.errors import StreamError
from connectors.history import History
from connectors.jetstream import UNPARTITIONED, ensure_stream
from connectors.nats import NatsSource
from connectors.postgres import Progress
from connectors.publisher import Publisher
from connectors.rollups import RollupProgress
from connectors.settings import Settings
from connectors.settled import SettledSource
from connectors.shutdown import Shutdown
from connectors.stream_state import StreamState
from tests.support.stack import connect
from tests.support.waiting import eventually
from tests.support.worker import Worker


def publish(settings: Settings, first: int, count: int) -> None:
    """Usage of sessions `first` and on, one message each and without an id: read twice, it would be stored twice."""

    async def send() -> None:
        async with await Publisher.connect(settings) as publisher:
            for number in range(first, first + count):
                await publisher.publish(f"spark.usage.session-{number}", b'{"model":"m"}')

    asyncio.run(send())


def stored(connection: psycopg.Connection) -> list[int]:
    rows = connection.execute("SELECT substr(session_id, 9)::int FROM spark_usage ORDER BY 1").fetchall()
    return [row[0] for row in rows]


def partitions(connection: psycopg.Connection) -> set[int]:
    return {row[0] for row in connection.execute("SELECT partition FROM slate.progress WHERE read > 0")}


@pytest.mark.parametrize("drained_before", [True, False], ids=["read before", "not read yet"])
def test_messages_from_before_a_rise_from_1_partition_are_read_once(
    make_settings: Callable[..., Settings], drained_before: bool
) -> None:
    one = make_settings(partitions=1)
    eight = one.model_copy(update={"partitions": 8})
    publish(one, 0, 300)
    with connect(one) as connection:
        if drained_before:
            with Worker(one):
                eventually(lambda: stored(connection) == list(range(300)), 20)
        asyncio.run(ensure_stream(eight))
        publish(eight, 300, 300)
        with Worker(eight) as worker:
            eventually(lambda: len(stored(connection)) >= 600, 20)
            publish(eight, 600, 1)
            eventually(lambda: len(stored(connection)) >= 601, 20)
            worker.terminate()
            assert worker.wait() == 0
        assert stored(connection) == list(range(601))
        assert UNPARTITIONED in partitions(connection)
        assert len(partitions(connection)) > 4


def test_messages_from_before_a_rise_from_8_partitions_to_16_are_read_once(
    make_settings: Callable[..., Settings],
) -> None:
    eight = make_settings(partitions=8)
    sixteen = eight.model_copy(update={"partitions": 16})
    publish(eight, 0, 300)
    with connect(eight) as connection, Worker(eight) as worker:
        eventually(lambda: len(stored(connection)) >= 100, 20)
        asyncio.run(ensure_stream(sixteen))
        publish(sixteen, 300, 300)
        worker.terminate()
        assert worker.wait() == 0
        with Worker(sixteen):
            eventually(lambda: len(stored(connection)) >= 600, 20)
        assert stored(connection) == list(range(600))
        assert max(partitions(connection)) > 7


@pytest.mark.parametrize("begun", [False, True], ids=["worker first", "migrate first"])
def test_a_partition_that_the_stream_gets_has_not_lost_what_left_the_stream_before(
    settings: Settings, begun: bool
) -> None:
    created = datetime(2026, 3, 1, tzinfo=UTC)
    progress = Progress(settings.model_copy(update={"partitions": 16}))
    before = StreamState(settings.stream, created, first=500, last=900, partitions=8)
    now = StreamState(settings.stream, created, first=700, last=1000, partitions=16 if begun else 8)
    if begun:
        progress.begin(before)
    assert progress.start(15, now) == (900 if begun else 1000)
    with connect(settings) as connection:
        assert connection.execute("SELECT * FROM slate.gaps").fetchall() == []
        counted = connection.execute("SELECT partition, seq FROM slate.rollup_progress ORDER BY 1").fetchall()
        assert counted == ([(partition, 900) for partition in range(8, 16)] if begun else [])


@pytest.mark.parametrize("fewer", [4, 1])
def test_fewer_partitions_are_refused_with_the_remedy(settings: Settings, fewer: int) -> None:
    with pytest.raises(StreamError, match="would never be read; set SLATE_PARTITIONS=8 again"):
        asyncio.run(ensure_stream(settings.model_copy(update={"partitions": fewer})))


def test_a_stream_that_is_made_anew_under_a_worker_ends_it_with_the_reason_and_is_read_at_the_next_start(
    settings: Settings,
) -> None:
    async def renew() -> None:
        client = await nats.connect(settings.nats_servers())
        try:
            await client.jetstream().delete_stream(settings.stream)
        finally:
            await client.close()
        await ensure_stream(settings)

    with connect(settings) as connection, Worker(settings) as worker:
        publish(settings, 0, 100)
        eventually(lambda: len(stored(connection)) == 100, 20)
        asyncio.run(renew())
        publish(settings, 100, 300)
        assert worker.wait(30) != 0
        said = worker.log.read_text()
        assert "the stream was made anew: stopping" in said
        assert "another worker" not in said
        worker.start()
        eventually(lambda: len(stored(connection)) >= 400, 20)
        assert stored(connection) == list(range(400))


def test_sets_of_partitions_are_of_ingest_only(settings: Settings) -> None:
    set_of = settings.model_copy(update={"worker_partitions": "0-3"})
    counted = SettledSource(set_of, "rollups", RollupProgress(set_of, Shutdown()), History(), Shutdown())
    stored = NatsSource(set_of, "ingest", Progress(set_of), Shutdown())
    assert len(counted.list_parts()) == 9
    assert stored.list_parts() == [f"{number}-{settings.stream}" for number in (-1, 0, 1, 2, 3)]
