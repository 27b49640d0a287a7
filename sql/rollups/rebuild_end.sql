-- Counted is now what ingest has stored, no more and no less; what it told of that is done with.
WITH here AS (
    INSERT INTO slate.rollup_progress AS r (stream, partition, created, seq, read)
    SELECT
        stream,
        partition,
        created,
        seq,
        read
    FROM slate.progress
    WHERE stream = %(stream)s
    ON CONFLICT (stream, partition) DO UPDATE SET
        created = excluded.created,
        seq = excluded.seq,
        read = excluded.read,
        idle = FALSE,
        owner = NULL,
        updated_at = now()
),

-- what was spent in this period must be counted from the tables, too
spent AS (
    UPDATE slate.alert_progress
    SET budgets = '{}'
    WHERE stream = %(stream)s
),

skipped AS (
    DELETE FROM slate.skipped
    WHERE stream = %(stream)s
)

DELETE FROM slate.call_changes
WHERE stream = %(stream)s
