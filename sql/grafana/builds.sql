-- Builds that began in the time that is shown by target and status, and how long they took (seconds).
SELECT
    coalesce(build_target, 'unknown') AS target,
    status,
    count(*) AS builds,
    avg(extract(EPOCH FROM updated_at - created_at))::float AS seconds
FROM public.spark_build_jobs
WHERE $__timeFilter(created_at)
GROUP BY build_target, status
ORDER BY target, status
