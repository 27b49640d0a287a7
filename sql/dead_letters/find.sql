-- Dead letters by filter, oldest first; a filter that is NULL takes all.
SELECT
    id,
    received_at,
    stage,
    code,
    reason,
    path,
    subject,
    stream,
    seq,
    stored_at,
    element,
    payload,
    headers,
    replayed_at
FROM slate.dead_letters
WHERE
    (%(ids)s::bigint[] IS NULL OR id = any(%(ids)s::bigint[]))
    AND (%(stage)s::text IS NULL OR stage = %(stage)s)
    AND (%(code)s::text IS NULL OR code = %(code)s)
    AND (%(reason)s::text IS NULL OR strpos(lower(reason), lower(%(reason)s)) > 0)
    AND (%(subject)s::text IS NULL OR subject ~ %(subject)s)
    AND (%(since)s::timestamptz IS NULL OR received_at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR received_at < %(until)s)
    AND (%(replayed)s OR replayed_at IS NULL)
    AND id > %(after)s
ORDER BY id
LIMIT %(limit)s
