-- Groups that are not simply well. Times in microseconds.
SELECT
    rule,
    fingerprint,
    key,
    labels,
    status,
    (extract(EPOCH FROM since) * 1000000)::bigint AS since,
    (extract(EPOCH FROM clear_since) * 1000000)::bigint AS clear_since,
    (extract(EPOCH FROM cool_until) * 1000000)::bigint AS cool_until,
    (extract(EPOCH FROM starts_at) * 1000000)::bigint AS starts,
    value,
    samples,
    reason
FROM slate.alert_states
WHERE stream = %(stream)s
