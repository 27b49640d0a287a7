-- Forget what was spent in periods that are over.
DELETE FROM slate.alert_budgets
WHERE stream = %(stream)s AND period < to_timestamp(%(before_us)s::bigint / 1000000.0)
