-- All dead letters: whose one is, is told by its bytes.
SELECT
    (to_jsonb(d) - 'payload' - 'headers')::text AS line,
    d.subject,
    d.payload,
    d.headers
FROM slate.dead_letters AS d
ORDER BY d.id
