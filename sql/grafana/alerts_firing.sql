-- Alerts that fire, the gravest first.
SELECT
    s.labels ->> 'severity' AS severity,
    s.rule,
    (s.labels - 'alertname' - 'severity')::text AS labels,
    s.starts_at AS since,
    s.value,
    s.reason,
    coalesce(s.acknowledged_by, '') AS acknowledged_by,
    exists(
        SELECT 1
        FROM slate.alert_silences AS q
        WHERE q.until > now() AND s.labels @> q.matchers
    ) AS silenced
FROM slate.alert_states AS s
WHERE s.status = 'firing'
ORDER BY array_position(ARRAY['critical', 'warning', 'info'], s.labels ->> 'severity'), s.starts_at
LIMIT 1000
