-- Share of calls that failed by function over time.
SELECT
    $__timeGroupAlias(start, $__interval),
    key AS function,
    coalesce(sum(count) FILTER (WHERE status = 'failed'), 0) / nullif(sum(count), 0) AS error_rate
FROM slate.windows
WHERE
    $__timeFilter(start)
    AND seconds = CASE WHEN $__interval_ms >= 300000 THEN 300 ELSE 60 END
    AND signal = 'calls'
    AND key = any(ARRAY[${function:sqlstring}]::text[])
GROUP BY 1, 2
ORDER BY 1, 2
