-- Append telemetry.
INSERT INTO public.spark_telemetry (session_id, kind, ts, data)
SELECT
    session_id,
    kind,
    ts,
    data::jsonb
FROM unnest(
    %(session_id)b::text[], %(kind)b::text[], %(ts)b::timestamptz[], %(data)b::text[]
) AS new (session_id, kind, ts, data)
