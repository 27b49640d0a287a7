-- Sessions, the latest first; of a user, or of all.
SELECT
    id,
    session_id,
    user_id,
    model,
    mode,
    started_at,
    ended_at
FROM public.spark_sessions
WHERE
    started_at IS NOT NULL
    AND (%(user)s::uuid IS NULL OR user_id = %(user)s::uuid)
    AND (NOT %(active)s OR ended_at IS NULL)
    AND (%(ts)s::timestamptz IS NULL OR (started_at, id) < (%(ts)s::timestamptz, %(id)s::uuid))
ORDER BY started_at DESC, id DESC
LIMIT %(limit)s
