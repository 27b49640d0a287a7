"""`make bench`: how fast ingest and rollups are, beside the limits of this machine measured in the same run.

    python -m tests.bench [--messages N] [--runs N] [--no-latency] [--million] [--sessions] [--profile FILE]

Servers run below `.slate/bench` with fsync on, and everything shares the machine's cores. Numbers go to stdout.
"""

import argparse
import asyncio
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from connectors.jetstream import connect, ensure_stream
from connectors.publisher import Publisher
from connectors.schema import migrate
from connectors.settings import Settings
from deploy.processes import variables
from deploy.servers import NatsServer, PostgresServer
from flows.alert_rules import load
from flows.backtest import backtest
from realtime.bench_mix import bench_mix
from realtime.simulated import SimulatedEvent
from tests.bench.drain import Drain, drain
from tests.bench.latency import steady
from tests.bench.limits import copy_rate, ordered_read_rate
from tests.bench.rollups import RollupDrain, drain_rollups, pretend_stored, sessions_of_a_day

_DIRECTORY = Path(".slate/bench")


@contextmanager
def servers() -> Iterator[tuple[Settings, PostgresServer]]:
    """PostgreSQL and NATS of the benchmark's own, deleted afterwards."""
    shutil.rmtree(_DIRECTORY, ignore_errors=True)
    directory = _DIRECTORY.absolute()
    postgres = PostgresServer(directory / "postgres", password="bench")
    nats = NatsServer(directory / "nats", user="bench", password="bench")
    for server in (postgres, nats):
        (directory / server.name).mkdir(parents=True, exist_ok=True)
    try:
        postgres.start()
        nats.start()
        environment = {**postgres.environment(), **nats.environment()}
        fields = {field: environment[name] for field, name in variables().items() if name in environment}
        settings = Settings.load(local=False, **fields, metrics_port=0, log_format="json")
        migrate(settings)
        asyncio.run(ensure_stream(settings))
        yield settings, postgres
    finally:
        nats.stop()
        postgres.stop()
        shutil.rmtree(_DIRECTORY, ignore_errors=True)


async def publish(settings: Settings, messages: int, events: Iterable[SimulatedEvent]) -> float:
    """Fill the stream; returns acknowledged messages a second."""
    loop = asyncio.get_running_loop()
    async with await Publisher.connect(settings, max_pending=1000) as publisher:
        start = loop.time()
        for number, event in enumerate(events):
            await publisher.publish(event.subject, event.payload, msg_id=event.msg_id)
            if number % 20_000 == 0 and sys.stderr.isatty():
                say(f"\rpublishing {number}/{messages}", end="")
        await publisher.flush()
        seconds = loop.time() - start
    return messages / seconds


def say(text: str, *, end: str = "\n") -> None:
    """Progress for people."""
    sys.stderr.write(text + end)
    sys.stderr.flush()


def line(what: str, values: list[float], unit: str) -> None:
    """One figure: median and spread of its runs."""
    sys.stdout.write(
        f"{what:44} {statistics.median(values):>12,.1f} {unit:8} (of {len(values)}: {min(values):,.1f}"
        f" to {max(values):,.1f})\n"
    )
    sys.stdout.flush()


def report(runs: list[Drain], messages: int, copies: list[float], reads: list[float]) -> None:
    """The drain's figures and their ratios to the limits."""
    figures: list[tuple[str, Callable[[Drain], float], str]] = [
        ("ingest drains", lambda run: run.rate, "msg/s"),
        ("  start of the process to first commit", lambda run: run.first_commit_s, "s"),
        ("  resident memory, highest", lambda run: run.resident_mib, "MiB"),
        ("  CPU of the worker", lambda run: run.worker_cpu_s / messages * 1e6, "us/msg"),
        ("  CPU of PostgreSQL", lambda run: run.postgres_cpu_s / messages * 1e6, "us/msg"),
        ("  CPU of NATS", lambda run: run.nats_cpu_s / messages * 1e6, "us/msg"),
        ("  messages in a transaction", lambda run: run.batch, ""),
    ]
    for what, value, unit in figures:
        line(what, [value(run) for run in runs], unit)
    line("limit: COPY of the same rows, alone", copies, "msg/s")
    line("limit: ordered read of the stream, alone", reads, "msg/s")
    rate = statistics.median(run.rate for run in runs)
    sys.stdout.write(f"{'share of the COPY limit':44} {rate / statistics.median(copies):>12.2f}\n")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Benchmarks of ingest and rollups.")
    parser.add_argument("--messages", type=int, default=200_000, help="messages to drain")
    parser.add_argument("--runs", type=int, default=3, help="how often each figure is measured")
    parser.add_argument("--no-latency", action="store_true", help="leave out the steady 1,000 msg/s")
    parser.add_argument("--million", action="store_true", help="also 1,000,000 messages, rate and memory by tenth")
    parser.add_argument("--sessions", action="store_true", help="also days of 10,000 to 1,000,000 sessions, counted")
    parser.add_argument("--profile", type=Path, help="write a py-spy profile of one more run (flame graph, SVG)")
    options = parser.parse_args()
    with servers() as (settings, postgres):
        published = asyncio.run(publish(settings, options.messages, bench_mix(options.messages)))
        sys.stdout.write(f"{options.messages:,} messages, published at {published:,.0f} msg/s\n")
        runs, copies, reads, counts = [], [], [], []
        for number in range(options.runs):
            say(f"run {number + 1} of {options.runs}")
            runs.append(drain(settings, options.messages))
            counts.append(drain_rollups(settings, options.messages))
            copies.append(copy_rate(settings, options.messages, _DIRECTORY))
            reads.append(asyncio.run(ordered_read_rate(settings, options.messages)))
        report(runs, options.messages, copies, reads)
        report_rollups(counts, options.messages)
        if options.profile:
            drain(settings, options.messages, profile=options.profile)
        if not options.no_latency:
            latencies = [steady(settings, postgres, rate=1000, seconds=20) for _ in range(options.runs)]
            line("publish to visible at 1,000 msg/s, p50", [one.p50_ms for one in latencies], "ms")
            line("publish to visible at 1,000 msg/s, p99", [one.p99_ms for one in latencies], "ms")
            line("  CPU of the worker", [one.worker_cpu * 100 for one in latencies], "%")
        if options.million:
            million(settings)
        if options.sessions:
            many_sessions(settings)


def report_rollups(runs: list[RollupDrain], messages: int) -> None:
    """The figures of counting the same backlog."""
    line("rollups drain", [run.rate for run in runs], "msg/s")
    line("  resident memory, highest", [run.resident_mib for run in runs], "MiB")
    line("  CPU of the worker", [run.worker_cpu_s / messages * 1e6 for run in runs], "us/msg")
    line("  CPU of PostgreSQL", [run.postgres_cpu_s / messages * 1e6 for run in runs], "us/msg")


def many_sessions(settings: Settings) -> None:
    """What counting a day costs, by its number of sessions."""
    for sessions, messages in ((10_000, 200_000), (100_000, 200_000), (1_000_000, 1_000_000)):
        say(f"a day of {sessions:,} sessions")
        asyncio.run(renew_stream(settings))
        asyncio.run(publish(settings, messages, sessions_of_a_day(sessions, messages)))
        asyncio.run(pretend_stored(settings))
        run = drain_rollups(settings, messages)
        sys.stdout.write(
            f"{sessions:>9,} sessions, {messages:>9,} events: {run.rate:>9,.0f} msg/s, "
            f"{(run.worker_cpu_s + run.postgres_cpu_s) / messages * 1e6:.1f} us CPU an event, "
            f"{run.resident_mib:.0f} MiB, longest flush under {run.longest_flush_s} s\n"
        )


async def renew_stream(settings: Settings) -> None:
    """An empty stream."""
    client = await connect(settings, "bench")
    try:
        await client.jetstream().delete_stream(settings.stream)
    finally:
        await client.close()
    await ensure_stream(settings)


def million(settings: Settings) -> None:
    """A million messages of a week: is the last tenth as fast and as small as the first? And what alerts look back."""
    with psycopg.connect(**settings.dsn(), autocommit=True) as connection:  # type: ignore[arg-type]
        row = connection.execute("SELECT coalesce(sum(read), 0)::bigint FROM slate.progress").fetchone()
    assert row is not None
    say("filling the stream to 1,000,000 messages")
    asyncio.run(publish(settings, 1_000_000, bench_mix(1_000_000, seed=1, period=timedelta(days=7))))
    run = drain(settings, 1_000_000)
    line("1,000,000 messages: rate", [run.rate], "msg/s")
    for number, (rate, resident) in enumerate(run.tenths, 1):
        sys.stdout.write(f"  tenth {number:2}: {rate:>10,.0f} msg/s {resident:>8.0f} MiB\n")
    rules, now = load(settings.alert_rules_file), datetime.now(UTC)
    begun = time.monotonic()
    back = backtest(settings, rules, now - timedelta(days=8), now)
    sys.stdout.write(
        f"alert rules over that week: {time.monotonic() - begun:.1f} s, {back.figures:,} figures, "
        f"{len(back.episodes):,} alerts\n"
    )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
