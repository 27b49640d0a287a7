-- Somebody takes on what fires.
UPDATE slate.alert_states
SET acknowledged_at = now(), acknowledged_by = %(author)s
WHERE fingerprint = %(fingerprint)s AND status IN ('firing', 'suppressed')
