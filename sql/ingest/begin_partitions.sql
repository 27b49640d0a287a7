-- Partitions that the stream gets now: read, and counted, from here on.
WITH begun AS (
    INSERT INTO slate.progress (stream, partition, created, seq)
    SELECT
        %(stream)s,
        partition,
        %(created)s,
        %(seq)s
    FROM unnest(%(partitions)s::integer[]) AS new (partition)
    ON CONFLICT (stream, partition) DO NOTHING
    RETURNING stream, partition, created, seq
)

INSERT INTO slate.rollup_progress (stream, partition, created, seq)
SELECT
    stream,
    partition,
    created,
    seq
FROM begun
ON CONFLICT (stream, partition) DO NOTHING
