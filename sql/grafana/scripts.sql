-- Scripts that the assistant wrote by hour.
SELECT
    $__timeGroupAlias(created_at, '1h', 0),
    count(*) AS scripts
FROM public.spark_generated_scripts
WHERE $__timeFilter(created_at)
GROUP BY 1
ORDER BY 1
