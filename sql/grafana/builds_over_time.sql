-- Builds by what became of them, over the time at which they began.
SELECT
    $__timeGroupAlias(created_at, $__interval, 0),
    status,
    count(*) AS builds
FROM public.spark_build_jobs
WHERE $__timeFilter(created_at)
GROUP BY 1, 2
ORDER BY 1, 2
