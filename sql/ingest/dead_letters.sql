-- Keep what could not be stored.
INSERT INTO slate.dead_letters (
    stage, code, reason, path, subject, stream, partition, seq, stored_at, element, payload, headers
)
SELECT
    stage,
    code,
    reason,
    path,
    subject,
    %(stream)s,
    partition,
    seq,
    stored_at,
    element,
    payload,
    headers
FROM
    unnest(
        %(stage)b::text[], %(code)b::text[], %(reason)b::text[], %(path)b::text[], %(subject)b::text[],
        %(partition)b::integer[], %(seq)b::bigint[], %(stored_at)b::timestamptz[], %(element)b::integer[],
        %(payload)b::bytea[], %(headers)b::bytea[]
    ) AS new (stage, code, reason, path, subject, partition, seq, stored_at, element, payload, headers)
