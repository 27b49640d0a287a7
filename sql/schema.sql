-- The schema that the migrations make, for reading. `make schema` writes it, and a test compares.

CREATE SCHEMA slate;

COMMENT ON SCHEMA slate IS 'What SPARK on SLATE keeps beside the tables of the wire contract';

CREATE FUNCTION slate.add_bins(a jsonb, b jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    AS $$
SELECT CASE
    WHEN a = '{}' THEN b
    WHEN b = '{}' THEN a
    ELSE (
        SELECT coalesce(jsonb_object_agg(bin, n), '{}')
        FROM (
            SELECT key AS bin, sum(value::bigint) AS n
            FROM (SELECT * FROM jsonb_each_text(a) UNION ALL SELECT * FROM jsonb_each_text(b)) AS both_of_them
            GROUP BY key
        ) AS sums
        WHERE n <> 0
    )
END
$$;

COMMENT ON FUNCTION slate.add_bins(a jsonb, b jsonb) IS 'The sum of two histograms';

CREATE FUNCTION slate.advance(the_stream text, partitions integer[], afters bigint[], positions bigint[], reads bigint[], storeds bigint[], duplicates bigint[], deads bigint[], the_owner text) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog'
    AS $$
SELECT slate.advance(
    the_stream, partitions, afters, positions, array_fill(NULL::timestamptz, ARRAY[cardinality(partitions)]),
    reads, storeds, duplicates, deads, the_owner
)
$$;

COMMENT ON FUNCTION slate.advance(the_stream text, partitions integer[], afters bigint[], positions bigint[], reads bigint[], storeds bigint[], duplicates bigint[], deads bigint[], the_owner text) IS 'Moves partitions from where the caller left them, in the transaction that stores what was read; SL001 if another worker has moved one';

CREATE FUNCTION slate.advance(the_stream text, partitions integer[], afters bigint[], positions bigint[], position_ats timestamp with time zone[], reads bigint[], storeds bigint[], duplicates bigint[], deads bigint[], the_owner text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog'
    AS $$
DECLARE
    moved integer;
BEGIN
    UPDATE slate.progress AS p SET
        seq = n.position,
        seq_at = CASE WHEN n.position = n.after THEN p.seq_at ELSE n.position_at END,
        read = p.read + n.read,
        stored = p.stored + n.stored,
        duplicate = p.duplicate + n.duplicate,
        dead_lettered = p.dead_lettered + n.dead,
        owner = the_owner,
        updated_at = clock_timestamp()
    FROM unnest(partitions, afters, positions, position_ats, reads, storeds, duplicates, deads)
        AS n (partition, after, position, position_at, read, stored, duplicate, dead)
    WHERE p.stream = the_stream AND p.partition = n.partition AND p.seq = n.after;
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved <> cardinality(partitions) THEN
        RAISE EXCEPTION 'another worker has moved a partition of stream % on', the_stream USING ERRCODE = 'SL001';
    END IF;
END
$$;

COMMENT ON FUNCTION slate.advance(the_stream text, partitions integer[], afters bigint[], positions bigint[], position_ats timestamp with time zone[], reads bigint[], storeds bigint[], duplicates bigint[], deads bigint[], the_owner text) IS 'Moves partitions from where the caller left them, in the transaction that stores what was read; SL001 if another worker has moved one';

CREATE FUNCTION slate.advance_rollups(the_stream text, partitions integer[], afters bigint[], positions bigint[], reads bigint[], watermarks timestamp with time zone[], moved_ats timestamp with time zone[], drained_ats timestamp with time zone[], call_seqs bigint[], the_owner text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog'
    AS $$
DECLARE
    moved integer;
BEGIN
    UPDATE slate.rollup_progress AS p SET
        seq = n.position,
        read = p.read + n.read,
        watermark = greatest(p.watermark, n.watermark),
        moved_at = coalesce(n.moved_at, p.moved_at),
        idle = n.drained_at IS NOT NULL,
        drained_at = n.drained_at,
        owner = the_owner,
        updated_at = clock_timestamp()
    FROM unnest(partitions, afters, positions, reads, watermarks, moved_ats, drained_ats)
        AS n (partition, after, position, read, watermark, moved_at, drained_at)
    WHERE p.stream = the_stream AND p.partition = n.partition AND p.seq = n.after;
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved <> cardinality(partitions) THEN
        RAISE EXCEPTION 'another worker has moved a partition of stream % on', the_stream USING ERRCODE = 'SL001';
    END IF;
    DELETE FROM slate.skipped AS s
    USING unnest(partitions, positions) AS n (partition, position)
    WHERE s.stream = the_stream AND s.partition = n.partition AND s.position <= n.position;
    DELETE FROM slate.call_changes WHERE stream = the_stream AND seq = any(call_seqs);
END
$$;

COMMENT ON FUNCTION slate.advance_rollups(the_stream text, partitions integer[], afters bigint[], positions bigint[], reads bigint[], watermarks timestamp with time zone[], moved_ats timestamp with time zone[], drained_ats timestamp with time zone[], call_seqs bigint[], the_owner text) IS 'Moves counted partitions from where the caller left them, in the transaction that adds what was counted; SL001 if another worker has moved one';

CREATE FUNCTION slate.alert_time(the_stream text, all_partitions integer[]) RETURNS timestamp with time zone
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog'
    AS $$
SELECT
    CASE
        WHEN count(*) = cardinality(all_partitions)
            THEN nullif(
                min(CASE WHEN idle THEN drained_at - behind ELSE coalesce(watermark, '-infinity') END),
                '-infinity'
            )
    END
FROM (
    SELECT
        watermark,
        idle AND drained_at IS NOT NULL AS idle,
        drained_at,
        first_value(greatest(moved_at - watermark, '0')) OVER (ORDER BY watermark DESC NULLS LAST) AS behind
    FROM slate.rollup_progress
    WHERE stream = the_stream AND partition = any(all_partitions)
) AS partitions
$$;

COMMENT ON FUNCTION slate.alert_time(the_stream text, all_partitions integer[]) IS 'Up to which event time everything has come that will come in time';

CREATE FUNCTION slate.bin(ms bigint) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    AS $$
SELECT CASE WHEN ms = 0 THEN -1 ELSE ceil(ln(ms::double precision) / ln(1.01::double precision / 0.99)) END::integer
$$;

COMMENT ON FUNCTION slate.bin(ms bigint) IS 'The bin of a duration in milliseconds';

CREATE FUNCTION slate.close_windows(the_stream text, all_partitions integer[], grace interval) RETURNS timestamp with time zone
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog'
    AS $$
DECLARE
    reached timestamptz;
    at_rest boolean;
BEGIN
    SELECT
        CASE
            WHEN count(*) < cardinality(all_partitions) THEN NULL
            WHEN bool_and(quiet) THEN max(watermark)
            ELSE min(coalesce(watermark, '-infinity')) FILTER (WHERE NOT quiet)
        END,
        count(*) = cardinality(all_partitions) AND bool_and(quiet)
    INTO reached, at_rest
    FROM (
        SELECT
            watermark,
            idle AND updated_at > now() - interval '30 seconds' AS quiet
        FROM slate.rollup_progress
        WHERE stream = the_stream AND partition = any(all_partitions)
    ) AS partitions;
    UPDATE slate.windows
    SET closed_at = now(), revision = revision + 1
    WHERE
        closed_at IS NULL
        AND (
            start + seconds * interval '1 second' + grace <= reached
            OR (
                at_rest
                AND updated_at + grace <= now()
                AND start + seconds * interval '1 second' + grace <= now()
            )
        );
    RETURN reached;
END
$$;

COMMENT ON FUNCTION slate.close_windows(the_stream text, all_partitions integer[], grace interval) IS 'Closes the windows in which nothing more is expected; returns the event time that every partition has come past';

CREATE FUNCTION slate.ensure_month(a_day date) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET "DateStyle" TO 'ISO'
    AS $$
DECLARE
    month timestamptz := date_trunc('month', a_day::timestamptz);
    name text := to_char(month, '"spark_events_"YYYY_MM');
BEGIN
    FOR turn IN 1..2 LOOP
        IF pg_partition_root(to_regclass('public.' || name)) = 'public.spark_events'::regclass THEN
            RETURN NULL;
        END IF;
        -- Somebody else may make it at this moment: look again when he is done. An advisory lock would not do, for it
        -- leaves our catalogue caches as they were.
        LOCK TABLE public.spark_events IN SHARE UPDATE EXCLUSIVE MODE;
    END LOOP;
    IF to_regclass('public.' || name) IS NOT NULL THEN
        RAISE EXCEPTION '% is detached from spark_events, so it takes no events: attach it again, or drop it', name
            USING ERRCODE = 'check_violation';
    END IF;
    EXECUTE format(
        'CREATE TABLE public.%I ('
        'LIKE public.spark_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING COMMENTS)',
        name
    );
    EXECUTE format(
        'ALTER TABLE public.spark_events ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
        name, month, month + interval '1 month'
    );
    EXECUTE format('COMMENT ON TABLE public.%I IS %L', name, to_char(month, '"Events of "YYYY-MM" (UTC)"'));
    RETURN name;
END
$$;

COMMENT ON FUNCTION slate.ensure_month(a_day date) IS 'Makes the partition of spark_events for the month of a day (UTC); its name, or NULL when it was there';

CREATE FUNCTION slate.quantile(bins jsonb, share double precision) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    AS $$
SELECT
    CASE WHEN bin < 0 THEN 0 ELSE power(1.01::double precision / 0.99, bin) * 2 / (1 + 1.01::double precision / 0.99) END
FROM (
    SELECT
        key::integer AS bin,
        sum(value::bigint) OVER (ORDER BY key::integer) AS up_to,
        sum(value::bigint) OVER () AS n
    FROM jsonb_each_text(bins)
) AS cumulative
WHERE up_to > share * (n - 1)
ORDER BY bin
LIMIT 1
$$;

COMMENT ON FUNCTION slate.quantile(bins jsonb, share double precision) IS 'A quantile of a histogram, right to 1 % of itself';

CREATE FUNCTION slate.quantiles(bins jsonb) RETURNS TABLE(p50 double precision, p95 double precision, p99 double precision)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
SELECT
    pg_catalog.min(value) FILTER (WHERE up_to > 0.5 * (n - 1)),
    pg_catalog.min(value) FILTER (WHERE up_to > 0.95 * (n - 1)),
    pg_catalog.min(value) FILTER (WHERE up_to > 0.99 * (n - 1))
FROM (
    SELECT
        CASE
            WHEN key::integer < 0 THEN 0
            ELSE pg_catalog.power(1.01::double precision / 0.99, key::integer) * 2 / (1 + 1.01::double precision / 0.99)
        END AS value,
        pg_catalog.sum(value::bigint) OVER (ORDER BY key::integer) AS up_to,
        pg_catalog.sum(value::bigint) OVER () AS n
    FROM pg_catalog.jsonb_each_text(bins)
) AS cumulative
$$;

COMMENT ON FUNCTION slate.quantiles(bins jsonb) IS 'Three quantiles of a histogram at once, each as slate.quantile gives it; NULL where it is empty';

CREATE FUNCTION slate.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog'
    AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;

COMMENT ON FUNCTION slate.refuse_change() IS 'Refuses to change or delete rows';

CREATE FUNCTION slate.rollup_differences(since date, until date) RETURNS TABLE(rollup text, day date, key text, model text, counted numeric[], wanted numeric[])
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog'
    SET "TimeZone" TO 'UTC'
    AS $$
SELECT 'usage', day, session_id, model, counted, wanted
FROM (
    SELECT
        ts::date AS day,
        session_id,
        model,
        ARRAY[sum(tokens_prompt), sum(tokens_completion), sum(cost_estimate)] AS wanted
    FROM public.spark_usage
    WHERE ts >= since AND ts < until
    GROUP BY ts::date, session_id, model
) AS raw
FULL JOIN (
    SELECT day, session_id, model, ARRAY[tokens_prompt, tokens_completion, cost_estimate] AS counted
    FROM public.spark_usage_daily
    WHERE day >= since AND day < until
) AS total USING (day, session_id, model)
WHERE counted IS DISTINCT FROM wanted
UNION ALL
SELECT 'errors', day, name, '', counted, wanted
FROM (
    SELECT day, name, ARRAY[successes, errors, round(errors / (successes + errors), 3)] AS wanted
    FROM (
        SELECT
            ts::date AS day,
            name,
            count(*) FILTER (WHERE status = 'success')::numeric AS successes,
            count(*) FILTER (WHERE status = 'failed')::numeric AS errors
        FROM public.spark_function_calls
        WHERE ts >= since AND ts < until
        GROUP BY ts::date, name
    ) AS calls
) AS raw
FULL JOIN (
    SELECT day, name, ARRAY[success_count, error_count, error_rate] AS counted
    FROM public.spark_errors_daily
    WHERE day >= since AND day < until
) AS total USING (day, name)
WHERE counted IS DISTINCT FROM wanted
UNION ALL
SELECT 'events', day, type, '', counted, wanted
FROM (
    SELECT ts::date AS day, type, ARRAY[count(*)::numeric] AS wanted
    FROM public.spark_events
    WHERE ts >= since AND ts < until
    GROUP BY ts::date, type
) AS raw
FULL JOIN (
    SELECT day, type, ARRAY[event_count::numeric] AS counted
    FROM public.spark_events_daily
    WHERE day >= since AND day < until
) AS total USING (day, type)
WHERE
    counted IS DISTINCT FROM wanted
    AND date_trunc('month', day)::date NOT IN (SELECT month FROM slate.dropped_months)
$$;

COMMENT ON FUNCTION slate.rollup_differences(since date, until date) IS 'Where the daily tables differ from what they are counted from, and what they should hold';

CREATE FUNCTION slate.stamp_admin_log() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog'
    AS $$
BEGIN
    NEW.at := clock_timestamp();
    NEW.db_role := session_user;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION slate.stamp_admin_log() IS 'Time and role of a row of slate.admin_log, whatever the client says';

CREATE AGGREGATE slate.sum_bins(jsonb) (
    SFUNC = slate.add_bins,
    STYPE = jsonb,
    INITCOND = '{}'
);

COMMENT ON AGGREGATE slate.sum_bins(jsonb) IS 'The sum of histograms';

CREATE TABLE public.spark_build_jobs (
    id text NOT NULL,
    session_id text NOT NULL,
    build_target text,
    status text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    status_at timestamp with time zone NOT NULL,
    target_at timestamp with time zone,
    CONSTRAINT spark_build_jobs_status_check CHECK ((status = ANY (ARRAY['queued'::text, 'building'::text, 'completed'::text, 'failed'::text])))
);

COMMENT ON TABLE public.spark_build_jobs IS 'Build jobs, one row each; a finished job stays finished, in whatever order its messages come';

COMMENT ON COLUMN public.spark_build_jobs.id IS 'Identity of the job, as its publisher names it';

COMMENT ON COLUMN public.spark_build_jobs.session_id IS 'Session that started it';

COMMENT ON COLUMN public.spark_build_jobs.build_target IS 'What it builds for, if told';

COMMENT ON COLUMN public.spark_build_jobs.status IS 'queued, building, completed or failed; a job that timed out has failed';

COMMENT ON COLUMN public.spark_build_jobs.created_at IS 'Event time of its earliest message';

COMMENT ON COLUMN public.spark_build_jobs.updated_at IS 'Event time of its latest message';

COMMENT ON COLUMN public.spark_build_jobs.status_at IS 'Event time of the message that told status';

COMMENT ON COLUMN public.spark_build_jobs.target_at IS 'Event time of the message that told build_target';

CREATE TABLE public.spark_errors_daily (
    day date NOT NULL,
    name text NOT NULL,
    success_count bigint DEFAULT 0 NOT NULL,
    error_count bigint DEFAULT 0 NOT NULL,
    error_rate numeric(6,3) DEFAULT 0 NOT NULL
);

COMMENT ON TABLE public.spark_errors_daily IS 'Outcomes of function calls by UTC day and function: counted from spark_function_calls';

COMMENT ON COLUMN public.spark_errors_daily.day IS 'UTC date of spark_function_calls.ts';

COMMENT ON COLUMN public.spark_errors_daily.name IS 'Function';

COMMENT ON COLUMN public.spark_errors_daily.success_count IS 'Calls that succeeded';

COMMENT ON COLUMN public.spark_errors_daily.error_count IS 'Calls that failed';

COMMENT ON COLUMN public.spark_errors_daily.error_rate IS 'error_count / (success_count + error_count), 0 to 1';

CREATE SEQUENCE slate.event_row_id
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 100;

COMMENT ON SEQUENCE slate.event_row_id IS 'spark_events.id';

CREATE TABLE public.spark_events (
    id bigint DEFAULT nextval('slate.event_row_id'::regclass) NOT NULL,
    session_id text NOT NULL,
    type text NOT NULL,
    ts timestamp with time zone NOT NULL,
    user_id uuid,
    project_id uuid,
    payload jsonb NOT NULL
)
PARTITION BY RANGE (ts);

COMMENT ON TABLE public.spark_events IS 'Everything that happened in sessions, one row an event, partitioned by month of event time (UTC)';

COMMENT ON COLUMN public.spark_events.id IS 'Identity of the row, not in order of time';

COMMENT ON COLUMN public.spark_events.session_id IS 'Session in which it happened';

COMMENT ON COLUMN public.spark_events.type IS 'What happened, such as generate_unity_script.completed';

COMMENT ON COLUMN public.spark_events.ts IS 'Event time';

COMMENT ON COLUMN public.spark_events.user_id IS 'User, if told';

COMMENT ON COLUMN public.spark_events.project_id IS 'Project, if told';

COMMENT ON COLUMN public.spark_events.payload IS 'Payload of the event, else its fields that have no column';

CREATE TABLE public.spark_events_daily (
    day date NOT NULL,
    type text NOT NULL,
    event_count bigint DEFAULT 0 NOT NULL
);

COMMENT ON TABLE public.spark_events_daily IS 'Events by UTC day and type: counted from spark_events';

COMMENT ON COLUMN public.spark_events_daily.day IS 'UTC date of spark_events.ts';

COMMENT ON COLUMN public.spark_events_daily.type IS 'Type of event';

COMMENT ON COLUMN public.spark_events_daily.event_count IS 'Events of that type that day';

CREATE SEQUENCE slate.function_call_row_id
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 100;

COMMENT ON SEQUENCE slate.function_call_row_id IS 'spark_function_calls.id';

CREATE TABLE public.spark_function_calls (
    id bigint DEFAULT nextval('slate.function_call_row_id'::regclass) NOT NULL,
    session_id text NOT NULL,
    call_id text NOT NULL,
    name text NOT NULL,
    ts timestamp with time zone NOT NULL,
    duration_ms integer,
    status text NOT NULL,
    error text,
    args jsonb,
    output jsonb,
    user_id uuid,
    project_id uuid,
    updated_at timestamp with time zone NOT NULL,
    CONSTRAINT spark_function_calls_duration_ms_check CHECK ((duration_ms >= 0)),
    CONSTRAINT spark_function_calls_status_check CHECK ((status = ANY (ARRAY['success'::text, 'failed'::text])))
);

COMMENT ON TABLE public.spark_function_calls IS 'Function calls of sessions, one row a call however often it is told: the first message by event time gives name, arguments and ts, the last one the outcome';

COMMENT ON COLUMN public.spark_function_calls.id IS 'Identity of the row, not in order of time';

COMMENT ON COLUMN public.spark_function_calls.session_id IS 'Session that called';

COMMENT ON COLUMN public.spark_function_calls.call_id IS 'Identity of the call in its session; of the event where the older form of the message gives none';

COMMENT ON COLUMN public.spark_function_calls.name IS 'Function';

COMMENT ON COLUMN public.spark_function_calls.ts IS 'Event time of the first message about the call';

COMMENT ON COLUMN public.spark_function_calls.duration_ms IS 'How long the call took, milliseconds';

COMMENT ON COLUMN public.spark_function_calls.status IS 'success or failed';

COMMENT ON COLUMN public.spark_function_calls.error IS 'Why it failed';

COMMENT ON COLUMN public.spark_function_calls.args IS 'Arguments';

COMMENT ON COLUMN public.spark_function_calls.output IS 'Result';

COMMENT ON COLUMN public.spark_function_calls.user_id IS 'User, if told';

COMMENT ON COLUMN public.spark_function_calls.project_id IS 'Project, if told';

COMMENT ON COLUMN public.spark_function_calls.updated_at IS 'Event time of the last message about the call';

CREATE SEQUENCE slate.script_row_id
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 100;

COMMENT ON SEQUENCE slate.script_row_id IS 'spark_generated_scripts.id';

CREATE TABLE public.spark_generated_scripts (
    id bigint DEFAULT nextval('slate.script_row_id'::regclass) NOT NULL,
    session_id text NOT NULL,
    script_name text NOT NULL,
    script_content text NOT NULL,
    prompt text,
    created_at timestamp with time zone NOT NULL
);

COMMENT ON TABLE public.spark_generated_scripts IS 'Scripts that the assistant wrote, one row a version';

COMMENT ON COLUMN public.spark_generated_scripts.id IS 'Identity of the row, not in order of time';

COMMENT ON COLUMN public.spark_generated_scripts.session_id IS 'Session in which it was written';

COMMENT ON COLUMN public.spark_generated_scripts.script_name IS 'Name of the script';

COMMENT ON COLUMN public.spark_generated_scripts.script_content IS 'Its source code, whole';

COMMENT ON COLUMN public.spark_generated_scripts.prompt IS 'What the user asked for, if told';

COMMENT ON COLUMN public.spark_generated_scripts.created_at IS 'Event time';

CREATE SEQUENCE slate.preview_row_id
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 100;

COMMENT ON SEQUENCE slate.preview_row_id IS 'spark_previews.id';

CREATE TABLE public.spark_previews (
    id bigint DEFAULT nextval('slate.preview_row_id'::regclass) NOT NULL,
    session_id text NOT NULL,
    engine text NOT NULL,
    ts timestamp with time zone NOT NULL,
    status text NOT NULL,
    frame_ref text,
    meta jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT spark_previews_engine_check CHECK ((engine = ANY (ARRAY['unity'::text, 'godot'::text, 'pico8'::text, 'gamemaker'::text, 'rpgmaker'::text, 'construct'::text, 'renpy'::text]))),
    CONSTRAINT spark_previews_status_check CHECK ((status = ANY (ARRAY['idle'::text, 'loading'::text, 'ready'::text, 'error'::text])))
);

COMMENT ON TABLE public.spark_previews IS 'Steps of previews, one row each';

COMMENT ON COLUMN public.spark_previews.id IS 'Identity of the row, not in order of time';

COMMENT ON COLUMN public.spark_previews.session_id IS 'Session that asked for the preview';

COMMENT ON COLUMN public.spark_previews.engine IS 'Game engine: unity, godot, pico8, gamemaker, rpgmaker, construct or renpy';

COMMENT ON COLUMN public.spark_previews.ts IS 'Event time';

COMMENT ON COLUMN public.spark_previews.status IS 'idle, loading, ready or error';

COMMENT ON COLUMN public.spark_previews.frame_ref IS 'Where the frame can be fetched, if there is one';

COMMENT ON COLUMN public.spark_previews.meta IS 'What the contract does not know, such as format and error, beside its own fields';

CREATE TABLE public.spark_sessions (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id text NOT NULL,
    user_id uuid,
    model text DEFAULT 'unknown'::text NOT NULL,
    mode text DEFAULT 'hybrid'::text NOT NULL,
    started_at timestamp with time zone,
    ended_at timestamp with time zone,
    meta jsonb DEFAULT '{}'::jsonb NOT NULL,
    connected_at timestamp with time zone,
    disconnected_at timestamp with time zone,
    user_at timestamp with time zone,
    model_at timestamp with time zone,
    mode_at timestamp with time zone,
    meta_at timestamp with time zone,
    CONSTRAINT spark_sessions_mode_check CHECK ((mode = ANY (ARRAY['creative'::text, 'deterministic'::text, 'hybrid'::text])))
);

COMMENT ON TABLE public.spark_sessions IS 'Sessions of the assistant, one row each, from spark.session.*; each fact is that of the latest message that told it';

COMMENT ON COLUMN public.spark_sessions.id IS 'Identity of the row';

COMMENT ON COLUMN public.spark_sessions.session_id IS 'Identity of the session, as its publisher names it';

COMMENT ON COLUMN public.spark_sessions.user_id IS 'User, if told';

COMMENT ON COLUMN public.spark_sessions.model IS 'Model that answers; unknown until told';

COMMENT ON COLUMN public.spark_sessions.mode IS 'creative, deterministic or hybrid; hybrid until told';

COMMENT ON COLUMN public.spark_sessions.started_at IS 'Event time of the earliest connection; NULL while only a disconnection has come';

COMMENT ON COLUMN public.spark_sessions.ended_at IS 'Event time of the latest disconnection; NULL while the session is active, also after a reconnection';

COMMENT ON COLUMN public.spark_sessions.meta IS 'Fields of the latest connection that have no column';

COMMENT ON COLUMN public.spark_sessions.connected_at IS 'Event time of the latest connection';

COMMENT ON COLUMN public.spark_sessions.disconnected_at IS 'Event time of the latest disconnection';

COMMENT ON COLUMN public.spark_sessions.user_at IS 'Event time of the message that told user_id';

COMMENT ON COLUMN public.spark_sessions.model_at IS 'Event time of the message that told model';

COMMENT ON COLUMN public.spark_sessions.mode_at IS 'Event time of the message that told mode';

COMMENT ON COLUMN public.spark_sessions.meta_at IS 'Event time of the message that told meta';

CREATE SEQUENCE slate.telemetry_row_id
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 100;

COMMENT ON SEQUENCE slate.telemetry_row_id IS 'spark_telemetry.id';

CREATE TABLE public.spark_telemetry (
    id bigint DEFAULT nextval('slate.telemetry_row_id'::regclass) NOT NULL,
    session_id text NOT NULL,
    kind text NOT NULL,
    ts timestamp with time zone NOT NULL,
    data jsonb NOT NULL
);

COMMENT ON TABLE public.spark_telemetry IS 'Measurements of clients, one row each, of single messages and of batches';

COMMENT ON COLUMN public.spark_telemetry.id IS 'Identity of the row, not in order of time';

COMMENT ON COLUMN public.spark_telemetry.session_id IS 'Session that was measured';

COMMENT ON COLUMN public.spark_telemetry.kind IS 'What was measured';

COMMENT ON COLUMN public.spark_telemetry.ts IS 'Event time';

COMMENT ON COLUMN public.spark_telemetry.data IS 'The measurement, with those fields of its message that the contract does not know';

CREATE SEQUENCE slate.usage_row_id
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 100;

COMMENT ON SEQUENCE slate.usage_row_id IS 'spark_usage.id';

CREATE TABLE public.spark_usage (
    id bigint DEFAULT nextval('slate.usage_row_id'::regclass) NOT NULL,
    session_id text NOT NULL,
    ts timestamp with time zone NOT NULL,
    model text NOT NULL,
    tokens_prompt integer DEFAULT 0 NOT NULL,
    tokens_completion integer DEFAULT 0 NOT NULL,
    cost_estimate numeric(12,6) DEFAULT 0 NOT NULL,
    user_id uuid,
    CONSTRAINT spark_usage_cost_estimate_check CHECK ((cost_estimate >= (0)::numeric)),
    CONSTRAINT spark_usage_tokens_completion_check CHECK ((tokens_completion >= 0)),
    CONSTRAINT spark_usage_tokens_prompt_check CHECK ((tokens_prompt >= 0))
);

COMMENT ON TABLE public.spark_usage IS 'Tokens that sessions used, one row a report';

COMMENT ON COLUMN public.spark_usage.id IS 'Identity of the row, not in order of time';

COMMENT ON COLUMN public.spark_usage.session_id IS 'Session that used them';

COMMENT ON COLUMN public.spark_usage.ts IS 'Event time';

COMMENT ON COLUMN public.spark_usage.model IS 'Model that was used';

COMMENT ON COLUMN public.spark_usage.tokens_prompt IS 'Tokens read by the model';

COMMENT ON COLUMN public.spark_usage.tokens_completion IS 'Tokens written by the model';

COMMENT ON COLUMN public.spark_usage.cost_estimate IS 'Estimated cost, US dollars';

COMMENT ON COLUMN public.spark_usage.user_id IS 'User, if told';

CREATE TABLE public.spark_usage_daily (
    day date NOT NULL,
    session_id text NOT NULL,
    model text NOT NULL,
    tokens_prompt bigint DEFAULT 0 NOT NULL,
    tokens_completion bigint DEFAULT 0 NOT NULL,
    cost_estimate numeric(14,6) DEFAULT 0 NOT NULL
);

COMMENT ON TABLE public.spark_usage_daily IS 'Tokens and cost by UTC day, session and model: the sums of spark_usage';

COMMENT ON COLUMN public.spark_usage_daily.day IS 'UTC date of spark_usage.ts';

COMMENT ON COLUMN public.spark_usage_daily.session_id IS 'Session';

COMMENT ON COLUMN public.spark_usage_daily.model IS 'Model';

COMMENT ON COLUMN public.spark_usage_daily.tokens_prompt IS 'Tokens read by the model that day';

COMMENT ON COLUMN public.spark_usage_daily.tokens_completion IS 'Tokens written by the model that day';

COMMENT ON COLUMN public.spark_usage_daily.cost_estimate IS 'Estimated cost that day, US dollars';

CREATE TABLE slate.admin_log (
    id bigint NOT NULL,
    run uuid NOT NULL,
    phase text NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    command text NOT NULL,
    arguments jsonb NOT NULL,
    os_user text NOT NULL,
    host text NOT NULL,
    db_role text DEFAULT SESSION_USER NOT NULL,
    outcome text,
    error text,
    counts jsonb,
    CONSTRAINT admin_log_check CHECK (((phase = 'ended'::text) = (outcome IS NOT NULL))),
    CONSTRAINT admin_log_outcome_check CHECK ((outcome = ANY (ARRAY['done'::text, 'failed'::text, 'interrupted'::text]))),
    CONSTRAINT admin_log_phase_check CHECK ((phase = ANY (ARRAY['begun'::text, 'ended'::text])))
);

COMMENT ON TABLE slate.admin_log IS 'Administrative commands, two rows each: that it began, and how it ended. Rows are only ever added';

COMMENT ON COLUMN slate.admin_log.id IS 'Order of the rows';

COMMENT ON COLUMN slate.admin_log.run IS 'One run of a command';

COMMENT ON COLUMN slate.admin_log.phase IS 'begun or ended; a run without the second was killed, or is under way';

COMMENT ON COLUMN slate.admin_log.at IS 'When the row was written, by the clock of the server';

COMMENT ON COLUMN slate.admin_log.command IS 'The command, without slate in front';

COMMENT ON COLUMN slate.admin_log.arguments IS 'Its arguments; ids of users and sessions as SHA-256, no secrets';

COMMENT ON COLUMN slate.admin_log.os_user IS 'User of the operating system';

COMMENT ON COLUMN slate.admin_log.host IS 'Machine on which it ran';

COMMENT ON COLUMN slate.admin_log.db_role IS 'Role that the server knows it by';

COMMENT ON COLUMN slate.admin_log.outcome IS 'done, failed or interrupted (Ctrl-C); NULL for the beginning';

COMMENT ON COLUMN slate.admin_log.error IS 'Kind of error, where it failed';

COMMENT ON COLUMN slate.admin_log.counts IS 'What it came to, in numbers';

ALTER TABLE slate.admin_log ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME slate.admin_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE slate.alert_budgets (
    stream text NOT NULL,
    rule text NOT NULL,
    key text NOT NULL,
    period timestamp with time zone NOT NULL,
    spent bigint NOT NULL
)
WITH (fillfactor='70');

COMMENT ON TABLE slate.alert_budgets IS 'What was spent in the current period, by budget and group';

COMMENT ON COLUMN slate.alert_budgets.stream IS 'JetStream stream';

COMMENT ON COLUMN slate.alert_budgets.rule IS 'Name of the budget';

COMMENT ON COLUMN slate.alert_budgets.key IS 'User, session or model; empty for all';

COMMENT ON COLUMN slate.alert_budgets.period IS 'Beginning of the hour, day or month (UTC)';

COMMENT ON COLUMN slate.alert_budgets.spent IS 'Tokens, or millionths of a US dollar';

CREATE TABLE slate.alert_deliveries (
    alert bigint NOT NULL,
    receiver text NOT NULL,
    state text DEFAULT 'pending'::text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    error text,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT alert_deliveries_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'delivered'::text, 'silenced'::text, 'refused'::text, 'given up'::text])))
)
WITH (fillfactor='70');

COMMENT ON TABLE slate.alert_deliveries IS 'What became of alerts at the receivers that their routes name';

COMMENT ON COLUMN slate.alert_deliveries.alert IS 'slate.alerts.id';

COMMENT ON COLUMN slate.alert_deliveries.receiver IS 'Name of the receiver';

COMMENT ON COLUMN slate.alert_deliveries.state IS 'pending; delivered; silenced (over before the silence was); refused (the receiver wants it in no form); given up';

COMMENT ON COLUMN slate.alert_deliveries.attempts IS 'How often it was tried';

COMMENT ON COLUMN slate.alert_deliveries.error IS 'What went wrong last';

COMMENT ON COLUMN slate.alert_deliveries.updated_at IS 'When it was tried last';

CREATE TABLE slate.alert_progress (
    stream text NOT NULL,
    seen pg_snapshot DEFAULT '1:1:'::pg_snapshot NOT NULL,
    evaluated_until timestamp with time zone,
    sampled_until timestamp with time zone,
    budgets text[] DEFAULT '{}'::text[] NOT NULL,
    owner text,
    lease_until timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (fillfactor='50');

COMMENT ON TABLE slate.alert_progress IS 'How far alerts are evaluated, and by whom';

COMMENT ON COLUMN slate.alert_progress.stream IS 'JetStream stream';

COMMENT ON COLUMN slate.alert_progress.seen IS 'Snapshot of the rows of slate.alert_signals that are taken into account';

COMMENT ON COLUMN slate.alert_progress.evaluated_until IS 'Event time up to which rules on events are evaluated';

COMMENT ON COLUMN slate.alert_progress.sampled_until IS 'Clock time up to which rules on samples are evaluated';

COMMENT ON COLUMN slate.alert_progress.budgets IS 'Budgets whose spending is known: what came before is counted in';

COMMENT ON COLUMN slate.alert_progress.owner IS 'Worker that evaluates';

COMMENT ON COLUMN slate.alert_progress.lease_until IS 'When another may, unless the owner has prolonged it';

COMMENT ON COLUMN slate.alert_progress.updated_at IS 'When it was moved on last';

CREATE TABLE slate.alert_signals (
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    at timestamp with time zone NOT NULL,
    signal text NOT NULL,
    key text NOT NULL,
    detail text NOT NULL,
    session_id text NOT NULL,
    count bigint NOT NULL,
    tokens bigint NOT NULL,
    cost bigint NOT NULL,
    bins jsonb NOT NULL
);

COMMENT ON TABLE slate.alert_signals IS 'What alert rules look at: figures of two seconds of event time, kept as long as the longest window';

COMMENT ON COLUMN slate.alert_signals.xid IS 'Transaction that counted it';

COMMENT ON COLUMN slate.alert_signals.at IS 'Event time at which the two seconds begin';

COMMENT ON COLUMN slate.alert_signals.signal IS 'What is counted: calls, usage, events, previews, preview_cache, dead_letters or ingest_delay';

COMMENT ON COLUMN slate.alert_signals.key IS 'Function, model, type of event, engine or kind of fault';

COMMENT ON COLUMN slate.alert_signals.detail IS 'Status of calls and previews, hit or miss, user of usage';

COMMENT ON COLUMN slate.alert_signals.session_id IS 'Session of usage, where a rule asks for it';

COMMENT ON COLUMN slate.alert_signals.count IS 'How many; below 0 where a call turned out to be something else';

COMMENT ON COLUMN slate.alert_signals.tokens IS 'Their tokens';

COMMENT ON COLUMN slate.alert_signals.cost IS 'Their cost, millionths of a US dollar';

COMMENT ON COLUMN slate.alert_signals.bins IS 'Histogram of durations, milliseconds: count by bin; see slate.quantile';

CREATE TABLE slate.alert_silences (
    id bigint NOT NULL,
    matchers jsonb NOT NULL,
    until timestamp with time zone NOT NULL,
    author text NOT NULL,
    comment text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT alert_silences_matchers_check CHECK ((matchers <> '{}'::jsonb))
);

COMMENT ON TABLE slate.alert_silences IS 'Alerts of which nothing is told for a time';

COMMENT ON COLUMN slate.alert_silences.id IS 'Number of the silence';

COMMENT ON COLUMN slate.alert_silences.matchers IS 'Labels that an alert must have, all of them';

COMMENT ON COLUMN slate.alert_silences.until IS 'When it is over';

COMMENT ON COLUMN slate.alert_silences.author IS 'Who made it';

COMMENT ON COLUMN slate.alert_silences.comment IS 'Why';

COMMENT ON COLUMN slate.alert_silences.created_at IS 'When it was made';

ALTER TABLE slate.alert_silences ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME slate.alert_silences_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE slate.alert_states (
    stream text NOT NULL,
    rule text NOT NULL,
    fingerprint text NOT NULL,
    key text[],
    labels jsonb NOT NULL,
    status text NOT NULL,
    since timestamp with time zone NOT NULL,
    clear_since timestamp with time zone,
    cool_until timestamp with time zone,
    starts_at timestamp with time zone,
    value double precision,
    samples bigint NOT NULL,
    reason text NOT NULL,
    acknowledged_at timestamp with time zone,
    acknowledged_by text,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT alert_states_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'firing'::text, 'suppressed'::text, 'cooling'::text])))
)
WITH (fillfactor='70');

COMMENT ON TABLE slate.alert_states IS 'Groups of alert rules that are not simply well';

COMMENT ON COLUMN slate.alert_states.stream IS 'JetStream stream';

COMMENT ON COLUMN slate.alert_states.rule IS 'Name of the rule';

COMMENT ON COLUMN slate.alert_states.fingerprint IS 'Identity of the labels';

COMMENT ON COLUMN slate.alert_states.key IS 'Values of the labels that the rule groups by; NULL for the alert that counts the groups above the limit';

COMMENT ON COLUMN slate.alert_states.labels IS 'Labels of the alert';

COMMENT ON COLUMN slate.alert_states.status IS 'pending; firing; suppressed (firing, and not told: above the limit of the rule); cooling (resolved a short time ago)';

COMMENT ON COLUMN slate.alert_states.since IS 'Since when it has this status';

COMMENT ON COLUMN slate.alert_states.clear_since IS 'Since when the value is clear of the threshold, while firing';

COMMENT ON COLUMN slate.alert_states.cool_until IS 'Until when it does not fire again';

COMMENT ON COLUMN slate.alert_states.starts_at IS 'When the episode began; part of its identity';

COMMENT ON COLUMN slate.alert_states.value IS 'Latest value; NULL for no data';

COMMENT ON COLUMN slate.alert_states.samples IS 'Of how many samples';

COMMENT ON COLUMN slate.alert_states.reason IS 'Why it is as it is';

COMMENT ON COLUMN slate.alert_states.acknowledged_at IS 'When somebody took it on';

COMMENT ON COLUMN slate.alert_states.acknowledged_by IS 'Who did';

COMMENT ON COLUMN slate.alert_states.updated_at IS 'When this row was written';

CREATE TABLE slate.alerts (
    id bigint NOT NULL,
    stream text NOT NULL,
    rule text NOT NULL,
    fingerprint text NOT NULL,
    state text NOT NULL,
    labels jsonb NOT NULL,
    annotations jsonb NOT NULL,
    value double precision,
    reason text NOT NULL,
    starts_at timestamp with time zone NOT NULL,
    ends_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT alerts_state_check CHECK ((state = ANY (ARRAY['firing'::text, 'resolved'::text])))
);

COMMENT ON TABLE slate.alerts IS 'Outbox of alerts: each firing and each resolution once, in order';

COMMENT ON COLUMN slate.alerts.id IS 'Order in which they were decided';

COMMENT ON COLUMN slate.alerts.stream IS 'JetStream stream';

COMMENT ON COLUMN slate.alerts.rule IS 'Name of the rule';

COMMENT ON COLUMN slate.alerts.fingerprint IS 'Identity of the labels';

COMMENT ON COLUMN slate.alerts.state IS 'firing or resolved';

COMMENT ON COLUMN slate.alerts.labels IS 'Labels: name of the rule, severity, group, and those of the rule';

COMMENT ON COLUMN slate.alerts.annotations IS 'For people: summary, description, runbook_url';

COMMENT ON COLUMN slate.alerts.value IS 'Value that decided; NULL for no data';

COMMENT ON COLUMN slate.alerts.reason IS 'Why it was decided';

COMMENT ON COLUMN slate.alerts.starts_at IS 'Event time at which the episode began to fire';

COMMENT ON COLUMN slate.alerts.ends_at IS 'Event time at which it was over; NULL for firing';

COMMENT ON COLUMN slate.alerts.created_at IS 'When it was decided, by the clock';

ALTER TABLE slate.alerts ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME slate.alerts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE slate.call_changes (
    stream text NOT NULL,
    seq bigint NOT NULL,
    old_ts timestamp with time zone NOT NULL,
    old_name text NOT NULL,
    old_status text NOT NULL,
    old_duration_ms integer,
    new_ts timestamp with time zone NOT NULL,
    new_name text NOT NULL,
    new_status text NOT NULL,
    new_duration_ms integer
);

COMMENT ON TABLE slate.call_changes IS 'Calls that a later message changed, before and after it, for the rollups, which delete what they have counted';

COMMENT ON COLUMN slate.call_changes.stream IS 'JetStream stream';

COMMENT ON COLUMN slate.call_changes.seq IS 'Stream sequence of the message that changed it';

COMMENT ON COLUMN slate.call_changes.old_ts IS 'spark_function_calls.ts before';

COMMENT ON COLUMN slate.call_changes.old_name IS 'spark_function_calls.name before';

COMMENT ON COLUMN slate.call_changes.old_status IS 'spark_function_calls.status before';

COMMENT ON COLUMN slate.call_changes.old_duration_ms IS 'spark_function_calls.duration_ms before';

COMMENT ON COLUMN slate.call_changes.new_ts IS 'spark_function_calls.ts after';

COMMENT ON COLUMN slate.call_changes.new_name IS 'spark_function_calls.name after';

COMMENT ON COLUMN slate.call_changes.new_status IS 'spark_function_calls.status after';

COMMENT ON COLUMN slate.call_changes.new_duration_ms IS 'spark_function_calls.duration_ms after';

CREATE TABLE slate.windows (
    start timestamp with time zone NOT NULL,
    seconds integer NOT NULL,
    signal text NOT NULL,
    key text NOT NULL,
    status text NOT NULL,
    count bigint NOT NULL,
    tokens_prompt bigint NOT NULL,
    tokens_completion bigint NOT NULL,
    cost numeric NOT NULL,
    bins jsonb NOT NULL,
    late bigint NOT NULL,
    revision integer DEFAULT 0 NOT NULL,
    sent integer DEFAULT 0 NOT NULL,
    closed_at timestamp with time zone,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT windows_seconds_check CHECK ((seconds = ANY (ARRAY[60, 300]))),
    CONSTRAINT windows_signal_check CHECK ((signal = ANY (ARRAY['calls'::text, 'usage_by_model'::text, 'usage_by_user'::text, 'events'::text, 'dead_letters'::text, 'ingest_delay'::text])))
)
WITH (fillfactor='70');

COMMENT ON TABLE slate.windows IS 'Figures of one and five minutes of event time; a closed window to which something late was added is open again';

COMMENT ON COLUMN slate.windows.start IS 'Event time at which the window begins';

COMMENT ON COLUMN slate.windows.seconds IS 'How long it is: 60 or 300';

COMMENT ON COLUMN slate.windows.signal IS 'What is counted: calls, usage_by_model, usage_by_user, events, dead_letters or ingest_delay (by time of receipt)';

COMMENT ON COLUMN slate.windows.key IS 'Function, model, user (empty: unknown), type of event or kind of fault; empty for ingest_delay';

COMMENT ON COLUMN slate.windows.status IS 'success or failed for calls, else empty';

COMMENT ON COLUMN slate.windows.count IS 'How many';

COMMENT ON COLUMN slate.windows.tokens_prompt IS 'Tokens of their prompts';

COMMENT ON COLUMN slate.windows.tokens_completion IS 'Tokens of their completions';

COMMENT ON COLUMN slate.windows.cost IS 'Their cost, US dollars';

COMMENT ON COLUMN slate.windows.bins IS 'Histogram of durations (calls) or delays (ingest_delay), milliseconds: count by bin; see slate.quantile';

COMMENT ON COLUMN slate.windows.late IS 'How many came after it was closed';

COMMENT ON COLUMN slate.windows.revision IS 'How often it was closed';

COMMENT ON COLUMN slate.windows.sent IS 'Revision that SLATE_ANALYTICS_URL has acknowledged';

COMMENT ON COLUMN slate.windows.closed_at IS 'When it was closed; NULL while it is open';

COMMENT ON COLUMN slate.windows.updated_at IS 'When something was added last';

CREATE VIEW slate.call_latencies AS
 SELECT start,
    seconds,
    key AS name,
    count,
    failed,
    slate.quantile(bins, (0.5)::double precision) AS p50_ms,
    slate.quantile(bins, (0.95)::double precision) AS p95_ms,
    slate.quantile(bins, (0.99)::double precision) AS p99_ms
   FROM ( SELECT windows.start,
            windows.seconds,
            windows.key,
            (sum(windows.count))::bigint AS count,
            (COALESCE(sum(windows.count) FILTER (WHERE (windows.status = 'failed'::text)), (0)::numeric))::bigint AS failed,
            slate.sum_bins(windows.bins) AS bins
           FROM slate.windows
          WHERE (windows.signal = 'calls'::text)
          GROUP BY windows.start, windows.seconds, windows.key) both_outcomes;

COMMENT ON VIEW slate.call_latencies IS 'Latencies of calls by window and function, whatever their outcome';

COMMENT ON COLUMN slate.call_latencies.start IS 'Event time at which the window begins';

COMMENT ON COLUMN slate.call_latencies.seconds IS 'How long it is: 60 or 300';

COMMENT ON COLUMN slate.call_latencies.name IS 'Function';

COMMENT ON COLUMN slate.call_latencies.count IS 'Calls';

COMMENT ON COLUMN slate.call_latencies.failed IS 'Failed ones among them';

COMMENT ON COLUMN slate.call_latencies.p50_ms IS 'Median duration, milliseconds, to 1 %';

COMMENT ON COLUMN slate.call_latencies.p95_ms IS '95th percentile of their durations, milliseconds, to 1 %';

COMMENT ON COLUMN slate.call_latencies.p99_ms IS '99th percentile of their durations, milliseconds, to 1 %';

CREATE TABLE slate.dead_letters (
    id bigint NOT NULL,
    received_at timestamp with time zone DEFAULT now() NOT NULL,
    stage text NOT NULL,
    code text NOT NULL,
    reason text NOT NULL,
    path text DEFAULT ''::text NOT NULL,
    subject text NOT NULL,
    stream text NOT NULL,
    partition integer NOT NULL,
    seq bigint NOT NULL,
    stored_at timestamp with time zone NOT NULL,
    element integer,
    payload bytea NOT NULL,
    headers bytea NOT NULL,
    replayed_at timestamp with time zone,
    CONSTRAINT dead_letters_stage_check CHECK ((stage = ANY (ARRAY['decode'::text, 'subject'::text, 'validate'::text, 'store'::text, 'publisher'::text])))
);

COMMENT ON TABLE slate.dead_letters IS 'Messages, or elements of them, that could not be stored, as they came';

COMMENT ON COLUMN slate.dead_letters.id IS 'Identity of the row';

COMMENT ON COLUMN slate.dead_letters.received_at IS 'When it was written here';

COMMENT ON COLUMN slate.dead_letters.stage IS 'Where it failed: decode (not JSON), subject, validate (the contract), store (PostgreSQL refused it), or publisher (it came on spark.dlq)';

COMMENT ON COLUMN slate.dead_letters.code IS 'Kind of fault, one of few';

COMMENT ON COLUMN slate.dead_letters.reason IS 'What is wrong, in a sentence';

COMMENT ON COLUMN slate.dead_letters.path IS 'JSON path of what is wrong, such as $.events[3].kind; empty for the whole';

COMMENT ON COLUMN slate.dead_letters.subject IS 'Subject on which it was published';

COMMENT ON COLUMN slate.dead_letters.stream IS 'JetStream stream';

COMMENT ON COLUMN slate.dead_letters.partition IS 'Partition of the stream';

COMMENT ON COLUMN slate.dead_letters.seq IS 'Stream sequence';

COMMENT ON COLUMN slate.dead_letters.stored_at IS 'When JetStream stored it';

COMMENT ON COLUMN slate.dead_letters.element IS 'Index of the element that failed; NULL for the whole message';

COMMENT ON COLUMN slate.dead_letters.payload IS 'The body, as it came; of one element of a batch, a batch of that element alone';

COMMENT ON COLUMN slate.dead_letters.headers IS 'The NATS headers, as they came; empty where there are none';

COMMENT ON COLUMN slate.dead_letters.replayed_at IS 'When it was last published again; NULL while it waits';

ALTER TABLE slate.dead_letters ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME slate.dead_letters_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE slate.dropped_months (
    month date NOT NULL,
    dropped_at timestamp with time zone DEFAULT now() NOT NULL
);

COMMENT ON TABLE slate.dropped_months IS 'Months whose events were dropped: their daily totals are all that is left of them';

COMMENT ON COLUMN slate.dropped_months.month IS 'First day of the month (UTC)';

COMMENT ON COLUMN slate.dropped_months.dropped_at IS 'When they were dropped';

CREATE TABLE slate.event_ids (
    id uuid NOT NULL,
    day date DEFAULT CURRENT_DATE NOT NULL
);

COMMENT ON TABLE slate.event_ids IS 'Identities of stored events: the same one is stored once, over all tables';

COMMENT ON COLUMN slate.event_ids.id IS 'BLAKE2b hash, 16 bytes, of the event''s identity';

COMMENT ON COLUMN slate.event_ids.day IS 'When it was stored';

CREATE TABLE slate.forgetting (
    user_id uuid NOT NULL,
    session_id text NOT NULL
);

COMMENT ON TABLE slate.forgetting IS 'Sessions of users who are being forgotten: what a killed run must know to go on. Empty when none is under way';

COMMENT ON COLUMN slate.forgetting.user_id IS 'Whose they are';

COMMENT ON COLUMN slate.forgetting.session_id IS 'A session, all of which is theirs';

CREATE TABLE slate.gaps (
    id bigint NOT NULL,
    stream text NOT NULL,
    partition integer NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    reason text NOT NULL,
    found_at timestamp with time zone DEFAULT now() NOT NULL
);

COMMENT ON TABLE slate.gaps IS 'Sequences that left the stream before they were read';

COMMENT ON COLUMN slate.gaps.id IS 'Identity of the row';

COMMENT ON COLUMN slate.gaps.stream IS 'JetStream stream';

COMMENT ON COLUMN slate.gaps.partition IS 'Partition of the stream that was to read them';

COMMENT ON COLUMN slate.gaps.first_seq IS 'First stream sequence that is gone';

COMMENT ON COLUMN slate.gaps.last_seq IS 'Last stream sequence that is gone';

COMMENT ON COLUMN slate.gaps.reason IS 'Why they are gone';

COMMENT ON COLUMN slate.gaps.found_at IS 'When it was noticed';

ALTER TABLE slate.gaps ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME slate.gaps_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE slate.progress (
    stream text NOT NULL,
    partition integer NOT NULL,
    created timestamp with time zone NOT NULL,
    seq bigint DEFAULT 0 NOT NULL,
    read bigint DEFAULT 0 NOT NULL,
    stored bigint DEFAULT 0 NOT NULL,
    duplicate bigint DEFAULT 0 NOT NULL,
    dead_lettered bigint DEFAULT 0 NOT NULL,
    owner text,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    seq_at timestamp with time zone,
    CONSTRAINT ledger_balances CHECK ((read = ((stored + duplicate) + dead_lettered))),
    CONSTRAINT progress_partition_check CHECK ((partition >= '-1'::integer))
)
WITH (fillfactor='50');

COMMENT ON TABLE slate.progress IS 'How far each partition of a stream is written, and the account of its messages';

COMMENT ON COLUMN slate.progress.stream IS 'JetStream stream';

COMMENT ON COLUMN slate.progress.partition IS 'Partition of the stream, from 0; -1 is what the stream holds under its own subject';

COMMENT ON COLUMN slate.progress.created IS 'When the stream was created: another time means another stream of that name';

COMMENT ON COLUMN slate.progress.seq IS 'Stream sequence up to which the partition is written; reading resumes after it';

COMMENT ON COLUMN slate.progress.read IS 'Messages read';

COMMENT ON COLUMN slate.progress.stored IS 'Messages of which at least a part is stored';

COMMENT ON COLUMN slate.progress.duplicate IS 'Messages whose identity was stored already';

COMMENT ON COLUMN slate.progress.dead_lettered IS 'Messages that could not be stored';

COMMENT ON COLUMN slate.progress.owner IS 'Worker that wrote last';

COMMENT ON COLUMN slate.progress.updated_at IS 'When it was written last';

COMMENT ON COLUMN slate.progress.seq_at IS 'When JetStream stored the message at seq; NULL where none of this partition is there';

CREATE VIEW slate.ledger AS
 SELECT p.stream,
    p.partition,
    p.seq,
    p.read,
    p.stored,
    p.duplicate,
    p.dead_lettered,
    (COALESCE(g.lost, (0)::numeric))::bigint AS lost,
    p.updated_at
   FROM (slate.progress p
     LEFT JOIN ( SELECT merged.stream,
            merged.partition,
            sum((upper(merged.gap) - lower(merged.gap))) AS lost
           FROM ( SELECT gaps.stream,
                    gaps.partition,
                    unnest(range_agg(int8range(gaps.first_seq, gaps.last_seq, '[]'::text))) AS gap
                   FROM slate.gaps
                  GROUP BY gaps.stream, gaps.partition) merged
          GROUP BY merged.stream, merged.partition) g USING (stream, partition));

COMMENT ON VIEW slate.ledger IS 'The account of each partition: read = stored + duplicate + dead_lettered, and what was lost before it was read';

COMMENT ON COLUMN slate.ledger.stream IS 'JetStream stream';

COMMENT ON COLUMN slate.ledger.partition IS 'Partition of the stream, from 0; -1 is what the stream holds under its own subject';

COMMENT ON COLUMN slate.ledger.seq IS 'Stream sequence up to which the partition is written';

COMMENT ON COLUMN slate.ledger.read IS 'Messages read';

COMMENT ON COLUMN slate.ledger.stored IS 'Messages of which at least a part is stored';

COMMENT ON COLUMN slate.ledger.duplicate IS 'Messages whose identity was stored already';

COMMENT ON COLUMN slate.ledger.dead_lettered IS 'Messages that could not be stored';

COMMENT ON COLUMN slate.ledger.lost IS 'Stream sequences that were gone before they were read: at most so many messages';

COMMENT ON COLUMN slate.ledger.updated_at IS 'When the partition was written last';

CREATE TABLE slate.rollup_progress (
    stream text NOT NULL,
    partition integer NOT NULL,
    created timestamp with time zone NOT NULL,
    seq bigint DEFAULT 0 NOT NULL,
    read bigint DEFAULT 0 NOT NULL,
    watermark timestamp with time zone,
    idle boolean DEFAULT false NOT NULL,
    owner text,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    drained_at timestamp with time zone,
    moved_at timestamp with time zone
)
WITH (fillfactor='50');

COMMENT ON TABLE slate.rollup_progress IS 'How far each partition of a stream is counted in the daily tables and in slate.windows';

COMMENT ON COLUMN slate.rollup_progress.stream IS 'JetStream stream';

COMMENT ON COLUMN slate.rollup_progress.partition IS 'Partition of the stream, as in slate.progress';

COMMENT ON COLUMN slate.rollup_progress.created IS 'When the stream was created';

COMMENT ON COLUMN slate.rollup_progress.seq IS 'Stream sequence up to which the partition is counted';

COMMENT ON COLUMN slate.rollup_progress.read IS 'Messages counted; the rollups are at rest where it equals slate.progress.read';

COMMENT ON COLUMN slate.rollup_progress.watermark IS 'Latest event time counted';

COMMENT ON COLUMN slate.rollup_progress.idle IS 'Whether the stream held nothing more of it then';

COMMENT ON COLUMN slate.rollup_progress.owner IS 'Worker that counted last';

COMMENT ON COLUMN slate.rollup_progress.updated_at IS 'When it was counted last';

COMMENT ON COLUMN slate.rollup_progress.drained_at IS 'When the stream was seen to hold nothing more of it; NULL while it holds more';

COMMENT ON COLUMN slate.rollup_progress.moved_at IS 'When events of it were read last';

CREATE TABLE slate.skipped (
    stream text NOT NULL,
    partition integer NOT NULL,
    "position" bigint NOT NULL,
    seqs bigint[] NOT NULL,
    dead_seqs bigint[] NOT NULL,
    dead_codes text[] NOT NULL
);

COMMENT ON TABLE slate.skipped IS 'Messages of which ingest stored nothing, for the rollups, which delete what they have counted';

COMMENT ON COLUMN slate.skipped.stream IS 'JetStream stream';

COMMENT ON COLUMN slate.skipped.partition IS 'Partition of the stream';

COMMENT ON COLUMN slate.skipped."position" IS 'Where the partition was after the transaction that skipped them';

COMMENT ON COLUMN slate.skipped.seqs IS 'Stream sequences of messages of which nothing is stored';

COMMENT ON COLUMN slate.skipped.dead_seqs IS 'Stream sequence of each dead letter';

COMMENT ON COLUMN slate.skipped.dead_codes IS 'Its kind of fault';

ALTER TABLE ONLY public.spark_build_jobs
    ADD CONSTRAINT spark_build_jobs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.spark_errors_daily
    ADD CONSTRAINT spark_errors_daily_pkey PRIMARY KEY (day, name);

ALTER TABLE ONLY public.spark_events_daily
    ADD CONSTRAINT spark_events_daily_pkey PRIMARY KEY (day, type);

ALTER TABLE ONLY public.spark_events
    ADD CONSTRAINT spark_events_pkey PRIMARY KEY (id, ts);

ALTER TABLE ONLY public.spark_function_calls
    ADD CONSTRAINT spark_function_calls_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.spark_function_calls
    ADD CONSTRAINT spark_function_calls_session_id_call_id_key UNIQUE (session_id, call_id);

ALTER TABLE ONLY public.spark_generated_scripts
    ADD CONSTRAINT spark_generated_scripts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.spark_previews
    ADD CONSTRAINT spark_previews_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.spark_sessions
    ADD CONSTRAINT spark_sessions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.spark_sessions
    ADD CONSTRAINT spark_sessions_session_id_key UNIQUE (session_id);

ALTER TABLE ONLY public.spark_telemetry
    ADD CONSTRAINT spark_telemetry_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.spark_usage_daily
    ADD CONSTRAINT spark_usage_daily_pkey PRIMARY KEY (day, session_id, model);

ALTER TABLE ONLY public.spark_usage
    ADD CONSTRAINT spark_usage_pkey PRIMARY KEY (id);

ALTER TABLE ONLY slate.admin_log
    ADD CONSTRAINT admin_log_pkey PRIMARY KEY (id);

ALTER TABLE ONLY slate.admin_log
    ADD CONSTRAINT admin_log_run_phase_key UNIQUE (run, phase);

ALTER TABLE ONLY slate.alert_budgets
    ADD CONSTRAINT alert_budgets_pkey PRIMARY KEY (stream, rule, key);

ALTER TABLE ONLY slate.alert_deliveries
    ADD CONSTRAINT alert_deliveries_pkey PRIMARY KEY (receiver, alert);

ALTER TABLE ONLY slate.alert_progress
    ADD CONSTRAINT alert_progress_pkey PRIMARY KEY (stream);

ALTER TABLE ONLY slate.alert_silences
    ADD CONSTRAINT alert_silences_pkey PRIMARY KEY (id);

ALTER TABLE ONLY slate.alert_states
    ADD CONSTRAINT alert_states_pkey PRIMARY KEY (stream, rule, fingerprint);

ALTER TABLE ONLY slate.alerts
    ADD CONSTRAINT alerts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY slate.alerts
    ADD CONSTRAINT alerts_stream_fingerprint_starts_at_state_key UNIQUE (stream, fingerprint, starts_at, state);

ALTER TABLE ONLY slate.call_changes
    ADD CONSTRAINT call_changes_pkey PRIMARY KEY (stream, seq);

ALTER TABLE ONLY slate.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (id);

ALTER TABLE ONLY slate.dropped_months
    ADD CONSTRAINT dropped_months_pkey PRIMARY KEY (month);

ALTER TABLE ONLY slate.event_ids
    ADD CONSTRAINT event_ids_pkey PRIMARY KEY (id);

ALTER TABLE ONLY slate.forgetting
    ADD CONSTRAINT forgetting_pkey PRIMARY KEY (user_id, session_id);

ALTER TABLE ONLY slate.gaps
    ADD CONSTRAINT gaps_pkey PRIMARY KEY (id);

ALTER TABLE ONLY slate.progress
    ADD CONSTRAINT progress_pkey PRIMARY KEY (stream, partition);

ALTER TABLE ONLY slate.rollup_progress
    ADD CONSTRAINT rollup_progress_pkey PRIMARY KEY (stream, partition);

ALTER TABLE ONLY slate.skipped
    ADD CONSTRAINT skipped_pkey PRIMARY KEY (stream, partition, "position");

ALTER TABLE ONLY slate.windows
    ADD CONSTRAINT windows_pkey PRIMARY KEY (start, seconds, signal, key, status);

CREATE INDEX spark_build_jobs_created_at ON public.spark_build_jobs USING btree (created_at);

CREATE INDEX spark_build_jobs_session_created_at ON public.spark_build_jobs USING btree (session_id, created_at);

CREATE INDEX spark_events_session_ts ON ONLY public.spark_events USING btree (session_id, ts);

CREATE INDEX spark_events_ts_type ON ONLY public.spark_events USING btree (ts, type);

CREATE INDEX spark_function_calls_failed_ts ON public.spark_function_calls USING btree (ts) WHERE (status = 'failed'::text);

CREATE INDEX spark_function_calls_name_status_ts ON public.spark_function_calls USING btree (name, status, ts, id);

CREATE INDEX spark_function_calls_ts ON public.spark_function_calls USING btree (ts);

CREATE INDEX spark_generated_scripts_created_at ON public.spark_generated_scripts USING btree (created_at);

CREATE INDEX spark_generated_scripts_session_created_at ON public.spark_generated_scripts USING btree (session_id, created_at);

CREATE INDEX spark_previews_session_ts ON public.spark_previews USING btree (session_id, ts);

CREATE INDEX spark_previews_ts ON public.spark_previews USING btree (ts);

CREATE INDEX spark_sessions_active ON public.spark_sessions USING btree (started_at DESC) WHERE (ended_at IS NULL);

CREATE INDEX spark_sessions_started ON public.spark_sessions USING btree (started_at DESC, id DESC) WHERE (started_at IS NOT NULL);

CREATE INDEX spark_sessions_user_started ON public.spark_sessions USING btree (user_id, started_at DESC, id DESC) WHERE (user_id IS NOT NULL);

CREATE INDEX spark_telemetry_ts ON public.spark_telemetry USING btree (ts);

CREATE INDEX spark_usage_daily_session_day ON public.spark_usage_daily USING btree (session_id, day);

CREATE INDEX spark_usage_session_ts ON public.spark_usage USING btree (session_id, ts);

CREATE INDEX spark_usage_ts ON public.spark_usage USING btree (ts);

CREATE INDEX spark_usage_user_ts ON public.spark_usage USING btree (user_id, ts) WHERE (user_id IS NOT NULL);

CREATE INDEX alert_deliveries_alert ON slate.alert_deliveries USING btree (alert);

CREATE INDEX alert_deliveries_pending ON slate.alert_deliveries USING btree (receiver, alert) WHERE (state = 'pending'::text);

CREATE INDEX alert_signals_xid ON slate.alert_signals USING btree (xid);

CREATE INDEX alerts_created_at ON slate.alerts USING btree (created_at);

CREATE INDEX alerts_labels ON slate.alerts USING gin (labels jsonb_path_ops);

CREATE INDEX dead_letters_received_at ON slate.dead_letters USING btree (received_at);

CREATE INDEX dead_letters_waiting ON slate.dead_letters USING btree (id) INCLUDE (stage, code) WHERE (replayed_at IS NULL);

CREATE INDEX windows_open ON slate.windows USING btree (start) WHERE (closed_at IS NULL);

CREATE INDEX windows_to_send ON slate.windows USING btree (closed_at) WHERE ((closed_at IS NOT NULL) AND (sent < revision));

CREATE TRIGGER admin_log_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON slate.admin_log FOR EACH STATEMENT EXECUTE FUNCTION slate.refuse_change();

CREATE TRIGGER admin_log_stamp BEFORE INSERT ON slate.admin_log FOR EACH ROW EXECUTE FUNCTION slate.stamp_admin_log();

ALTER TABLE ONLY slate.alert_deliveries
    ADD CONSTRAINT alert_deliveries_alert_fkey FOREIGN KEY (alert) REFERENCES slate.alerts(id) ON DELETE CASCADE;
