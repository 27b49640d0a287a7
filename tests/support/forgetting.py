"""Users whose events are in a stream and in tables, and what must be true when one of them is forgotten."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import psycopg
import redis

from connectors.settings import Settings
from flows.fold import bin_of
from flows.forget import Forgetting
from realtime.simulated import SimulatedEvent
from tests.support.people import PersonsLife, has, in_order, in_redis, in_stream, lives, texts_of
from tests.support.rollups import EVERYTHING, window_differences
from tests.support.traffic import Traffic, last_sequence
from tests.support.waiting import eventually
from tests.support.worker import Worker

RAW = {
    "public.spark_sessions",
    "public.spark_telemetry",
    "public.spark_previews",
    "public.spark_generated_scripts",
    "public.spark_build_jobs",
    "public.spark_usage",
    "public.spark_function_calls",
    "slate.dead_letters",
}


class World:
    """Three users whose events are in the stream."""

    def __init__(self, settings: Settings, directory: Path, *, count: int = 3, shuffled: bool = True) -> None:
        self.settings = settings.model_copy(update={"frames_url": (directory / "frames").as_uri()})
        self.directory = directory
        self.lives = lives(count, directory / "frames")
        self.first, self.second = self.lives[:2]
        self.publish(in_order(self.lives) if shuffled else [event for life in self.lives for event in life.events])
        with redis.Redis(host=str(settings.redis_host), port=settings.redis_port) as client:
            client.flushall()
            for life in self.lives:
                client.rpush(f"slate:limit:window:inputs:{life.user}", 1)
                client.set(f"slate:tokens:{life.user}:2026-01", 5)
                client.set(f"slate:read:sessions {life.sessions[0]}", life.marker)

    def publish(self, events: list[SimulatedEvent]) -> None:
        with Traffic(self.settings, rate=1e9, events=events):
            pass

    def worker(self, flow: str = "flows.ingest") -> Worker:
        return Worker(self.settings, flow=flow, directory=self.directory, environment={"SLATE_AUDIT_EVERY": "0"})

    def stored(self, database: psycopg.Connection, *, unread: int = 0) -> None:
        """Wait until the stream is read, but for so many that were erased before."""
        wanted = asyncio.run(last_sequence(self.settings)) - unread
        query = "SELECT coalesce(sum(read), 0)::bigint FROM slate.progress"
        eventually(lambda: database.execute(query).fetchone() == (wanted,), 30, what=f"{wanted} are read")

    def settle(self, database: psycopg.Connection, *, rollups: bool = True, unread: int = 0) -> None:
        """Store and count everything, and stop."""
        with ExitStack() as stack:
            stack.enter_context(self.worker())
            if rollups:
                stack.enter_context(self.worker("flows.rollups"))
            self.stored(database, unread=unread)
            if rollups:
                self.counted(database)

    def counted(self, database: psycopg.Connection) -> None:
        query = (
            "SELECT coalesce(sum(p.read) = sum(r.read), false)"
            " FROM slate.progress AS p LEFT JOIN slate.rollup_progress AS r USING (stream, partition)"
        )
        eventually(lambda: database.execute(query).fetchone() == (True,), 30, what="all is counted")

    def forget(self, life: PersonsLife, *, dry_run: bool = False) -> dict[str, int]:
        work = Forgetting(self.settings, life.user, lambda *_: None, dry_run=dry_run)
        asyncio.run(work.run())
        return work.counts

    def assert_forgotten(self, database: psycopg.Connection, life: PersonsLife) -> None:
        for table, rows in texts_of(database).items():
            assert not [row for row in rows if has(row, life.needles)][:3], table
        assert not [one for one in in_stream(self.settings) if has(one, life.needles)][:3]
        assert not [one for one in in_redis(self.settings) if has(one, life.needles)][:3]
        kept = [path.read_bytes().decode() for path in (self.directory / "frames").rglob("*.png")]
        assert not [one for one in kept if has(one, life.needles)]

    def assert_right(self, database: psycopg.Connection) -> None:
        """Totals and windows equal the tables, and the account of messages is even."""
        assert database.execute(f"SELECT * FROM {EVERYTHING}".encode()).fetchall() == []
        assert window_differences(database, _bins) == []
        assert database.execute("SELECT * FROM slate.gaps").fetchall() == []
        uneven = "SELECT * FROM slate.progress WHERE read <> stored + duplicate + dead_lettered"
        assert database.execute(uneven.encode()).fetchall() == []


def _bins(durations: list[int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in durations:
        found[str(bin_of(one))] = found.get(str(bin_of(one)), 0) + 1
    return found


def raw(texts: dict[str, list[str]], life: PersonsLife) -> dict[str, list[str]]:
    """The rows of tables that say what happened, without those of one user."""
    return {
        table: [row for row in rows if not has(row, life.needles)]
        for table, rows in texts.items()
        if table in RAW or table.startswith("public.spark_events_2")
    }
