-- Append events.
INSERT INTO public.spark_events (session_id, type, ts, user_id, project_id, payload)
SELECT
    session_id,
    type,
    ts,
    user_id,
    project_id,
    payload::jsonb
FROM unnest(
    %(session_id)b::text[], %(type)b::text[], %(ts)b::timestamptz[],
    %(user_id)b::uuid[], %(project_id)b::uuid[], %(payload)b::text[]
) AS new (session_id, type, ts, user_id, project_id, payload)
