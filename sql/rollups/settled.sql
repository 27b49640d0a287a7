-- Up to where ingest has stored partitions, and when it did; the timeline of the database
-- (`connectors.history`), and its time.
SELECT
    partition,
    seq,
    (extract(EPOCH FROM updated_at) * 1000000)::bigint AS updated_us,
    left(pg_walfile_name(pg_current_wal_lsn()), 8) AS timeline,
    (extract(EPOCH FROM clock_timestamp()) * 1000000)::bigint AS now_us
FROM slate.progress
WHERE stream = %(stream)s AND partition = any(%(partitions)s)
