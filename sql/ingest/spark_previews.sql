-- Append previews.
INSERT INTO public.spark_previews (session_id, engine, ts, status, frame_ref, meta)
SELECT
    session_id,
    engine,
    ts,
    status,
    frame_ref,
    meta::jsonb
FROM unnest(
    %(session_id)b::text[], %(engine)b::text[], %(ts)b::timestamptz[], %(status)b::text[],
    %(frame_ref)b::text[], %(meta)b::text[]
) AS new (session_id, engine, ts, status, frame_ref, meta)
