-- Dead letters by kind of fault over time.
SELECT
    $__timeGroupAlias(received_at, $__interval, 0),
    code,
    count(*) AS dead_letters
FROM slate.dead_letters
WHERE $__timeFilter(received_at)
GROUP BY 1, 2
ORDER BY 1, 2
