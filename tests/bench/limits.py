"""What this machine could do at most: reading the stream alone, and COPY of the same rows alone."""

import asyncio
import time
from pathlib import Path

import psycopg
from nats.aio.msg import Msg

from connectors.jetstream import connect
from connectors.settings import Settings

_TABLES = (
    "slate.event_ids",
    "public.spark_sessions",
    "public.spark_events",
    "public.spark_function_calls",
    "public.spark_telemetry",
    "public.spark_usage",
    "public.spark_previews",
    "public.spark_generated_scripts",
    "public.spark_build_jobs",
    "slate.dead_letters",
)


def copy_rate(settings: Settings, messages: int, directory: Path) -> float:
    """Messages a second when the rows that they made are copied into the emptied tables, in binary, one COPY each."""
    files = {table: directory / f"{table}.copy" for table in _TABLES}
    with psycopg.connect(**settings.dsn(), autocommit=True) as connection:  # type: ignore[arg-type]
        cursor = connection.cursor()
        for table, file in files.items():
            with file.open("wb") as out, cursor.copy(f"COPY (SELECT * FROM {table}) TO STDOUT (FORMAT binary)") as copy:
                for data in copy:
                    out.write(data)
        connection.execute(f"TRUNCATE {', '.join(_TABLES)}")
        connection.execute("CHECKPOINT")
        seconds = 0.0
        for table, file in files.items():
            start = time.monotonic()
            with file.open("rb") as source, cursor.copy(f"COPY {table} FROM STDIN (FORMAT binary)") as copy:
                while data := source.read(1 << 18):
                    copy.write(data)
            seconds += time.monotonic() - start
            file.unlink()
    return messages / seconds


async def ordered_read_rate(settings: Settings, messages: int) -> float:
    """Messages a second of the library's own ordered consumer with a callback that only counts."""
    client = await connect(settings, "bench-read")
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    seen = 0

    async def count(_: Msg) -> None:
        nonlocal seen
        seen += 1
        if seen == messages:
            done.set_result(None)

    start = loop.time()
    try:
        await client.jetstream().subscribe(
            "",
            stream=settings.stream,
            cb=count,
            ordered_consumer=True,
            flow_control=True,
            idle_heartbeat=1,
            pending_msgs_limit=1_000_000,
            pending_bytes_limit=1 << 30,
        )
        await asyncio.wait_for(done, 120)
        return messages / (loop.time() - start)
    finally:
        await client.close()
