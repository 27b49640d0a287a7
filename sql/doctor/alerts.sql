-- Alerts that wait for a receiver for minutes, or never reached one, lately.
SELECT
    d.receiver,
    count(*) FILTER (WHERE d.state = 'pending' AND a.created_at < now() - interval '5 minutes') AS waiting,
    count(*) FILTER (WHERE d.state IN ('refused', 'given up') AND a.created_at > now() - interval '1 day') AS lost,
    max(d.error) AS error
FROM slate.alert_deliveries AS d
INNER JOIN slate.alerts AS a ON d.alert = a.id
WHERE a.stream = %(stream)s -- noqa: RF02
GROUP BY d.receiver
ORDER BY d.receiver
