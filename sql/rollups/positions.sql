-- Where partitions are counted up to, and who counted them last.
SELECT
    partition,
    seq,
    owner
FROM slate.rollup_progress
WHERE stream = %(stream)s AND partition = any(%(partitions)s)
