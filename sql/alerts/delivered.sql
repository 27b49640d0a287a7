-- What became of an attempt.
UPDATE slate.alert_deliveries
SET state = %(state)s, attempts = attempts + 1, error = %(error)s, updated_at = now()
WHERE receiver = %(receiver)s AND alert = %(alert)s
