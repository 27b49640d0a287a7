-- Steps of previews of a session or of a user's sessions, the latest first.
-- noqa: disable=RF02
SELECT
    latest.id,
    latest.session_id,
    latest.engine,
    latest.ts,
    latest.status,
    latest.frame_ref,
    latest.meta
FROM public.spark_sessions AS s
CROSS JOIN
    LATERAL (
        SELECT
            t.id,
            t.session_id,
            t.engine,
            t.ts,
            t.status,
            t.frame_ref,
            t.meta
        FROM public.spark_previews AS t
        WHERE
            s.session_id = t.session_id
            AND (%(ts)s::timestamptz IS NULL OR (t.ts, t.id) < (%(ts)s::timestamptz, %(id)s::bigint))
        ORDER BY t.ts DESC, t.id DESC
        LIMIT %(limit)s
    ) AS latest
WHERE
    (%(user)s::uuid IS NULL OR s.user_id = %(user)s::uuid)
    AND (%(session)s::text IS NULL OR s.session_id = %(session)s)
ORDER BY latest.ts DESC, latest.id DESC
LIMIT %(limit)s
