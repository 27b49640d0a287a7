-- Add samples, taken now.
INSERT INTO slate.alert_signals (at, signal, key, detail, session_id, count, tokens, cost, bins)
SELECT
    to_timestamp(%(tick)s * 2),
    'samples',
    key,
    '',
    '',
    1,
    0,
    value,
    '{}'
FROM unnest(%(key)s::text[], %(value)s::bigint[]) AS new (key, value)
