-- What was decided about alerts, the latest first.
SELECT
    id,
    rule,
    fingerprint,
    state,
    labels,
    annotations,
    value,
    reason,
    starts_at,
    ends_at,
    created_at
FROM slate.alerts
WHERE %(id)s::bigint IS NULL OR id < %(id)s::bigint
ORDER BY id DESC
LIMIT %(limit)s
