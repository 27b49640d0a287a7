-- Rights that are more than anybody's work needs: empty when all is well. Any role may look.
SELECT format('our role %I %s', current_user, attribute.meaning) AS surprise
FROM pg_roles AS r
CROSS JOIN
    LATERAL (
        VALUES
        (r.rolsuper, 'is a superuser'),
        (r.rolcreaterole, 'may create roles'),
        (r.rolcreatedb, 'may create databases'),
        (r.rolreplication, 'may replicate, which reads everything'),
        (r.rolbypassrls, 'bypasses row security')
    ) AS attribute (has, meaning)
WHERE r.rolname = current_user AND attribute.has
UNION ALL
SELECT format('everybody may create objects in schema %I', n.nspname) AS surprise
FROM pg_namespace AS n
CROSS JOIN LATERAL aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS acl
WHERE n.nspname IN ('public', 'slate') AND acl.grantee = 0 AND acl.privilege_type = 'CREATE'
UNION ALL
SELECT format('everybody has %s on %I.%I', acl.privilege_type, n.nspname, c.relname) AS surprise
FROM pg_class AS c
INNER JOIN pg_namespace AS n ON c.relnamespace = n.oid
CROSS JOIN LATERAL aclexplode(c.relacl) AS acl
WHERE
    (n.nspname = 'slate' OR (n.nspname = 'public' AND c.relname LIKE 'spark\_%'))
    AND c.relkind IN ('r', 'p', 'v', 'S')
    AND acl.grantee = 0
UNION ALL
SELECT format('%I, which reads, may %s %I.%I', r.rolname, wrong.privilege, n.nspname, c.relname) AS surprise
FROM pg_roles AS r
CROSS JOIN pg_class AS c
INNER JOIN pg_namespace AS n ON c.relnamespace = n.oid
CROSS JOIN (VALUES ('INSERT'), ('UPDATE'), ('DELETE'), ('TRUNCATE')) AS wrong (privilege)
WHERE
    r.rolname IN ('slate_reader', 'grafana')
    AND (n.nspname = 'slate' OR (n.nspname = 'public' AND c.relname LIKE 'spark\_%'))
    AND c.relkind IN ('r', 'p')
    AND has_table_privilege(r.oid, c.oid, wrong.privilege)
UNION ALL
SELECT format('grafana may read %s.%s, which holds what users wrote', personal.relation, personal.attribute) AS surprise
FROM pg_roles AS r
CROSS JOIN
    (
        VALUES
        ('public.spark_events', 'payload'),
        ('public.spark_function_calls', 'args'),
        ('public.spark_function_calls', 'output'),
        ('public.spark_function_calls', 'error'),
        ('public.spark_telemetry', 'data'),
        ('public.spark_generated_scripts', 'script_content'),
        ('public.spark_generated_scripts', 'prompt'),
        ('public.spark_sessions', 'user_id'),
        ('public.spark_sessions', 'meta'),
        ('slate.dead_letters', 'payload'),
        ('slate.dead_letters', 'headers'),
        ('slate.dead_letters', 'reason')
    ) AS personal (relation, attribute)
INNER JOIN pg_attribute AS a ON to_regclass(personal.relation) = a.attrelid AND personal.attribute = a.attname
WHERE r.rolname = 'grafana' AND has_column_privilege(r.oid, a.attrelid, a.attnum, 'SELECT')
UNION ALL
SELECT format('slate_writer owns %I.%I, so it may drop it', n.nspname, c.relname) AS surprise
FROM pg_class AS c
INNER JOIN pg_namespace AS n ON c.relnamespace = n.oid
INNER JOIN pg_roles AS r ON c.relowner = r.oid
WHERE
    r.rolname = 'slate_writer'
    AND (n.nspname = 'slate' OR (n.nspname = 'public' AND c.relname LIKE 'spark\_%'))
    AND c.relkind IN ('r', 'p')
ORDER BY surprise
