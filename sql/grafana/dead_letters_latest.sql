-- Dead letters of the time that is shown, the latest first; `slate dead-letters list` shows what was in them.
SELECT
    id,
    received_at,
    stage,
    code,
    path,
    subject,
    partition,
    seq,
    replayed_at
FROM slate.dead_letters
WHERE $__timeFilter(received_at)
ORDER BY received_at DESC
LIMIT 200
