-- Where partitions are, and who wrote them last.
SELECT
    partition,
    seq,
    owner
FROM slate.progress
WHERE stream = %(stream)s AND partition = any(%(partitions)s)
