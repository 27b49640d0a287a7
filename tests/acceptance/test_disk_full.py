"""A disk that is full, of each server and of what keeps files: who waits, who refuses, and that nothing is lost."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
import redis

from connectors.errors import PublishError
from connectors.frames import FileFrames, FrameStoreError
from connectors.outbox import Outbox
from connectors.settings import Settings
from deploy.servers import NatsServer, PostgresServer, ValkeyServer
from tests.support.disk import Disk, disk
from tests.support.failover import KeptWorker
from tests.support.outbox import put
from tests.support.outbox import stored as held
from tests.support.stack import Stack, connect
from tests.support.traffic import Traffic, assert_drained_exactly_once
from tests.support.waiting import eventually, until

Record = Callable[[str, object], None]
MEGABYTE = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Disk]:
    with disk(tmp_path / "disk", 400) as found:
        yield found


def stored(settings: Settings) -> int:
    with suppress(psycopg.Error), connect(settings, connect_timeout=2) as connection:
        row = connection.execute("SELECT coalesce(sum(read), 0)::bigint FROM slate.progress").fetchone()
        return int(row[0]) if row else -1
    return -1


def retries(worker: KeptWorker) -> dict[str, float]:
    return {name: value for name, value in worker.metrics().items() if "spark_ingest_retries_total" in name}


def test_while_postgresql_has_no_room_workers_wait_and_then_store_all(
    small: Disk, nats_server: NatsServer, valkey: ValkeyServer, record_property: Record
) -> None:
    postgres = PostgresServer(small.path / "postgres", password=secrets.token_hex(16))
    try:
        postgres.start()
        with (
            Stack(postgres, nats_server, valkey).provide() as settings,
            Traffic(settings, 6000, rate=500) as traffic,
            KeptWorker(settings) as worker,
        ):
            eventually(lambda: stored(settings) > 500, 20)
            small.fill(MEGABYTE)
            eventually(lambda: retries(worker), 30, what="a transaction that finds no room")
            began = time.monotonic()
            eventually(lambda: time.monotonic() > began + 5, 10)
            tried = sum(retries(worker).values())
            record_property("reasons", str(retries(worker)))
            assert tried < 15, "it tries too often"
            assert worker.ends == []
            record_property("postgresql_runs", postgres.running)
            small.give_back()
            began = time.monotonic()
            if not postgres.running:
                postgres.start()
            before = stored(settings)
            eventually(lambda: stored(settings) > max(before, 0), 20, what="it stores again")
            record_property("stored_again_s", round(time.monotonic() - began, 1))
            traffic.wait()
            with connect(settings) as connection:
                assert_drained_exactly_once(connection, settings, traffic.events)
            assert worker.ends == []
    finally:
        postgres.kill()


def test_while_nats_has_no_room_events_stay_in_the_outbox_and_then_all_are_stored(
    small: Disk, stack: Stack, postgres: PostgresServer, valkey: ValkeyServer, tmp_path: Path, record_property: Record
) -> None:
    server = NatsServer(small.path / "nats", user="slate", password=secrets.token_hex(16))
    server.start()

    async def run(settings: Settings) -> None:
        async with await Outbox.open(settings, tmp_path / "spill") as outbox:
            await put(outbox, range(500), telemetry(10))
            await outbox.flush(20)
            small.fill()
            await put(outbox, range(500, 1500), telemetry(10_000))
            await asyncio.sleep(3)
            assert outbox.pending > 0
            record_property("nats_waits", outbox.pending)
            record_property("nats_runs", server.running)
            small.give_back()
            with suppress(TimeoutError):
                await until(lambda: outbox.pending == 0, 3)
            record_property("nats_needs_restart", outbox.pending > 0)
            if outbox.pending:
                server.stop()
                server.start()
            began = time.monotonic()
            await outbox.flush(30)
            record_property("sent_s", round(time.monotonic() - began, 1))

    try:
        with Stack(postgres, server, valkey).provide() as settings, KeptWorker(settings) as worker:
            asyncio.run(run(settings))
            eventually(lambda: ids(settings) == 1500, 30)
            assert worker.ends == []
    finally:
        server.kill()


def telemetry(size: int) -> bytes:
    return b'{"kind":"k","data":{"x":"%s"}}' % (b"x" * size)


def ids(settings: Settings) -> int:
    with connect(settings) as connection:
        row = connection.execute("SELECT count(*) FROM slate.event_ids").fetchone()
        return int(row[0]) if row else 0


def test_while_valkey_has_no_room_it_refuses_to_write_and_then_goes_on(small: Disk, record_property: Record) -> None:
    server = ValkeyServer(small.path / "valkey")
    server.start()
    try:
        with redis.Redis("127.0.0.1", server.port) as client:
            client.set("a", "1")
            small.fill()
            began = time.monotonic()

            def refuses() -> bool:
                try:
                    client.set("b", "x" * 100_000)
                except redis.RedisError as error:
                    record_property("valkey_says", str(error))
                    return True
                return False

            eventually(refuses, 20)
            record_property("valkey_refuses_after_s", round(time.monotonic() - began, 1))
            assert server.running
            assert client.get("a") == b"1"
            small.give_back()
            began = time.monotonic()
            eventually(lambda: not refuses(), 20)
            record_property("valkey_takes_again_s", round(time.monotonic() - began, 1))
    finally:
        server.kill()


def test_an_outbox_without_room_refuses_what_it_cannot_keep_and_sends_what_it_kept(
    settings: Settings, nats_server: NatsServer, tmp_path: Path
) -> None:
    async def run() -> None:
        with disk(tmp_path / "spill", 8) as small:
            nats_server.kill()
            async with await Outbox.open(settings, small.path / "spill") as outbox:
                small.fill(MEGABYTE)
                with pytest.raises(PublishError, match=r"No space left on device.*SLATE_SPILL_DIR"):
                    await put(outbox, range(1000), telemetry(10_000))
                accepted = outbox.pending
                assert 50 < accepted < 1000
                small.give_back()
                await outbox.put("spark.telemetry.a", telemetry(10_000), msg_id="after")
                nats_server.start()
                await outbox.flush(20)
        assert len(await held(settings)) == accepted + 1

    asyncio.run(run())


def test_a_preview_without_room_is_refused_whole_and_leaves_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        with disk(tmp_path / "frames", 8) as small:
            frames = FileFrames(small.path / "kept")
            await frames.put(b"before")
            small.fill(100_000)
            with pytest.raises(FrameStoreError, match=r"No space left on device.*SLATE_FRAMES_URL"):
                await frames.put(b"x" * MEGABYTE)
            assert not list(small.path.rglob("*.new"))
            small.give_back()
            assert await frames.put(b"x" * MEGABYTE)

    asyncio.run(run())
