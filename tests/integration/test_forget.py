"""A user is forgotten whole, nobody else is touched, totals stay right; whatever runs, and wherever it is killed."""

import asyncio
import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import redis

from connectors.errors import StreamError
from connectors.settings import Settings
from deploy.processes import environment_of
from flows.export import ExportError, export
from flows.forget import ForgetError, Forgetting
from realtime.simulated import SimulatedEvent
from tests.support.forgetting import RAW, World, raw
from tests.support.people import has, in_order, in_redis, in_stream, picture, texts_of
from tests.support.run import run
from tests.support.stack import connect
from tests.support.traffic import Traffic
from tests.support.waiting import eventually
from tests.support.worker import Worker


@pytest.fixture
def database(settings: Settings) -> Iterator[psycopg.Connection]:
    with connect(settings) as connection:
        yield connection


@pytest.fixture
def world(settings: Settings, tmp_path: Path) -> World:
    return World(settings, tmp_path)


def test_of_a_user_nothing_is_left_and_nobody_else_is_touched(world: World, database: psycopg.Connection) -> None:
    world.settle(database)
    world.assert_right(database)
    before = raw(texts_of(database), world.first)
    messages = [one for one in in_stream(world.settings) if not has(one, world.first.needles)]
    shared = picture(world.directory / "frames", b"shared")
    would = world.forget(world.first, dry_run=True)
    assert would["sessions"] == 3
    assert raw(texts_of(database), world.second) != before
    done = world.forget(world.first)
    assert done["messages"] == would["messages"] == len(world.first.events)
    assert done["frames"] == 12
    world.assert_forgotten(database, world.first)
    world.assert_right(database)
    assert raw(texts_of(database), world.first) == before
    assert in_stream(world.settings) == messages
    assert (world.directory / "frames" / shared).is_file()
    assert len([one for one in in_redis(world.settings) if has(one, world.second.needles)]) == 2
    assert world.forget(world.first)["sessions"] == 0


def test_it_works_while_workers_do_and_they_go_on(world: World, database: psycopg.Connection) -> None:
    with world.worker() as ingest, world.worker("flows.rollups") as rollups:
        read = "SELECT coalesce(sum(read), 0) > 0 FROM slate.progress"
        eventually(lambda: database.execute(read).fetchone() == (True,), 30, what="they have begun")

        def forgotten() -> bool:
            try:
                world.forget(world.first)
            except ForgetError as error:
                if "live sessions" not in str(error):  # what has no time of its own happens now
                    raise
                return False
            return True

        eventually(forgotten, 30, what="ingest knows that the sessions have ended")
        world.assert_forgotten(database, world.first)
        world.publish([again(event, number) for number, event in enumerate(world.lives[2].events)])
        world.stored(database)
        world.counted(database)
        world.assert_right(database)
        assert ingest.running
        assert rollups.running


def again(event: SimulatedEvent, number: int) -> SimulatedEvent:
    return SimulatedEvent(0, event.subject, event.payload, f"again-{number}", "again")


def test_what_was_never_stored_is_found_in_the_stream_alone_and_nothing_is_taken_for_lost(
    world: World, database: psycopg.Connection
) -> None:
    world.publish(in_order([world.lives[2]], seed=3))  # known by JetStream: dropped
    assert world.forget(world.first)["messages"] == len(world.first.events)
    world.settle(database, unread=len(world.first.events))
    world.assert_forgotten(database, world.first)
    world.assert_right(database)
    row = database.execute("SELECT sum(read) FROM slate.progress").fetchone()
    assert row == (len(world.second.events) + len(world.lives[2].events),)


def test_a_head_of_the_stream_that_was_all_theirs_is_no_gap(
    settings: Settings, database: psycopg.Connection, tmp_path: Path
) -> None:
    world = World(settings, tmp_path, count=2, shuffled=False)
    world.forget(world.first)
    world.settle(database, unread=len(world.first.events))
    world.assert_forgotten(database, world.first)
    world.assert_right(database)


def test_a_worker_that_starts_meanwhile_stands_by(world: World, database: psycopg.Connection) -> None:
    world.settle(database)
    with ThreadPoolExecutor() as pool, connect(world.settings) as other:
        with database.transaction():
            database.execute("LOCK TABLE spark_usage IN EXCLUSIVE MODE")
            forgetting = pool.submit(world.forget, world.first)
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'spark_usage'::regclass"
            eventually(lambda: other.execute(waits).fetchone() == (1,), 30, what="it is half way")
            world.publish([again(event, number) for number, event in enumerate(world.second.events)])
            worker = world.worker()
            worker.start()
            try:
                eventually(lambda: "standing by" in worker.tail(), 30, what="the worker stands by")
            except BaseException:
                worker.kill()
                raise
        forgetting.result(60)
        try:
            world.stored(database)
        finally:
            worker.kill()
    world.assert_forgotten(database, world.first)


def test_a_worker_that_hangs_is_not_gone_past(world: World, database: psycopg.Connection) -> None:
    with world.worker() as ingest:
        world.stored(database)
        ingest.pause()
        with pytest.raises(StreamError, match="does not answer"):
            world.forget(world.first)
        ingest.resume()


def test_what_is_stored_and_not_counted_is_counted_first(world: World, database: psycopg.Connection) -> None:
    world.settle(database, rollups=False)
    world.forget(world.first)
    world.assert_forgotten(database, world.first)
    world.assert_right(database)
    with world.worker("flows.rollups"):
        world.counted(database)
    world.assert_right(database)


def test_what_is_delivered_once_more_is_known_and_not_stored(world: World, database: psycopg.Connection) -> None:
    world.settle(database)
    valid = [event for event in world.first.events if event.valid and "batch" not in event.subject]
    world.forget(world.first)
    world.publish(
        [
            SimulatedEvent(0, one.subject, one.payload[:-1] + f', "eventId": "{one.msg_id}"}}'.encode(), f"x{i}", "x")
            for i, one in enumerate(valid)
        ]
    )
    world.settle(database)
    for table, rows in texts_of(database).items():
        assert not [row for row in rows if has(row, world.first.needles)][:3], table
    world.assert_right(database)


class KilledError(Exception):
    pass


def test_killed_at_any_point_it_ends_complete_when_it_is_run_again(world: World, database: psycopg.Connection) -> None:
    world.settle(database)
    before = raw(texts_of(database), world.first)

    def attempt(left: int) -> bool:
        def report(*_: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KilledError

        try:
            asyncio.run(Forgetting(world.settings, world.first.user, report).run())
        except KilledError:
            world.assert_right(database)
            return False
        return True

    tries = next(number for number in range(200) if attempt(number))
    assert tries > 15
    world.assert_forgotten(database, world.first)
    world.assert_right(database)
    assert raw(texts_of(database), world.first) == before


def test_the_command_survives_kill_9_and_says_what_it_did(world: World, database: psycopg.Connection) -> None:
    world.settle(database)
    command = [sys.executable, "-m", "deploy.cli", "forget", "--user", str(world.first.user), "--yes"]
    environment = {"PATH": "/usr/bin:/bin", **environment_of(world.settings)}
    with database.transaction():
        database.execute("LOCK TABLE spark_usage IN EXCLUSIVE MODE")
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'spark_usage'::regclass"
            with connect(world.settings) as other:
                eventually(lambda: other.execute(waits).fetchone() == (1,), 30, what="it is half way")
            process.send_signal(signal.SIGKILL)
            process.communicate()
    world.assert_right(database)
    done = run(command, environment=environment)
    assert done.returncode == 0, done.stderr
    assert "spark_usage" in done.stdout
    world.assert_forgotten(database, world.first)
    world.assert_right(database)
    shown = run([*command[:3], "log"], environment=environment).stdout
    assert "no end" in shown
    assert "done" in shown
    assert str(world.first.user) not in shown


def test_nobody_is_there_to_ask_so_nothing_is_deleted(settings: Settings) -> None:
    command = [sys.executable, "-m", "deploy.cli", "forget", "--user", str(uuid4())]
    done = run(command, environment={"PATH": "/usr/bin:/bin", **environment_of(settings)})
    assert done.returncode == 2
    assert "--yes" in done.stderr


def test_a_user_whose_session_is_live_is_not_forgotten(settings: Settings) -> None:
    user = uuid4()
    body = json.dumps({"type": "connected", "userId": str(user)}).encode()
    event = SimulatedEvent(0, "spark.session.connected.live-session", body, "m", "x")
    with connect(settings) as database, Worker(settings):
        with Traffic(settings, rate=1e9, events=[event]):
            pass
        eventually(lambda: database.execute("SELECT 1 FROM spark_sessions").fetchone(), 20)
    with pytest.raises(ForgetError, match="live-session"):
        asyncio.run(Forgetting(settings, user, lambda *_: None).run())


def test_a_session_that_redis_knows_to_be_held_is_live(settings: Settings) -> None:
    user = uuid4()
    with redis.Redis(host=str(settings.redis_host), port=settings.redis_port) as client:
        client.zadd(f"slate:limit:lease:sessions:{user}", {"held-session": 9e18})
        with pytest.raises(ForgetError, match="held-session"):
            asyncio.run(Forgetting(settings, user, lambda *_: None).run())
        client.flushall()


def test_events_that_wait_on_this_machine_make_it_incomplete(
    world: World, database: psycopg.Connection, tmp_path: Path
) -> None:
    world.settle(database)
    waiting = tmp_path / ".slate" / "spill" / "process" / "00000001.log"
    waiting.parent.mkdir(parents=True)
    waiting.write_bytes(b"\x00" + str(world.first.user).encode())
    with pytest.raises(ForgetError, match="wait for NATS"):
        world.forget(world.first)
    waiting.unlink()
    world.forget(world.first)
    world.assert_forgotten(database, world.first)


def test_months_that_were_put_aside_are_not_forgotten_about(world: World, database: psycopg.Connection) -> None:
    world.settle(database)
    database.execute("CREATE TABLE slate.spark_events_2020_01 (LIKE spark_events)")
    database.execute("INSERT INTO slate.spark_events_2020_01 SELECT * FROM spark_events")
    world.forget(world.first)
    world.assert_forgotten(database, world.first)
    rows = texts_of(database)["slate.spark_events_2020_01"]
    assert [row for row in rows if has(row, world.second.needles)]


def test_alerts_and_what_they_are_decided_from_go_too(world: World, database: psycopg.Connection) -> None:
    world.settle(database)
    labels = json.dumps({"user": str(world.first.user)})
    others = json.dumps({"user": str(world.second.user)})
    for one in (labels, others):
        database.execute(
            "INSERT INTO slate.alerts (stream, rule, fingerprint, state, labels, annotations, reason, starts_at)"
            " VALUES ('s', 'r', %s, 'firing', %s, '{}', 'why', now())",
            (one, one),
        )
        database.execute(
            "INSERT INTO slate.alert_states (stream, rule, fingerprint, labels, status, since, samples, reason)"
            " VALUES ('s', 'r', %s, %s, 'firing', now(), 1, 'why')",
            (one, one),
        )
        database.execute(
            "INSERT INTO slate.alert_silences (matchers, until, author, comment) VALUES (%s, now(), 'a', 'c')", (one,)
        )
        key = json.dumps([json.loads(one)["user"]])  # the rules that come along have a budget by user, too
        database.execute("INSERT INTO slate.alert_budgets VALUES ('s', 'b', %s, now(), 1)", (key,))
    done = world.forget(world.first)
    assert (done["slate.alerts"], done["slate.alert_states"], done["slate.alert_silences"]) == (1, 1, 1)
    assert done["slate.alert_budgets"] >= 1
    world.assert_forgotten(database, world.first)
    assert len([row for row in texts_of(database)["slate.alerts"] if has(row, world.second.needles)]) == 1


@pytest.mark.parametrize("name", ["export.zip", "export"])
def test_an_export_holds_all_of_a_user_and_nothing_of_others(
    world: World, database: psycopg.Connection, tmp_path: Path, name: str
) -> None:
    world.settle(database)
    to = tmp_path / name
    counts = export(world.settings, world.first.user, to, lambda *_: None)
    assert to.stat().st_mode & 0o777 == (0o600 if to.is_file() else 0o700)
    files = contents(to)
    assert all(
        files[f"{table}.jsonl"].count(b"\n") == counts.get(table, 0) for table in ("spark_usage", "spark_events")
    )
    whole = b"".join(files.values()).decode()
    lines = [line for one, data in files.items() if one.endswith(".jsonl") for line in data.decode().splitlines()]
    assert all(isinstance(json.loads(line), dict) for line in lines)
    for session in world.first.sessions:
        assert session in whole
    # scripts and previews of a guest are told from nothing but the event that came with them
    stored = [row for table, rows in texts_of(database).items() if table in RAW for row in rows]
    assert sum(world.first.marker in line for line in lines) >= sum(has(row, [world.first.marker]) for row in stored)
    for other in world.lives[1:]:
        assert not has(whole, [str(other.user), other.marker])
    assert sum(one.startswith("frames/") for one in files) == 13
    assert json.loads(files["manifest.json"])["sessions"] == sorted(world.first.sessions)
    with pytest.raises(ExportError, match="there already"):
        export(world.settings, world.first.user, to, lambda *_: None)


def contents(path: Path) -> dict[str, bytes]:
    if path.is_file():
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    return {str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()}


def test_an_export_that_fails_leaves_nothing(world: World, tmp_path: Path) -> None:
    def report(*_: object) -> None:
        raise KeyboardInterrupt

    stop: Callable[..., None] = report
    for name in ("e.zip", "e"):
        with pytest.raises(KeyboardInterrupt):
            export(world.settings, world.first.user, tmp_path / name, stop)
    assert not list(tmp_path.glob("e*"))
