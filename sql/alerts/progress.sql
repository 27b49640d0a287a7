-- How far alerts are evaluated, by whom, and up to which event time they can be. Times in microseconds.
SELECT
    seen::text AS seen,
    (extract(EPOCH FROM evaluated_until) * 1000000)::bigint AS evaluated_us,
    (extract(EPOCH FROM sampled_until) * 1000000)::bigint AS sampled_us,
    budgets,
    coalesce(owner, '') AS owner,
    lease_until > now() AND owner <> %(owner)s AS taken,
    (extract(EPOCH FROM slate.alert_time(%(stream)s, %(all_partitions)s::integer[])) * 1000000)::bigint AS reached_us,
    (extract(EPOCH FROM clock_timestamp()) * 1000000)::bigint AS clock_us
FROM slate.alert_progress
WHERE stream = %(stream)s
