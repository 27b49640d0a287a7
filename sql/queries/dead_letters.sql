-- Dead letters without their bodies, the latest first; those that wait for a replay, or all.
SELECT
    id,
    received_at,
    stage,
    code,
    reason,
    path,
    subject,
    stream,
    partition,
    seq,
    stored_at,
    element,
    replayed_at
FROM slate.dead_letters
WHERE
    (NOT %(waiting)s OR replayed_at IS NULL)
    AND (%(id)s::bigint IS NULL OR id < %(id)s::bigint)
ORDER BY id DESC
LIMIT %(limit)s
