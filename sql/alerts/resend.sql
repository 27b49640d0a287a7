-- What Alertmanager must hear again: what it was told and still fires, and what ended in the last five minutes.
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
LEFT JOIN slate.alert_states AS s
    ON a.stream = s.stream AND a.rule = s.rule AND a.fingerprint = s.fingerprint AND a.starts_at = s.starts_at
WHERE
    d.receiver = %(receiver)s
    AND d.state = 'delivered'
    AND (
        (a.state = 'firing' AND s.status = 'firing')
        OR (a.state = 'resolved' AND d.updated_at > now() - interval '5 minutes')
    )
ORDER BY a.id
