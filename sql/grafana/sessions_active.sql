-- Sessions that are open, silent ones of the last day included.
SELECT count(*) AS sessions
FROM public.spark_sessions
WHERE ended_at IS NULL AND started_at >= now() - interval '1 day'
