-- Alerts that fire by severity.
SELECT
    count(*) FILTER (WHERE labels ->> 'severity' = 'critical') AS critical,
    count(*) FILTER (WHERE labels ->> 'severity' = 'warning') AS warning,
    count(*) FILTER (WHERE labels ->> 'severity' = 'info') AS info
FROM slate.alert_states
WHERE status = 'firing'
