"""A large database in a minute: ninety days of everything up to now, made in SQL and stored in order of time."""

import psycopg

FUNCTIONS = 20
USERS = 2000

# What a row is of: session n % sessions; the k-th row of a session happens 5 k seconds after it began.
_FILL = """
CREATE TEMPORARY TABLE s AS
SELECT
    n,
    'session-' || lpad(n::text, 8, '0') AS session_id,
    CASE WHEN n % 50 > 0 THEN md5((n % {users})::text)::uuid END AS user_id,
    date_trunc('second', now()) - (n + 1) * (interval '90 days' / {sessions}) AS start
FROM generate_series(0, {sessions} - 1) AS n;
CREATE INDEX ON s (n);
ANALYZE s;
SELECT slate.ensure_month(day::date)
FROM generate_series(now() - interval '92 days', now() + interval '2 days', interval '1 day') AS day;
INSERT INTO spark_sessions (session_id, user_id, model, started_at, ended_at, connected_at)
SELECT
    session_id, user_id, 'model-' || n % 4, start,
    CASE WHEN n >= 300 THEN start + interval '20 minutes' END, start
FROM s ORDER BY start;
INSERT INTO spark_events (session_id, type, ts, user_id, payload)
SELECT
    session_id, 'type-' || k % 30, start + nth * interval '5 seconds' AS ts, user_id,
    jsonb_build_object('n', k, 'text', repeat(md5(k::text), 4))
FROM (SELECT k, k / {sessions} AS nth, k % {sessions} AS of FROM generate_series(0, {events} - 1) AS k) AS rows
INNER JOIN s ON n = of ORDER BY ts;
INSERT INTO spark_function_calls (session_id, call_id, name, ts, duration_ms, status, error, args, output, updated_at)
SELECT
    session_id, 'call-' || k, CASE WHEN k % 20 = 0 THEN 'sound' ELSE 'function_' || k % 20 END,
    start + nth * interval '13 seconds' AS ts, k % 100000 * 7919 % 3000,
    CASE WHEN k % 17 = 0 AND k % 20 > 0 THEN 'failed' ELSE 'success' END,
    CASE WHEN k % 17 = 0 AND k % 20 > 0 THEN 'it did not work' END,
    jsonb_build_object('path', 'Assets/' || md5(k::text)), jsonb_build_object('ok', true), start
FROM (SELECT k, k / {sessions} AS nth, k % {sessions} AS of FROM generate_series(0, {calls} - 1) AS k) AS rows
INNER JOIN s ON n = of ORDER BY ts;
INSERT INTO spark_usage (session_id, ts, model, tokens_prompt, tokens_completion, cost_estimate, user_id)
SELECT
    session_id, start + nth * interval '17 seconds' AS ts, 'model-' || k % 4, k % 4000, k % 900,
    (k % 100000) / 1e6, user_id
FROM (SELECT k, k / {sessions} AS nth, k % {sessions} AS of FROM generate_series(0, {usage} - 1) AS k) AS rows
INNER JOIN s ON n = of ORDER BY ts;
INSERT INTO spark_telemetry (session_id, kind, ts, data)
SELECT session_id, 'fps', start + nth * interval '29 seconds' AS ts, jsonb_build_object('fps', k % 120)
FROM (SELECT k, k / {sessions} AS nth, k % {sessions} AS of FROM generate_series(0, {telemetry} - 1) AS k) AS rows
INNER JOIN s ON n = of ORDER BY ts;
INSERT INTO spark_previews (session_id, engine, ts, status, frame_ref, meta)
SELECT
    session_id, 'unity', start + nth * interval '31 seconds' AS ts, 'ready', 'frames/' || md5(k::text),
    '{{"cache": "hit"}}'
FROM (SELECT k, k / {sessions} AS nth, k % {sessions} AS of FROM generate_series(0, {previews} - 1) AS k) AS rows
INNER JOIN s ON n = of ORDER BY ts;
INSERT INTO spark_generated_scripts (session_id, script_name, script_content, prompt, created_at)
SELECT
    session_id, 'Script' || k % 100, repeat('public class A' || k || ' {{}} // code\n', 40), 'a prompt',
    start + nth * interval '61 seconds' AS ts
FROM (SELECT k, k / {sessions} AS nth, k % {sessions} AS of FROM generate_series(0, {scripts} - 1) AS k) AS rows
INNER JOIN s ON n = of ORDER BY ts;
INSERT INTO spark_build_jobs (id, session_id, build_target, status, created_at, updated_at, status_at)
SELECT
    'job-' || k, session_id, 'webgl', 'completed', start + nth * interval '61 seconds' AS ts, start + interval '1 hour',
    start + interval '1 hour'
FROM (SELECT k, k / {sessions} AS nth, k % {sessions} AS of FROM generate_series(0, {builds} - 1) AS k) AS rows
INNER JOIN s ON n = of ORDER BY ts;
INSERT INTO spark_usage_daily
SELECT (ts AT TIME ZONE 'UTC')::date, session_id, model, sum(tokens_prompt), sum(tokens_completion), sum(cost_estimate)
FROM spark_usage GROUP BY 1, 2, 3 ORDER BY 1;
INSERT INTO spark_errors_daily
SELECT day, name, successes, errors, round(errors / (successes + errors), 3)
FROM (
    SELECT
        (ts AT TIME ZONE 'UTC')::date AS day, name, count(*) FILTER (WHERE status = 'success')::numeric AS successes,
        count(*) FILTER (WHERE status = 'failed')::numeric AS errors
    FROM spark_function_calls GROUP BY 1, 2
) AS outcomes;
INSERT INTO slate.windows (
    start, seconds, signal, key, status, count, tokens_prompt, tokens_completion, cost, bins, late, closed_at
)
SELECT
    start, seconds, signal, key, status, 40, 100, 100, 0.001,
    CASE
        WHEN signal = 'calls' THEN (SELECT jsonb_object_agg(b * 13 % 400, 2) FROM generate_series(1, 20) AS b)
        ELSE '{{}}'
    END,
    0, now()
FROM (VALUES (60), (300)) AS lengths (seconds)
CROSS JOIN LATERAL generate_series(
    date_trunc('hour', now()) - interval '3 days', now(), seconds * interval '1 second'
) AS start
CROSS JOIN (
    SELECT 'calls' AS signal, 'function_' || n AS key, status
    FROM generate_series(1, 20) AS n, (VALUES ('success'), ('failed')) AS both_of_them (status)
    UNION ALL SELECT 'usage_by_model', 'model-' || n, '' FROM generate_series(1, 4) AS n
    UNION ALL SELECT 'usage_by_user', 'user-' || n, '' FROM generate_series(1, 20) AS n
    UNION ALL SELECT 'events', 'type-' || n, '' FROM generate_series(1, 30) AS n
) AS signals;
INSERT INTO slate.alerts (stream, rule, fingerprint, state, labels, annotations, value, reason, starts_at, ends_at)
SELECT
    'SPARK', 'rule-' || k % 10, k::text, CASE WHEN k % 2 = 0 THEN 'firing' ELSE 'resolved' END,
    jsonb_build_object('severity', 'warning', 'user', md5((k % {users})::text)::uuid), '{{}}', 1, 'because', now(), NULL
FROM generate_series(1, 20000) AS k;
INSERT INTO slate.alert_states (stream, rule, fingerprint, labels, status, since, samples, reason)
SELECT 'SPARK', 'rule-' || k % 10, k::text, jsonb_build_object('severity', 'warning'), 'firing', now(), 1, 'because'
FROM generate_series(1, 50) AS k;
INSERT INTO slate.dead_letters (
    received_at, stage, code, reason, subject, stream, partition, seq, stored_at, payload, headers, replayed_at
)
SELECT
    now() - k * interval '1 minute', 'validate', 'code-' || k % 7, 'wrong', 'spark.usage.x', 'SPARK', 0, k, now(), 'x',
    '', CASE WHEN k % 4 > 0 THEN now() END
FROM generate_series(1, 100000) AS k;
INSERT INTO slate.progress (stream, partition, created, seq, read, stored)
SELECT 'SPARK', p, now(), 1000, 1000, 1000 FROM generate_series(0, 7) AS p;
"""
_SHARES = {
    "sessions": 0.02,
    "events": 0.44,
    "calls": 0.22,
    "usage": 0.15,
    "telemetry": 0.05,
    "previews": 0.06,
    "scripts": 0.04,
    "builds": 0.02,
}


def fill(connection: psycopg.Connection, rows: int) -> int:
    """Put about so many rows in the tables, unless there are sessions; returns how many sessions and events there are.

    Args:
        connection: in autocommit mode.
        rows: over all tables; `slate.windows` and its like come on top.
    """
    row = connection.execute("SELECT count(*) FROM spark_sessions").fetchone()
    assert row is not None
    if row[0] == 0:
        connection.execute("SET TIME ZONE 'UTC'; SET max_parallel_workers_per_gather = 0; SET work_mem = '256MB'")
        numbers = {name: max(1, int(rows * share)) for name, share in _SHARES.items()}
        with connection.transaction():
            for statement in _FILL.format(**numbers, users=USERS).split(";\n"):
                if statement.strip():
                    connection.execute(statement.encode())
        connection.execute("VACUUM ANALYZE")
    total = connection.execute(
        "SELECT sum(n_live_tup)::bigint FROM pg_stat_user_tables WHERE schemaname = 'public'"
    ).fetchone()
    assert total is not None
    return int(total[0])
