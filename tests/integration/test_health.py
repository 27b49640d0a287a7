"""Workers and the service as systemd and Kubernetes see them: begun, waiting, hanging, ending."""

import asyncio
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.health import LIVE, READY, longest_silence_s
from connectors.publisher import Publisher
from connectors.settings import Settings
from deploy.embedded import free_port
from deploy.processes import environment_of, kill_tree, spawn
from deploy.servers import PostgresServer
from tests.support.proxy import Proxy
from tests.support.sessions import JWT_SECRET
from tests.support.stack import connect
from tests.support.systemd import Told
from tests.support.waiting import eventually
from tests.support.worker import Worker

WATCHDOG_S = 1.0


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    with Told(tmp_path / "notify") as one:
        yield one


def supervised(settings: Settings, told: Told, *arguments: str, flow: str = "flows.ingest") -> Worker:
    environment = {
        "NOTIFY_SOCKET": told.address,
        "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return Worker(settings, *arguments, flow=flow, environment=environment)


def probe(port: int, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def publish(settings: Settings, subject: str) -> None:
    async def one() -> None:
        async with await Publisher.connect(settings, name="test-health") as publisher:
            session = subject.rpartition(".")[2]
            await publisher.publish(subject, f'{{"type":"x","sessionId":"{session}"}}'.encode())

    asyncio.run(one())


def goes_on(told: Told, seconds: int = 3) -> None:
    """The watchdog is told for so long, and never too late for systemd."""
    told.forget()
    told.wait_for("WATCHDOG=1", 30 + 2 * seconds, times=int(seconds / WATCHDOG_S * 2))
    gaps = [later - earlier for earlier, later in zip(told.times[:-1], told.times[1:], strict=True)]
    assert max(gaps) < 10 * WATCHDOG_S  # a busy machine


def events(settings: Settings) -> int:
    with connect(settings) as connection:
        row = connection.execute("SELECT count(*) FROM spark_events").fetchone()
        assert row is not None
        return int(row[0])


@pytest.mark.parametrize("arguments", [(), ("-w", "2")], ids=["one", "two"])
def test_a_worker_is_ready_once_it_reads_waits_for_postgresql_and_ends_in_order(
    settings: Settings, told: Told, arguments: tuple[str, ...]
) -> None:
    with Proxy(settings.db_port) as proxy:
        proxy.refuse = True
        away = settings.model_copy(update={"db_port": proxy.port})
        with supervised(away, told, *arguments) as worker:
            told.wait_for("WATCHDOG=1", 60)
            goes_on(told)
            port = worker.metrics_port
            status, report = probe(port, READY)
            assert (status, report["ok"]) == (503, False)
            assert any("no position yet" in one for one in report["problems"])
            assert probe(port, LIVE) == (200, {"ok": True, "problems": []})
            assert not [line for line in told.lines if line == "READY=1"]
            told.wait_for("EXTEND_TIMEOUT_USEC=60000000")

            proxy.refuse = False
            told.wait_for("READY=1", 30)
            eventually(lambda: any(line.startswith("STATUS=lag ") and "msg/s" in line for line in told.lines), 15)
            eventually(lambda: probe(port, READY)[0] == 200, 15)

            proxy.refuse = True
            proxy.cut()
            publish(settings, "spark.thing.s1")
            eventually(lambda: probe(port, READY)[0] == 503, 15)
            assert any("PostgreSQL" in one for one in probe(port, READY)[1]["problems"])
            goes_on(told)
            assert probe(port, LIVE)[0] == 200
            told.wait_for("STATUS=waits: " + probe(port, READY)[1]["problems"][0], 15)

            proxy.refuse = False
            eventually(lambda: events(settings) == 1, 15)
            eventually(lambda: probe(port, READY)[0] == 200, 15)
            assert told.lines.count("READY=1") == 0  # it is told once, and was before
            worker.terminate()
            assert worker.wait() == 0
            assert told.lines.count("STOPPING=1") == 1


def test_who_stands_by_is_ready_too_and_takes_over(settings: Settings, told: Told, tmp_path: Path) -> None:
    with Told(tmp_path / "second") as second, supervised(settings, told) as first:
        told.wait_for("READY=1", 60)
        with supervised(settings, second) as other:
            second.wait_for("READY=1", 60)
            assert "standing by" in other.tail()
            first.kill()
            publish(settings, "spark.thing.s1")
            eventually(lambda: events(settings) == 1, 30)
            assert probe(other.metrics_port, READY)[0] == 200


def test_rollups_are_ready_once_they_have_begun_which_needs_ingest(
    settings: Settings, told: Told, tmp_path: Path
) -> None:
    with supervised(settings, told, flow="flows.rollups") as rollups, Told(tmp_path / "second") as second:
        told.wait_for("WATCHDOG=1", 60, times=6)
        assert "READY=1" not in told.lines
        assert probe(rollups.metrics_port, LIVE)[0] == 200
        with supervised(settings, second):
            told.wait_for("READY=1", 60)
            goes_on(told)
        rollups.terminate()
        told.wait_for("STOPPING=1")
        assert rollups.wait() == 0


def test_a_step_that_hangs_ends_the_pings_and_is_named_with_its_stack(settings: Settings, told: Told) -> None:
    with supervised(settings, told, flow="tests.support.hung_flow") as worker:
        told.wait_for("READY=1", 60)
        publish(settings, "spark.thing.s1")
        eventually(lambda: events(settings) == 1, 15)
        goes_on(told)
        publish(settings, "spark.hang.s1")
        eventually(lambda: probe(worker.metrics_port, LIVE)[0] == 503, 15)
        _, report = probe(worker.metrics_port, LIVE)
        assert report["problems"][0].startswith("dataflow has not moved for ")
        assert probe(worker.metrics_port, READY)[0] == 503
        told.forget()
        assert not told.comes("WATCHDOG=1", 3 * WATCHDOG_S)
        log = worker.log.read_text()
        assert "it hangs" in log
        assert "in _hangs" in log


def test_the_service_is_ready_when_it_serves(settings: Settings, told: Told, tmp_path: Path) -> None:
    port = free_port()
    process = spawn(
        [sys.executable, "-m", "realtime.api", "--port", str(port)],
        log=tmp_path / "api.log",
        environment={
            "PATH": os.environ["PATH"],
            **environment_of(settings),
            "SLATE_JWT_SECRET": JWT_SECRET,
            "NOTIFY_SOCKET": told.address,
            "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
        },
    )
    try:
        told.wait_for("READY=1", 60)
        assert probe(port, LIVE) == (200, {"ok": True, "problems": []})
        assert probe(port, READY)[0] == 200
        told.wait_for(f"STATUS=serves 127.0.0.1:{port}, 0 connections", 20)
        goes_on(told)
        process.terminate()
        assert process.wait(30) in (0, -signal.SIGTERM)  # uvicorn ends by the signal that it was sent
    finally:
        kill_tree(process)


@pytest.mark.chaos
def test_a_postgresql_that_never_answers_is_waited_for_and_no_reason_to_start_anew(
    settings: Settings, told: Told, postgres: PostgresServer
) -> None:
    hasty = settings.model_copy(update={"db_statement_timeout_s": 1.0})
    with supervised(hasty, told) as worker:
        told.wait_for("READY=1", 60)
        postgres.pause()
        try:
            publish(settings, "spark.thing.s1")
            goes_on(told, round(longest_silence_s(hasty)) + 12)
            assert probe(worker.metrics_port, LIVE)[0] == 200
            assert probe(worker.metrics_port, READY)[0] == 503
        finally:
            postgres.resume()
        eventually(lambda: events(settings) == 1, 60)
        eventually(lambda: probe(worker.metrics_port, READY)[0] == 200, 30)
        worker.terminate()
        assert worker.wait() == 0
