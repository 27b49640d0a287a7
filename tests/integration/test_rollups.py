"""Both workers on real servers: totals and windows are what the tables say."""

from datetime import UTC, datetime, timedelta

import psycopg

from connectors.settings import Settings
from flows.audit import audit
from tests.support.stack import connect
from tests.support.traffic import Traffic
from tests.support.waiting import eventually
from tests.support.worker import Worker


def behind(connection: psycopg.Connection) -> int:
    row = connection.execute(
        "SELECT sum(p.read - coalesce(r.read, 0))::bigint, sum(p.read)::bigint"
        " FROM slate.progress p LEFT JOIN slate.rollup_progress r USING (stream, partition)"
    ).fetchone()
    return int(row[0]) if row and row[1] else -1


def differences(settings: Settings) -> list[object]:
    today = datetime.now(UTC).date()
    return list(audit(settings, today - timedelta(days=2), today + timedelta(days=1)))


def test_totals_equal_the_tables(settings: Settings) -> None:
    with (
        Worker(settings),
        Worker(settings, flow="flows.rollups") as rollups,
        connect(settings) as connection,
    ):
        with Traffic(settings, 20_000, rate=5000) as traffic:
            traffic.wait()
        eventually(lambda: behind(connection) == 0, 20)
        assert differences(settings) == []
        assert rollups.running
        rollups.terminate()
        assert rollups.wait() == 0
