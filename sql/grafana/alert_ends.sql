-- Annotations: alerts that were over.
SELECT
    ends_at AS time,
    'Over: ' || coalesce(annotations ->> 'summary', rule) AS text,
    concat_ws(',', rule, labels ->> 'severity') AS tags
FROM slate.alerts
WHERE $__timeFilter(ends_at) AND state = 'resolved'
ORDER BY ends_at DESC
LIMIT 1000
