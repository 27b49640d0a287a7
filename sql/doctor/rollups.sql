-- Stored messages that are not counted yet, and for how many seconds counting has not moved; NULL: it never did.
SELECT
    coalesce(sum(p.read - coalesce(r.read, 0)), 0)::bigint AS behind,
    extract(EPOCH FROM now() - max(r.updated_at))::float AS age
FROM slate.progress AS p
LEFT JOIN slate.rollup_progress AS r ON p.stream = r.stream AND p.partition = r.partition
WHERE p.stream = %(stream)s -- noqa: RF02
