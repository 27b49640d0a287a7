-- Alerts of the time that is shown that receivers have not taken, the latest first.
SELECT
    a.created_at AS decided,
    a.rule,
    a.state,
    d.receiver,
    d.state AS delivery,
    d.attempts,
    d.updated_at AS tried,
    coalesce(left(d.error, 200), '') AS error
FROM slate.alert_deliveries AS d
INNER JOIN slate.alerts AS a ON d.alert = a.id
WHERE $__timeFilter(a.created_at) AND d.state IN ('pending', 'refused', 'given up')
ORDER BY a.id DESC
LIMIT 200
