-- Store calls. Name, arguments and ts are those of a call's first message by event time, the outcome that of its last.
INSERT INTO public.spark_function_calls AS old (
    session_id, call_id, name, ts, duration_ms, status, error, args, output, user_id, project_id, updated_at
)
SELECT
    session_id,
    call_id,
    name,
    ts,
    duration_ms,
    status,
    error,
    args::jsonb,
    output::jsonb,
    user_id,
    project_id,
    ts
FROM
    unnest(
        %(session_id)b::text[], %(call_id)b::text[], %(name)b::text[], %(ts)b::timestamptz[],
        %(duration_ms)b::integer[], %(status)b::text[], %(error)b::text[], %(args)b::text[], %(output)b::text[],
        %(user_id)b::uuid[], %(project_id)b::uuid[]
    ) AS new (session_id, call_id, name, ts, duration_ms, status, error, args, output, user_id, project_id)
ON CONFLICT (session_id, call_id) DO UPDATE SET
    ts = least(old.ts, excluded.ts),
    name = CASE WHEN excluded.ts < old.ts THEN excluded.name ELSE old.name END,
    args = CASE WHEN excluded.ts < old.ts THEN excluded.args ELSE old.args END,
    user_id = CASE WHEN excluded.ts < old.ts THEN excluded.user_id ELSE old.user_id END,
    project_id = CASE WHEN excluded.ts < old.ts THEN excluded.project_id ELSE old.project_id END,
    duration_ms = CASE WHEN excluded.updated_at < old.updated_at THEN old.duration_ms ELSE excluded.duration_ms END,
    status = CASE WHEN excluded.updated_at < old.updated_at THEN old.status ELSE excluded.status END,
    error = CASE WHEN excluded.updated_at < old.updated_at THEN old.error ELSE excluded.error END,
    output = CASE WHEN excluded.updated_at < old.updated_at THEN old.output ELSE excluded.output END,
    updated_at = greatest(old.updated_at, excluded.updated_at)
