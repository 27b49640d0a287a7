"""How fast a backlog is counted, and what a day of many sessions costs."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
import psutil
import psycopg

from connectors.jetstream import connect, partition_numbers
from connectors.postgres import Progress
from connectors.settings import Settings
from connectors.stream_state import stream_state
from realtime.simulated import SimulatedEvent
from tests.bench.drain import cpu_of
from tests.support.waiting import eventually
from tests.support.worker import Worker

COUNTED = "SELECT coalesce(sum(read), 0)::bigint FROM slate.rollup_progress"
FORGET = """
    TRUNCATE slate.rollup_progress, slate.windows, spark_usage_daily, spark_errors_daily, spark_events_daily,
        slate.alert_signals, slate.alert_progress, slate.alert_states, slate.alert_budgets, slate.alerts CASCADE
"""


@dataclass
class RollupDrain:
    """What counting a backlog took; `rate` counts from the first commit."""

    rate: float
    resident_mib: float
    worker_cpu_s: float
    postgres_cpu_s: float
    longest_flush_s: float


def drain_rollups(settings: Settings, messages: int) -> RollupDrain:
    """Count what ingest has stored, from nothing.

    Written every half second instead of every two: the wait for the last time is no work.
    """
    settings = settings.model_copy(update={"rollup_flush_s": 0.5})
    with psycopg.connect(**settings.dsn(), autocommit=True) as connection:  # type: ignore[arg-type]
        connection.execute(FORGET)
        connection.execute("CHECKPOINT")

        def counted() -> int:
            row = connection.execute(COUNTED).fetchone()
            return int(row[0]) if row else 0

        before = cpu_of("postgres", settings)
        resident = 0.0
        with Worker(settings, flow="flows.rollups") as worker:
            begun = eventually(counted, 30, what="the first commit")
            first = time.monotonic()
            done = begun
            while done < messages:
                goal = min(messages, done + messages // 10)
                done = eventually(lambda goal=goal: (n := counted()) >= goal and n, 120)  # type: ignore[misc]
                resident = max(resident, worker.resident_bytes() / 2**20)
            seconds = time.monotonic() - first
            times = psutil.Process(worker.pid).cpu_times()
            flushes = {
                float(name.partition("le=")[2].rstrip("}")): count
                for name, count in worker.metrics().items()
                if name.startswith("spark_rollup_flush_seconds_bucket")
            }
            worker.terminate()
            worker.wait()
        total = max(flushes.values())
        return RollupDrain(
            rate=(messages - begun) / seconds if messages > begun else float("nan"),
            resident_mib=resident,
            worker_cpu_s=times.user + times.system,
            postgres_cpu_s=cpu_of("postgres", settings) - before,
            longest_flush_s=min(bound for bound, count in flushes.items() if count == total),
        )


async def pretend_stored(settings: Settings) -> None:
    """Let the rollups count what ingest has not stored, so that only counting is measured."""
    client = await connect(settings, "bench")
    try:
        state = await stream_state(client.jetstream(), settings.stream)
    finally:
        await client.close()
    with psycopg.connect(**settings.dsn(), autocommit=True) as connection:  # type: ignore[arg-type]
        connection.execute("TRUNCATE slate.progress, slate.skipped, slate.call_changes")
        for partition in partition_numbers(settings):
            Progress(settings).start(partition, state)
        connection.execute("UPDATE slate.progress SET seq = %s", (state.last,))


def sessions_of_a_day(sessions: int, messages: int) -> Iterator[SimulatedEvent]:
    """Usage of many sessions, all of today."""
    encode = msgspec.json.encode
    midnight = datetime.combine(datetime.now(UTC).date(), datetime.min.time(), UTC)
    start_ms = int(midnight.timestamp() * 1000)
    spacing = (datetime.now(UTC) - midnight) / timedelta(milliseconds=1) / messages
    for number in range(messages):
        session = f"sess_{number % sessions:012x}"
        body = {
            "sessionId": session,
            "timestamp": start_ms + int(number * spacing),
            "model": "gpt-realtime-2.1",
            "tokensPrompt": number % 5000,
            "tokensCompletion": number % 700,
            "costEstimate": 0.0123,
        }
        yield SimulatedEvent(0.0, f"spark.usage.{session}", encode(body), None, "usage")
