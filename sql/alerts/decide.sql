-- Put what was decided in the outbox, in this order, and in the queue of each receiver.
WITH decided AS (
    INSERT INTO slate.alerts (
        stream, rule, fingerprint, state, labels, annotations, value, reason, starts_at, ends_at
    )
    SELECT
        %(stream)s,
        rule,
        fingerprint,
        state,
        labels::jsonb,
        annotations::jsonb,
        value,
        reason,
        starts_at,
        ends_at
    FROM
        unnest(
            %(rule)b::text[], %(fingerprint)b::text[], %(state)b::text[], %(labels)b::text[],
            %(annotations)b::text[], %(value)s::double precision[], %(reason)b::text[],
            %(starts)b::timestamptz[], %(ends)b::timestamptz[]
        ) WITH ORDINALITY AS new (
            rule, fingerprint, state, labels, annotations, value, reason, starts_at, ends_at, place
        )
    ORDER BY place
    ON CONFLICT (stream, fingerprint, starts_at, state) DO NOTHING
    RETURNING id, fingerprint, state, starts_at
)

INSERT INTO slate.alert_deliveries (alert, receiver)
SELECT
    decided.id,
    queued.receiver
FROM
    unnest(
        %(to_fingerprint)b::text[], %(to_state)b::text[], %(to_starts)b::timestamptz[], %(to_receiver)b::text[]
    ) AS queued (fingerprint, state, starts_at, receiver)
INNER JOIN decided USING (fingerprint, state, starts_at)
