-- Build jobs of all sessions, the latest first.
SELECT
    id,
    session_id,
    build_target,
    status,
    created_at,
    updated_at
FROM public.spark_build_jobs
WHERE
    (%(ts)s::timestamptz IS NULL OR (created_at, id) < (%(ts)s::timestamptz, %(id)s::text))
ORDER BY created_at DESC, id DESC
LIMIT %(limit)s
