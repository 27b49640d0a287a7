"""Clocks of workers that are wrong, or jump: event time decides, and that a clock is wrong can be seen."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from connectors.settings import Settings
from flows.audit import audit
from realtime.simulated import SimulatedEvent
from tests.support.clock import Clock
from tests.support.failover import KeptWorker
from tests.support.receiver import Receiver
from tests.support.rollups import counted
from tests.support.stack import connect
from tests.support.traffic import Traffic, assert_drained_exactly_once
from tests.support.waiting import eventually
from tests.support.worker import Worker

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HOUR = 3600
RULES = """
[[rules]]
name = "errors"
signal = "call_error_rate"
window = "6s"
above = 0.6
clear = 0.3
min_samples = 5
[[receivers]]
name = "webhook"
type = "webhook"
env = "SLATE_ALERT_WEBHOOK_URL"
secret_env = "SLATE_ALERT_WEBHOOK_SECRET"
"""


@pytest.fixture
def database(settings: Settings) -> Iterator[psycopg.Connection]:
    with connect(settings) as connection:
        yield connection


def ahead(worker: Worker, server: str) -> float:
    return worker.metrics().get(f"spark_clock_ahead_seconds{{server={server}}}", 0.0)


def calls(count: int, *, failed: bool, turn: int) -> Iterator[SimulatedEvent]:
    """Calls at the time at which JetStream stores them."""
    for number in range(count):
        call = f"{turn}-{number}"
        status = "failed" if failed else "success"
        body = json.dumps({"callId": call, "name": "f", "status": status, "durationMs": 10}).encode()
        yield SimulatedEvent(0, f"spark.function_call.s{number % 40}", body, call, "call", None)


@pytest.mark.parametrize("hours", [1, -1])
def test_with_a_clock_that_is_an_hour_wrong_all_is_stored_and_counted_as_ever_and_it_shows(
    settings: Settings, database: psycopg.Connection, tmp_path: Path, hours: int
) -> None:
    with (
        Clock(tmp_path, hours * HOUR) as clock,
        Worker(settings, environment=clock.environment) as ingest,
        Worker(settings, flow="flows.rollups", environment=clock.environment) as rollups,
    ):
        with Traffic(settings, 1000, rate=1000) as traffic:
            pass
        assert_drained_exactly_once(database, settings, traffic.events)
        eventually(lambda: counted(database) == 1000, 20)
        for worker in (ingest, rollups):
            for server in ("postgresql", "nats"):
                assert abs(ahead(worker, server) - hours * HOUR) < 10, server
        today = datetime.now(UTC).date()
        assert list(audit(settings, today - timedelta(days=8), today + timedelta(days=1))) == []


@pytest.mark.chaos
def test_alerts_begin_and_end_when_they_should_while_the_clock_jumps(
    settings: Settings, database: psycopg.Connection, tmp_path: Path
) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    ruled = settings.model_copy(update={"alert_rules": tmp_path / "rules.toml"})
    found = "SELECT rule, state, coalesce(ends_at, starts_at) FROM slate.alerts ORDER BY id"
    with ExitStack() as stack:
        clock = stack.enter_context(Clock(tmp_path))
        receiver = stack.enter_context(Receiver())
        told = {"SLATE_ALERT_WEBHOOK_URL": receiver.url, "SLATE_ALERT_WEBHOOK_SECRET": SECRET}
        ingest = stack.enter_context(KeptWorker(ruled, environment=clock.environment))
        rollups = stack.enter_context(KeptWorker(ruled, flow="flows.rollups", environment=clock.environment | told))
        with Traffic(settings, rate=50, events=calls(150, failed=False, turn=0)):
            pass
        eventually(lambda: counted(database) == 150, 20)
        for turn, seconds in enumerate((HOUR, -HOUR), 1):
            clock.set(seconds)
            began = datetime.now(UTC)
            with Traffic(settings, rate=50, events=calls(200, failed=True, turn=turn)):
                pass
            eventually(lambda turn=turn: len(receiver.taken) == 2 * turn - 1, 15, what="it begins")  # type: ignore[misc]
            with Traffic(settings, rate=50, events=calls(400, failed=False, turn=10 * turn)):
                pass
            eventually(lambda turn=turn: len(receiver.taken) == 2 * turn, 15, what="it ends")  # type: ignore[misc]
            *_, begin, end = database.execute(found.encode()).fetchall()
            assert (begin[1], end[1]) == ("firing", "resolved")
            assert began - timedelta(seconds=4) < begin[2] < end[2] < datetime.now(UTC)
        assert abs(ahead(rollups, "postgresql") + HOUR) < 10
        assert ingest.ends == rollups.ends == [75]  # Bytewax would wait for two hours
