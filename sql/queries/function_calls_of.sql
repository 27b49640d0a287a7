-- Function calls of a session or of a user's sessions, the latest first.
-- noqa: disable=RF02
SELECT
    latest.id,
    latest.session_id,
    latest.call_id,
    latest.name,
    latest.ts,
    latest.duration_ms,
    latest.status,
    latest.error
FROM public.spark_sessions AS s
CROSS JOIN
    LATERAL (
        SELECT
            t.id,
            t.session_id,
            t.call_id,
            t.name,
            t.ts,
            t.duration_ms,
            t.status,
            t.error
        FROM public.spark_function_calls AS t
        WHERE
            s.session_id = t.session_id
            AND (%(ts)s::timestamptz IS NULL OR (t.ts, t.id) < (%(ts)s::timestamptz, %(id)s::bigint))
            AND (%(name)s::text IS NULL OR t.name = %(name)s)
            AND (%(status)s::text IS NULL OR t.status = %(status)s)
        ORDER BY t.ts DESC, t.id DESC
        LIMIT %(limit)s
    ) AS latest
WHERE
    (%(user)s::uuid IS NULL OR s.user_id = %(user)s::uuid)
    AND (%(session)s::text IS NULL OR s.session_id = %(session)s)
ORDER BY latest.ts DESC, latest.id DESC
LIMIT %(limit)s
