-- Previews that were ready and that failed over time.
SELECT
    $__timeGroupAlias(ts, $__interval, 0),
    status,
    count(*) AS previews
FROM public.spark_previews
WHERE
    $__timeFilter(ts)
    AND status IN ('ready', 'error')
    AND engine = any(ARRAY[${engine:sqlstring}]::text[])
GROUP BY 1, 2
ORDER BY 1, 2
