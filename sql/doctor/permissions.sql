-- What our role may not do, of what a worker does: empty when all is well.
SELECT 'USAGE on schema slate' AS missing
WHERE NOT has_schema_privilege('slate', 'USAGE')
UNION ALL
SELECT 'ownership of public.spark_events, to add partitions' AS missing
FROM pg_class AS c
WHERE c.oid = to_regclass('public.spark_events') AND NOT pg_has_role(c.relowner, 'USAGE')
UNION ALL
SELECT format('%s on %s.%s', needed.privilege, n.nspname, c.relname) AS missing
FROM pg_class AS c
INNER JOIN pg_namespace AS n ON c.relnamespace = n.oid
CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS needed (privilege)
WHERE
    ((n.nspname = 'public' AND c.relname LIKE 'spark\_%' AND NOT c.relispartition) OR n.nspname = 'slate')
    AND c.relkind IN ('r', 'p')
    AND NOT has_table_privilege(c.oid, needed.privilege)
UNION ALL
SELECT format('USAGE on sequence slate.%s', c.relname) AS missing
FROM pg_sequence AS s
INNER JOIN pg_class AS c ON s.seqrelid = c.oid
WHERE c.relnamespace = to_regnamespace('slate') AND NOT has_sequence_privilege(s.seqrelid, 'USAGE')
