-- What our role may not do, of what its work needs: empty when all is well. `slate_reader` serves reads; any other role
-- is taken for a worker's. sql/roles/grants.sql has what each is given.
WITH needed AS (
    SELECT
        work.relation,
        work.privilege
    FROM (
        SELECT
            relation,
            unnest(string_to_array(privileges, ' ')) AS privilege
        FROM (
            VALUES
            ('public.spark_sessions', 'SELECT INSERT UPDATE'),
            ('public.spark_function_calls', 'SELECT INSERT UPDATE'),
            ('public.spark_build_jobs', 'SELECT INSERT UPDATE'),
            ('public.spark_events', 'INSERT'),
            ('public.spark_usage', 'INSERT'),
            ('public.spark_telemetry', 'INSERT'),
            ('public.spark_previews', 'INSERT'),
            ('public.spark_generated_scripts', 'INSERT'),
            ('public.spark_usage_daily', 'SELECT INSERT UPDATE DELETE'),
            ('public.spark_errors_daily', 'SELECT INSERT UPDATE DELETE'),
            ('public.spark_events_daily', 'SELECT INSERT UPDATE DELETE'),
            ('slate.event_ids', 'SELECT INSERT'),
            ('slate.progress', 'SELECT INSERT UPDATE'),
            ('slate.gaps', 'SELECT INSERT'),
            ('slate.dead_letters', 'SELECT INSERT'),
            ('slate.skipped', 'SELECT INSERT UPDATE DELETE'),
            ('slate.call_changes', 'SELECT INSERT UPDATE DELETE'),
            ('slate.rollup_progress', 'SELECT INSERT UPDATE'),
            ('slate.windows', 'SELECT INSERT UPDATE DELETE'),
            ('slate.alert_signals', 'SELECT INSERT DELETE'),
            ('slate.alert_progress', 'SELECT INSERT UPDATE'),
            ('slate.alert_states', 'SELECT INSERT UPDATE DELETE'),
            ('slate.alerts', 'SELECT INSERT'),
            ('slate.alert_deliveries', 'SELECT INSERT UPDATE')
        ) AS worker (relation, privileges)
        WHERE current_user <> 'slate_reader'
        UNION ALL
        SELECT
            relation,
            'SELECT' AS privilege
        FROM (
            VALUES
            ('public.spark_sessions'), ('public.spark_function_calls'), ('public.spark_build_jobs'),
            ('public.spark_events'), ('public.spark_usage'), ('public.spark_previews'),
            ('public.spark_generated_scripts'), ('public.spark_usage_daily'), ('slate.windows'), ('slate.alerts')
        ) AS reader (relation)
        WHERE current_user = 'slate_reader'
    ) AS work
)

SELECT 'USAGE on schema slate' AS missing
WHERE NOT has_schema_privilege('slate', 'USAGE')
UNION ALL
SELECT format('%s on %s', n.privilege, n.relation) AS missing
FROM needed AS n
WHERE to_regclass(n.relation) IS NOT NULL AND NOT has_table_privilege(to_regclass(n.relation), n.privilege)
UNION ALL
SELECT 'EXECUTE on slate.ensure_month, which adds months to spark_events' AS missing
WHERE
    current_user <> 'slate_reader'
    AND to_regprocedure('slate.ensure_month(date)') IS NOT NULL
    AND NOT has_function_privilege(to_regprocedure('slate.ensure_month(date)'), 'EXECUTE')
UNION ALL
SELECT format('USAGE on sequence slate.%s', c.relname) AS missing
FROM pg_sequence AS s
INNER JOIN pg_class AS c ON s.seqrelid = c.oid
WHERE
    current_user <> 'slate_reader'
    AND c.relnamespace = to_regnamespace('slate')
    AND c.relname LIKE '%\_row\_id'
    AND NOT has_sequence_privilege(s.seqrelid, 'USAGE')
