-- What was decided since a time, the latest first, and what became of it.
SELECT
    a.created_at,
    a.state,
    a.rule,
    a.labels,
    a.reason,
    coalesce(
        string_agg(d.receiver || ': ' || d.state || coalesce(' (' || left(d.error, 80) || ')', ''), ', '), '-'
    ) AS told
FROM slate.alerts AS a
LEFT JOIN slate.alert_deliveries AS d ON a.id = d.alert
WHERE a.created_at >= %(since)s -- noqa: RF02
GROUP BY a.id
ORDER BY a.id DESC
LIMIT %(most)s
