-- Begin to count a partition: from its beginning where the stream holds it whole, else where ingest begins. Nothing
-- happens when ingest is past that: what it stored must then be counted from the tables.
INSERT INTO slate.rollup_progress (stream, partition, created, seq)
SELECT
    stream,
    partition,
    created,
    CASE WHEN %(whole)s THEN 0 ELSE seq END
FROM slate.progress
WHERE stream = %(stream)s AND partition = %(partition)s AND (%(whole)s OR read = 0)
ON CONFLICT (stream, partition) DO NOTHING
