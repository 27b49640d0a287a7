-- The account of each partition: read = stored + duplicate + dead_lettered, and how far the rollups have counted it.
SELECT
    l.stream,
    l.partition,
    l.read,
    l.stored,
    l.duplicate,
    l.dead_lettered,
    l.lost,
    l.read - l.stored - l.duplicate - l.dead_lettered AS unaccounted,
    greatest(l.read - coalesce(r.read, 0), 0) AS uncounted,
    extract(EPOCH FROM now() - l.updated_at)::float AS written_ago
FROM slate.ledger AS l
LEFT JOIN slate.rollup_progress AS r ON l.stream = r.stream AND l.partition = r.partition
ORDER BY l.stream, l.partition
