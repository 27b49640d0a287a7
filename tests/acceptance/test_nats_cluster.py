"""NATS as a cluster of three that loses its leader, a follower, all at once: nothing is lost, and nothing twice."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nats
import psycopg
import pytest
from pydantic import SecretStr

from connectors.errors import SlateError
from connectors.jetstream import ensure_stream
from connectors.settings import Settings
from tests.support.failover import KeptWorker
from tests.support.nats_cluster import NatsCluster, nats_cluster
from tests.support.stack import Stack, connect
from tests.support.traffic import Traffic, assert_drained_exactly_once
from tests.support.waiting import eventually

Record = Callable[[str, object], None]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[NatsCluster]:
    with nats_cluster(tmp_path) as found:
        yield found


@pytest.fixture
def settings(stack: Stack, cluster: NatsCluster) -> Iterator[Settings]:
    with stack.provide() as alone:
        found = alone.model_copy(update={"nats_url": SecretStr(cluster.url), "stream_replicas": 3})
        eventually(lambda: made(found), 30, what="the cluster takes the stream")
        yield found


def made(settings: Settings) -> bool:
    try:
        asyncio.run(ensure_stream(settings))
    except (SlateError, nats.errors.Error) as error:
        raise AssertionError(str(error)) from None
    return True


def read_count(database: psycopg.Connection) -> int:
    row = database.execute("SELECT coalesce(sum(read), 0)::bigint FROM slate.progress").fetchone()
    assert row
    return int(row[0])


def until_it_flows(database: psycopg.Connection, since: float, timeout: float = 40) -> float:
    """Seconds from `since` until a message is stored that was published after it."""
    row = database.execute("SELECT max(seq)::bigint FROM slate.progress").fetchone()
    assert row
    seq = int(row[0]) + 200  # more than what is on its way
    eventually(
        lambda: database.execute("SELECT max(seq) >= %s FROM slate.progress", (seq,)).fetchone() == (True,), timeout
    )
    return time.monotonic() - since


@pytest.mark.parametrize(
    ("messages", "whole"), [(5000, False), pytest.param(20_000, True, marks=pytest.mark.chaos)], ids=["leader", "all"]
)
def test_publishers_and_workers_go_on_when_the_leader_dies_then_a_follower_then_all(
    cluster: NatsCluster, settings: Settings, record_property: Record, messages: int, whole: bool
) -> None:
    leader = cluster.leader(settings)
    with (
        Traffic(settings, messages, rate=500) as traffic,
        KeptWorker(settings) as worker,
        connect(settings) as database,
    ):
        eventually(lambda: read_count(database) > 500, 20)
        leader.kill()
        record_property("after_leader_s", round(until_it_flows(database, time.monotonic()), 1))
        if whole:
            leader.start()
            follower = next(node for node in cluster.nodes if node is not cluster.leader(settings))
            follower.kill()
            record_property("after_follower_s", round(until_it_flows(database, time.monotonic()), 1))
            for node in cluster.nodes:
                node.kill()
            began = time.monotonic()
            cluster.start()
            record_property("after_all_s", round(until_it_flows(database, began), 1))
        traffic.wait()
        assert_drained_exactly_once(database, settings, traffic.events)
        assert worker.running
        assert worker.ends == []
