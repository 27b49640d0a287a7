"""PostgreSQL's primary is killed and its replica promoted, which may lack the last transactions: nothing is lost."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from connectors.settings import Settings
from deploy.embedded import HOST
from deploy.servers import NatsServer, ValkeyServer
from flows.audit import audit
from realtime.simulated import SimulatedEvent
from tests.support.failover import KeptWorker, Pair, on_both, pair
from tests.support.history import history
from tests.support.receiver import Receiver
from tests.support.replica import REPLICA_HOST
from tests.support.rollups import counted
from tests.support.stack import connect
from tests.support.traffic import Traffic, assert_drained_exactly_once, last_sequence
from tests.support.waiting import eventually

Record = Callable[[str, object], None]
FIRST_COMMIT_WITHIN_S = 15.0
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
RULES = """
[[rules]]
name = "errors"
signal = "call_error_rate"
window = "6s"
above = 0.6
min_samples = 5
cooldown = "1h"
clear_after = "1h"
[[receivers]]
name = "webhook"
type = "webhook"
env = "SLATE_ALERT_WEBHOOK_URL"
secret_env = "SLATE_ALERT_WEBHOOK_SECRET"
"""


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Pair]:
    with pair(tmp_path) as found:
        yield found


@pytest.fixture
def settings(both: Pair, nats_server: NatsServer, valkey: ValkeyServer) -> Iterator[Settings]:
    with on_both(both, nats_server, valkey) as found:
        yield found


def stored(settings: Settings) -> int:
    """How many messages the server that takes writes accounts for; -1 while there is none."""
    return _number(settings, "SELECT coalesce(sum(read), 0)::bigint FROM slate.progress")


def at_rest(settings: Settings) -> bool:
    last = asyncio.run(last_sequence(settings))
    return stored(settings) == last == _number(settings, "SELECT min(seq) FROM slate.progress")


def moved(settings: Settings) -> int:
    return _number(settings, "SELECT coalesce(max(seq), 0)::bigint FROM slate.progress")


def _number(settings: Settings, query: str) -> int:
    try:
        with connect(settings, connect_timeout=2) as connection:
            row = connection.execute(query.encode()).fetchone()
            return int(row[0]) if row else -1
    except psycopg.Error:
        return -1


def first_commit(settings: Settings, since: float) -> float:
    """Seconds from `since` until a message is stored by whoever takes writes now."""
    with connect(settings) as connection:
        before = "SELECT sum(read) FROM slate.progress"
        row = connection.execute(before).fetchone()
        eventually(lambda: connection.execute(before).fetchone() != row, 30, what="a commit after the failover")
    return time.monotonic() - since


def counted_at(settings: Settings) -> int:
    with connect(settings) as connection:
        return counted(connection)


def alerts(settings: Settings) -> list[tuple[object, ...]]:
    with connect(settings) as connection:
        return connection.execute("SELECT rule, state, starts_at FROM slate.alerts").fetchall()


def calls(count: int, *, failed: bool) -> Iterator[SimulatedEvent]:
    """Calls at the time at which JetStream stores them."""
    for number in range(count):
        call = f"{failed}-{number}"
        status = "failed" if failed else "success"
        body = json.dumps({"callId": call, "name": "f", "status": status, "durationMs": 10}).encode()
        yield SimulatedEvent(0, f"spark.function_call.s{number % 40}", body, call, "call", None)


def wait_for(moment: float) -> None:
    eventually(lambda: time.monotonic() >= moment, 120)


def assert_whole(settings: Settings, events: list[SimulatedEvent]) -> None:
    """Everything is stored and counted, once, as the publisher has it."""
    with connect(settings) as connection:
        assert_drained_exactly_once(connection, settings, events)
    assert_counted(settings)


def assert_counted(settings: Settings) -> None:
    """Everything in the stream is stored once, and totals are what the tables say."""
    last = asyncio.run(last_sequence(settings))
    with connect(settings) as connection:
        eventually(lambda: counted(connection) == last, 60, what="all is counted")
        row = connection.execute(
            "SELECT sum(read)::bigint, sum(stored + duplicate + dead_lettered)::bigint, sum(stored)::bigint,"
            " (SELECT count(*) FROM slate.event_ids) FROM slate.ledger"
        ).fetchone()
    assert row is not None
    assert row[0] == row[1] == last
    assert row[2] == row[3]
    today = datetime.now(UTC).date()
    assert list(audit(settings, today - timedelta(days=8), today + timedelta(days=1))) == []


@contextmanager
def workers(settings: Settings) -> Iterator[tuple[KeptWorker, KeptWorker]]:
    with KeptWorker(settings) as ingest, KeptWorker(settings, flow="flows.rollups") as rollups:
        yield ingest, rollups


@pytest.mark.parametrize("lag_s", [0.0, 2.0], ids=["the replica has all", "the replica lacks two seconds"])
def test_nothing_is_lost_or_twice_after_a_failover_under_load(
    both: Pair, settings: Settings, lag_s: float, record_property: Record
) -> None:
    with Traffic(settings, 4000, rate=500) as traffic, workers(settings) as (ingest, rollups):
        eventually(lambda: stored(settings) > 200 and counted_at(settings) > 0, 20)
        if lag_s:
            both.cut_off()
            wait_for(time.monotonic() + lag_s)
        before = moved(settings)
        both.primary.kill()
        began = time.monotonic()
        both.promote()
        went_back = before - moved(settings)
        seconds = first_commit(settings, began)
        traffic.wait()
        assert_whole(settings, traffic.events)
        record_property("first_commit_s", round(seconds, 1))
        assert rollups.ends == [1]
        if lag_s:
            assert went_back > 200
            assert "the database has gone back" in ingest.log.read_text()
            assert len(ingest.ends) == 1
        assert seconds < FIRST_COMMIT_WITHIN_S


def test_what_a_failover_lost_is_stored_again_although_nobody_publishes_any_more(
    both: Pair, settings: Settings, record_property: Record
) -> None:
    with workers(settings):
        with Traffic(settings, 500, rate=1000, seed=1):
            pass
        eventually(lambda: stored(settings) == 500, 20)
        both.cut_off()
        with Traffic(settings, 500, rate=1000, seed=2) as traffic:
            pass
        eventually(lambda: at_rest(settings), 20, what="no position moves any more, idle partitions' neither")
        both.primary.kill()
        began = both.promote()
        assert stored(settings) < 1000
        eventually(lambda: stored(settings) == 1000, 20, what="what was lost is read again")
        record_property("whole_again_s", round(time.monotonic() - began, 1))
        assert len(traffic.events) == 500
    with workers(settings):
        assert_counted(settings)


@pytest.mark.chaos
def test_a_primary_that_freezes_is_left_for_the_promoted_replica(
    both: Pair, settings: Settings, record_property: Record
) -> None:
    """No connection is closed, and nobody answers: SIGSTOP of all its processes."""
    impatient = settings.model_copy(update={"db_statement_timeout_s": 1.0})
    with Traffic(settings, 4000, rate=400) as traffic, workers(impatient):
        eventually(lambda: stored(settings) > 200, 20)
        both.primary.pause()
        began = both.promote()
        alone = settings.model_copy(update={"db_host": REPLICA_HOST})
        seconds = first_commit(alone, began)
        record_property("first_commit_s", round(seconds, 1))
        both.primary.kill()
        traffic.wait()
        assert_whole(settings, traffic.events)


@pytest.mark.chaos
def test_with_two_servers_that_take_writes_each_is_whole_in_itself_and_the_one_that_stays_has_all(
    both: Pair, settings: Settings
) -> None:
    """Split brain: nothing of ours prevents it. A worker that starts takes the first host that takes writes."""
    old = settings.model_copy(update={"db_host": HOST})
    with Traffic(settings, 6000, rate=400) as traffic, workers(settings) as (ingest, rollups):
        eventually(lambda: stored(settings) > 200, 20)
        both.cut_off()
        both.primary.kill()
        both.promote()
        first_commit(settings, time.monotonic())
        both.primary.start()
        apart = stored(old)
        ingest.kill()
        rollups.kill()
        eventually(lambda: stored(old) > apart, 20, what="a worker that starts writes to the old primary")
        both.primary.kill()  # at last somebody fences it
        traffic.wait()
        assert_whole(settings, traffic.events)
    both.primary.start()
    with connect(old) as connection:
        row = connection.execute(
            "SELECT sum(read)::bigint, sum(stored + duplicate + dead_lettered)::bigint, sum(stored)::bigint,"
            " (SELECT count(*) FROM slate.event_ids) FROM slate.ledger"
        ).fetchone()
    assert row is not None
    assert row[0] == row[1] > apart
    assert row[2] == row[3]


@pytest.mark.chaos
def test_an_alert_that_was_told_before_the_failover_comes_again_under_the_same_id_only(
    both: Pair, settings: Settings, tmp_path: Path, record_property: Record
) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    ruled = settings.model_copy(update={"alert_rules": tmp_path / "rules.toml"})
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver())
        told = {"SLATE_ALERT_WEBHOOK_URL": receiver.url, "SLATE_ALERT_WEBHOOK_SECRET": SECRET}
        stack.enter_context(KeptWorker(ruled))
        stack.enter_context(KeptWorker(ruled, flow="flows.rollups", environment=told))
        with Traffic(settings, rate=100, events=calls(300, failed=False)):
            pass
        eventually(lambda: counted_at(settings) >= 300, 20)
        both.cut_off()
        with Traffic(settings, rate=100, events=calls(400, failed=True)):
            pass
        eventually(lambda: receiver.taken, 30, what="the alert is told")
        both.primary.kill()
        began = both.promote()
        assert alerts(settings) == []
        eventually(lambda: alerts(settings), 30, what="the alert is decided again")
        record_property("decided_again_s", round(time.monotonic() - began, 1))
        eventually(lambda: len(receiver.received) > 1, 30, what="it is told again")
        assert len(receiver.taken) == 1, receiver.taken


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(5))
def test_whenever_the_primary_is_killed_and_whatever_the_replica_lacks_nothing_is_lost_or_twice(
    both: Pair, settings: Settings, seed: int, record_property: Record
) -> None:
    chance = random.Random(seed)
    start = datetime.now(UTC) - timedelta(days=3)
    events = list(history(6000, start, timedelta(days=3), seed=seed))
    with Traffic(settings, rate=600, events=events) as traffic, workers(settings):
        eventually(lambda: stored(settings) > 100, 20)
        wait_for(time.monotonic() + chance.uniform(0, 3))
        if chance.random() < 0.8:
            both.cut_off()
            wait_for(time.monotonic() + chance.uniform(0, 4))
        both.primary.kill()
        began = both.promote()
        record_property("first_commit_s", round(first_commit(settings, began), 1))
        traffic.wait()
        assert_counted(settings)
