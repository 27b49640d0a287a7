"""Who hangs, who waits and who has begun; what systemd and probes are told of it."""

import atexit
import json
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import start_http_server

from connectors import health as module
from connectors import link, metrics
from connectors.background import BackgroundSink
from connectors.environment import Supervisor, supervisor
from connectors.health import LIVE, READY, Health, longest_silence_s
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from connectors.systemd import Reporter
from deploy.embedded import free_port
from tests.support.systemd import Told
from tests.support.waiting import eventually

BOUND = 100.0


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_who_is_silent_for_too_long_hangs_until_it_moves(clock: Clock) -> None:
    health = Health(BOUND)
    health.beat("dataflow")
    clock.now += BOUND
    assert health.live() == (True, [])
    clock.now += 1
    ok, (problem,) = health.live()
    assert not ok
    assert problem == "dataflow has not moved for 101 s, which should take 100 s at most"
    health.beat("dataflow")
    assert health.live().ok


def test_who_rests_never_hangs(clock: Clock) -> None:
    health = Health(BOUND)
    health.beat("writer")
    health.rest("writer")
    health.rest("writer")  # twice is as good
    clock.now += 1e6
    assert health.live().ok


def test_one_part_that_moves_does_not_hide_another_that_hangs(clock: Clock) -> None:
    health = Health(BOUND)
    health.beat("writer")
    thread = threading.Thread(target=health.beat, args=("dataflow",))
    thread.start()
    thread.join()
    clock.now += BOUND + 1
    health.beat("dataflow")  # of this thread: that of the other is another part
    health.beat("writer")
    assert [one.split()[0] for one in health.live().problems] == ["dataflow"]


@given(st.lists(st.tuples(st.sampled_from(["beat", "rest", "wait"]), st.sampled_from("abc")), max_size=40))
def test_a_part_hangs_exactly_when_its_last_word_was_a_beat_that_is_too_old(words: list[tuple[str, str]]) -> None:
    now, last = 0.0, dict[str, float]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "monotonic", lambda: now)
        health = Health(2.0)
        for what, part in words:
            if what == "wait":
                now += 1.0
            elif what == "beat":
                health.beat(part)
                last[part] = now
            else:
                health.rest(part)
                last.pop(part, None)
            hanging = {one.split()[0] for one in health.live().problems}
            assert hanging == {name for name, at in last.items() if now - at > 2.0}


def test_it_is_ready_once_it_has_begun_and_nothing_is_missing(clock: Clock) -> None:
    health = Health(BOUND)
    assert health.ready() == (False, ["it has not begun"])
    missing: list[str | None] = ["NATS: not connected", "NATS: not connected"]
    health.need(lambda: missing[0])
    health.need(lambda: missing[1])
    assert health.ready() == (False, ["NATS: not connected"])
    missing[:] = [None, None]
    assert health.ready() == (True, [])
    health.complain("PostgreSQL", "away")
    assert health.ready() == (False, ["PostgreSQL: away"])
    assert health.live().ok  # to start it anew would not bring PostgreSQL back
    health.recover("PostgreSQL")
    health.recover("PostgreSQL")
    assert health.ready().ok
    health.beat("writer")
    clock.now += BOUND + 1
    assert not health.ready().ok


def test_the_stacks_of_what_hangs_are_told_and_of_nothing_else(clock: Clock) -> None:
    health = Health(BOUND)
    free = threading.Event()

    def hangs() -> None:
        health.beat("writer")
        free.wait()

    thread = threading.Thread(target=hangs)
    thread.start()
    try:
        eventually(lambda: health._moved)
        health.beat("dataflow")
        assert health.stacks() == ""
        clock.now += BOUND + 1
        health.beat("dataflow")
        told = health.stacks()
        assert told.startswith("writer:\n")
        assert "free.wait()" in told
        assert "dataflow" not in told
    finally:
        free.set()
        thread.join()


@pytest.mark.parametrize("timeout", [0.1, 30.0, 600.0])
def test_the_bound_leaves_room_for_the_longest_that_a_writer_waits(timeout: float) -> None:
    settings = Settings.load(db_statement_timeout_s=timeout, db_host="db")
    connects = float(settings.dsn()["connect_timeout"]) + 3
    assert longest_silence_s(settings) > module.PATIENCE * timeout + connects + link._LONGEST_DELAY_S * 1.25


def test_a_beat_costs_next_to_nothing() -> None:
    health = Health()
    begun = time.perf_counter()
    for _ in range(100_000):
        health.beat("dataflow")
    assert (time.perf_counter() - begun) / 100_000 < 20e-6  # 0.5 us alone on the machine


# ---- a writer beside the dataflow ------------------------------------------------------------------------------------


def test_a_full_queue_lets_the_dataflow_rest_and_a_writer_that_hangs_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    health = Health(0.2)
    monkeypatch.setattr("connectors.background.HEALTH", health)
    free = threading.Event()

    def write(_: list[int]) -> None:
        free.wait()

    sink = BackgroundSink[int](write, lambda _: (1, 0), (1, 1), Shutdown(), close=lambda: None)

    def dataflow() -> None:
        health.beat("dataflow")
        sink.write_batch([1, 2, 3, 4, 5])
        sink.close()

    thread = threading.Thread(target=dataflow)
    thread.start()
    eventually(lambda: not health.live().ok)
    assert [one.split()[0] for one in health.live().problems] == ["writer"]
    free.set()
    thread.join(5)
    assert health._moved == {}


def test_a_step_that_hangs_is_seen_while_the_writer_has_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    health = Health(0.2)
    monkeypatch.setattr("connectors.background.HEALTH", health)
    sink = BackgroundSink[int](lambda _: None, lambda _: (1, 0), (1, 1), Shutdown(), close=lambda: None)
    health.beat("dataflow")
    sink.write_batch([1])
    eventually(lambda: not health.live().ok)
    assert [one.split()[0] for one in health.live().problems] == ["dataflow"]
    sink.close()


# ---- systemd ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    with Told(tmp_path / "notify") as found:
        yield found


class Reported:
    """A health with a reporter that tells `told` of it."""

    def __init__(self, to: Supervisor, status: Any = lambda: "lag 0, 0 msg/s") -> None:
        self.health = Health(0.4)
        self.missing: str | None = "NATS: not connected"
        self.stopping = False
        self.health.need(lambda: self.missing)
        self.reporter = Reporter(self.health, status, lambda: self.stopping, to)
        self.reporter.start()

    def close(self) -> None:
        self.reporter.end()
        atexit.unregister(self.reporter.end)


def test_systemd_is_told_when_it_is_ready_and_not_before_and_only_once(told: Told) -> None:
    with closing(Reported(Supervisor(told.address, 0.2))) as one:
        told.wait_for("WATCHDOG=1", times=5)
        assert "READY=1" not in told.lines
        assert "STATUS=waits: NATS: not connected" in told.lines
        assert "EXTEND_TIMEOUT_USEC=60000000" in told.lines
        one.missing = None
        told.wait_for("READY=1")
        told.wait_for("STATUS=lag 0, 0 msg/s")
        one.missing = "away"
        count = told.lines.count("WATCHDOG=1")
        told.wait_for("WATCHDOG=1", times=count + 3)
        one.missing = None
        told.wait_for("WATCHDOG=1", times=count + 6)
        assert told.lines.count("READY=1") == 1


def test_the_watchdog_is_not_told_while_a_part_hangs_and_is_again_when_it_moves(told: Told) -> None:
    with closing(Reported(Supervisor(told.address, 0.2))) as one:
        one.missing = None
        one.health.beat("writer")
        told.wait_for("WATCHDOG=1")
        eventually(lambda: not one.health.live().ok)
        told.forget()
        assert not told.comes("WATCHDOG=1", 1.0)
        one.health.rest("writer")
        told.wait_for("WATCHDOG=1", times=3)


def test_the_watchdog_is_told_about_twice_in_its_time(told: Told) -> None:
    with closing(Reported(Supervisor(told.address, 2.0))):
        told.wait_for("WATCHDOG=1", times=4)
        gaps = [later - earlier for earlier, later in zip(told.times[:-1], told.times[1:], strict=True)]
        assert all(0.9 < gap < 2.0 for gap in gaps[:3]), gaps


def test_systemd_is_told_when_it_stops_and_what_drains_is_not_ended_by_the_watchdog(told: Told) -> None:
    with closing(Reported(Supervisor(told.address, 0.2))) as one:
        one.missing = None
        told.wait_for("READY=1")
        one.health.beat("writer")
        one.stopping = True
        told.wait_for("STOPPING=1")
        eventually(lambda: not one.health.live().ok)
        told.forget()
        told.wait_for("WATCHDOG=1", times=3)
        assert "STOPPING=1" not in told.lines


def test_an_abstract_socket_is_told_too() -> None:
    with Told(f"@slate-test-{os.getpid()}-{free_port()}") as told, closing(Reported(Supervisor(told.address, 0.2))):
        told.wait_for("WATCHDOG=1")


def test_nothing_goes_wrong_where_nobody_listens(tmp_path: Path) -> None:
    for to in (Supervisor(), Supervisor(str(tmp_path / "gone"), 0.1)):
        with closing(Reported(to)) as one:
            eventually(one.reporter.is_alive)
            assert one.reporter.is_alive()


def test_a_fault_in_the_status_does_not_end_the_pings(told: Told) -> None:
    def broken() -> str:
        raise ValueError("no")

    with closing(Reported(Supervisor(told.address, 0.2), broken)) as one:
        one.missing = None
        told.wait_for("WATCHDOG=1", times=2)
        assert one.reporter.is_alive()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Supervisor()),
        ({"WATCHDOG_USEC": "30000000"}, Supervisor()),
        ({"NOTIFY_SOCKET": ""}, Supervisor()),
        ({"NOTIFY_SOCKET": "vsock:2:1"}, Supervisor()),
        ({"NOTIFY_SOCKET": "/run/n"}, Supervisor("/run/n")),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "30000000"}, Supervisor("@n", 30.0)),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "soon"}, Supervisor("@n")),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, Supervisor("@n", 1.5)),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, Supervisor("@n")),
    ],
)
def test_the_environment_says_who_started_us(
    environment: dict[str, str], expected: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert supervisor() == expected


# ---- probes ----------------------------------------------------------------------------------------------------------


def probe(port: int, path: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Health, int]]:
    started: list[Any] = []

    def recorded(*arguments: Any) -> Any:
        started.append(start_http_server(*arguments))
        return started[-1]

    monkeypatch.setattr(metrics, "start_http_server", recorded)
    health = Health(BOUND)
    yield health, metrics.serve(Settings.load(metrics_port=free_port()), health)
    for server, thread in started:
        server.shutdown()
        server.server_close()
        thread.join()


def test_probes_are_answered_beside_the_metrics(served: tuple[Health, int], clock: Clock) -> None:
    health, port = served
    assert probe(port, LIVE) == (200, {"ok": True, "problems": []})
    assert probe(port, READY) == (503, {"ok": False, "problems": ["it has not begun"]})
    health.need(lambda: None)
    assert probe(port, READY) == (200, {"ok": True, "problems": []})
    health.beat("dataflow")
    clock.now += BOUND + 1
    for path in (LIVE, READY):
        status, told = probe(port, path)
        assert status == 503
        assert told["ok"] is False
        assert "dataflow" in told["problems"][0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert b"spark_ingest_messages" in answer.read()


def test_the_line_for_people_has_lag_and_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(metrics, "monotonic", lambda: now[0])
    pace = metrics.Pace()
    lag = metrics.LAG["ingest"].labels(partition="test-of-health")
    lag.set(1012)
    metrics.MESSAGES.labels(partition="test-of-health").inc(48_000)
    now[0] += 10
    try:
        told = pace()
        assert told.endswith(", 4,800 msg/s")
        assert "lag " in told
        assert pace().endswith(", 0 msg/s")
    finally:
        metrics.LAG["ingest"].remove("test-of-health")
        metrics.MESSAGES.remove("test-of-health")


def test_a_socket_of_systemd_gets_datagrams_and_no_connection(tmp_path: Path) -> None:
    with Told(tmp_path / "n") as told:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.sendto(b"A=1\nB=2", told.address)
        told.wait_for("B=2")
        assert told.lines == ["A=1", "B=2"]
