-- Add to the events of days.
INSERT INTO public.spark_events_daily AS old (day, type, event_count)
SELECT
    day,
    type,
    event_count
FROM unnest(%(day)b::date[], %(type)b::text[], %(event_count)b::bigint[]) AS new (day, type, event_count)
ORDER BY day, type
ON CONFLICT (day, type) DO UPDATE SET event_count = old.event_count + excluded.event_count
