"""A backlog drained by one worker."""

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg

from connectors.settings import Settings
from tests.support.waiting import eventually
from tests.support.worker import Worker

_TRUNCATE = """
    TRUNCATE spark_sessions, spark_events, spark_function_calls, spark_telemetry, spark_usage, spark_previews,
    spark_generated_scripts, spark_build_jobs, slate.event_ids, slate.progress, slate.gaps, slate.dead_letters,
    slate.skipped, slate.call_changes, slate.rollup_progress, slate.windows, spark_usage_daily, spark_errors_daily,
    spark_events_daily
"""


@dataclass
class Drain:
    """What a drain took. `rate` counts from the first commit; CPU seconds are of the whole run, start included."""

    rate: float
    first_commit_s: float
    resident_mib: float
    worker_cpu_s: float
    postgres_cpu_s: float
    nats_cpu_s: float
    batch: float
    tenths: list[tuple[float, float]] = field(default_factory=list)


def cpu_of(name: str, settings: Settings) -> float:
    """CPU seconds of a server's processes, ended children of PostgreSQL included as far as their parent waited."""
    total = 0.0
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] == name and ".slate/bench" in " ".join([*process.cmdline(), process.cwd()]):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        except psutil.Error:
            continue
    return total


def drain(settings: Settings, messages: int, *, profile: Path | None = None) -> Drain:
    """Empty the tables, run a worker over the whole stream, and measure."""
    with psycopg.connect(**settings.dsn(), autocommit=True) as connection:  # type: ignore[arg-type]
        connection.execute(_TRUNCATE)
        connection.execute("CHECKPOINT")

        def read() -> int:
            row = connection.execute("SELECT coalesce(sum(read), 0)::bigint FROM slate.progress").fetchone()
            return int(row[0]) if row else 0

        def transactions() -> int:
            row = connection.execute("SELECT count(DISTINCT xmin::text) FROM slate.event_ids").fetchone()
            return int(row[0]) if row else 0

        before = cpu_of("postgres", settings), cpu_of("nats-server", settings)
        start = time.monotonic()
        with Worker(settings) as worker:
            profiler = _profile(worker.pid, profile) if profile else None
            begun = eventually(read, 30, what="the first commit")
            first = last = time.monotonic()
            resident = 0.0
            tenths: list[tuple[float, float]] = []
            reached = begun
            done = begun
            while done < messages:
                goal = min(messages, reached + messages // 10)
                done = eventually(lambda goal=goal: (n := read()) >= goal and n, 120)  # type: ignore[misc]
                now, size = time.monotonic(), worker.resident_bytes() / 2**20
                tenths.append(((done - reached) / (now - last), size))
                resident = max(resident, size)
                reached, last = done, now
            times = psutil.Process(worker.pid).cpu_times()
            if profiler:
                profiler.wait(30)
            worker.terminate()
            worker.wait()
        return Drain(
            rate=(messages - begun) / (last - first),
            first_commit_s=first - start,
            resident_mib=resident,
            worker_cpu_s=times.user + times.system,
            postgres_cpu_s=cpu_of("postgres", settings) - before[0],
            nats_cpu_s=cpu_of("nats-server", settings) - before[1],
            batch=messages / max(1, transactions()),
            tenths=tenths,
        )


def _profile(pid: int, to: Path) -> subprocess.Popen[bytes]:
    command = ["py-spy", "record", "--pid", str(pid), "--duration", "5", "--rate", "200", "--output", str(to)]
    return subprocess.Popen([str(Path(sys.executable).parent / command[0]), *command[1:]], stdout=subprocess.DEVNULL)
