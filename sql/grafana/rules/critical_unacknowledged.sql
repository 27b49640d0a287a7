-- Critical alerts that fire for a quarter of an hour and nobody has taken on.
SELECT
    now() AS time,
    count(*) AS alerts
FROM slate.alert_states
WHERE
    status = 'firing'
    AND labels ->> 'severity' = 'critical'
    AND acknowledged_at IS NULL
    AND starts_at < now() - interval '15 minutes'
