"""Whatever is killed, every acknowledged message is stored once: real kills, and the publisher's own list as oracle."""

import random
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from connectors.settings import Settings
from deploy.embedded import free_port
from deploy.servers import NatsServer, PostgresServer
from tests.support.proxy import Proxy
from tests.support.stack import Stack, connect
from tests.support.traffic import Traffic, assert_drained_exactly_once
from tests.support.waiting import eventually
from tests.support.worker import Worker

MESSAGES = 50_000
WRITES_AGAIN_WITHIN_S = 3.0


@pytest.fixture
def database(settings: Settings) -> Iterator[psycopg.Connection]:
    with connect(settings) as connection:
        yield connection


def read_count(database: psycopg.Connection) -> int:
    row = database.execute("SELECT coalesce(sum(read), 0)::bigint FROM slate.progress").fetchone()
    assert row
    return int(row[0])


def restart_until(worker: Worker, database: psycopg.Connection) -> float:
    """Start a killed worker and return the seconds until it writes."""
    before = read_count(database)
    start = time.monotonic()
    worker.start()
    eventually(lambda: read_count(database) > before, 20, what="a write after the restart")
    return time.monotonic() - start


def test_kill_9_of_the_worker_at_20_random_moments_loses_and_doubles_nothing(
    settings: Settings, database: psycopg.Connection
) -> None:
    chance = random.Random(20)
    times = []
    with Traffic(settings, 3 * MESSAGES, rate=1300) as traffic, Worker(settings) as worker:
        eventually(lambda: read_count(database) > 0, 20)
        for _ in range(20):
            goal = read_count(database) + chance.randrange(1, 2000)
            eventually(lambda goal=goal: read_count(database) >= goal, 20)  # type: ignore[misc]
            worker.kill()
            times.append(restart_until(worker, database))
        traffic.stop()
        assert_drained_exactly_once(database, settings, traffic.events)
    slow = [seconds for seconds in times if seconds > WRITES_AGAIN_WITHIN_S]
    assert len(slow) <= len(times) // 2, f"a restarted worker wrote after {sorted(times)} s"


def test_postgres_stopped_for_10_s_and_killed_loses_and_doubles_nothing(
    settings: Settings, database: psycopg.Connection, postgres: PostgresServer
) -> None:
    with Traffic(settings, MESSAGES, rate=2500) as traffic, Worker(settings) as worker:
        eventually(lambda: read_count(database) > 2000, 20)
        pid = worker.pid
        database.close()
        postgres.stop()
        outage = time.monotonic() + 10
        eventually(lambda: time.monotonic() > outage, 15, what="10 s without PostgreSQL")
        assert worker.running
        postgres.start()
        with connect(settings) as database:
            before = read_count(database)
            eventually(lambda: read_count(database) > before, 20, what="writing again after the outage")
        postgres.kill()
        postgres.start()
        traffic.wait()
        with connect(settings) as database:
            assert_drained_exactly_once(database, settings, traffic.events)
        assert worker.running
        assert worker.pid == pid


def test_nats_killed_and_restarted_loses_and_doubles_nothing(
    settings: Settings, database: psycopg.Connection, nats_server: NatsServer
) -> None:
    with Traffic(settings, MESSAGES, rate=4000) as traffic, Worker(settings) as worker:
        for _ in range(3):
            before = read_count(database)
            eventually(lambda before=before: read_count(database) > before + 3000, 30)  # type: ignore[misc]
            nats_server.kill()
            nats_server.start()
        traffic.wait()
        assert_drained_exactly_once(database, settings, traffic.events)
        assert worker.running


def test_a_connection_cut_in_the_middle_of_transactions_loses_and_doubles_nothing(
    make_settings: Callable[..., Settings], postgres: PostgresServer
) -> None:
    chance = random.Random(4)
    with Proxy(postgres.port) as proxy:
        direct = make_settings()
        through = direct.model_copy(update={"db_port": proxy.port})
        with Traffic(direct, MESSAGES, rate=5000) as traffic, Worker(through) as worker, connect(direct) as database:
            for number in range(40):
                goal = read_count(database) + chance.randrange(1, 1500)
                eventually(lambda goal=goal: read_count(database) >= goal or not traffic.running, 30)  # type: ignore[misc]
                if number % 2:
                    proxy.cut()
                else:
                    proxy.cut_after_request()
            traffic.wait()
            assert_drained_exactly_once(database, direct, traffic.events)
            assert worker.running
    assert proxy.cuts >= 20


def test_a_second_worker_started_by_mistake_stands_by_and_takes_over(
    settings: Settings, database: psycopg.Connection
) -> None:
    with Traffic(settings, MESSAGES, rate=4000) as traffic, Worker(settings) as first:
        eventually(lambda: read_count(database) > 1000, 20)
        with Worker(settings) as second:
            eventually(lambda: "standing by" in second.tail(), 20, what="the second worker's word")
            before = read_count(database)
            eventually(lambda: read_count(database) > before + 5000, 20)
            assert first.running
            assert second.running
            first.kill()
            before = read_count(database)
            eventually(lambda: read_count(database) > before, 10, what="the second worker's writing")
            traffic.wait()
            assert_drained_exactly_once(database, settings, traffic.events)


def test_sigterm_drains_and_exits_0(settings: Settings, database: psycopg.Connection) -> None:
    with Traffic(settings, 10_000, rate=5000) as traffic, Worker(settings) as worker:
        eventually(lambda: read_count(database) > 1000, 20)
        worker.terminate()
        assert worker.wait(20) == 0
        worker.start()
        traffic.wait()
        assert_drained_exactly_once(database, settings, traffic.events)


@pytest.mark.parametrize("arguments", [("-w", "2"), ("-w", "3")], ids=" ".join)
def test_several_workers_in_a_process_store_everything_once(
    settings: Settings, database: psycopg.Connection, arguments: tuple[str, ...]
) -> None:
    with Traffic(settings, 10_000, rate=10_000) as traffic, Worker(settings, *arguments) as worker:
        traffic.wait()
        assert_drained_exactly_once(database, settings, traffic.events)
        worker.terminate()
        assert worker.wait(20) == 0


def test_a_cluster_of_two_processes_stores_everything_once(
    stack: Stack, settings: Settings, database: psycopg.Connection
) -> None:
    addresses = f"127.0.0.1:{free_port()};127.0.0.1:{free_port()}"
    with (
        Traffic(settings, 10_000, rate=10_000) as traffic,
        Worker(settings, "-i", "0", "-a", addresses) as one,
        Worker(settings, "-i", "1", "-a", addresses) as other,
    ):
        traffic.wait()
        assert_drained_exactly_once(database, settings, traffic.events)
        one.terminate()
        other.terminate()
        assert one.wait(20) == 0
        assert other.wait(20) == 0
