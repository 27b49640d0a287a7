-- Move build jobs on. A finished job stays finished; between two outcomes, and between two steps, the later one counts.
INSERT INTO public.spark_build_jobs AS old (
    id, session_id, build_target, status, created_at, updated_at, status_at, target_at
)
SELECT
    id,
    session_id,
    build_target,
    status,
    ts,
    ts,
    ts,
    CASE WHEN build_target IS NOT NULL THEN ts END
FROM
    unnest(
        %(id)b::text[], %(session_id)b::text[], %(build_target)b::text[], %(status)b::text[], %(ts)b::timestamptz[]
    ) AS new (id, session_id, build_target, status, ts)
ON CONFLICT (id) DO UPDATE SET
    created_at = least(old.created_at, excluded.created_at),
    updated_at = greatest(old.updated_at, excluded.updated_at),
    session_id = CASE WHEN excluded.created_at < old.created_at THEN excluded.session_id ELSE old.session_id END,
    build_target = CASE
        WHEN excluded.target_at IS NULL OR excluded.target_at < old.target_at THEN old.build_target
        ELSE excluded.build_target
    END,
    target_at = greatest(old.target_at, excluded.target_at),
    (status, status_at) = (
        SELECT
            told.status,
            told.status_at
        FROM (
            VALUES (old.status, old.status_at), (excluded.status, excluded.status_at) -- noqa: RF01
        ) AS told (status, status_at)
        ORDER BY
            told.status IN ('completed', 'failed') DESC,
            told.status_at DESC,
            told.status <> 'queued' DESC,
            told.status DESC
        LIMIT 1
    )
