-- Append what alert rules look at.
INSERT INTO slate.alert_signals (at, signal, key, detail, session_id, count, tokens, cost, bins)
SELECT
    at,
    signal,
    key,
    detail,
    session_id,
    count,
    tokens,
    cost,
    bins::jsonb
FROM
    unnest(
        %(at)b::timestamptz[], %(signal)b::text[], %(key)b::text[], %(detail)b::text[], %(session_id)b::text[],
        %(count)b::bigint[], %(tokens)b::bigint[], %(cost)b::bigint[], %(bins)b::text[]
    ) AS new (at, signal, key, detail, session_id, count, tokens, cost, bins)
