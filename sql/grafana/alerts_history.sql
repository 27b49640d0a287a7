-- What was decided in the time that is shown, the latest first, and what became of it.
SELECT
    a.created_at AS decided,
    a.state,
    a.labels ->> 'severity' AS severity,
    a.rule,
    coalesce(a.annotations ->> 'summary', a.reason) AS summary,
    a.starts_at AS began,
    a.ends_at AS ended,
    coalesce(string_agg(d.receiver || ': ' || d.state, ', ' ORDER BY d.receiver), 'nobody was to be told') AS told
FROM slate.alerts AS a
LEFT JOIN slate.alert_deliveries AS d ON a.id = d.alert
WHERE $__timeFilter(a.created_at)
GROUP BY a.id
ORDER BY a.id DESC
LIMIT 500
