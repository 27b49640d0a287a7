-- Scripts without their content of a session or of a user's sessions, the latest first.
-- noqa: disable=RF02
SELECT
    latest.id,
    latest.session_id,
    latest.script_name,
    latest.prompt,
    latest.bytes,
    latest.created_at
FROM public.spark_sessions AS s
CROSS JOIN
    LATERAL (
        SELECT
            t.id,
            t.session_id,
            t.script_name,
            t.prompt,
            octet_length(t.script_content) AS bytes,
            t.created_at
        FROM public.spark_generated_scripts AS t
        WHERE
            s.session_id = t.session_id
            AND (%(ts)s::timestamptz IS NULL OR (t.created_at, t.id) < (%(ts)s::timestamptz, %(id)s::bigint))
        ORDER BY t.created_at DESC, t.id DESC
        LIMIT %(limit)s
    ) AS latest
WHERE
    (%(user)s::uuid IS NULL OR s.user_id = %(user)s::uuid)
    AND (%(session)s::text IS NULL OR s.session_id = %(session)s)
ORDER BY latest.created_at DESC, latest.id DESC
LIMIT %(limit)s
