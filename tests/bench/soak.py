"""Half an hour of steady traffic with kills: `python -m tests.bench.soak`. Is anything lost, and does anything grow?

In the first third the worker of ingest and NATS are killed every minute, in the second the worker of rollups and
PostgreSQL, in the last nothing. At the end the account and the totals must be exact, or it exits with 1.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import psycopg

from connectors.publisher import Publisher
from connectors.settings import Settings
from deploy.servers import NatsServer, PostgresServer, ValkeyServer
from flows.audit import audit
from realtime.bench_mix import bench_mix
from tests.bench.__main__ import line, say
from tests.support.stack import Stack, connect
from tests.support.traffic import last_sequence
from tests.support.waiting import eventually
from tests.support.worker import Worker

_SAMPLE_S = 5.0
_SETTLED_S = 60.0
"""How long a process lives before its figures count: caches and pools are filled by then."""
_LAG = """
    SELECT coalesce((SELECT sum(read) FROM slate.progress), 0)::bigint,
        coalesce((SELECT sum(read) FROM slate.rollup_progress), 0)::bigint,
        (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')
"""
_ACCOUNT = """
    SELECT sum(read)::bigint, sum(stored)::bigint, sum(duplicate)::bigint, sum(dead_lettered)::bigint FROM slate.ledger
"""


class Source:
    """Publishes on a thread of its own, so many messages a second, until all are acknowledged."""

    def __init__(self, settings: Settings, rate: float, minutes: float) -> None:
        self._settings = settings
        self._rate = rate
        self._minutes = minutes
        self.acknowledged = 0
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether something is still to be published."""
        return self._thread.is_alive()

    def join(self, seconds: float) -> None:
        """Wait for the end, so long at most."""
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            asyncio.run(self._publish())
        except BaseException as error:  # noqa: BLE001 - the main thread tells of it
            self.error = error

    async def _publish(self) -> None:
        period = timedelta(minutes=self._minutes)
        events = bench_mix(int(self._rate * self._minutes * 60), start=datetime.now(UTC), period=period)
        async with await Publisher.connect(self._settings, name="soak", max_pending=2048) as publisher:
            begin = time.monotonic()
            for number, event in enumerate(events):
                ahead = number / self._rate - (time.monotonic() - begin)
                if ahead > 0.01:
                    await asyncio.sleep(ahead)
                await publisher.publish(event.subject, event.payload, msg_id=event.msg_id)
                self.acknowledged = publisher.acknowledged
            await publisher.flush()
            self.acknowledged = publisher.acknowledged


@dataclass
class Life:
    """One process from its start to its end: seconds of its life, resident MiB and open files."""

    pid: int
    begun: float
    at: list[float] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def sample(self, now: float) -> None:
        """Look at it, if it lives."""
        try:
            process = psutil.Process(self.pid)
            resident, files = process.memory_info().rss / 2**20, process.num_fds()
        except psutil.NoSuchProcess:
            return
        if now - self.begun >= _SETTLED_S:
            self.at.append((now - self.begun) / 600)
            self.resident.append(resident)
            self.files.append(files)


class Soak:
    """The run: what is killed when, and what was seen."""

    def __init__(
        self, minutes: float, workers: dict[str, Worker], servers: dict[str, PostgresServer | NatsServer]
    ) -> None:
        self._third = minutes * 20
        self._workers = workers
        self._servers = servers
        self.lives: dict[str, list[Life]] = {name: [] for name in workers}
        self.kills = 0
        self.lags: list[tuple[float, int, int, int]] = []
        self.last_kill = 0.0
        for name in workers:
            self._begun(name)

    def _begun(self, name: str) -> None:
        self.lives[name].append(Life(self._workers[name].pid, time.monotonic()))

    def kill(self, age: float) -> None:
        """Kill what is due at this age of the run, and start it again."""
        phase, turn = int(age // self._third), self.kills % 2
        name = (("ingest", "NATS"), ("rollups", "PostgreSQL"))[phase][turn]
        if name in self._workers:
            self._workers[name].kill()
            self._workers[name].start()
            self._begun(name)
        else:
            self._servers[name].kill()
            self._servers[name].start()
        self.kills += 1
        self.last_kill = time.monotonic()

    def sample(self, settings: Settings, source: Source) -> None:
        """Look at processes, lag and connections."""
        now = time.monotonic()
        for lives in self.lives.values():
            lives[-1].sample(now)
        try:
            with connect(settings, connect_timeout=2) as connection:
                row = connection.execute(_LAG.encode()).fetchone()
        except psycopg.OperationalError:
            return
        assert row is not None
        stored, counted, connections = row
        self.lags.append((now - self.last_kill, source.acknowledged - stored, stored - counted, connections - 1))


def slope(at: list[float], figures: list[float]) -> float:
    """How much a figure grows in ten minutes."""
    return statistics.linear_regression(at, figures).slope


def report(soak: Soak) -> None:
    """Print what was seen."""
    for name, lives in soak.lives.items():
        longest = max(lives, key=lambda life: len(life.at))
        if len(longest.at) < 6:
            continue
        minutes = (longest.at[-1] - longest.at[0]) * 10
        say(f"{name}: a life of {minutes:.0f} min without the first, of {len(lives)} lives")
        line("resident memory", longest.resident, "MiB")
        half = len(longest.at) // 2
        growth = slope(longest.at, longest.resident), slope(longest.at[half:], longest.resident[half:])
        say(f"  grows by {growth[0]:+.1f} MiB in 10 min, in the second half of its life by {growth[1]:+.1f}")
        line("open files", [float(one) for one in longest.files], "")
    quiet = [one for one in soak.lags if one[0] > 20]
    for place, what in ((1, "not stored"), (2, "stored, not counted"), (3, "connections to PostgreSQL")):
        figures = sorted(float(one[place]) for one in quiet)
        say(
            f"{what}, 20 s after a kill and later: median {statistics.median(figures):,.0f}, "
            f"p99 {figures[int(len(figures) * 0.99)]:,.0f}"
        )
    say(f"most that was ever not stored: {max(one[1] for one in soak.lags):,}")


def exact(settings: Settings, connection: psycopg.Connection, acknowledged: int) -> bool:
    """Wait until all is stored and counted, and hold it against what was acknowledged."""
    last = asyncio.run(last_sequence(settings))

    def account() -> tuple[int, ...]:
        row = connection.execute(_ACCOUNT.encode()).fetchone()
        return tuple(int(one or 0) for one in row) if row else (0, 0, 0, 0)

    eventually(lambda: account()[0] >= last, 120, what="all is stored")

    def all_counted() -> bool:
        row = connection.execute(_LAG.encode()).fetchone()
        return row is not None and row[0] == row[1]

    eventually(all_counted, 120, what="all is counted")
    read, stored, duplicate, dead = account()
    today = datetime.now(UTC).date()
    differences = list(audit(settings, today - timedelta(days=1), today + timedelta(days=1)))
    say(
        f"acknowledged {acknowledged:,}, in the stream {last:,}; read {read:,} = stored {stored:,} + duplicate "
        f"{duplicate:,} + dead letters {dead:,}; totals that differ: {len(differences)}"
    )
    return read == last == stored + duplicate + dead and not differences


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=5000, help="messages a second")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slate-soak-")))
        directory.chmod(0o755)
        postgres = PostgresServer(directory / "postgres", password="soak")
        nats_server = NatsServer(directory / "nats", user="slate", password="soak")
        valkey = ValkeyServer(directory / "valkey")
        for server in (postgres, nats_server, valkey):
            server.start()
            stack.callback(server.stop)
        settings = stack.enter_context(Stack(postgres, nats_server, valkey).provide())
        workers = {
            "ingest": stack.enter_context(Worker(settings, directory=directory)),
            "rollups": stack.enter_context(Worker(settings, flow="flows.rollups", directory=directory)),
        }
        soak = Soak(arguments.minutes, workers, {"PostgreSQL": postgres, "NATS": nats_server})
        say(f"{arguments.rate:,.0f} messages a second for {arguments.minutes:g} minutes")
        source = Source(settings, arguments.rate, arguments.minutes)
        _watch(soak, source, settings, arguments.minutes * 60, lambda: all(one.running for one in workers.values()))
        if source.error is not None:
            raise source.error
        say(f"{soak.kills} kills")
        report(soak)
        with connect(settings) as connection:
            well = exact(settings, connection, source.acknowledged)
    sys.exit(0 if well else 1)


def _watch(soak: Soak, source: Source, settings: Settings, seconds: float, alive: Callable[[], bool]) -> None:
    begin = time.monotonic()
    pause = min(60.0, seconds / 12)
    due = begin + pause
    while source.running:
        age = time.monotonic() - begin
        if time.monotonic() >= due and age < seconds * 2 / 3:
            soak.kill(age)
            due += pause
        assert alive(), "a worker ended by itself"
        soak.sample(settings, source)
        source.join(_SAMPLE_S)


if __name__ == "__main__":
    main()
