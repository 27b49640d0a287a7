-- Function calls of all sessions, the latest first.
SELECT
    id,
    session_id,
    call_id,
    name,
    ts,
    duration_ms,
    status,
    error
FROM public.spark_function_calls
WHERE
    (%(ts)s::timestamptz IS NULL OR (ts, id) < (%(ts)s::timestamptz, %(id)s::bigint))
    AND (%(status)s::text IS NULL OR status = %(status)s)
ORDER BY ts DESC, id DESC
LIMIT %(limit)s
