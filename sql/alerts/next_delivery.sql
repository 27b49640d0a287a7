-- What a receiver is to be told next: the oldest that is no beginning under a silence.
-- noqa: disable=RF02
SELECT
    a.id,
    a.rule,
    a.fingerprint,
    a.state,
    a.labels,
    a.annotations,
    a.reason,
    a.starts_at AS starts,
    a.ends_at AS ends
FROM slate.alert_deliveries AS d
INNER JOIN slate.alerts AS a ON d.alert = a.id
WHERE
    d.receiver = %(receiver)s
    AND d.state = 'pending'
    AND (
        a.state = 'resolved'
        OR NOT EXISTS (
            SELECT 1
            FROM slate.alert_silences AS s
            WHERE s.until > now() AND a.labels @> s.matchers
        )
    )
ORDER BY d.alert
LIMIT 1
