-- Forget figures that count in no window any more. Who is connected is known for longer.
DELETE FROM slate.alert_signals
WHERE
    at < CASE
        WHEN signal = 'samples' THEN to_timestamp(%(sampled_us)s::bigint / 1000000.0)
        WHEN session_id <> '' AND signal = 'events' THEN to_timestamp(%(sessions_us)s::bigint / 1000000.0)
        ELSE to_timestamp(%(evaluated_us)s::bigint / 1000000.0)
    END
    AND pg_visible_in_snapshot(xid, %(seen)s::pg_snapshot)
