-- What began and ended under a silence is not told.
-- noqa: disable=RF02
UPDATE slate.alert_deliveries AS d
SET state = 'silenced', updated_at = now()
FROM (
    SELECT
        began.id AS began,
        ended.id AS ended
    FROM slate.alert_deliveries AS held
    INNER JOIN slate.alerts AS began ON held.alert = began.id AND began.state = 'firing'
    INNER JOIN slate.alerts AS ended
        ON
            began.stream = ended.stream
            AND began.fingerprint = ended.fingerprint
            AND began.starts_at = ended.starts_at
            AND ended.state = 'resolved'
    WHERE
        held.receiver = %(receiver)s
        AND held.state = 'pending'
        AND EXISTS (
            SELECT 1
            FROM slate.alert_silences AS s
            WHERE s.until > now() AND began.labels @> s.matchers
        )
) AS pair
WHERE d.receiver = %(receiver)s AND d.alert IN (pair.began, pair.ended) AND d.state = 'pending'
