-- Build jobs of a session or of a user's sessions, the latest first.
-- noqa: disable=RF02
SELECT
    latest.id,
    latest.session_id,
    latest.build_target,
    latest.status,
    latest.created_at,
    latest.updated_at
FROM public.spark_sessions AS s
CROSS JOIN
    LATERAL (
        SELECT
            t.id,
            t.session_id,
            t.build_target,
            t.status,
            t.created_at,
            t.updated_at
        FROM public.spark_build_jobs AS t
        WHERE
            s.session_id = t.session_id
            AND (%(ts)s::timestamptz IS NULL OR (t.created_at, t.id) < (%(ts)s::timestamptz, %(id)s::text))
        ORDER BY t.created_at DESC, t.id DESC
        LIMIT %(limit)s
    ) AS latest
WHERE
    (%(user)s::uuid IS NULL OR s.user_id = %(user)s::uuid)
    AND (%(session)s::text IS NULL OR s.session_id = %(session)s)
ORDER BY latest.created_at DESC, latest.id DESC
LIMIT %(limit)s
