-- Up to where ingest has stored partitions, and when it did.
SELECT
    partition,
    seq,
    (extract(EPOCH FROM updated_at) * 1000000)::bigint AS updated_us
FROM slate.progress
WHERE stream = %(stream)s AND partition = any(%(partitions)s)
