"""`slate audit` finds what differs and puts it right while workers run; what cannot be gone on with is counted anew."""

import asyncio
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import nats
import psycopg
import pytest
from typer.testing import CliRunner, Result

from connectors.errors import AuditError
from connectors.jetstream import ensure_stream
from connectors.settings import Settings
from deploy.cli import app
from deploy.processes import environment_of
from flows import audit as audit_module
from flows.audit import audit, measure_drift
from realtime.bench_mix import bench_mix
from tests.support.stack import connect
from tests.support.traffic import Traffic
from tests.support.waiting import eventually
from tests.support.worker import Worker

TODAY = datetime.now(UTC).date()
DAY = timedelta(days=1)
WRONG = """
UPDATE spark_usage_daily SET tokens_prompt = tokens_prompt + 1
WHERE (day, session_id, model) = (SELECT day, session_id, model FROM spark_usage_daily ORDER BY 1, 2, 3 LIMIT 1);
DELETE FROM spark_errors_daily WHERE name = 'apply_patch';
INSERT INTO spark_events_daily VALUES (CURRENT_DATE, 'never_happened', 7)
"""


@pytest.fixture
def slate(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def traffic(settings: Settings, count: int = 3000, *, seed: int = 0, rate: float = 20_000) -> Traffic:
    start = datetime.combine(TODAY, datetime.min.time(), UTC)
    return Traffic(
        settings, rate=rate, events=bench_mix(count, seed=seed, start=start, period=datetime.now(UTC) - start)
    )


def counted(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT coalesce(sum(read), 0)::int FROM slate.rollup_progress").fetchone()
    return int(row[0]) if row else 0


def differences(settings: Settings, *, repair: bool = False) -> list[audit_module.Difference]:
    return list(audit(settings, TODAY - DAY, TODAY + DAY, repair=repair))


def test_what_differs_is_shown_and_put_right_while_events_stream_in(
    settings: Settings, slate: Callable[..., Result]
) -> None:
    with connect(settings) as connection, Worker(settings), Worker(settings, flow="flows.rollups"):
        with traffic(settings):
            pass
        eventually(lambda: counted(connection) == 3000, 20)
        clean = slate("audit")
        assert (clean.exit_code, "No difference" in clean.output) == (0, True)
        connection.execute(WRONG)
        with traffic(settings, 20_000, seed=1, rate=2000):
            found = slate("audit", "--day", str(TODAY))
            assert found.exit_code == 1, found.output
            for text in ("tokens_prompt", "apply_patch", "never_happened", "no row", "slate audit --repair"):
                assert text in found.output
            repaired = slate("audit", "--repair")
            assert repaired.exit_code == 0, repaired.output
            assert "are right now" in repaired.output
        eventually(lambda: counted(connection) == 23_000, 30)
        assert differences(settings) == []


def test_differences_are_not_judged_while_nobody_counts(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "CATCH_UP_S", 0.5)
    with connect(settings) as connection, Worker(settings):
        with traffic(settings, 500):
            pass
        stored = "SELECT coalesce(sum(read), 0)::int FROM slate.progress"
        eventually(lambda: (connection.execute(stored).fetchone() or [0])[0] == 500, 20)
        with pytest.raises(AuditError, match=r"500 stored messages are not counted yet.*flows\.rollups"):
            differences(settings, repair=True)
        with traffic(settings, 10, seed=3):  # ingest goes on
            pass
        eventually(lambda: (connection.execute(stored).fetchone() or [0])[0] == 510, 20)


def test_a_day_that_is_no_date_or_two_wishes_at_once_are_wrong_usage(slate: Callable[..., Result]) -> None:
    assert slate("audit", "--day", "yesterday").exit_code == 2
    assert slate("audit", "--day", "2026-01-01", "--since", "2026-01-01").exit_code == 2


def test_drift_is_measured_without_anybody_waiting(settings: Settings) -> None:
    with connect(settings) as connection, Worker(settings), Worker(settings, flow="flows.rollups"):
        with traffic(settings):
            pass
        eventually(lambda: counted(connection) == 3000, 20)
        assert measure_drift(connection, settings) == []
        connection.execute(WRONG)
        assert {one.rollup for one in measure_drift(connection, settings)} == {"usage", "errors", "events"}


def test_what_left_the_stream_before_it_was_counted_is_counted_from_the_tables(settings: Settings) -> None:
    with connect(settings) as connection, Worker(settings):
        with Worker(settings, flow="flows.rollups"):
            with traffic(settings, 1000):
                pass
            eventually(lambda: counted(connection) == 1000, 20)
        with traffic(settings, 1000, seed=1):
            pass
        stored = "SELECT sum(read)::int FROM slate.progress"
        eventually(lambda: connection.execute(stored).fetchone() == (2000,), 20)
        asyncio.run(purge(settings))
        with Worker(settings, flow="flows.rollups") as rollups:
            eventually(lambda: "counted anew" in rollups.log.read_text(), 20)
            assert differences(settings) == []
        with Worker(settings, flow="flows.rollups") as rollups:  # as a supervisor starts it again
            with traffic(settings, 500, seed=2):
                pass

            def all_counted() -> bool:
                if not rollups.running:
                    rollups.start()
                return counted(connection) == 2500

            eventually(all_counted, 20)
            assert differences(settings) == []


def test_a_stream_that_was_made_anew_is_counted_from_its_beginning_and_nothing_twice(settings: Settings) -> None:
    with connect(settings) as connection:
        with Worker(settings), Worker(settings, flow="flows.rollups"):
            with traffic(settings, 1000):
                pass
            eventually(lambda: counted(connection) == 1000, 20)
        asyncio.run(delete_stream(settings))
        asyncio.run(ensure_stream(settings))
        with Worker(settings), Worker(settings, flow="flows.rollups") as rollups:
            with traffic(settings, 2000, seed=1):
                pass

            def all_counted() -> bool:
                if not rollups.running:
                    rollups.start()
                return counted(connection) == 3000

            eventually(all_counted, 30)
            assert differences(settings) == []


def test_a_first_start_on_tables_that_are_full_counts_them(settings: Settings) -> None:
    with connect(settings) as connection, Worker(settings):
        with traffic(settings, 1000):
            pass
        stored = "SELECT coalesce(sum(read), 0)::int FROM slate.progress"
        eventually(lambda: connection.execute(stored).fetchone() == (1000,), 20)
        asyncio.run(purge(settings))
        connection.execute("DELETE FROM slate.skipped")
        with Worker(settings, flow="flows.rollups") as rollups:
            eventually(lambda: "counted anew" in rollups.log.read_text(), 20)
            eventually(lambda: counted(connection) == 1000, 20)
            assert differences(settings) == []
            row = connection.execute(
                "SELECT (SELECT sum(count) FROM slate.windows WHERE signal = 'calls' AND seconds = 300)"
                " = (SELECT count(*) FROM spark_function_calls)"
            ).fetchone()
            assert row == (True,)


async def purge(settings: Settings) -> None:
    client = await nats.connect(settings.nats_servers())
    try:
        await client.jetstream().purge_stream(settings.stream)
    finally:
        await client.close()


async def delete_stream(settings: Settings) -> None:
    client = await nats.connect(settings.nats_servers())
    try:
        await client.jetstream().delete_stream(settings.stream)
    finally:
        await client.close()


def test_an_audit_of_no_day_finds_nothing(settings: Settings) -> None:
    assert list(audit(settings, date(2026, 1, 2), date(2026, 1, 2))) == []
