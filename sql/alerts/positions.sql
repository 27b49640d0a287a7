-- Up to where ingest has stored each partition, and how long ago rollups were written last, seconds.
SELECT
    p.partition,
    p.seq,
    extract(EPOCH FROM clock_timestamp() - r.updated_at)::double precision AS silent_s
FROM slate.progress AS p
LEFT JOIN slate.rollup_progress AS r USING (stream, partition)
WHERE p.stream = %(stream)s
