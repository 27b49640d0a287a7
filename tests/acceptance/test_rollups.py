"""Both workers, killed and cut off from everything in turn: at rest the totals are what the tables say."""

import asyncio
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from csv import DictReader
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from connectors.jetstream import connect as connect_nats
from connectors.settings import Settings
from deploy.embedded import free_port
from deploy.servers import NatsServer, PostgresServer
from flows.audit import Difference, audit
from flows.fold import bin_of
from realtime.bench_mix import bench_mix
from realtime.simulated import SimulatedEvent
from realtime.traces import read, usage_events
from tests.support.history import history
from tests.support.roles import acting
from tests.support.rollups import counted, window_differences
from tests.support.stack import connect
from tests.support.trace import TRACE, needs_trace
from tests.support.traffic import Traffic, last_sequence
from tests.support.waiting import eventually
from tests.support.worker import Worker

DAYS = 3


async def undelivered(settings: Settings) -> dict[str, int]:
    """How many messages of each partition no reader was sent."""
    client = await connect_nats(acting(settings, "oracle"), "test-undelivered")
    try:
        consumers = await client.jetstream().consumers_info(settings.stream)
        partitions = {one.config.filter_subject or "" for one in consumers}
        least = {
            partition: min(one.num_pending or 0 for one in consumers if one.config.filter_subject == partition)
            for partition in partitions
        }
        return {partition: pending for partition, pending in least.items() if pending}
    finally:
        await client.close()


async def purge(settings: Settings) -> None:
    client = await connect_nats(acting(settings, "oracle"), "test-purge")
    try:
        await client.jetstream().purge_stream(settings.stream)
    finally:
        await client.close()


@pytest.fixture
def database(settings: Settings) -> Iterator[psycopg.Connection]:
    with connect(settings) as connection:
        yield connection


def stored(database: psycopg.Connection) -> int:
    row = database.execute("SELECT coalesce(sum(read), 0)::bigint FROM slate.progress").fetchone()
    return int(row[0]) if row else 0


def differences(settings: Settings) -> list[Difference]:
    today = datetime.now(UTC).date()
    return list(audit(settings, today - timedelta(days=DAYS + 8), today + timedelta(days=1)))


def bins(durations: list[int]) -> dict[str, int]:
    return dict(Counter(str(bin_of(ms)) for ms in durations))


def history_in_order(count: int, start: datetime, minutes: int, seed: int = 1) -> Iterator[SimulatedEvent]:
    return bench_mix(count, seed=seed, invalid=0, start=start, period=timedelta(minutes=minutes))


def recovery_store(directory: Path) -> str:
    directory.mkdir()
    subprocess.run([sys.executable, "-m", "bytewax.recovery", str(directory), "1"], check=True)
    return str(directory)


@pytest.mark.parametrize("messages", [50_000, pytest.param(200_000, marks=pytest.mark.chaos)])
def test_after_ten_kills_of_each_worker_and_restarts_of_both_servers_no_total_differs(
    settings: Settings, postgres: PostgresServer, nats_server: NatsServer, tmp_path: Path, messages: int
) -> None:
    chance = random.Random(messages)
    start = datetime.now(UTC) - timedelta(days=DAYS)
    events = history(messages, start, timedelta(days=DAYS))
    store = tmp_path / "recovery"
    with (
        Traffic(settings, rate=2500, events=events) as traffic,
        Worker(settings) as ingest,
        Worker(settings, "-r", recovery_store(store), "-s", "5", "-b", "0", flow="flows.rollups") as rollups,
    ):
        for kill in range(10):
            with connect(settings) as database:
                for worker in (ingest, rollups):
                    goal = counted(database) + chance.randrange(1, len(traffic.events) // 50)
                    eventually(lambda goal=goal: counted(database) >= goal or not traffic.running, 30)  # type: ignore[misc]
                    worker.kill()
                    if kill == 5 and worker is rollups:
                        shutil.rmtree(store)
                        recovery_store(store)
                    worker.start()
            if kill == 3:
                postgres.kill()
                postgres.start()
            if kill == 7:
                nats_server.kill()
                nats_server.start()
        assert traffic.running or messages < 100_000, "the kills came too late to hit anything"
        traffic.wait()
        last = asyncio.run(last_sequence(settings))
        with connect(settings) as database:

            def at_rest() -> bool:
                assert (stored(database), counted(database)) == (last, last)
                return True

            eventually(at_rest, 60)
            assert differences(settings) == []
            assert window_differences(database, bins) == []
            row = database.execute(
                "SELECT sum(duplicate)::int, (SELECT count(*) FROM spark_function_calls WHERE updated_at <> ts)::int"
                " FROM slate.progress"
            ).fetchone()
            assert row is not None
            assert min(row) > messages / 200, "the traffic was not hard enough"


def test_what_was_read_ahead_and_left_the_stream_before_ingest_read_it_is_not_counted(
    settings: Settings, database: psycopg.Connection
) -> None:
    database.execute(  # of a stream of that name that is no more, and without meaning for this one
        "INSERT INTO slate.gaps (stream, partition, first_seq, last_seq, reason, found_at)"
        " SELECT %s, partition, 1, 9999, 'retention', now() - interval '1 hour' FROM generate_series(-1, 7) partition",
        (settings.stream,),
    )

    def publish(count: int, seed: int) -> int:
        with Traffic(settings, count, rate=2000, seed=seed):
            pass
        return asyncio.run(last_sequence(settings))

    with Worker(settings) as ingest, Worker(settings, flow="flows.rollups"):
        before = publish(500, 0)
        eventually(lambda: counted(database) == before, 20)
        ingest.kill()
        purged = publish(400, 1)

        eventually(lambda: not asyncio.run(undelivered(settings)), 20)
        asyncio.run(purge(settings))
        left = publish(300, 2) - purged
        ingest.start()
        eventually(lambda: stored(database) == counted(database) == before + left, 30)
        lost = database.execute("SELECT max(lost) FROM slate.ledger WHERE stream = %s", (settings.stream,)).fetchone()
        assert lost is not None
        assert lost[0] >= purged - before
        assert differences(settings) == []


def test_totals_are_seen_within_5_s_of_their_event(settings: Settings, database: psycopg.Connection) -> None:
    with Worker(settings), Worker(settings, flow="flows.rollups"):
        with Traffic(settings, 1000, rate=1000):
            pass
        eventually(lambda: counted(database) == 1000, 20)
        for number in range(3):
            with Traffic(settings, 10, rate=1000, seed=number + 1):
                pass
            eventually(lambda number=number: counted(database) == 1010 + 10 * number, 5)  # type: ignore[misc]


def test_an_hour_without_workers_loses_nothing_and_calls_nothing_late(
    settings: Settings, database: psycopg.Connection
) -> None:
    """Messages of an hour wait in the stream when the workers start; partitions are read at different speeds."""
    start = datetime.now(UTC) - timedelta(hours=2)
    with Worker(settings), Worker(settings, flow="flows.rollups") as rollups:
        with Traffic(settings, rate=50_000, events=history_in_order(5000, start, 60)):
            pass
        eventually(lambda: counted(database) == 5000, 30)
    with Traffic(settings, rate=50_000, events=history_in_order(30_000, start + timedelta(hours=1), 60)):
        pass
    with Worker(settings), rollups:
        eventually(lambda: counted(database) == 35_000, 30)
        assert differences(settings) == []
        closed = "SELECT count(*) FROM slate.windows WHERE closed_at IS NOT NULL AND start > %s"
        later = (start + timedelta(minutes=90),)
        eventually(lambda: (database.execute(closed, later).fetchone() or [0])[0] > 0, 30, what="windows that close")
        row = database.execute("SELECT sum(late)::int FROM slate.windows").fetchone()
        assert row == (0,)


def test_the_number_of_workers_and_processes_may_change_between_runs(
    settings: Settings, database: psycopg.Connection
) -> None:
    addresses = f"127.0.0.1:{free_port()};127.0.0.1:{free_port()}"
    cluster = [("-i", "0", "-a", addresses), ("-i", "1", "-a", addresses)]
    layouts: list[list[tuple[str, ...]]] = [[("-w", "3")], [*cluster], [()]]
    with Worker(settings):
        for run, layout in enumerate(layouts, 1):
            with Traffic(settings, 3000, rate=10_000, seed=run), ExitStack() as stack:
                workers = [
                    stack.enter_context(Worker(settings, *arguments, flow="flows.rollups")) for arguments in layout
                ]
                eventually(lambda run=run: counted(database) == 3000 * run, 30)  # type: ignore[misc]
                for worker in workers:
                    worker.terminate()
                assert [worker.wait() for worker in workers] == [0] * len(layout)
        assert differences(settings) == []
        assert window_differences(database, bins) == []


def test_a_worker_that_waits_for_ingest_stops_when_it_is_told_to(
    settings: Settings, database: psycopg.Connection
) -> None:
    with Worker(settings) as ingest, Worker(settings, flow="flows.rollups") as rollups:
        with Traffic(settings, 500, rate=5000):
            pass
        eventually(lambda: counted(database) == 500, 20)
        ingest.kill()
        for seed in (1, 2):
            with Traffic(settings, 250, rate=5000, seed=seed):
                pass

        def behind_what_is_held() -> bool:
            lags = [lag for name, lag in rollups.metrics().items() if name.startswith("spark_rollup_lag_messages")]
            return sum(lags) > 0

        eventually(behind_what_is_held, 20)
        assert counted(database) == 500
        rollups.terminate()
        assert rollups.wait(10) == 0
        ingest.start()
        rollups.start()
        eventually(lambda: counted(database) == 1000, 20)
        assert differences(settings) == []


def test_a_second_process_stands_by_and_takes_over(settings: Settings, database: psycopg.Connection) -> None:
    with Worker(settings), Worker(settings, flow="flows.rollups") as first:
        eventually(lambda: "reading partition" in first.tail(), 20)
        with Worker(settings, flow="flows.rollups") as second:
            eventually(lambda: "standing by" in second.tail(), 20)
            with Traffic(settings, 6000, rate=3000):
                eventually(lambda: counted(database) > 1000, 20)
                first.kill()
            eventually(lambda: counted(database) == 6000, 30)
            assert second.running
        assert differences(settings) == []


def test_what_comes_late_is_counted_and_said_to_be_late(settings: Settings, database: psycopg.Connection) -> None:
    start = datetime.now(UTC) - timedelta(hours=2)
    with Worker(settings), Worker(settings, flow="flows.rollups") as rollups:
        with Traffic(settings, rate=50_000, events=history_in_order(5000, start, 60)):
            pass
        closed = "SELECT count(*) FROM slate.windows WHERE closed_at IS NOT NULL"
        eventually(lambda: (database.execute(closed).fetchone() or [0])[0] > 0, 30)
        with Traffic(settings, rate=50_000, events=history_in_order(100, start, 1, seed=5)):
            pass
        eventually(lambda: counted(database) == 5100, 30)
        assert differences(settings) == []
        assert window_differences(database, bins) == []
        row = database.execute("SELECT sum(late)::int FROM slate.windows WHERE seconds = 60").fetchone()
        assert row is not None
        assert row[0] > 50
        assert rollups.metrics()["spark_rollup_late_total"] == row[0]


@needs_trace
def test_tokens_per_minute_of_a_real_trace_equal_those_of_its_file(
    settings: Settings, database: psycopg.Connection
) -> None:
    wanted: Counter[tuple[str, str]] = Counter()
    with TRACE.open() as file:
        for row in DictReader(file):
            minute = row["TIMESTAMP"][:16]
            wanted[minute, "prompt"] += int(row["ContextTokens"])
            wanted[minute, "completion"] += int(row["GeneratedTokens"])
    requests = list(read(TRACE))
    with Worker(settings), Worker(settings, flow="flows.rollups"):
        with Traffic(settings, rate=50_000, events=usage_events(iter(requests))):
            pass
        eventually(lambda: counted(database) == len(requests), 60)
    found: Counter[tuple[str, str]] = Counter()
    for start, prompt, completion in database.execute(
        "SELECT to_char(start, 'YYYY-MM-DD HH24:MI'), tokens_prompt, tokens_completion FROM slate.windows"
        " WHERE signal = 'usage_by_model' AND seconds = 60"
    ):
        found[start, "prompt"] += prompt
        found[start, "completion"] += completion
    assert found == wanted
