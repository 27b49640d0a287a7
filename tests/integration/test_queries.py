"""The queries that people and dashboards run: as they stand, and without reading a large table whole."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from connectors.schema import migrate
from connectors.settings import Settings
from tests.support.stack import Stack, connect

QUERIES_FILE = Path(__file__).parents[1] / "data" / "queries.sql"
ORIGINAL = Path(__file__).parents[3] / "shared" / "queries.sql"
QUERIES = dict(re.findall(r"^-- name: (\w+)\n(.*?;)", QUERIES_FILE.read_text(), re.MULTILINE | re.DOTALL))
LARGE = 10_000
"""Rows from which on nothing may read a table whole."""
INDEX = """
SELECT indrelid::regclass::text, pg_get_indexdef(indexrelid, 1, true), reltuples, indpred IS NOT NULL
FROM pg_index INNER JOIN pg_class ON indrelid = oid
WHERE indexrelid = %s::regclass
"""

# The data is laid around the present, so that on the first of a month there is a large partition to pass by as well.
LOAD = """
CREATE TEMPORARY VIEW months AS
SELECT month, least(month + interval '1 month', now() - interval '1 hour') AS until
FROM generate_series(
    date_trunc('month', now(), 'UTC') - interval '2 months', date_trunc('month', now(), 'UTC'), '1 month', 'UTC'
) AS month;
SELECT slate.ensure_month((month AT TIME ZONE 'UTC')::date) FROM months;

CREATE TEMPORARY VIEW types AS
SELECT (ARRAY[
    'connected', 'disconnected', 'delta', 'delta', 'delta', 'delta', 'script_generated', 'patch_applied',
    'generate_unity_script.started', 'generate_unity_script.completed', 'preview.started', 'preview.frame',
    'preview.completed', 'preview.failed', 'build_progress', 'connection_error'
]) AS names;
INSERT INTO spark_events (session_id, type, ts, payload)
SELECT 'session-' || n % 1000, names[1 + n % 16], month + n / 1e5 * (until - month), '{"step": "some of it"}'
FROM months, types, generate_series(0, 99999) AS n WHERE until > month;
INSERT INTO spark_events (session_id, type, ts, payload)
SELECT 'session-' || n / 16, names[1 + n % 16], now() - (200 - n) * interval '10 seconds', '{}'
FROM types, generate_series(0, 200) AS n;

INSERT INTO spark_sessions (session_id, model, started_at, ended_at)
SELECT
    'session-' || n, 'gpt-realtime', now() - n * interval '1 minute',
    CASE WHEN n > 100 THEN now() - (n - 5) * interval '1 minute' END
FROM generate_series(1, 30000) AS n;
INSERT INTO spark_function_calls (session_id, call_id, name, ts, duration_ms, status, updated_at)
SELECT
    'session-' || n % 1000, 'call-' || n, 'tool_' || n % 20, now() - (n - 10) * interval '1 minute', n % 900,
    CASE WHEN n % 10 = 0 THEN 'failed' ELSE 'success' END, now()
FROM generate_series(1, 100000) AS n;
INSERT INTO spark_usage (session_id, ts, model, tokens_prompt, tokens_completion, cost_estimate)
SELECT
    'session-' || n % 1000, now() - (n - 10) * interval '1 minute', 'model-' || n % 4, n % 1000, n % 500, n % 100 / 1e4
FROM generate_series(1, 100000) AS n;
INSERT INTO spark_build_jobs (id, session_id, build_target, status, created_at, updated_at, status_at)
SELECT
    'job-' || n, 'session-' || n % 1000, (ARRAY['webgl', 'ios', 'android'])[1 + n % 3], 'completed',
    ts, ts + interval '1 minute', ts
FROM generate_series(1, 30000) AS n, LATERAL (SELECT now() - n * interval '3 minutes' AS ts);
INSERT INTO spark_errors_daily (day, name, success_count, error_count, error_rate)
SELECT CURRENT_DATE - day, 'tool_' || n, 9, 1, 0.1
FROM generate_series(0, 729) AS day, generate_series(1, 40) AS n;
ANALYZE spark_sessions, spark_events, spark_function_calls, spark_usage, spark_build_jobs, spark_errors_daily
"""


@pytest.fixture(scope="module")
def full(stack: Stack) -> Iterator[Settings]:
    """A database with three months of everything."""
    with stack.provide(migrated=False) as settings:
        migrate(settings)
        with connect(settings) as connection:
            connection.execute(LOAD.encode())
        yield settings


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def faults(connection: psycopg.Connection, query: str) -> list[str]:
    """What a plan does that it should not: read a large table or its index whole, or a month that is past."""
    (plan,) = one(connection, f"EXPLAIN (FORMAT JSON) {query}")
    (first_month,) = one(
        connection, "SELECT to_char(now() AT TIME ZONE 'UTC' - interval '1 hour', '\"spark_events_\"YYYY_MM')"
    )
    found = []
    for node in nodes(plan[0]["Plan"]):
        if index := node.get("Index Name"):
            table, first_column, rows, partial = one(connection, INDEX, index)
            chosen = re.search(rf"\b{first_column}\b", node.get("Index Cond", ""))
            if rows >= LARGE and not partial and not chosen:
                found.append(f"reads all of {index}")
        elif table := node.get("Relation Name"):
            (rows,) = one(connection, "SELECT reltuples FROM pg_class WHERE oid = %s::regclass", table)
            if rows >= LARGE and node["Node Type"] == "Seq Scan":
                found.append(f"reads {table} whole")
        else:
            continue
        if re.fullmatch(r"spark_events_\d{4}_\d\d", table) and table < first_month:
            found.append(f"reads {table}, which is past")
    return found


def one(connection: psycopg.Connection, statement: str, *arguments: object) -> tuple[Any, ...]:
    (row,) = connection.execute(statement.encode(), arguments or None)
    return row


def test_the_queries_are_those_that_the_contract_names() -> None:
    assert len(QUERIES) == 9
    if ORIGINAL.exists():
        assert QUERIES_FILE.read_text() == ORIGINAL.read_text()


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_runs_as_it_stands_on_empty_tables(settings: Settings, name: str) -> None:
    with connect(settings) as connection:
        assert connection.execute(QUERIES[name].encode()).description


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_finds_something_in_full_tables(full: Settings, name: str) -> None:
    with connect(full) as connection:
        rows = connection.execute(QUERIES[name].encode()).fetchall()
    assert rows
    assert None not in rows[0][:1]


@pytest.mark.parametrize("name", [name for name in QUERIES if name != "spark_tables"])
def test_a_query_reads_no_large_table_whole(full: Settings, name: str) -> None:
    with connect(full) as connection:
        assert faults(connection, QUERIES[name]) == []


@pytest.mark.parametrize(
    ("index", "query"),
    [
        ("spark_sessions_active", "active_sessions"),
        ("spark_function_calls_ts", "recent_function_calls"),
        ("spark_usage_ts", "todays_usage"),
        ("spark_events_ts_type", "script_p95"),
        ("spark_events_ts_type", "preview_success_rate"),
        ("spark_usage_ts", "cost_by_model"),
        ("spark_build_jobs_created_at", "builds_by_target"),
        ("spark_errors_daily_pkey", "errors_this_week"),
    ],
)
def test_a_query_would_read_a_large_table_whole_without_its_index(full: Settings, index: str, query: str) -> None:
    drop = "ALTER TABLE spark_errors_daily DROP CONSTRAINT" if index.endswith("_pkey") else "DROP INDEX"
    with connect(full) as connection, connection.transaction(force_rollback=True):
        connection.execute(f"{drop} {index}".encode())
        assert faults(connection, QUERIES[query])
