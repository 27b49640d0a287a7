-- Alerts are evaluated up to here, with what this transaction sees; the lease is prolonged.
UPDATE slate.alert_progress
SET
    seen = pg_current_snapshot(),
    evaluated_until = to_timestamp(%(evaluated_us)s::bigint / 1000000.0),
    sampled_until = to_timestamp(%(sampled_us)s::bigint / 1000000.0),
    budgets = %(budgets)s::text[],
    owner = %(owner)s,
    lease_until = now() + interval '5 seconds',
    updated_at = now()
WHERE stream = %(stream)s
