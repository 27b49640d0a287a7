"""How fast reads are on a large database, without the cache and with it, and by which plan.

    python -m tests.bench.reads [--rows N] [--runs N] [--repeat N] [--keep]

PostgreSQL and Valkey run below `.slate/bench-reads`; `--keep` leaves the data there for the next time.
"""

import argparse
import asyncio
import shutil
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from redis.asyncio import Redis

from connectors.read_cache import ReadCache
from connectors.reads import Reader
from connectors.schema import migrate
from connectors.settings import Settings
from deploy.embedded import HOST
from deploy.processes import variables
from deploy.servers import PostgresServer, ValkeyServer
from realtime import queries
from realtime.query_rows import Page
from tests.support.many_rows import fill

_DIRECTORY = Path(".slate/bench-reads")
T = TypeVar("T")
Read = Callable[[Reader], Awaitable[object]]


class Watched(Reader):
    """Remembers what it was asked last."""

    sql = ""
    parameters: Mapping[str, Any] = {}

    async def fetch(self, sql: str, parameters: Mapping[str, Any], into: type[T], *, fresh: bool = False) -> list[T]:
        self.sql, self.parameters = sql, parameters
        return await super().fetch(sql, parameters, into, fresh=fresh)


@contextmanager
def servers(keep: bool) -> Iterator[tuple[Settings, ValkeyServer]]:
    """PostgreSQL and Valkey of the benchmark's own."""
    directory = _DIRECTORY.absolute()
    if not keep:
        shutil.rmtree(directory, ignore_errors=True)
    postgres, valkey = PostgresServer(directory / "postgres", password="bench"), ValkeyServer(directory / "valkey")
    try:
        postgres.start()
        valkey.start()
        environment = {**postgres.environment(), **valkey.environment()}
        fields = {field: environment[name] for field, name in variables().items() if name in environment}
        settings = Settings.load(local=False, **fields, metrics_port=0)
        migrate(settings)
        yield settings, valkey
    finally:
        valkey.stop()
        postgres.stop()
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)


def reads(connection: psycopg.Connection, now: datetime) -> dict[str, Read]:
    """Each read by name, of another user, session or script at each call."""
    rows = connection.execute(
        "SELECT session_id, user_id FROM spark_sessions WHERE user_id IS NOT NULL ORDER BY md5(session_id) LIMIT 500"
    ).fetchall()
    of: Iterator[tuple[str, UUID]] = cycle(rows)
    ids = cycle([id_ for (id_,) in connection.execute("SELECT id FROM spark_generated_scripts LIMIT 500")])
    today = now.date()
    since, until = today - timedelta(days=30), today + timedelta(days=1)

    def sid() -> str:
        return next(of)[0]

    def user() -> UUID:
        return next(of)[1]

    def deep(read: Callable[..., Awaitable[Page[Any]]], **more: Any) -> Read:
        """The page after the first 5,000 rows."""
        cursors: list[str | None] = []

        async def page(reader: Reader) -> object:
            if not cursors:
                cursor = None
                for _ in range(10):
                    cursor = (await read(reader, None, cursor=cursor, limit=500, **more)).next
                cursors.append(cursor)
            return await read(reader, None, cursor=cursors[0], **more)

        return page

    return {
        "active sessions": lambda r: queries.sessions(r, None, active=True),
        "active sessions, user": lambda r: queries.sessions(r, user(), active=True),
        "sessions": lambda r: queries.sessions(r, None),
        "sessions, 5,000 later": deep(queries.sessions),
        "sessions, user": lambda r: queries.sessions(r, user()),
        "session": lambda r: queries.session(r, None, sid()),
        "timeline": lambda r: queries.timeline(r, None, sid()),
        "calls": lambda r: queries.function_calls(r, None),
        "calls, 5,000 later": deep(queries.function_calls),
        "calls, failed": lambda r: queries.function_calls(r, None, status="failed"),
        "calls, a function's": lambda r: queries.function_calls(r, None, name="function_7"),
        "calls, that never fails, failed": lambda r: queries.function_calls(r, None, name="sound", status="failed"),
        "calls, of no such function": lambda r: queries.function_calls(r, None, name="none"),
        "calls, session": lambda r: queries.function_calls(r, None, session_id=sid()),
        "calls, user": lambda r: queries.function_calls(r, user()),
        "calls, user, failed": lambda r: queries.function_calls(r, user(), status="failed"),
        "scripts": lambda r: queries.scripts(r, None),
        "scripts, user": lambda r: queries.scripts(r, user()),
        "script": lambda r: queries.script(r, None, next(ids)),
        "previews": lambda r: queries.previews(r, None),
        "previews, user": lambda r: queries.previews(r, user()),
        "builds": lambda r: queries.builds(r, None),
        "builds, user": lambda r: queries.builds(r, user()),
        "usage, day and model, 31 days": lambda r: queries.usage(r, None, since=since, until=until),
        "usage, user, today": lambda r: queries.usage(r, None, since=today, until=until, by=["user"]),
        "usage, user, 31 days": lambda r: queries.usage(r, None, since=since, until=until, by=["user"]),
        "usage, own, 31 days": lambda r: queries.usage(r, user(), since=since, until=until),
        "error rates, 31 days": lambda r: queries.error_rates(r, None, since=since, until=until),
        "error rates, own, 31 days": lambda r: queries.error_rates(r, user(), since=since, until=until),
        "windows, an hour of calls": lambda r: queries.windows(
            r, signal="calls", since=now - timedelta(hours=1), until=now
        ),
        "minutes, 60": lambda r: queries.minutes(r, now=now),
        "alerts": lambda r: queries.alerts(r, None),
        "alerts, user": lambda r: queries.alerts(r, user()),
        "alert history": lambda r: queries.alert_history(r, None),
        "alert history, user": lambda r: queries.alert_history(r, user()),
        "dead letters": queries.dead_letters,
        "dead letters, counts": queries.dead_letter_counts,
        "figures": lambda r: queries.figures(r, None, now=now, stream="SPARK"),
        "figures, user": lambda r: queries.figures(r, user(), now=now, stream="SPARK"),
    }


async def timed(act: Callable[[], Awaitable[object]], repeat: int) -> tuple[float, float]:
    """Median and 99th percentile, milliseconds."""
    times = []
    for _ in range(repeat):
        begun = time.perf_counter()
        await act()
        times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times), statistics.quantiles(times, n=100, method="inclusive")[98]


def plan(connection: psycopg.Connection, sql: str, parameters: Mapping[str, Any]) -> str:
    """The nodes that read tables, by table."""
    row = connection.execute(f"EXPLAIN (FORMAT JSON) {sql}".encode(), parameters).fetchone()
    assert row is not None
    found: dict[str, None] = {}

    def walk(node: dict[str, Any]) -> None:
        if name := node.get("Index Name") or node.get("Relation Name"):
            found[f"{node['Node Type']} {name}"] = None
        for child in node.get("Plans", []):
            walk(child)

    walk(row[0][0]["Plan"])
    return ", ".join(found)


async def measure(settings: Settings, valkey: ValkeyServer, runs: int, repeat: int) -> None:
    """Print a line for each read."""
    now = datetime.now(UTC)
    async with Watched(settings) as reader, Redis(host=HOST, port=valkey.port) as client:
        cache = ReadCache(client)
        with psycopg.connect(**settings.dsn(), autocommit=True) as connection:  # type: ignore[arg-type]
            connection.execute("SET TIME ZONE 'UTC'")
            for name, read in reads(connection, now).items():
                await read(reader)
                uncached = [await timed(lambda one=read: one(reader), repeat) for _ in range(runs)]  # type: ignore[misc]

                async def load(one: Read = read) -> bytes:
                    return queries.encode(await one(reader))

                size = len(await cache.get(name, 600, load))
                hits = [
                    await timed(lambda key=name, it=load: cache.get(key, 600, it), repeat * 5)  # type: ignore[misc]
                    for _ in range(runs)
                ]
                print(  # noqa: T201
                    f"{name:34} {spread(uncached, 0)} {spread(uncached, 1)}   "
                    f"{spread(hits, 0)} {spread(hits, 1)} {size:>8}  {plan(connection, reader.sql, reader.parameters)}",
                    flush=True,
                )


def spread(runs: list[tuple[float, float]], which: int) -> str:
    """All runs of a figure, the least first."""
    return "/".join(f"{one[which]:.1f}" if one[which] >= 10 else f"{one[which]:.2f}" for one in sorted(runs)).rjust(18)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.reads", description="How fast reads are.")
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows over all tables")
    parser.add_argument("--runs", type=int, default=3, help="how often each figure is measured")
    parser.add_argument("--repeat", type=int, default=200, help="reads in a run; five times as many cached ones")
    parser.add_argument("--keep", action="store_true", help="keep the data, and use what was kept")
    options = parser.parse_args()
    with servers(options.keep) as (settings, valkey):
        with psycopg.connect(**settings.dsn(), autocommit=True) as connection:  # type: ignore[arg-type]
            begun = time.monotonic()
            filled = fill(connection, options.rows)
        sys.stdout.write(f"{filled} rows, {time.monotonic() - begun:.0f} s to fill\n")
        sys.stdout.write(
            f"{'read':34} {'uncached p50, ms':>18} {'p99':>18}   {'cached p50, ms':>18} {'p99':>18} "
            f"{'bytes':>8}  plan\n"
        )
        asyncio.run(measure(settings, valkey, options.runs, options.repeat))


if __name__ == "__main__":
    main()
