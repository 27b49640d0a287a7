-- Calls by function over time.
SELECT
    $__timeGroupAlias(start, $__interval, 0),
    key AS function,
    sum(count) AS calls
FROM slate.windows
WHERE
    $__timeFilter(start)
    AND seconds = CASE WHEN $__interval_ms >= 300000 THEN 300 ELSE 60 END
    AND signal = 'calls'
    AND key = any(ARRAY[${function:sqlstring}]::text[])
GROUP BY 1, 2
ORDER BY 1, 2
