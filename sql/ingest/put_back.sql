-- The stream has other messages now under sequences that were read: they are read again, and all is counted anew.
WITH back AS (
    UPDATE slate.progress
    SET seq = %(last)s, seq_at = NULL, updated_at = now()
    WHERE stream = %(stream)s AND created = %(created)s AND seq > %(last)s
    RETURNING stream, partition
)

UPDATE slate.rollup_progress AS r
SET seq = -1
FROM back
WHERE r.stream = back.stream AND r.partition = back.partition
