-- The newest message at which a position is, and when it was stored, microseconds since 1970.
SELECT
    seq,
    (extract(EPOCH FROM seq_at) * 1000000)::bigint AS stored_us
FROM slate.progress
WHERE stream = %(stream)s AND created = %(created)s AND seq_at IS NOT NULL
ORDER BY seq DESC
LIMIT 1
