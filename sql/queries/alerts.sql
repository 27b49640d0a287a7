-- Alerts that fire or are about to, the gravest first; those on a user and on his sessions, or all.
SELECT
    rule,
    fingerprint,
    status,
    labels,
    value,
    samples,
    reason,
    since,
    starts_at,
    acknowledged_at,
    acknowledged_by
FROM slate.alert_states
WHERE
    status IN ('pending', 'firing')
    AND (
        %(user)s::uuid IS NULL
        OR labels ->> 'user' = %(user)s::uuid::text
        OR labels ->> 'session' IN (
            SELECT s.session_id FROM public.spark_sessions AS s
            WHERE s.user_id = %(user)s
        )
    )
ORDER BY
    status <> 'firing' ASC,
    array_position(ARRAY['critical', 'warning', 'info'], labels ->> 'severity') ASC,
    since DESC,
    rule ASC,
    fingerprint ASC
LIMIT %(most)s
