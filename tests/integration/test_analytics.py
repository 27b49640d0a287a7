"""Closed windows reach their receiver at least once, whatever it answers, and never in the way of the flow."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook
from structlog.testing import capture_logs

from connectors.analytics import MOST, Sender
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from tests.support.receiver import Answer, Received, Receiver
from tests.support.stack import connect
from tests.support.traffic import Traffic
from tests.support.waiting import eventually
from tests.support.worker import Worker

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
START = datetime(2026, 3, 1, tzinfo=UTC)
LEFT = "SELECT count(*) FROM slate.windows WHERE sent < revision"


@pytest.fixture
def database(settings: Settings) -> Iterator[psycopg.Connection]:
    with connect(settings) as connection:
        yield connection


def close_windows(database: psycopg.Connection, count: int, signal: str = "calls") -> None:
    database.execute(
        "INSERT INTO slate.windows (start, seconds, signal, key, status, count, tokens_prompt, tokens_completion, cost,"
        " bins, late, revision, closed_at)"
        " SELECT %s + n * interval '1 minute', 60, %s, 'a/b ü', 'success', n, 1, 2, 0.000001, '{\"0\": 1}', 0, 1, now()"
        " FROM generate_series(1, %s) AS n",
        (START, signal, count),
    )


def left(database: psycopg.Connection) -> int:
    row = database.execute(LEFT).fetchone()
    return int(row[0]) if row else -1


@contextmanager
def sending(settings: Settings, receiver: Receiver, **more: object) -> Iterator[threading.Thread]:
    shutdown = Shutdown()
    told = settings.model_copy(update={"analytics_secret": SecretStr(SECRET), **more})
    thread = threading.Thread(target=Sender(told, receiver.url, shutdown).run, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        shutdown.request()
        thread.join(15)
        assert not thread.is_alive()


def test_every_closed_window_arrives_once_signed_and_with_an_id(
    settings: Settings, database: psycopg.Connection
) -> None:
    close_windows(database, MOST + 7)
    with Receiver() as receiver, sending(settings, receiver):
        eventually(lambda: left(database) == 0, 10)
        assert [len(one.windows) for one in receiver.received] == [MOST, 7]
        assert len({str(window["id"]) for window in receiver.windows}) == MOST + 7
        for one in receiver.received:
            Webhook(SECRET).verify(one.body, one.headers)
    assert receiver.windows[0] == {
        "id": "calls/60/2026-03-01T00:01:00Z/a%2Fb%20%C3%BC/success",
        "revision": 1,
        "signal": "calls",
        "start": "2026-03-01T00:01:00Z",
        "end": "2026-03-01T00:02:00Z",
        "seconds": 60,
        "key": "a/b ü",
        "status": "success",
        "count": 1,
        "tokensPrompt": 1,
        "tokensCompletion": 2,
        "cost": 1e-06,
        "late": 0,
        "closedAt": receiver.windows[0]["closedAt"],
        "p50Ms": 0.99,
        "p95Ms": 0.99,
        "p99Ms": 0.99,
    }


@pytest.mark.parametrize(
    "answer",
    [Answer(500), Answer(429, {"retry-after": "1"}), Answer(503, {"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"})],
    ids=lambda answer: str(answer.status),
)
def test_what_is_not_taken_is_sent_again_under_the_same_id_and_nothing_secret_is_logged(
    settings: Settings, database: psycopg.Connection, answer: Answer
) -> None:
    close_windows(database, 3)
    with capture_logs() as logs, Receiver(answer, Answer(204)) as receiver, sending(settings, receiver):
        eventually(lambda: left(database) == 0, 10)
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.windows == second.windows
    assert any(log["answer"] == str(answer.status) for log in logs)
    assert "hunter2" not in str(logs)
    assert SECRET not in str(logs)


def test_a_window_that_is_closed_again_while_it_is_sent_comes_again_with_its_revision(
    settings: Settings, database: psycopg.Connection
) -> None:
    close_windows(database, 1)

    def revise(received: Received) -> None:
        if received.windows[0]["revision"] == 1:
            with connect(settings) as other:
                other.execute("UPDATE slate.windows SET count = 9, late = 8, revision = 2")

    with Receiver(before=revise) as receiver, sending(settings, receiver):
        eventually(lambda: left(database) == 0, 10)
    assert [(window["revision"], window["count"]) for window in receiver.windows] == [(1, 1), (2, 9)]
    assert len({str(window["id"]) for window in receiver.windows}) == 1


def test_two_workers_do_not_send_the_same_twice(settings: Settings, database: psycopg.Connection) -> None:
    close_windows(database, 3 * MOST)
    with Receiver() as receiver, sending(settings, receiver), sending(settings, receiver):
        eventually(lambda: left(database) == 0, 10)
    assert len(receiver.windows) == 3 * MOST


def test_a_receiver_that_is_gone_is_left_alone(settings: Settings, database: psycopg.Connection) -> None:
    close_windows(database, 1)
    with Receiver(Answer(410)) as receiver, sending(settings, receiver) as thread:
        thread.join(10)
        assert not thread.is_alive()
    assert len(receiver.received) == 1
    assert left(database) == 1


def test_a_kill_before_the_mark_sends_the_same_again(settings: Settings, database: psycopg.Connection) -> None:
    close_windows(database, 5)

    with Receiver(Answer(None), Answer(200)) as receiver:
        told = {"analytics_url": SecretStr(receiver.url), "analytics_secret": SecretStr(SECRET)}
        with Worker(settings.model_copy(update=told), flow="flows.rollups") as worker:
            eventually(lambda: len(receiver.received) == 1, 20)
            worker.kill()
            worker.start()
            eventually(lambda: left(database) == 0, 20)
            assert "hunter2" not in worker.log.read_text()
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


def test_a_receiver_that_hangs_keeps_nobody_from_counting(settings: Settings, database: psycopg.Connection) -> None:
    close_windows(database, 1, "events")
    with Receiver(Answer(None)) as receiver:
        told = settings.model_copy(update={"analytics_url": SecretStr(receiver.url)})
        with Worker(settings), Worker(told, flow="flows.rollups"):
            eventually(lambda: len(receiver.received) == 1, 20)
            with Traffic(settings, 2000, rate=5000):
                pass
            counted = "SELECT coalesce(sum(read), 0)::int FROM slate.rollup_progress"
            eventually(lambda: database.execute(counted).fetchone() == (2000,), 8)


def test_windows_of_the_flow_itself_arrive_when_they_close(settings: Settings) -> None:
    with Receiver() as receiver:
        told = settings.model_copy(update={"analytics_url": SecretStr(receiver.url), "window_grace_s": 0.0})
        with Worker(settings), Worker(told, flow="flows.rollups"):
            with Traffic(settings, 2000, rate=5000):
                pass
            eventually(lambda: any(window["signal"] == "calls" for window in receiver.windows), 30)
    hour = timedelta(hours=1)
    assert all(datetime.fromisoformat(str(window["start"])) > datetime.now(UTC) - hour for window in receiver.windows)
