-- Alerts that fire or are about to, those that fire first.
SELECT
    s.rule,
    s.fingerprint,
    s.status,
    s.labels,
    coalesce(s.starts_at, s.since) AS since,
    s.reason,
    s.acknowledged_by,
    exists(
        SELECT 1
        FROM slate.alert_silences AS q
        WHERE q.until > now() AND s.labels @> q.matchers
    ) AS silenced
FROM slate.alert_states AS s
WHERE s.status IN ('pending', 'firing', 'suppressed')
ORDER BY s.status <> 'firing', since, s.rule, s.fingerprint
LIMIT %(most)s
