-- Remember groups that are not simply well. A new episode has nobody who took it on.
INSERT INTO slate.alert_states AS old (
    stream, rule, fingerprint, key, labels, status, since, clear_since, cool_until, starts_at, value, samples, reason
)
SELECT
    %(stream)s,
    rule,
    fingerprint,
    CASE WHEN key IS NOT NULL THEN array(SELECT jsonb_array_elements_text(key::jsonb)) END AS key,
    labels::jsonb,
    status,
    since,
    clear_since,
    cool_until,
    starts_at,
    value,
    samples,
    reason
FROM
    unnest(
        %(rule)b::text[], %(fingerprint)b::text[], %(key)b::text[], %(labels)b::text[], %(status)b::text[],
        %(since)b::timestamptz[], %(clear_since)b::timestamptz[], %(cool_until)b::timestamptz[],
        %(starts)b::timestamptz[], %(value)s::double precision[], %(samples)b::bigint[], %(reason)b::text[]
    ) AS new (
        rule, fingerprint, key, labels, status, since, clear_since, cool_until, starts_at, value, samples, reason
    )
ON CONFLICT (stream, rule, fingerprint) DO UPDATE SET
    status = excluded.status,
    since = excluded.since,
    clear_since = excluded.clear_since,
    cool_until = excluded.cool_until,
    starts_at = excluded.starts_at,
    value = excluded.value,
    samples = excluded.samples,
    reason = excluded.reason,
    acknowledged_at = CASE WHEN old.starts_at = excluded.starts_at THEN old.acknowledged_at END,
    acknowledged_by = CASE WHEN old.starts_at = excluded.starts_at THEN old.acknowledged_by END,
    updated_at = now()
