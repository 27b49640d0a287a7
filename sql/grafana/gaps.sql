-- Sequences that left the stream before they were read, the latest first.
SELECT
    found_at,
    stream,
    partition,
    first_seq,
    last_seq,
    last_seq - first_seq + 1 AS sequences,
    reason
FROM slate.gaps
ORDER BY found_at DESC
LIMIT 100
