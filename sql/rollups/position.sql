-- Where a partition is counted up to, where ingest has it, and how many messages that are stored are not counted.
SELECT
    r.seq,
    r.created,
    p.seq AS stored_seq,
    p.read - coalesce(r.read, 0) AS uncounted,
    p.created AS stored_created
FROM slate.progress AS p
LEFT JOIN slate.rollup_progress AS r USING (stream, partition)
WHERE p.stream = %(stream)s AND p.partition = %(partition)s
