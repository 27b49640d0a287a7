-- End a silence now.
UPDATE slate.alert_silences
SET until = now()
WHERE id = %(id)s AND until > now()
