-- Sessions that began and ended over time.
SELECT
    $__timeGroupAlias(start, $__interval, 0),
    key AS what,
    sum(count) AS sessions
FROM slate.windows
WHERE
    $__timeFilter(start)
    AND seconds = CASE WHEN $__interval_ms >= 300000 THEN 300 ELSE 60 END
    AND signal = 'events'
    AND key IN ('connected', 'disconnected')
GROUP BY 1, 2
ORDER BY 1, 2
