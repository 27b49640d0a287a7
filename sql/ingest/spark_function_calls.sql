-- Store calls. Name, arguments and ts are those of a call's first message by event time, the outcome that of its last.
-- Of a call that was stored already, the rollups are told what it was and what it is. The lookup is lateral, so that no
-- estimate can make it read the table whole.
WITH incoming AS (
    SELECT *
    FROM
        unnest(
            %(session_id)b::text[], %(call_id)b::text[], %(name)b::text[], %(ts)b::timestamptz[],
            %(duration_ms)b::integer[], %(status)b::text[], %(error)b::text[], %(args)b::text[], %(output)b::text[],
            %(user_id)b::uuid[], %(project_id)b::uuid[], %(seq)b::bigint[]
        ) AS new (session_id, call_id, name, ts, duration_ms, status, error, args, output, user_id, project_id, seq)
),

known AS (
    SELECT
        incoming.session_id,
        incoming.call_id,
        incoming.seq,
        found.ts,
        found.name,
        found.status,
        found.duration_ms
    FROM incoming
    CROSS JOIN LATERAL (
        SELECT
            c.ts,
            c.name,
            c.status,
            c.duration_ms
        FROM public.spark_function_calls AS c
        WHERE c.session_id = incoming.session_id AND c.call_id = incoming.call_id
        OFFSET 0 -- noqa: AM09
    ) AS found
),

stored AS (
    INSERT INTO public.spark_function_calls AS old (
        session_id, call_id, name, ts, duration_ms, status, error, args, output, user_id, project_id, updated_at
    )
    SELECT
        session_id,
        call_id,
        name,
        ts,
        duration_ms,
        status,
        error,
        args::jsonb,
        output::jsonb,
        user_id,
        project_id,
        ts
    FROM incoming
    ON CONFLICT (session_id, call_id) DO UPDATE
        SET
            ts = least(old.ts, excluded.ts),
            name = CASE WHEN excluded.ts < old.ts THEN excluded.name ELSE old.name END,
            args = CASE WHEN excluded.ts < old.ts THEN excluded.args ELSE old.args END,
            user_id = CASE WHEN excluded.ts < old.ts THEN excluded.user_id ELSE old.user_id END,
            project_id = CASE WHEN excluded.ts < old.ts THEN excluded.project_id ELSE old.project_id END,
            duration_ms = CASE
                WHEN excluded.updated_at < old.updated_at THEN old.duration_ms ELSE excluded.duration_ms
            END,
            status = CASE WHEN excluded.updated_at < old.updated_at THEN old.status ELSE excluded.status END,
            error = CASE WHEN excluded.updated_at < old.updated_at THEN old.error ELSE excluded.error END,
            output = CASE WHEN excluded.updated_at < old.updated_at THEN old.output ELSE excluded.output END,
            updated_at = greatest(old.updated_at, excluded.updated_at)
    RETURNING session_id, call_id, ts, name, status, duration_ms
)

INSERT INTO slate.call_changes (
    stream, seq, old_ts, old_name, old_status, old_duration_ms, new_ts, new_name, new_status, new_duration_ms
)
SELECT
    %(stream)s, -- noqa: RF02
    known.seq,
    known.ts,
    known.name,
    known.status,
    known.duration_ms,
    stored.ts,
    stored.name,
    stored.status,
    stored.duration_ms
FROM known
INNER JOIN stored ON known.session_id = stored.session_id AND known.call_id = stored.call_id
ON CONFLICT (stream, seq) DO UPDATE SET
    old_ts = excluded.old_ts,
    old_name = excluded.old_name,
    old_status = excluded.old_status,
    old_duration_ms = excluded.old_duration_ms,
    new_ts = excluded.new_ts,
    new_name = excluded.new_name,
    new_status = excluded.new_status,
    new_duration_ms = excluded.new_duration_ms
