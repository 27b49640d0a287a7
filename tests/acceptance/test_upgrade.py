"""A new version under load: its migrations beside workers of the old one, then its workers one after the other."""

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from connectors.settings import Settings
from tests.acceptance.test_rise import ROOT, restart, slate_migrate
from tests.acceptance.test_rollups import bins, differences, history_in_order
from tests.migration.test_migrate import waiting_for_a_lock
from tests.support.rollups import counted, window_differences
from tests.support.stack import connect
from tests.support.traffic import Traffic, assert_drained_exactly_once
from tests.support.waiting import eventually
from tests.support.worker import Worker

LONGEST_PAUSE_S = 4.0
"""For which nobody may write while a migration waits for a table: 2 s, and what comes to it on a busy machine."""
MIGRATIONS = Path("sql") / "migrations"
BEFORE_THE_LAST = {
    "ingest/advance.sql": """
        SELECT slate.advance(
            %(stream)s, %(partitions)b::integer[], %(afters)b::bigint[], %(positions)b::bigint[],
            %(reads)b::bigint[], %(storeds)b::bigint[], %(duplicates)b::bigint[], %(deads)b::bigint[], %(owner)s
        )
    """,
    "ingest/newest.sql": "SELECT 0, 0 WHERE FALSE",
}
"""Statements that need the last migration, as they were before it."""
LATER = """-- depends: {last}
-- What a later version might add.
ALTER TABLE public.spark_usage ADD COLUMN region text NOT NULL DEFAULT 'unknown';
CREATE INDEX spark_usage_region ON public.spark_usage (region);
CREATE TABLE slate.regions (name text PRIMARY KEY);
"""
READS = (
    "SELECT count(*) FROM (SELECT * FROM spark_usage ORDER BY ts DESC LIMIT 50) AS latest",
    "SELECT sum(tokens_prompt) FROM spark_usage_daily",
    "SELECT count(*) FROM spark_function_calls WHERE status = 'failed'",
)


@pytest.fixture
def versions(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Copies of the project: without its last migration, as it is, and with one more."""
    unwanted = shutil.ignore_patterns("__pycache__", "node_modules", "*.pyc")
    made = tmp_path / "earlier", tmp_path / "this", tmp_path / "later"
    for version in made:
        for name in ("connectors", "flows", "deploy", "realtime", "sql"):
            shutil.copytree(ROOT / name, version / name, ignore=unwanted)
    earlier, this, later = made
    max((earlier / MIGRATIONS).glob("*.sql")).unlink()
    for name, statement in BEFORE_THE_LAST.items():
        (earlier / "sql" / name).write_text(statement)
    last = max((this / MIGRATIONS).glob("*.sql")).stem
    (later / MIGRATIONS / "9999-later.sql").write_text(LATER.format(last=last))
    return made


class Pauses:
    """Watches from outside, on a thread: the longest time without a commit of ingest, and reads that fail."""

    def __init__(self, settings: Settings) -> None:
        self.writing = self.reading = 0.0
        self.failed: list[str] = []
        self._settings = settings
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._writes, self._reads)]

    @contextmanager
    def watch(self) -> Iterator["Pauses"]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(30)

    def _writes(self) -> None:
        with connect(self._settings) as connection:
            last, since = None, time.monotonic()
            while not self._stop.wait(0.02):
                now = connection.execute("SELECT sum(seq), max(updated_at) FROM slate.progress").fetchone()
                if now != last:
                    last, since = now, time.monotonic()
                self.writing = max(self.writing, time.monotonic() - since)

    def _reads(self) -> None:
        with connect(self._settings) as connection:
            while not self._stop.wait(0.05):
                for query in READS:
                    begun = time.monotonic()
                    try:
                        connection.execute(query.encode())
                    except psycopg.Error as error:
                        self.failed.append(str(error))
                    self.reading = max(self.reading, time.monotonic() - begun)


def migrate_beside_a_reader(settings: Settings, version: Path, seconds: float) -> str:
    """`slate migrate` while somebody, such as a backup, holds a table that it wants, for so long from when it asks."""
    with ThreadPoolExecutor(1) as pool, connect(settings) as connection:
        with connection.transaction():
            connection.execute("SELECT count(*) FROM spark_usage")
            said = pool.submit(slate_migrate, settings, version)
            eventually(lambda: said.done() or waiting_for_a_lock(settings), 60, what="slate migrate wants the table")
            connection.execute("SELECT pg_sleep(%s)", (seconds,))
        return said.result()


def upgrade_under_load(settings: Settings, old: Path, new: Path, *, rate: float, blocked_s: float = 0.0) -> None:
    """Workers of one version, `slate migrate` of another beside them, then workers of that one after the other."""

    def reads(part: str) -> Settings:
        return settings.model_copy(update={"worker_partitions": part})

    events = list(history_in_order(int(60 * rate), datetime.now(UTC) - timedelta(hours=1), 60))
    with connect(settings) as database, ExitStack() as stack:
        low = stack.enter_context(Worker(reads("0-3"), directory=old))
        high = stack.enter_context(Worker(reads("4-7"), directory=old))
        rollups = stack.enter_context(Worker(settings, flow="flows.rollups", directory=old))
        traffic = stack.enter_context(Traffic(settings, rate=rate, events=events))
        eventually(lambda: counted(database) > 500, 30)
        migrating, rolling = Pauses(settings), Pauses(settings)
        with migrating.watch():
            begun = time.monotonic()
            said = migrate_beside_a_reader(settings, new, blocked_s) if blocked_s else slate_migrate(settings, new)
            assert "applied" in said
            took = time.monotonic() - begun
            before = counted(database)
            eventually(lambda: counted(database) > before, 20, what="the old version goes on")
        low.kill()
        low.start()  # an old version on the newer schema
        eventually(lambda: low.log.read_text().count("reading partition") == 10, 20)
        with rolling.watch():
            low = restart(stack, low, reads("0-3"), directory=new)
            high = restart(stack, high, reads("4-7"), directory=new)
            rollups = restart(stack, rollups, settings, "flows.rollups", directory=new)
        sys.stdout.write(
            f"measured: slate migrate took {took:.1f} s; longest pause of writes {migrating.writing:.2f} s while it "
            f"ran, {rolling.writing:.2f} s while workers were restarted; slowest read {migrating.reading:.2f} s\n"
        )
        traffic.stop()
        assert_drained_exactly_once(database, settings, traffic.events)
        eventually(lambda: counted(database) == len(traffic.events), 60)
        assert differences(settings) == []
        assert window_differences(database, bins) == []
        assert max(migrating.writing, rolling.writing) < LONGEST_PAUSE_S
        assert migrating.failed == rolling.failed == []


@pytest.mark.parametrize("rate", [500, pytest.param(3000, marks=pytest.mark.chaos)])
def test_the_last_migration_is_applied_under_the_version_before_it(
    empty_settings: Settings, versions: tuple[Path, Path, Path], rate: int
) -> None:
    earlier, this, _ = versions
    slate_migrate(empty_settings, earlier)
    upgrade_under_load(empty_settings, earlier, this, rate=rate)


@pytest.mark.chaos
def test_a_later_migration_gets_its_table_from_somebody_who_holds_it_without_stopping_others(
    settings: Settings, versions: tuple[Path, Path, Path]
) -> None:
    _, this, later = versions
    upgrade_under_load(settings, this, later, rate=1000, blocked_s=5.0)


@pytest.mark.parametrize("flow", ["flows.ingest", "flows.rollups"])
def test_a_worker_refuses_an_older_schema_and_says_what_to_do(
    empty_settings: Settings, versions: tuple[Path, Path, Path], flow: str
) -> None:
    earlier, this, _ = versions
    slate_migrate(empty_settings, earlier)
    last = max((this / MIGRATIONS).glob("*.sql")).stem
    with Worker(empty_settings, flow=flow) as worker:
        assert worker.wait(20) != 0
        assert f"{flow}: the database lacks migrations {last}: run `slate migrate`" in worker.tail()
