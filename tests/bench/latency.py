"""From publish to visible at a steady rate."""

import asyncio
import time
from dataclasses import dataclass
from uuid import UUID

import psutil
import psycopg

from connectors.publisher import Publisher
from connectors.settings import Settings
from deploy.servers import PostgresServer
from flows.events import identity_key
from realtime.bench_mix import bench_mix
from tests.support.traffic import last_sequence
from tests.support.waiting import eventually
from tests.support.worker import Worker


@dataclass
class Latency:
    """Milliseconds from `publish` to the commit that made the event visible, and the worker's share of a core."""

    p50_ms: float
    p99_ms: float
    worker_cpu: float


def steady(settings: Settings, postgres: PostgresServer, *, rate: int, seconds: int) -> Latency:
    """Publish at `rate` while a worker runs, and read each event's commit time from PostgreSQL."""
    _keep_commit_times(settings, postgres)
    seed = time.time_ns()
    with Worker(settings) as worker:
        eventually(lambda: "reading partition" in worker.tail(), 20)
        eventually(lambda: _lag(settings) == 0, 120, what="an empty backlog")
        busy = psutil.Process(worker.pid).cpu_times()
        sent = asyncio.run(_publish(settings, rate, rate * seconds, seed))
        after = psutil.Process(worker.pid).cpu_times()
        eventually(lambda: _lag(settings) == 0, 30)
        worker.terminate()
        worker.wait()
    with psycopg.connect(**settings.dsn(), autocommit=True) as connection:  # type: ignore[arg-type]
        rows = connection.execute(
            "SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin)) FROM slate.event_ids WHERE id = ANY(%s)",
            (list(sent),),
        )
        taken = sorted((float(committed) - sent[id_]) * 1000 for id_, committed in rows)
    assert len(taken) > 0.9 * rate * seconds
    cpu = (after.user + after.system - busy.user - busy.system) / seconds
    return Latency(taken[len(taken) // 2], taken[int(len(taken) * 0.99)], cpu)


def _keep_commit_times(settings: Settings, postgres: PostgresServer) -> None:
    with psycopg.connect(**settings.dsn(), autocommit=True) as connection:  # type: ignore[arg-type]
        row = connection.execute("SHOW track_commit_timestamp").fetchone()
        if row and row[0] == "on":
            return
        connection.execute("ALTER SYSTEM SET track_commit_timestamp = on")
    postgres.stop()
    postgres.start()


def _lag(settings: Settings) -> int:
    last = asyncio.run(last_sequence(settings))
    with psycopg.connect(**settings.dsn(), autocommit=True) as connection:  # type: ignore[arg-type]
        row = connection.execute("SELECT coalesce(sum(read), 0)::bigint FROM slate.progress").fetchone()
    return last - int(row[0] if row else 0)


async def _publish(settings: Settings, rate: int, count: int, seed: int) -> dict[UUID, float]:
    """Publish valid events evenly, and return when each was handed over, by its identity in the database."""
    loop = asyncio.get_running_loop()
    sent: dict[UUID, float] = {}
    async with await Publisher.connect(settings) as publisher:
        start = loop.time()
        for number, event in enumerate(bench_mix(count, seed=seed, invalid=0)):
            ahead = number / rate - (loop.time() - start)
            if ahead > 0:
                await asyncio.sleep(ahead)  # paces
            assert event.msg_id is not None
            sent[UUID(bytes=identity_key(event.msg_id))] = time.time()
            await publisher.publish(event.subject, event.payload, msg_id=event.msg_id)
    return sent
