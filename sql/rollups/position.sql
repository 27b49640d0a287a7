-- Where a partition is counted up to, and where ingest has it.
SELECT
    r.seq,
    r.created,
    p.seq AS stored_seq,
    p.created AS stored_created
FROM slate.progress AS p
LEFT JOIN slate.rollup_progress AS r USING (stream, partition)
WHERE p.stream = %(stream)s AND p.partition = %(partition)s
