-- Give up what a receiver that is in trouble was not told in time.
UPDATE slate.alert_deliveries AS d
SET state = 'given up', updated_at = now()
FROM slate.alerts AS a
WHERE
    d.alert = a.id
    AND d.receiver = %(receiver)s
    AND d.state = 'pending'
    AND a.created_at < now() - make_interval(secs => %(after_s)s)
