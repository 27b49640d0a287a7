-- What workers and the HTTP service may do with each table, found by running them; `slate migrate` applies it, where
-- there are these roles. A table that is not named here has what `roles.sql` gives by default. Months of events are
-- reached through spark_events.
DO $$
DECLARE
    the_table text;
    writer text;
    reader text;
    one text;
BEGIN
    IF to_regrole('slate_writer') IS NULL OR to_regrole('slate_reader') IS NULL THEN
        RETURN;
    END IF;
    FOR the_table, writer, reader IN VALUES
        -- ON CONFLICT DO UPDATE reads what it may keep, so upserts need SELECT; what is only appended is not read.
        ('public.spark_sessions', 'SELECT, INSERT, UPDATE', 'SELECT'),
        ('public.spark_function_calls', 'SELECT, INSERT, UPDATE', 'SELECT'),
        ('public.spark_build_jobs', 'SELECT, INSERT, UPDATE', 'SELECT'),
        ('public.spark_events', 'INSERT, SELECT (type, ts)', 'SELECT'),
        (
            'public.spark_usage',
            'INSERT, SELECT (session_id, ts, model, tokens_prompt, tokens_completion, cost_estimate, user_id)',
            'SELECT'
        ),
        ('public.spark_telemetry', 'INSERT', NULL),
        ('public.spark_previews', 'INSERT', 'SELECT'),
        ('public.spark_generated_scripts', 'INSERT', 'SELECT'),
        ('public.spark_usage_daily', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT'),
        ('public.spark_errors_daily', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT'),
        ('public.spark_events_daily', 'SELECT, INSERT, UPDATE, DELETE', NULL),
        ('slate.event_ids', 'SELECT, INSERT', NULL),
        ('slate.progress', 'SELECT, INSERT, UPDATE', 'SELECT'),
        ('slate.gaps', 'SELECT, INSERT', NULL),
        ('slate.ledger', NULL, NULL),
        (
            'slate.dead_letters',
            'SELECT, INSERT, UPDATE (replayed_at)',
            'SELECT (id, received_at, stage, code, reason, path, subject, stream, partition, seq, stored_at, element, '
            'replayed_at)'
        ),
        ('slate.skipped', 'SELECT, INSERT, UPDATE, DELETE', NULL),
        ('slate.call_changes', 'SELECT, INSERT, UPDATE, DELETE', NULL),
        ('slate.rollup_progress', 'SELECT, INSERT, UPDATE', 'SELECT'),
        ('slate.windows', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT'),
        ('slate.call_latencies', NULL, NULL),
        ('slate.dropped_months', 'SELECT', NULL),
        ('slate.alert_signals', 'SELECT, INSERT, DELETE', NULL),
        ('slate.alert_progress', 'SELECT, INSERT, UPDATE', NULL),
        ('slate.alert_states', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT'),
        ('slate.alert_budgets', 'SELECT, INSERT, UPDATE, DELETE', NULL),
        ('slate.alerts', 'SELECT, INSERT', 'SELECT'),
        ('slate.alert_deliveries', 'SELECT, INSERT, UPDATE', NULL),
        ('slate.alert_silences', 'SELECT, INSERT, UPDATE (until)', NULL),
        -- `slate alerts` and `slate dead-letters` say that they were run; who was is for the owner to read
        ('slate.admin_log', 'INSERT', NULL),
        ('slate.forgetting', NULL, NULL),
        -- workers and `slate doctor` ask which migrations are applied
        ('slate._yoyo_migration', 'SELECT', 'SELECT'),
        ('slate._yoyo_version', NULL, NULL),
        ('slate._yoyo_log', NULL, NULL),
        ('slate.yoyo_lock', NULL, NULL)
    LOOP
        CONTINUE WHEN to_regclass(the_table) IS NULL;
        EXECUTE format('REVOKE ALL ON %s FROM slate_writer, slate_reader', the_table);
        IF writer IS NOT NULL THEN
            EXECUTE format('GRANT %s ON %s TO slate_writer', writer, the_table);
        END IF;
        IF reader IS NOT NULL THEN
            EXECUTE format('GRANT %s ON %s TO slate_reader', reader, the_table);
        END IF;
    END LOOP;
    FOREACH one IN ARRAY ARRAY['event', 'function_call', 'telemetry', 'usage', 'preview', 'script'] LOOP
        EXECUTE format('GRANT USAGE ON SEQUENCE slate.%I TO slate_writer', one || '_row_id');
    END LOOP;
    GRANT EXECUTE ON FUNCTION slate.ensure_month(date) TO slate_writer;
END
$$;
