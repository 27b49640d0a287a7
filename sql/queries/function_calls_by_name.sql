-- Calls of a function, of all sessions, the latest first. Their ids come from an index alone, by outcome: asked for
-- whole rows, PostgreSQL would rather look through the calls of all functions, even where none is found.
-- noqa: disable=RF02
SELECT
    c.id,
    c.session_id,
    c.call_id,
    c.name,
    c.ts,
    c.duration_ms,
    c.status,
    c.error
FROM (
    (
        SELECT id
        FROM public.spark_function_calls
        WHERE
            name = %(name)s
            AND status = 'success'
            AND (%(status)s::text IS NULL OR %(status)s::text = 'success')
            AND (%(ts)s::timestamptz IS NULL OR (ts, id) < (%(ts)s::timestamptz, %(id)s::bigint))
        ORDER BY ts DESC, id DESC
        LIMIT %(limit)s
    )
    UNION ALL
    (
        SELECT id
        FROM public.spark_function_calls
        WHERE
            name = %(name)s
            AND status = 'failed'
            AND (%(status)s::text IS NULL OR %(status)s::text = 'failed')
            AND (%(ts)s::timestamptz IS NULL OR (ts, id) < (%(ts)s::timestamptz, %(id)s::bigint))
        ORDER BY ts DESC, id DESC
        LIMIT %(limit)s
    )
) AS latest
INNER JOIN public.spark_function_calls AS c ON latest.id = c.id
ORDER BY c.ts DESC, c.id DESC
LIMIT %(limit)s
