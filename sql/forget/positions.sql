-- Up to where each partition is stored and counted, and how many messages that are stored are not counted.
SELECT
    p.partition,
    p.seq,
    coalesce(r.seq, 0) AS counted,
    p.read - coalesce(r.read, 0) AS uncounted
FROM slate.progress AS p
LEFT JOIN slate.rollup_progress AS r USING (stream, partition)
WHERE p.stream = %(stream)s
