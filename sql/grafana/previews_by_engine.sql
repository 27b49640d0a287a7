-- Previews of the time that is shown by engine, and the share of them that failed.
SELECT
    engine,
    count(*) FILTER (WHERE status = 'ready') AS ready,
    count(*) FILTER (WHERE status = 'error') AS failed,
    count(*) FILTER (WHERE status = 'error')::float
    / nullif(count(*) FILTER (WHERE status IN ('ready', 'error')), 0) AS failure_rate
FROM public.spark_previews
WHERE $__timeFilter(ts) AND engine = any(ARRAY[${engine:sqlstring}]::text[])
GROUP BY engine
ORDER BY engine
