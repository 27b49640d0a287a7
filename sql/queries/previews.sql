-- Steps of previews of all sessions, the latest first.
SELECT
    id,
    session_id,
    engine,
    ts,
    status,
    frame_ref,
    meta
FROM public.spark_previews
WHERE
    (%(ts)s::timestamptz IS NULL OR (ts, id) < (%(ts)s::timestamptz, %(id)s::bigint))
ORDER BY ts DESC, id DESC
LIMIT %(limit)s
