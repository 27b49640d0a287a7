-- What happened in a session, the earliest first: events, calls, scripts, previews, builds and usage. Details above
-- 16 KiB are left out.
WITH own AS MATERIALIZED (
    SELECT session_id
    FROM public.spark_sessions
    WHERE session_id = %(session)s AND (%(user)s::uuid IS NULL OR user_id = %(user)s::uuid)
)

(
    SELECT
        ts,
        'event' AS kind,
        id::text AS id,
        type AS title,
        NULL::text AS status,
        CASE WHEN pg_column_size(payload) <= 16384 THEN payload ELSE 'null' END AS detail
    FROM public.spark_events
    WHERE
        session_id = (SELECT own.session_id FROM own)
        AND ts >= %(ts)s::timestamptz
        AND (ts, 'event', id::text) > (%(ts)s::timestamptz, %(kind)s::text, %(id)s::text)
    ORDER BY ts, id::text
    LIMIT %(limit)s
)
UNION ALL
(
    SELECT
        ts,
        'call' AS kind,
        id::text AS id,
        name AS title,
        status,
        jsonb_build_object(
            'callId', call_id,
            'durationMs', duration_ms,
            'error', error,
            'args', CASE WHEN pg_column_size(args) <= 16384 THEN args END,
            'output', CASE WHEN pg_column_size(output) <= 16384 THEN output END
        ) AS detail
    FROM public.spark_function_calls
    WHERE
        session_id = (SELECT own.session_id FROM own)
        AND ts >= %(ts)s::timestamptz
        AND (ts, 'call', id::text) > (%(ts)s::timestamptz, %(kind)s::text, %(id)s::text)
    ORDER BY ts, id::text
    LIMIT %(limit)s
)
UNION ALL
(
    SELECT
        created_at AS ts,
        'script' AS kind,
        id::text AS id,
        script_name AS title,
        NULL::text AS status,
        jsonb_build_object('bytes', octet_length(script_content), 'prompt', prompt) AS detail
    FROM public.spark_generated_scripts
    WHERE
        session_id = (SELECT own.session_id FROM own)
        AND created_at >= %(ts)s::timestamptz
        AND (created_at, 'script', id::text) > (%(ts)s::timestamptz, %(kind)s::text, %(id)s::text)
    ORDER BY created_at, id::text
    LIMIT %(limit)s
)
UNION ALL
(
    SELECT
        ts,
        'preview' AS kind,
        id::text AS id,
        engine AS title,
        status,
        jsonb_build_object('frameRef', frame_ref, 'meta', meta) AS detail
    FROM public.spark_previews
    WHERE
        session_id = (SELECT own.session_id FROM own)
        AND ts >= %(ts)s::timestamptz
        AND (ts, 'preview', id::text) > (%(ts)s::timestamptz, %(kind)s::text, %(id)s::text)
    ORDER BY ts, id::text
    LIMIT %(limit)s
)
UNION ALL
(
    SELECT
        created_at AS ts,
        'build' AS kind,
        id,
        coalesce(build_target, '') AS title,
        status,
        jsonb_build_object('jobId', id, 'updatedAt', updated_at) AS detail
    FROM public.spark_build_jobs
    WHERE
        session_id = (SELECT own.session_id FROM own)
        AND created_at >= %(ts)s::timestamptz
        AND (created_at, 'build', id) > (%(ts)s::timestamptz, %(kind)s::text, %(id)s::text)
    ORDER BY created_at, id
    LIMIT %(limit)s
)
UNION ALL
(
    SELECT
        ts,
        'usage' AS kind,
        id::text AS id,
        model AS title,
        NULL::text AS status,
        jsonb_build_object(
            'tokensPrompt', tokens_prompt, 'tokensCompletion', tokens_completion, 'cost', cost_estimate
        ) AS detail
    FROM public.spark_usage
    WHERE
        session_id = (SELECT own.session_id FROM own)
        AND ts >= %(ts)s::timestamptz
        AND (ts, 'usage', id::text) > (%(ts)s::timestamptz, %(kind)s::text, %(id)s::text)
    ORDER BY ts, id::text
    LIMIT %(limit)s
)
ORDER BY ts, kind, id
LIMIT %(limit)s
