-- Builds of the last day of which nothing was heard for an hour.
SELECT
    now() AS time,
    count(*) AS builds
FROM public.spark_build_jobs
WHERE
    created_at > now() - interval '1 day'
    AND status IN ('queued', 'building')
    AND updated_at < now() - interval '1 hour'
