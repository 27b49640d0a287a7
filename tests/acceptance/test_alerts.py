"""Alerts of the whole: told once and in order whatever breaks, and the same as looking back would tell."""

import json
import random
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from pydantic import SecretStr

from connectors.receivers import ReceiverModel
from connectors.settings import Settings
from connectors.webhooks import Alert
from connectors.webhooks import Receiver as WebhookReceiver
from flows.alert_rules import load
from flows.backtest import Backtest, backtest
from realtime.bench_mix import bench_mix
from realtime.simulated import SimulatedEvent
from realtime.traces import read, usage_events
from tests.support.npm import installed
from tests.support.receiver import Answer, Receiver
from tests.support.rollups import counted
from tests.support.stack import connect
from tests.support.trace import TRACE, needs_trace
from tests.support.traffic import Traffic
from tests.support.waiting import eventually
from tests.support.worker import Worker

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
FUNCTIONS = 4
INCIDENT = """
[[rules]]
name = "errors"
signal = "call_error_rate"
group_by = ["function"]
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
HISTORY = """
[[rules]]
name = "errors"
signal = "call_error_rate"
group_by = ["function"]
window = "20m"
above = 0.08
clear = 0.05
for = "2m"
min_samples = 20
cooldown = "10m"
[[rules]]
name = "slow"
signal = "call_p95"
group_by = ["function"]
window = "30m"
above = 3850
clear = 3700
min_samples = 20
[[rules]]
name = "previews"
signal = "preview_failure_rate"
window = "15m"
above = 0.4
clear_after = "5m"
min_samples = 10
[[rules]]
name = "busy"
signal = "tokens"
group_by = ["user"]
window = "10m"
above = 25_000
limit = 3
[[budgets]]
name = "user"
tokens = 100_000
per = "user"
period = "day"
limit = 200
[[budgets]]
name = "hour"
cost = 2
per = "all"
period = "hour"
[[budgets]]
name = "session"
tokens = 40_000
per = "session"
period = "day"
limit = 1000
"""
TRACED = """
[[rules]]
name = "burst"
signal = "tokens"
window = "1m"
above = 300_000
clear = 200_000
[[budgets]]
name = "model"
tokens = 5_000_000
per = "model"
period = "hour"
at = [10, 50, 80, 100]
"""
OUTBOX = """
    SELECT fingerprint, starts_at, state, labels, reason, coalesce(ends_at, starts_at)
    FROM slate.alerts ORDER BY id
"""


@pytest.fixture
def database(settings: Settings) -> Iterator[psycopg.Connection]:
    with connect(settings) as connection:
        yield connection


def with_rules(settings: Settings, directory: Path, text: str) -> Settings:
    (directory / "rules.toml").write_text(text)
    return settings.model_copy(update={"alert_rules": directory / "rules.toml"})


def calls(count: int, rate: float) -> Iterator[SimulatedEvent]:
    """Calls of a few functions that work and fail in turns of eight seconds, each at its own time.

    They have no time of their own: it is that at which JetStream stored them.
    """
    for number in range(count):
        function = number % FUNCTIONS
        failing = int(number / rate + 2 * function) // 8 % 2
        body = {
            "callId": f"call-{number}",
            "name": f"f{function}",
            "status": "failed" if failing else "success",
            "durationMs": 10,
        }
        payload = msgspec.json.encode(body)
        yield SimulatedEvent(number / rate, f"spark.function_call.s{number % 40}", payload, f"m-{number}", "call", None)


def outbox(database: psycopg.Connection) -> list[tuple[Any, ...]]:
    return database.execute(OUTBOX.encode()).fetchall()


def one(database: psycopg.Connection, statement: str) -> int:
    row = database.execute(statement.encode()).fetchone()
    return int(row[0]) if row else -1


def looked_back(settings: Settings) -> Backtest:
    rules = load(settings.alert_rules_file)
    with connect(settings) as database:
        row = database.execute(
            "SELECT least((SELECT min(ts) FROM spark_function_calls), (SELECT min(ts) FROM spark_usage)),"
            " greatest((SELECT max(ts) FROM spark_function_calls), (SELECT max(ts) FROM spark_usage))"
        ).fetchone()
    assert row is not None
    return backtest(settings, rules, row[0] - timedelta(minutes=1), row[1] + timedelta(days=32))


TROUBLES = [Answer(429, {"retry-after": "1"}), Answer(500), Answer(410), Answer(None), Answer(0)]


@pytest.mark.parametrize(("kills", "seconds", "down"), [(6, 40, 8), pytest.param(20, 150, 60, marks=pytest.mark.chaos)])
def test_a_receiver_hears_of_each_beginning_and_end_once_and_in_order_whatever_breaks(
    settings: Settings, database: psycopg.Connection, tmp_path: Path, kills: int, seconds: int, down: int
) -> None:
    chance = random.Random(kills)
    rate = 60
    settings = with_rules(settings, tmp_path, INCIDENT)
    with Receiver() as receiver:
        environment = {"SLATE_ALERT_WEBHOOK_URL": receiver.url, "SLATE_ALERT_WEBHOOK_SECRET": SECRET}
        with (
            Traffic(settings, rate=rate, events=calls(rate * seconds, rate)) as traffic,
            Worker(settings),
            Worker(settings, flow="flows.rollups", environment=environment) as rollups,
        ):
            since_down = None
            for kill in range(kills):
                share = rate * seconds / (kills + 2)
                goal = counted(database) + chance.uniform(0.2, 1.2) * share
                eventually(lambda goal=goal: counted(database) >= goal or not traffic.running, 60)  # type: ignore[misc]
                assert traffic.running, "the kills came too late to hit anything"
                rollups.kill()
                if kill == kills // 3:
                    receiver.then(Answer(0))
                    since_down = time.monotonic()
                elif since_down is None or time.monotonic() - since_down > down:
                    receiver.then(chance.choice(TROUBLES), Answer(200))
                rollups.start()
            traffic.wait()
            eventually(lambda: counted(database) == rate * seconds, 60)
            until = "SELECT extract(epoch FROM evaluated_until - (SELECT max(ts) FROM spark_function_calls))::bigint"
            eventually(lambda: one(database, f"{until} FROM slate.alert_progress") > 10, 60)
            assert one(database, "SELECT count(*) FROM slate.alert_states WHERE status = 'firing'") == 0
            receiver.then(Answer(200))
            rollups.kill()  # a receiver that said that it is gone is asked again at a start
            rollups.start()
            eventually(
                lambda: one(database, "SELECT count(*) FROM slate.alert_deliveries WHERE state <> 'delivered'") == 0,
                60,
            )
        decided = outbox(database)
        ids = [f"alert_{row[0]}_{int(row[1].timestamp())}_{row[2]}" for row in decided]
        assert len(ids) > seconds / 8 * FUNCTIONS / 2, "too little happened"
        assert receiver.taken == ids
    assert_as_looking_back(decided, looked_back(settings))


def assert_as_looking_back(decided: Iterable[tuple[Any, ...]], back: Backtest) -> None:
    """The same episodes of each function, at times that a batch that came late may shift by a few seconds."""
    found, wanted = defaultdict(list), defaultdict(list)
    for row in decided:
        found[row[3]["function"]].append((row[2], row[5].timestamp()))
    for transition in back.transitions:
        at = (transition.starts if transition.ends is None else transition.ends) / 1_000_000
        wanted[transition.labels["function"]].append((transition.state, at))
    assert {key: [state for state, _ in those] for key, those in found.items()} == {
        key: [state for state, _ in those] for key, those in wanted.items()
    }
    for function, those in found.items():
        assert all(abs(at - other) <= 6 for (_, at), (_, other) in zip(those, wanted[function], strict=True))


def whole(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [(row[0], row[1].timestamp(), row[2], row[3], row[4], row[5].timestamp()) for row in rows]


def run_live(settings: Settings, database: psycopg.Connection, events: Iterable[SimulatedEvent], rate: float) -> int:
    """Publish all, then let the workers at it."""
    with Traffic(settings, rate=rate, events=events) as traffic:
        pass
    count = len(traffic.events)
    with Worker(settings), Worker(settings, flow="flows.rollups"):
        eventually(lambda: counted(database) == count, 300)
        last = "SELECT coalesce(extract(epoch FROM max(ts)), 0)::bigint FROM spark_usage"
        until = "SELECT coalesce(extract(epoch FROM evaluated_until), 0)::bigint FROM slate.alert_progress"
        eventually(lambda: one(database, until) >= one(database, last), 120)
    return count


def assert_live_equals_backtest(settings: Settings, database: psycopg.Connection) -> int:
    """Everything that was decided live is what looking back decides, to the word, up to the time that live came to."""
    back = [
        (
            transition.fingerprint,
            transition.starts / 1_000_000,
            transition.state,
            transition.labels,
            transition.reason,
            (transition.starts if transition.ends is None else transition.ends) / 1_000_000,
        )
        for transition in looked_back(settings).transitions
    ]
    until = one(database, "SELECT extract(epoch FROM evaluated_until)::bigint FROM slate.alert_progress")
    live = whole(outbox(database))
    assert live == [row for row in back if row[5] <= until]
    return len(live)


@pytest.mark.parametrize("messages", [40_000, pytest.param(1_000_000, marks=pytest.mark.chaos)])
def test_looking_back_at_a_week_tells_what_was_told_live(
    settings: Settings, database: psycopg.Connection, tmp_path: Path, messages: int
) -> None:
    start = datetime.now(UTC) - timedelta(days=7, hours=1)
    settings = with_rules(settings, tmp_path, HISTORY)
    # as many a minute whatever their number
    events = bench_mix(messages, sessions=50, invalid=0, start=start, period=timedelta(days=7 * messages / 1_000_000))
    run_live(settings, database, events, 50_000)
    assert assert_live_equals_backtest(settings, database) > messages / 1000


@needs_trace
def test_looking_back_at_a_real_trace_tells_what_was_told_live(
    settings: Settings, database: psycopg.Connection, tmp_path: Path
) -> None:
    settings = with_rules(settings, tmp_path, TRACED)
    run_live(settings, database, usage_events(iter(list(read(TRACE)))), 50_000)
    assert assert_live_equals_backtest(settings, database) > 10


def test_a_spike_is_told_within_ten_seconds(settings: Settings, database: psycopg.Connection, tmp_path: Path) -> None:
    settings = with_rules(settings, tmp_path, INCIDENT)
    fine = {"name": "f", "status": "success"}
    with Receiver() as receiver:
        environment = {"SLATE_ALERT_WEBHOOK_URL": receiver.url}
        with Worker(settings), Worker(settings, flow="flows.rollups", environment=environment) as rollups:
            with Traffic(settings, rate=50, events=_calls(fine, 50)):
                pass
            eventually(lambda: counted(database) == 50, 20)
            with Traffic(settings, rate=50, events=_calls({"name": "f", "status": "failed"}, 300)):
                eventually(lambda: receiver.received, 10, what="the spike is told")
            metrics = rollups.metrics()
            assert metrics["spark_alerts_firing{severity=warning}"] == 1
            assert metrics["spark_alert_transitions_total{state=firing}"] == 1
            assert metrics["spark_alert_rules_valid"] == 1
            assert metrics["spark_alert_evaluated_timestamp_seconds"] > time.time() - 20


def test_an_ingest_that_stands_still_is_told_although_event_time_stands_still_with_it(
    settings: Settings, database: psycopg.Connection, tmp_path: Path
) -> None:
    text = '[[rules]]\nname = "{0}"\nsignal = "{0}"\nwindow = "6s"\nabove = {1}\n'
    settings = with_rules(settings, tmp_path, text.format("ingest_lag", 5) + text.format("queue_depth", 40))
    fired = "SELECT count(*) FROM slate.alert_states WHERE status = 'firing'"
    with Worker(settings) as ingest, Worker(settings, flow="flows.rollups"):
        with Traffic(settings, rate=500, events=_calls({"name": "f", "status": "success"}, 30)):
            pass
        eventually(lambda: counted(database) == 30, 20)
        ingest.kill()
        with Traffic(settings, rate=500, events=_calls({"name": "f", "status": "failed"}, 50)):
            pass
        eventually(lambda: one(database, fired) == 2, 60, what="both are told")
        row = database.execute("SELECT reason FROM slate.alerts WHERE rule = 'queue_depth'").fetchone()
        assert row is not None
        assert row[0].startswith("50 is above 40 (")
        ingest.start()
        eventually(lambda: one(database, fired) == 0, 60, what="both are over")


def _calls(fields: dict[str, str], count: int) -> Iterator[SimulatedEvent]:
    for number in range(count):
        body = fields | {"callId": f"{fields['status']}-{number}"}
        name = f"{fields['status']}-{number}"
        yield SimulatedEvent(0, f"spark.function_call.s{number}", msgspec.json.encode(body), name, "call", None)


def test_signatures_verify_with_the_library_for_node(tmp_path: Path) -> None:
    directory = installed(tmp_path)
    other = "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo="
    model = ReceiverModel(name="w", type="webhook", env="W", secret_env="S")
    receiver = WebhookReceiver(model, SecretStr("https://example.com/"), SecretStr(f"{other} {SECRET}"))
    alert = Alert(
        id=1,
        rule="r",
        fingerprint="0123456789abcdef",
        state="firing",
        labels={"alertname": "r", "severity": "critical", "function": "größer ≠ \u2028"},
        annotations={},
        reason="because",
        starts=datetime(2026, 3, 1, tzinfo=UTC),
        ends=None,
    )
    request = receiver.request(alert, datetime.now(UTC))
    body = request.body.decode()
    lines = [
        {"secret": SECRET, "headers": request.headers, "body": body},
        {"secret": other, "headers": request.headers, "body": body},
        {"secret": SECRET, "headers": request.headers, "body": body + " "},
    ]
    done = subprocess.run(
        ["node", directory / "verify.mjs"],
        input="\n".join(json.dumps(line) for line in lines),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == ["verified", "verified", "No matching signature found"]
