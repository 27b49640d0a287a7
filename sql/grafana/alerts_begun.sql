-- Alerts that began by rule over time.
SELECT
    $__timeGroupAlias(created_at, $__interval, 0),
    rule,
    count(*) AS alerts
FROM slate.alerts
WHERE $__timeFilter(created_at) AND state = 'firing'
GROUP BY 1, 2
ORDER BY 1, 2
