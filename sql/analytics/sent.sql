-- Mark windows as sent in the revision that was sent; one that was closed again meanwhile has a higher one by now.
UPDATE slate.windows AS w
SET sent = greatest(w.sent, s.revision)
FROM
    unnest(
        %(start)b::timestamptz[], %(seconds)b::integer[], %(signal)b::text[], %(key)b::text[], %(status)b::text[],
        %(revision)b::integer[]
    ) AS s (start, seconds, signal, key, status, revision)
WHERE
    w.start = s.start
    AND w.seconds = s.seconds
    AND w.signal = s.signal
    AND w.key = s.key
    AND w.status = s.status
