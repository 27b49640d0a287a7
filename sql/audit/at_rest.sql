-- How many messages ingest has stored that are not counted yet.
SELECT coalesce(sum(p.read - coalesce(r.read, 0)), 0)::bigint AS behind
FROM slate.progress AS p
LEFT JOIN slate.rollup_progress AS r USING (stream, partition)
WHERE p.stream = %(stream)s
