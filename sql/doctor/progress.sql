-- How far each partition is written, what was lost before it could be read, and the age of the last write in seconds.
SELECT
    partition,
    seq,
    lost,
    extract(EPOCH FROM now() - updated_at)::float AS age
FROM slate.ledger
WHERE stream = %(stream)s
ORDER BY partition
