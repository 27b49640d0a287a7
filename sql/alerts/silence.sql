-- Tell nothing of alerts with these labels for a time.
INSERT INTO slate.alert_silences (matchers, until, author, comment)
VALUES (%(matchers)s::jsonb, now() + %(length)s, %(author)s, %(comment)s)
RETURNING id, until
