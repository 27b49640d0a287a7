"""The tables are those of the wire contract, explained, and guarded; months of events come as they are needed."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest

from connectors.settings import Settings
from connectors.sql import read
from tests.support.stack import connect
from tests.support.waiting import eventually

TEXT, REQUIRED_TEXT, TIME, UUID, JSON = "text", "text!", "timestamp with time zone", "uuid", "jsonb"
CONTRACT = {
    "spark_sessions": {
        "id": "uuid!",
        "session_id": REQUIRED_TEXT,
        "user_id": UUID,
        "model": REQUIRED_TEXT,
        "mode": REQUIRED_TEXT,
        "started_at": TIME,
        "ended_at": TIME,
        "meta": "jsonb!",
    },
    "spark_events": {
        "id": "bigint!",
        "session_id": REQUIRED_TEXT,
        "type": REQUIRED_TEXT,
        "ts": f"{TIME}!",
        "user_id": UUID,
        "project_id": UUID,
        "payload": "jsonb!",
    },
    "spark_function_calls": {
        "id": "bigint!",
        "session_id": REQUIRED_TEXT,
        "call_id": REQUIRED_TEXT,
        "name": REQUIRED_TEXT,
        "ts": f"{TIME}!",
        "duration_ms": "integer",
        "status": REQUIRED_TEXT,
        "error": TEXT,
        "args": JSON,
        "output": JSON,
    },
    "spark_telemetry": {
        "id": "bigint!",
        "session_id": REQUIRED_TEXT,
        "kind": REQUIRED_TEXT,
        "ts": f"{TIME}!",
        "data": "jsonb!",
    },
    "spark_usage": {
        "id": "bigint!",
        "session_id": REQUIRED_TEXT,
        "ts": f"{TIME}!",
        "model": REQUIRED_TEXT,
        "tokens_prompt": "integer!",
        "tokens_completion": "integer!",
        "cost_estimate": "numeric(12,6)!",
    },
    "spark_previews": {
        "id": "bigint!",
        "session_id": REQUIRED_TEXT,
        "engine": REQUIRED_TEXT,
        "ts": f"{TIME}!",
        "status": REQUIRED_TEXT,
        "frame_ref": TEXT,
        "meta": "jsonb!",
    },
    "spark_generated_scripts": {
        "id": "bigint!",
        "session_id": REQUIRED_TEXT,
        "script_name": REQUIRED_TEXT,
        "script_content": REQUIRED_TEXT,
        "prompt": TEXT,
        "created_at": f"{TIME}!",
    },
    "spark_build_jobs": {
        "id": REQUIRED_TEXT,
        "session_id": REQUIRED_TEXT,
        "build_target": TEXT,
        "status": REQUIRED_TEXT,
        "created_at": f"{TIME}!",
        "updated_at": f"{TIME}!",
    },
    "spark_usage_daily": {
        "day": "date!",
        "session_id": REQUIRED_TEXT,
        "model": REQUIRED_TEXT,
        "tokens_prompt": "bigint!",
        "tokens_completion": "bigint!",
        "cost_estimate": "numeric(14,6)!",
    },
    "spark_errors_daily": {
        "day": "date!",
        "name": REQUIRED_TEXT,
        "success_count": "bigint!",
        "error_count": "bigint!",
        "error_rate": "numeric(6,3)!",
    },
    "spark_events_daily": {"day": "date!", "type": REQUIRED_TEXT, "event_count": "bigint!"},
}
"""Tables and columns of the contract; `!` is NOT NULL."""

COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN '!' ELSE '' END
FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
"""
WITHOUT_COMMENT = """
SELECT c.oid::regclass || coalesce('.' || a.attname, '')
FROM pg_class AS c
LEFT JOIN pg_attribute AS a
    ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v')
WHERE c.relnamespace IN ('public'::regnamespace, 'slate'::regnamespace) AND c.relkind IN ('r', 'p', 'v')
    AND c.relname NOT LIKE '\\_yoyo%'
    AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid, 'pg_class') IS NULL)
"""
INSERT_EVENT = "INSERT INTO spark_events (session_id, type, ts, payload) VALUES ('s', 't', %s, '{}')"
SESSION_ROW = "INSERT INTO spark_sessions (session_id) VALUES ('s')"
CALL_ROW = (
    "INSERT INTO spark_function_calls (session_id, call_id, name, ts, status, updated_at) "
    "VALUES ('s', 'c', 'n', now(), 'success', now())"
)
JOB_ROW = (
    "INSERT INTO spark_build_jobs (id, session_id, status, created_at, updated_at, status_at) "
    "VALUES ('j', 's', 'queued', now(), now(), now())"
)


def column(connection: psycopg.Connection, statement: str, *arguments: object) -> list[Any]:
    return [value for (value,) in connection.execute(statement.encode(), arguments or None)]


def months_of(connection: psycopg.Connection) -> list[str]:
    return sorted(
        column(connection, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent='spark_events'::regclass")
    )


def month_after(day: date, months: int) -> date:
    return date(day.year + (day.month - 1 + months) // 12, (day.month - 1 + months) % 12 + 1, 1)


def test_the_public_schema_holds_the_contract_s_tables_and_the_months_and_nothing_else(settings: Settings) -> None:
    with connect(settings) as connection:
        listed = column(
            connection,
            "SELECT table_name FROM information_schema.tables "
            "WHERE table_schema = 'public' AND table_name LIKE 'spark_%' ORDER BY table_name",
        )
        assert listed == sorted([*CONTRACT, *months_of(connection)])
        kinds = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind NOT IN ('i', 'I')"
        assert sorted(column(connection, kinds)) == listed
        assert column(connection, "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace") == []


@pytest.mark.parametrize("table", CONTRACT)
def test_a_table_has_the_contract_s_columns(settings: Settings, table: str) -> None:
    with connect(settings) as connection:
        columns: dict[str, str] = dict(connection.execute(COLUMNS, (table,)).fetchall())
    assert CONTRACT[table].items() <= columns.items()


def test_every_table_and_column_is_explained(settings: Settings) -> None:
    with connect(settings) as connection:
        assert column(connection, WITHOUT_COMMENT) == []


@pytest.mark.parametrize(
    "row",
    [
        SESSION_ROW,
        CALL_ROW,
        JOB_ROW,
        "INSERT INTO spark_usage_daily (day, session_id, model) VALUES ('2025-03-01', 's', 'm')",
        "INSERT INTO spark_errors_daily (day, name) VALUES ('2025-03-01', 'n')",
        "INSERT INTO spark_events_daily (day, type) VALUES ('2025-03-01', 't')",
    ],
)
def test_what_the_contract_calls_a_key_is_one(settings: Settings, row: str) -> None:
    with connect(settings) as connection:
        connection.execute(row.encode())
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(row.encode())


@pytest.mark.parametrize(
    "bad",
    [
        "UPDATE spark_sessions SET mode = 'wild'",
        "UPDATE spark_function_calls SET status = 'maybe'",
        "UPDATE spark_function_calls SET duration_ms = -1",
        "UPDATE spark_build_jobs SET status = 'timeout'",
        "INSERT INTO spark_usage (session_id, ts, model, tokens_prompt) VALUES ('s', now(), 'm', -1)",
        "INSERT INTO spark_usage (session_id, ts, model, tokens_completion) VALUES ('s', now(), 'm', -1)",
        "INSERT INTO spark_usage (session_id, ts, model, cost_estimate) VALUES ('s', now(), 'm', -0.1)",
        "INSERT INTO spark_previews (session_id, engine, ts, status) VALUES ('s', 'doom', now(), 'idle')",
        "INSERT INTO spark_previews (session_id, engine, ts, status) VALUES ('s', 'unity', now(), 'gone')",
    ],
)
def test_a_value_outside_the_contract_is_refused(settings: Settings, bad: str) -> None:
    with connect(settings) as connection:
        for row in (SESSION_ROW, CALL_ROW, JOB_ROW):
            connection.execute(row.encode())
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(bad.encode())


def test_this_month_and_the_three_after_it_are_made_ahead(settings: Settings) -> None:
    today = datetime.now(UTC).date()
    with connect(settings) as connection:
        assert len(months_of(connection)) == 4
        # once more, for a month may have begun since
        connection.execute(read("maintenance/months_ahead.sql").encode(), {"today": today})
        for months in range(4):
            assert f"spark_events_{month_after(today, months):%Y_%m}" in months_of(connection)


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago", "America/Asuncion"])
@pytest.mark.parametrize("style", ["ISO, YMD", "German"])
def test_a_month_begins_and_ends_in_utc_whatever_the_session_s_zone(settings: Settings, zone: str, style: str) -> None:
    days = [date(2025, 3, 1), date(2024, 2, 29), date(2024, 12, 31), date(2025, 1, 1), date(2017, 10, 1)]
    with connect(settings, options=f"-c timezone={zone} -c datestyle={style.replace(' ', '')}") as connection:
        for day in days:
            name = f"spark_events_{day:%Y_%m}"
            made = connection.execute(read("ingest/ensure_month.sql"), {"day": day}).fetchone()
            assert made == (name,)
            again = connection.execute(read("ingest/ensure_month.sql"), {"day": day}).fetchone()
            assert again == (None,)
            begin = datetime(day.year, day.month, 1, tzinfo=UTC)
            end = datetime.combine(month_after(day, 1), datetime.min.time(), UTC)
            for at in (begin, end - timedelta(microseconds=1)):
                statement = INSERT_EVENT + " RETURNING tableoid::regclass::text"
                assert column(connection, statement, at) == [name]


def test_a_new_month_has_the_indexes_the_key_and_the_comments_of_all_months(settings: Settings) -> None:
    with connect(settings) as connection:
        connection.execute("SELECT slate.ensure_month('2025-03-31')")
        indexes = (
            "SELECT array_agg(replace(indexdef, {0}, '') ORDER BY indexdef) FROM "
            "(SELECT regexp_replace(pg_get_indexdef(indexrelid), '^.* USING ', '') || indisprimary AS indexdef "
            "FROM pg_index WHERE indrelid = 'spark_events{1}'::regclass)"
        )
        of_parent = column(connection, indexes.format("'ONLY'", ""))
        assert of_parent == column(connection, indexes.format("'ONLY'", "_2025_03"))
        assert len(of_parent[0]) == 3
        assert column(connection, "SELECT indexrelid FROM pg_index WHERE NOT indisvalid") == []
        assert column(connection, WITHOUT_COMMENT) == []
        about = column(connection, "SELECT obj_description('spark_events_2025_03'::regclass, 'pg_class')")
    assert about == ["Events of 2025-03 (UTC)"]


def test_making_a_month_waits_for_no_reader_and_no_writer_of_others(settings: Settings) -> None:
    with (
        connect(settings) as reader,
        connect(settings) as writer,
        connect(settings, options="-c lock_timeout=100ms") as maker,
        reader.transaction(),
        writer.transaction(),
    ):
        reader.execute("SELECT count(*) FROM spark_events")
        writer.execute(INSERT_EVENT, (datetime.now(UTC),))
        assert column(maker, "SELECT slate.ensure_month('2025-03-31')") == ["spark_events_2025_03"]


def test_no_reader_and_no_writer_of_other_months_waits_while_one_is_made(settings: Settings) -> None:
    with (
        connect(settings) as maker,
        connect(settings, options="-c lock_timeout=100ms") as other,
        maker.transaction(),
    ):
        assert column(maker, "SELECT slate.ensure_month('2025-03-31')") == ["spark_events_2025_03"]
        other.execute(INSERT_EVENT, (datetime.now(UTC),))
        assert column(other, "SELECT count(*) FROM spark_events") == [1]


def test_two_that_need_the_same_month_make_it_once(settings: Settings) -> None:
    def make(connection: psycopg.Connection) -> list[Any]:
        return column(connection, "SELECT slate.ensure_month('2025-03-31')")

    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
        "AND query LIKE '%ensure_month(%' AND pid <> pg_backend_pid()"
    )
    # repeatable read, as an administrator may have it by default, must not show them a stale catalogue either
    options = "-c default_transaction_isolation=repeatable\\ read"
    with (
        connect(settings) as gate,
        connect(settings) as watch,
        connect(settings, options=options) as one,
        connect(settings, options=options) as two,
        ThreadPoolExecutor() as threads,
    ):
        with gate.transaction():
            gate.execute("LOCK TABLE spark_events IN SHARE UPDATE EXCLUSIVE MODE")
            made = [threads.submit(make, connection) for connection in (one, two)]
            eventually(lambda: column(watch, waiting) == [2], what="both have found no partition")
        results = [name for future in made for name in future.result(30)]
    assert sorted(results, key=str) == [None, "spark_events_2025_03"]


def test_a_month_that_is_detached_takes_no_events_and_says_so(settings: Settings) -> None:
    with connect(settings) as connection:
        connection.execute("SELECT slate.ensure_month('2025-03-31')")
        connection.execute("ALTER TABLE spark_events DETACH PARTITION spark_events_2025_03")
        with pytest.raises(psycopg.errors.CheckViolation, match="spark_events_2025_03 is detached"):
            connection.execute("SELECT slate.ensure_month('2025-03-31')")
