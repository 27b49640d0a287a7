-- Annotations: alerts that began to fire.
SELECT
    starts_at AS time,
    'Alert: ' || coalesce(annotations ->> 'summary', rule) AS text,
    concat_ws(',', rule, labels ->> 'severity') AS tags
FROM slate.alerts
WHERE $__timeFilter(starts_at) AND state = 'firing'
ORDER BY starts_at DESC
LIMIT 1000
