"""From 8 partitions to 16 while everything runs, in both orders: nothing is lost, recounted or called lost."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from connectors.jetstream import connect as connect_nats
from connectors.settings import Settings
from deploy.doctor import examine
from deploy.processes import environment_of
from tests.acceptance.test_rollups import bins, differences, history_in_order
from tests.support.rollups import counted, window_differences
from tests.support.stack import connect
from tests.support.traffic import Traffic, assert_drained_exactly_once
from tests.support.waiting import eventually
from tests.support.worker import Worker

ROOT = Path(__file__).parents[2]
BEFORE = 2000
"""Messages that are read, counted and no longer in the stream when the number rises."""


def slate_migrate(settings: Settings, directory: Path = ROOT) -> str:
    """What the command says, run in a copy of the project."""
    environment = {"PATH": "/usr/bin:/bin", **environment_of(settings)}
    command = [sys.executable, "-m", "deploy.cli", "migrate"]
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def drop_until(settings: Settings, sequence: int) -> None:
    """Let the stream lose its first messages, as age does."""
    client = await connect_nats(settings, "test-rise")
    try:
        await client.jetstream().purge_stream(settings.stream, seq=sequence + 1)
    finally:
        await client.close()


def of(settings: Settings, partitions: int, read: str | None = None) -> Settings:
    return settings.model_copy(update={"partitions": partitions, "worker_partitions": read})


def reading(database: psycopg.Connection) -> set[int]:
    return {row[0] for row in database.execute("SELECT partition FROM slate.progress WHERE read > 0")}


def restart(
    stack: ExitStack, old: Worker, settings: Settings, flow: str = "flows.ingest", directory: Path | None = None
) -> Worker:
    """Stop one and start its successor, as a rolling restart does."""
    old.terminate()
    assert old.wait(30) == 0
    new = stack.enter_context(Worker(settings, flow=flow, directory=directory))
    eventually(lambda: "reading partition" in new.log.read_text(), 30)
    return new


@pytest.fixture
def database(settings: Settings) -> Iterator[psycopg.Connection]:
    with connect(settings) as connection:
        yield connection


@pytest.mark.parametrize(
    ("order", "rate"),
    [
        ("migrate first", 1000),
        pytest.param("migrate first", 4000, marks=pytest.mark.chaos),
        pytest.param("workers first", 4000, marks=pytest.mark.chaos),
    ],
)
def test_partitions_rise_from_8_to_16_under_load(
    settings: Settings, database: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, order: str, rate: int
) -> None:
    start = datetime.now(UTC) - timedelta(hours=1)
    events = list(history_in_order(BEFORE + 60 * rate, start, 60))
    with ExitStack() as stack:
        low = stack.enter_context(Worker(of(settings, 8, "0-3")))
        high = stack.enter_context(Worker(of(settings, 8, "4-7")))
        rollups = stack.enter_context(Worker(of(settings, 8), flow="flows.rollups"))
        with Traffic(settings, rate=20_000, events=events[:BEFORE]):
            pass
        eventually(lambda: counted(database) == BEFORE, 30)
        passed = "SELECT min(seq) FROM slate.progress"
        eventually(lambda: database.execute(passed).fetchone() == (BEFORE,), 20, what="that idle partitions move along")
        asyncio.run(drop_until(settings, BEFORE))
        traffic = stack.enter_context(Traffic(settings, rate=rate, events=events[BEFORE:]))

        if order == "migrate first":
            assert "16 partitions" in slate_migrate(of(settings, 16))
            for worker in (low, high, rollups):
                eventually(lambda worker=worker: "more partitions than this worker" in worker.log.read_text(), 20)  # type: ignore[misc]
                assert worker.metrics()["spark_stream_partitions"] == 16
            for name, value in environment_of(of(settings, 8)).items():
                monkeypatch.setenv(name, value)
            (stream,) = [check for check in examine() if check.name == "stream"]
            assert stream.state == "fail"
            assert "set SLATE_PARTITIONS=16" in stream.found
            assert max(reading(database)) == 7
        low = restart(stack, low, of(settings, 16, "0-7"))
        high = restart(stack, high, of(settings, 16, "8-15"))
        rollups = restart(stack, rollups, of(settings, 16), "flows.rollups")
        if order == "workers first":
            assert max(reading(database)) == 7
            assert "16 partitions" in slate_migrate(of(settings, 16))

        eventually(lambda: reading(database) >= set(range(16)), 30, what="something in each of 16 partitions")
        traffic.stop()
        events[BEFORE:] = traffic.events
        assert_drained_exactly_once(database, settings, events)
        eventually(lambda: counted(database) == len(events), 60)
        assert differences(settings) == []
        assert window_differences(database, bins) == []
        assert database.execute("SELECT count(*) FROM slate.gaps").fetchone() == (0,)
        said = "".join(worker.log.read_text() for worker in (low, high, rollups))
        assert "counting anew" not in said
        assert "more partitions than" not in said
