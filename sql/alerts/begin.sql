-- Alerts of a stream begin to be evaluated.
INSERT INTO slate.alert_progress (stream)
VALUES (%(stream)s)
ON CONFLICT (stream) DO NOTHING
