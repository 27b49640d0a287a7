-- Delete some alerts from before a time, with what became of them; not what fires, nor what waits to be told.
-- noqa: disable=RF02
DELETE FROM slate.alerts
WHERE id IN (
    SELECT a.id
    FROM slate.alerts AS a
    WHERE
        a.created_at < %(before)s
        AND NOT EXISTS (
            SELECT 1
            FROM slate.alert_deliveries AS d
            WHERE d.alert = a.id AND d.state = 'pending'
        )
        AND NOT EXISTS (
            SELECT 1
            FROM slate.alert_states AS s
            WHERE s.stream = a.stream AND s.fingerprint = a.fingerprint AND s.starts_at = a.starts_at
        )
    ORDER BY a.id
    LIMIT %(most)s
)
