-- What became of the alerts of the time that is shown by receiver, and since when the oldest waits.
SELECT
    d.receiver,
    d.state,
    count(*) AS alerts,
    max(d.attempts) AS most_attempts,
    min(a.created_at) AS oldest
FROM slate.alert_deliveries AS d
INNER JOIN slate.alerts AS a ON d.alert = a.id
WHERE $__timeFilter(a.created_at)
GROUP BY d.receiver, d.state
ORDER BY d.receiver, d.state
