-- Alerts that fire, the gravest first.
SELECT
    coalesce(labels ->> 'severity', '') AS severity,
    rule,
    reason,
    starts_at
FROM slate.alert_states
WHERE status = 'firing'
ORDER BY array_position(ARRAY['critical', 'warning', 'info'], labels ->> 'severity'), starts_at
LIMIT 1000
