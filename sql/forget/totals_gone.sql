-- Delete totals of which nothing is left.
WITH errors AS (
    DELETE FROM public.spark_errors_daily
    WHERE success_count = 0 AND error_count = 0
)

DELETE FROM public.spark_events_daily
WHERE event_count = 0
