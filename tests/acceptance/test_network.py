"""Networks that lose everything for a while without a word, or are slow: nothing is lost, and it goes on by itself."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from connectors.settings import Settings
from deploy.servers import NatsServer, PostgresServer
from tests.support.failover import KeptWorker
from tests.support.outbox import through
from tests.support.proxy import Proxy
from tests.support.stack import connect
from tests.support.traffic import Traffic, assert_drained_exactly_once
from tests.support.waiting import eventually

Record = Callable[[str, object], None]


def read_count(database: psycopg.Connection) -> int:
    row = database.execute("SELECT coalesce(sum(read), 0)::bigint FROM slate.progress").fetchone()
    assert row
    return int(row[0])


@contextmanager
def between(
    make_settings: Callable[..., Settings], postgres: PostgresServer, nats_server: NatsServer
) -> Iterator[tuple[Settings, Settings, Proxy, Proxy]]:
    """Settings, those of a worker on the other side of two networks, and the networks to PostgreSQL and to NATS."""
    with Proxy(postgres.port) as to_postgres, Proxy(nats_server.port) as to_nats:
        direct = make_settings()
        url = through(direct, to_nats, nats_server).nats_url
        there = direct.model_copy(update={"db_port": to_postgres.port, "nats_url": url})
        yield direct, there, to_postgres, to_nats


@pytest.mark.chaos
@pytest.mark.parametrize("server", ["postgresql", "nats"])
def test_a_worker_that_is_cut_off_for_20_s_without_a_word_goes_on_by_itself(
    make_settings: Callable[..., Settings],
    postgres: PostgresServer,
    nats_server: NatsServer,
    record_property: Record,
    server: str,
) -> None:
    """Of the connections nobody hears again, as when a firewall has forgotten them."""
    with between(make_settings, postgres, nats_server) as (direct, there, to_postgres, to_nats):
        impatient = there.model_copy(update={"db_statement_timeout_s": 5.0})
        network = to_postgres if server == "postgresql" else to_nats
        with Traffic(direct, 25_000, rate=500) as traffic, KeptWorker(impatient) as worker, connect(direct) as database:
            eventually(lambda: read_count(database) > 1000, 20)
            network.swallow = True
            began = time.monotonic()
            eventually(lambda: time.monotonic() > began + 20, 25)
            network.swallow = False
            before, began = read_count(database), time.monotonic()
            eventually(lambda: read_count(database) > before, 30, what="it stores again")
            record_property(f"{server}_stores_again_s", round(time.monotonic() - began, 1))
            traffic.wait()
            assert_drained_exactly_once(database, direct, traffic.events)
            assert worker.ends == []


@pytest.mark.parametrize("delay_s", [0.2, pytest.param(0.05, marks=pytest.mark.chaos)])
def test_with_a_slow_network_on_both_sides_all_is_stored_and_no_slower_than_it_comes(
    make_settings: Callable[..., Settings],
    postgres: PostgresServer,
    nats_server: NatsServer,
    record_property: Record,
    delay_s: float,
) -> None:
    """A second and more for a round trip to NATS and PostgreSQL: batches grow with what waits."""
    messages = 10_000
    with between(make_settings, postgres, nats_server) as (direct, there, to_postgres, to_nats):
        with Traffic(direct, messages, rate=50_000) as traffic:
            pass
        to_postgres.delay_s = to_nats.delay_s = delay_s
        with KeptWorker(there) as worker, connect(direct) as database:
            eventually(lambda: read_count(database) > 0, 30)
            first, began = read_count(database), time.monotonic()
            eventually(lambda: read_count(database) == messages, 60)
            rate = (messages - first) / (time.monotonic() - began)
            record_property("messages_a_second", round(rate))
            assert_drained_exactly_once(database, direct, traffic.events)
            assert worker.ends == []
            assert rate > 1000
