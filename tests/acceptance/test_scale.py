"""Workers on several hosts: partitions shared out, clusters, hosts that are killed or cut off. Never a row twice.

`pytest -rP` shows the times that were measured.
"""

import asyncio
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from connectors.settings import Settings
from deploy.doctor import examine
from deploy.processes import environment_of
from deploy.servers import ValkeyServer
from realtime.simulated import SimulatedEvent
from tests.acceptance.test_rollups import bins, differences, history_in_order, recovery_store
from tests.support.hosts import BridgeNats, BridgePostgres, Host, Network, network
from tests.support.rollups import counted, window_differences
from tests.support.stack import Stack, connect
from tests.support.traffic import Traffic, assert_drained_exactly_once, last_sequence
from tests.support.waiting import eventually
from tests.support.worker import Worker

TAKES_OVER_WITHIN_S = 30.0
"""A silent reader is given up after 10 s, a transaction of its that is open after 20."""


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture(scope="module")
def servers(net: Network, valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """PostgreSQL and NATS that hosts reach."""
    postgres = BridgePostgres(tmp_path_factory.mktemp("postgres"), net, password=secrets.token_hex(16))
    nats_server = BridgeNats(tmp_path_factory.mktemp("nats"), net, password=secrets.token_hex(16))
    with ExitStack() as stack:
        for server in (postgres, nats_server):
            stack.callback(server.stop)
            server.start()
        yield Stack(postgres, nats_server, valkey)


@pytest.fixture
def shared(servers: Stack) -> Iterator[Settings]:
    """Settings whose servers hosts reach."""
    with servers.provide() as settings:
        yield settings


@pytest.fixture
def database(shared: Settings) -> Iterator[psycopg.Connection]:
    with connect(shared) as connection:
        yield connection


@pytest.fixture
def hosts(net: Network) -> Iterator[dict[str, Host]]:
    yield net.hosts
    for host in net.hosts.values():
        host.join()


def read_in(database: psycopg.Connection, *partitions: int) -> int:
    """How many messages of these partitions are in the ledger."""
    query = "SELECT coalesce(sum(read), 0)::bigint FROM slate.progress WHERE partition = any(%s)"
    row = database.execute(query, (list(partitions),)).fetchone()
    return int(row[0]) if row else 0


def written(worker: Worker) -> set[int]:
    """Partitions of which this worker has written messages."""
    name = "spark_ingest_messages_total{partition="
    return {int(one[len(name) : -1]) for one, count in worker.metrics().items() if one.startswith(name) and count}


def moves_on(database: psycopg.Connection, *partitions: int, within: float) -> None:
    """Wait until something more of these partitions is stored."""
    before = read_in(database, *partitions)
    eventually(lambda: read_in(database, *partitions) > before, within, what=f"a write in {partitions}")


def moved_by(database: psycopg.Connection, worker: Worker) -> int:
    """How many partitions this worker moved last."""
    owners = database.execute("SELECT owner FROM slate.progress WHERE owner IS NOT NULL").fetchall()
    return sum(owner.split(":")[1] == str(worker.pid) for (owner,) in owners)


def taken_over(database: psycopg.Connection, by: Worker, partitions: int, within: float) -> float:
    """Seconds until this worker has written to at least so many partitions.

    More messages alone would not tell: what the old one had sent before it was stopped may be stored after it.
    """
    start = time.monotonic()
    eventually(lambda: moved_by(database, by) >= partitions, within, what=f"writes in {partitions} partitions")
    return time.monotonic() - start


def measured(what: str, seconds: float) -> None:
    sys.stdout.write(f"measured: {what % seconds}\n")


def keep(*workers: Worker) -> bool:
    """Start again what has ended, as a supervisor does."""
    for worker in workers:
        if not worker.running:
            worker.start()
    return True


def test_two_hosts_share_out_the_partitions_and_each_writes_only_its_own(
    shared: Settings, database: psycopg.Connection, hosts: dict[str, Host]
) -> None:
    with (
        Traffic(shared, 10_000, rate=5000) as traffic,
        hosts["a"].worker(shared, worker_partitions="0-3") as a,
        hosts["b"].worker(shared, worker_partitions="4-7") as b,
    ):
        traffic.wait()
        assert_drained_exactly_once(database, shared, traffic.events)
        assert written(a) == {0, 1, 2, 3}
        assert written(b) == {4, 5, 6, 7}
        assert a.metrics()["spark_stream_partitions"] == 8


def test_a_host_that_is_killed_is_followed_by_one_that_stands_by_for_all(
    shared: Settings, database: psycopg.Connection, hosts: dict[str, Host]
) -> None:
    with (
        Traffic(shared, 20_000, rate=2000) as traffic,
        hosts["a"].worker(shared, worker_partitions="0-3") as a,
        hosts["b"].worker(shared, worker_partitions="4-7") as b,
    ):
        eventually(lambda: read_in(database, 0) and read_in(database, 7), 20)
        with hosts["c"].worker(shared) as c:
            eventually(lambda: c.tail(100).count("standing by") == 9, 20)
            a.kill()
            took = taken_over(database, c, 4, within=10)
            measured("taken over from a killed host after %.1f s", took)
            a.start()
            eventually(lambda: "standing by" in a.tail(10), 20)
            traffic.wait()
            assert_drained_exactly_once(database, shared, traffic.events)
            assert written(c) <= {0, 1, 2, 3}
            assert written(b) == {4, 5, 6, 7}
            assert b.running
            assert c.running


@pytest.mark.chaos
def test_a_host_that_is_cut_off_is_followed_and_stops_when_it_comes_back(
    shared: Settings, database: psycopg.Connection, hosts: dict[str, Host]
) -> None:
    with (
        Traffic(shared, 75_000, rate=1000) as traffic,
        hosts["a"].worker(shared, worker_partitions="0-3") as a,
        hosts["b"].worker(shared, worker_partitions="4-7") as b,
        ExitStack() as later,
    ):
        eventually(lambda: read_in(database, 0) and read_in(database, 7), 20)
        c = later.enter_context(hosts["c"].worker(shared))
        eventually(lambda: c.tail(100).count("standing by") == 9, 20)
        hosts["a"].cut()
        took = taken_over(database, c, 4, within=TAKES_OVER_WITHIN_S)
        measured("taken over from a host that was cut off after %.1f s", took)
        moves_on(database, 4, 5, 6, 7, within=1)
        assert a.running, "it waits: it cannot know that it was followed"
        hosts["a"].join()
        start = time.monotonic()
        assert a.wait(60) != 0
        measured("the one that came back stopped after %.1f s", time.monotonic() - start)
        assert "another worker" in a.log.read_text()
        a.start()
        eventually(lambda: a.tail(50).count("standing by") >= 4, 30)
        traffic.wait()
        assert_drained_exactly_once(database, shared, traffic.events)
        assert b.running
        assert c.running


@pytest.mark.chaos
def test_what_a_host_had_begun_to_write_when_it_was_cut_off_does_not_hold_others_up(
    shared: Settings, database: psycopg.Connection, hosts: dict[str, Host]
) -> None:
    """Its server process has half of a transaction, and would wait for the rest for hours with the row locked."""
    large = [
        SimulatedEvent(
            due=0,
            kind="telemetry",
            subject=f"spark.telemetry.large-{number}",
            payload=b'{"sessionId":"large-%d","kind":"k","data":{"text":"%s"}}' % (number, b"x" * 900_000),
            msg_id=f"large-{number}",
            identity=f"large-{number}",
        )
        for number in range(40)
    ]
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'slate-ingest'"
        " AND wait_event_type = 'Lock' AND datname = current_database()"
    )
    holding = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'slate-ingest'"
        " AND wait_event = 'ClientRead' AND xact_start IS NOT NULL AND datname = current_database()"
    )
    with hosts["a"].worker(shared) as a, connect(shared) as other:
        eventually(lambda: a.tail(100).count("reading partition") == 9, 20)
        with other.transaction():
            other.execute("LOCK TABLE spark_telemetry IN ACCESS EXCLUSIVE MODE")
            with Traffic(shared, rate=1000, events=large):
                pass
            eventually(lambda: database.execute(waiting).fetchone() == (1,), 20)
            hosts["a"].cut()
        eventually(lambda: database.execute(holding).fetchone() == (1,), 20, what="half of a transaction")
        with hosts["b"].worker(shared) as b:
            start = time.monotonic()
            eventually(lambda: read_in(database, *range(8)) == 40, 60)
            measured("written by another host after %.1f s", time.monotonic() - start)
            assert time.monotonic() - start < TAKES_OVER_WITHIN_S
            assert b.running
            hosts["a"].join()
            assert a.wait(60) != 0
            assert database.execute("SELECT count(*) FROM spark_telemetry").fetchone() == (40,)


def test_a_host_with_a_slow_line_is_late_and_nothing_else(
    shared: Settings, database: psycopg.Connection, hosts: dict[str, Host]
) -> None:
    hosts["d"].slow("8mbit")
    with (
        Traffic(shared, 3000, rate=10_000) as traffic,
        hosts["d"].worker(shared, worker_partitions="0-3") as d,
        hosts["b"].worker(shared, worker_partitions="4-7") as b,
    ):
        traffic.wait()
        assert_drained_exactly_once(database, shared, traffic.events)
        assert d.running
        assert b.running


def test_a_partition_that_nobody_reads_is_told_and_sets_that_overlap_store_all_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(partitions: str) -> Settings:
        return settings.model_copy(update={"worker_partitions": partitions})

    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    with Traffic(settings, 4000, rate=10_000) as traffic, connect(settings) as database:
        with Worker(of("0-4")) as one, Worker(of("3-6")):
            traffic.wait()
            eventually(lambda: all(read_in(database, partition) for partition in range(7)), 20)
            read = {name for name in one.metrics() if name.startswith("spark_ingest_lag_messages")}
            assert len(read) == 6
            assert one.metrics()["spark_stream_partitions"] == 8
            (lag,) = [check for check in examine() if check.name == "lag"]
            assert lag.state == "warn"
            assert lag.found.endswith("in partition 7")
            with Worker(of("6-7")):
                assert_drained_exactly_once(database, settings, traffic.events)
        assert sum(read_in(database, partition) for partition in range(8)) == 4000


@pytest.mark.parametrize("followed", [9, *(pytest.param(few, marks=pytest.mark.chaos) for few in (1, 2, 3))])
def test_a_worker_that_hangs_is_followed_and_stops_when_it_goes_on(settings: Settings, followed: int) -> None:
    """It goes on when it has been followed in so many partitions at least; before all nine, it may have written what
    the other began to read, and both stop.
    """
    with (
        Traffic(settings, 100_000, rate=1000) as traffic,
        Worker(settings) as hanging,
        connect(settings) as database,
    ):
        taken_over(database, hanging, 9, within=20)
        with Worker(settings) as other:
            eventually(lambda: other.log.read_text().count("standing by") == 9, 20)
            hanging.pause()
            took = taken_over(database, other, 1, within=TAKES_OVER_WITHIN_S)
            measured("taken over from a worker that hangs after %.1f s", took)
            taken_over(database, other, followed, within=10)
            hanging.resume()
            assert hanging.wait(30) != 0
            assert "another worker" in hanging.log.read_text()
            traffic.stop()
            if followed < 9:
                last = asyncio.run(last_sequence(settings))
                eventually(lambda: keep(hanging, other) and read_in(database, *range(8)) == last, 60)
            assert_drained_exactly_once(database, settings, traffic.events)
            assert followed < 9 or other.running


def cluster(hosts: dict[str, Host], settings: Settings, port: int, flow: str, *more: str) -> tuple[Worker, Worker]:
    """A process on each of two hosts."""
    addresses = f"{hosts['a'].address}:{port};{hosts['b'].address}:{port}"
    one, other = (
        hosts[name].worker(settings, "-i", str(number), "-a", addresses, *more, flow=flow)
        for number, name in enumerate("ab")
    )
    return one, other


@pytest.mark.parametrize(
    ("messages", "kills"), [(12_000, 1), pytest.param(100_000, 6, marks=pytest.mark.chaos)], ids=["once", "often"]
)
def test_clusters_of_two_hosts_store_and_count_exactly_though_one_is_killed(
    shared: Settings, database: psycopg.Connection, hosts: dict[str, Host], messages: int, kills: int
) -> None:
    start = datetime.now(UTC) - timedelta(hours=1)
    ingest = cluster(hosts, shared, 2101, "flows.ingest")
    rollups = cluster(hosts, shared, 2102, "flows.rollups")
    everybody = (*ingest, *rollups)
    with ExitStack() as stack:
        for worker in everybody:
            stack.enter_context(worker)
        traffic = stack.enter_context(Traffic(shared, rate=2000, events=history_in_order(messages, start, 60)))
        for kill in range(kills):
            goal = (kill + 1) * messages // (kills + 2)
            eventually(lambda goal=goal: keep(*everybody) and counted(database) >= goal, 60)  # type: ignore[misc]
            one, other = (ingest, rollups)[kill % 2] if kills > 1 else ingest
            one.kill()
            assert other.wait(20) != 0, "without the first the other cannot go on"
            begun, before = time.monotonic(), counted(database)
            eventually(lambda before=before: keep(*everybody) and counted(database) > before, 30)  # type: ignore[misc]
            measured("a cluster of two hosts counted again %.1f s after both were restarted", time.monotonic() - begun)
        traffic.wait()
        eventually(lambda: keep(*everybody) and counted(database) == messages, 60)
        assert differences(shared) == []
        assert window_differences(database, bins) == []
        owners = database.execute("SELECT count(DISTINCT owner) FROM slate.progress WHERE read > 0").fetchone()
        assert owners == (2,)


@pytest.mark.chaos
def test_a_cluster_of_which_a_host_is_cut_off_stands_still_and_stores_exactly_when_it_is_whole_again(
    shared: Settings, database: psycopg.Connection, hosts: dict[str, Host]
) -> None:
    one, other = cluster(hosts, shared, 2103, "flows.ingest")
    with Traffic(shared, 50_000, rate=1000) as traffic, one, other:
        eventually(lambda: read_in(database, *range(8)) > 1000, 30)
        hosts["a"].cut()
        begun = time.monotonic()
        moved = [(read_in(database, *range(8)), begun)]

        def half_a_minute_over() -> bool:
            now = read_in(database, *range(8))
            if now != moved[-1][0]:
                moved.append((now, time.monotonic()))
            return time.monotonic() > begun + 30

        eventually(half_a_minute_over, 40)
        measured("a cluster stored for %.1f s after one of its hosts was cut off", moved[-1][1] - begun)
        hosts["a"].join()
        begun = time.monotonic()
        traffic.wait()
        assert_drained_exactly_once(database, shared, traffic.events, timeout=90)
        measured("whole %.1f s later", time.monotonic() - begun)


@pytest.mark.parametrize("store", ["copied", "stale", "none"])
def test_a_rollups_worker_moves_to_another_host_whatever_store_it_finds_there(
    shared: Settings, database: psycopg.Connection, hosts: dict[str, Host], tmp_path: Path, store: str
) -> None:
    start = datetime.now(UTC) - timedelta(hours=1)
    events = list(history_in_order(9000, start, 60))
    here, there = tmp_path / "here", tmp_path / "there"
    options = ("-r", recovery_store(here), "-s", "1", "-b", "0")
    with hosts["a"].worker(shared), hosts["b"].worker(shared, *options, flow="flows.rollups") as old:
        with Traffic(shared, rate=20_000, events=events[:3000]):
            pass
        eventually(lambda: counted(database) == 3000, 30)
        if store == "stale":
            old.terminate()
            assert old.wait(20) == 0
            shutil.copytree(here, there)
            old.start()
        with Traffic(shared, rate=1000, events=events[3000:]) as traffic:
            eventually(lambda: counted(database) > 3500, 30)
            old.kill()
            begun = time.monotonic()
            if store == "copied":
                shutil.copytree(here, there)
            before = counted(database)
            more = ("-r", str(there), "-s", "1", "-b", "0") if store != "none" else ()
            with hosts["c"].worker(shared, *more, flow="flows.rollups"):
                eventually(lambda: counted(database) > before, 30)
                measured(f"rollups moved ({store}) in %.1f s", time.monotonic() - begun)
                traffic.wait()
                eventually(lambda: counted(database) == 9000, 30)
                assert differences(shared) == []
                assert window_differences(database, bins) == []
